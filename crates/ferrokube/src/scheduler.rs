//! `ferrokube scheduler`: the scheduler alone, beside any API server, elected among its like.
//!
//! Health is for everybody; metrics are for this machine only, until requests are authenticated by the API server.

use anyhow::{Context, Result};
use bytes::Bytes;
use ferrokube_client::http::HttpTransport;
use ferrokube_client::metrics::Metrics;
use ferrokube_client::{Client, kubeconfig};
use ferrokube_scheduler::config::Configuration;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

/// How long a client may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What it is told.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// A KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the API server is and who we are
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Wait to be elected, instead of what the configuration says
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    leader_elect: Option<bool>,
    /// Address to serve health and metrics on
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    bind_address: IpAddr,
    /// Port to serve them on over HTTPS; 0 serves nothing
    #[arg(long, default_value_t = 10259)]
    secure_port: u16,
}

/// What a configuration file says, or the defaults.
pub fn configuration(path: Option<&Path>) -> Result<Configuration> {
    let Some(path) = path else { return Ok(Configuration::default()) };
    let what = || format!("the scheduler's configuration {}", path.display());
    let text = std::fs::read_to_string(path).with_context(what)?;
    let file = serde_saphyr::from_str(&text).with_context(what)?;
    Configuration::read(file).with_context(what)
}

/// Runs until told to stop, or until another is elected.
pub async fn run(options: Options) -> Result<()> {
    let mut configuration = configuration(options.config.as_deref())?;
    if let Some(elect) = options.leader_elect {
        configuration.leader_election.elect = elect;
    }
    let (endpoint, credentials) = kubeconfig::load(&options.kubeconfig, crate::kubeconfig::parse_yaml)?;
    let client = Client::new(Arc::new(HttpTransport::new(&endpoint, credentials)?), "kube-scheduler");
    let registry = Metrics::default();
    if options.secure_port != 0 {
        let address = SocketAddr::new(options.bind_address, options.secure_port);
        let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        tokio::spawn(serve(listener, tls()?, registry.clone()));
    }
    let host = nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let identity = Some(format!("{host}_{}", uuid::Uuid::new_v4()));
    let metrics = ferrokube_scheduler::metrics::Metrics::new(registry);
    let config = ferrokube_scheduler::Config { configuration, seed: None, metrics, identity };
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut stopped = false;
    let stop = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stopped = true;
    };
    ferrokube_scheduler::run_until(client, config, stop).await;
    if stopped { Ok(()) } else { anyhow::bail!("leaderelection lost") }
}

/// A certificate that nobody signed, as upstream's component makes where it is given none.
fn tls() -> Result<TlsAcceptor> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, metrics: Metrics) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (tls, metrics) = (tls.clone(), metrics.clone());
        tokio::spawn(async move {
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = page(request.uri().path(), peer.ip().is_loopback(), &metrics);
                std::future::ready(Ok::<_, Infallible>(answer))
            });
            // A client that goes is no concern of ours.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn page(path: &str, local: bool, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, text) = match path {
        "/healthz" | "/livez" | "/readyz" => (StatusCode::OK, "ok".to_owned()),
        "/metrics" if local => {
            let mut text = String::new();
            metrics.write(&mut text);
            (StatusCode::OK, text)
        }
        "/metrics" => (StatusCode::FORBIDDEN, "Forbidden\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
    };
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_for_everybody_and_metrics_for_this_machine() {
        let metrics = Metrics::default();
        for (path, local, want) in
            [("/healthz", false, 200), ("/readyz", true, 200), ("/metrics", true, 200), ("/metrics", false, 403), ("/x", true, 404)]
        {
            assert_eq!(page(path, local, &metrics).status().as_u16(), want, "{path} {local}");
        }
    }
}
