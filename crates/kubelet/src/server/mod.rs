//! The kubelet's HTTPS server (10250): logs, exec, attach, port-forward, stats, metrics, health.
//!
//! Every request is authenticated (client certificate or token) and authorized by the API server before anything is
//! looked at. Streams to containers are only passed through: the container runtime speaks the protocol.

mod auth;
mod logs;
mod metrics;
mod proxy;
mod routes;
mod stats;

pub(crate) use routes::names;
pub(crate) use stats::Machine;

use crate::node::Shared;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ServerError {
    #[error("the kubelet cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the kubelet's server certificate is not usable: {0}")]
    Certificate(String),
}

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
pub(crate) type Answer = Response<Body>;

/// A whole body.
pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|e: Infallible| match e {}).boxed_unsync()
}

/// A text answer.
pub(crate) fn text(code: u16, text: impl Into<Bytes>) -> Answer {
    let answer = Response::builder().status(code).header(http::header::CONTENT_TYPE, "text/plain; charset=utf-8").body(full(text));
    answer.expect("a status code and a constant header are valid")
}

/// The server, listening.
pub struct Server {
    node: Arc<Shared>,
    listener: TcpListener,
    tls: TlsAcceptor,
    auth: Arc<auth::Auth>,
}

impl Server {
    /// Listens.
    pub async fn start(node: Arc<Shared>) -> Result<Self, ServerError> {
        let address = node.config.server_address;
        let tls = tls(&node).map_err(ServerError::Certificate)?;
        let listener = TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })?;
        let auth = Arc::new(auth::Auth::new(node.client.clone(), &node.config.node_name));
        Ok(Server { node, listener, tls, auth })
    }

    /// Serves until told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|s| *s) => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (node, tls, auth) = (self.node.clone(), self.tls.clone(), self.auth.clone());
                    tokio::spawn(async move { serve(stream, node, tls, auth).await });
                }
                Err(e) => {
                    // Out of file descriptors, most likely: others must close theirs first.
                    tracing::warn!("kubelet server: {e}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

fn tls(node: &Shared) -> Result<TlsAcceptor, String> {
    let config = &node.config;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(&config.client_ca_pem) {
        roots.add(cert.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated().build();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&config.server_cert_pem).collect();
    let key = PrivateKeyDer::from_pem_slice(&config.server_key_pem).map_err(|e| e.to_string())?;
    let mut made = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(clients.map_err(|e| e.to_string())?)
        .with_single_cert(chain.map_err(|e| e.to_string())?, key)
        .map_err(|e| e.to_string())?;
    made.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(made)))
}

async fn serve(stream: tokio::net::TcpStream, node: Arc<Shared>, tls: TlsAcceptor, auth: Arc<auth::Auth>) {
    // Interactive streams: a key stroke must not wait for more.
    let _ = stream.set_nodelay(true);
    let Ok(stream) = tls.accept(stream).await.inspect_err(|e| tracing::debug!("kubelet server: TLS: {e}")) else { return };
    let peer = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| c.clone().into_owned());
    let service = service_fn(move |request: Request<Incoming>| {
        let (node, auth, peer) = (node.clone(), auth.clone(), peer.clone());
        async move { Ok::<_, Infallible>(handle(request, node, &auth, peer.as_ref()).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    if let Err(e) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!("kubelet server: {e}");
    }
}

async fn handle(request: Request<Incoming>, node: Arc<Shared>, auth: &auth::Auth, peer: Option<&CertificateDer<'static>>) -> Answer {
    let Some(user) = auth.user(request.headers(), peer).await else { return text(401, "Unauthorized") };
    let wanted = auth::attributes(request.method(), request.uri().path());
    match auth.allowed(&user, &wanted).await {
        Ok(true) => routes::route(request, node).await,
        Ok(false) => {
            let (verb, sub) = (wanted.verb, wanted.subresources.last().copied().unwrap_or("proxy"));
            text(403, format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{sub}])", user.name))
        }
        Err(e) => {
            tracing::warn!("kubelet server: authorization: {e}");
            text(500, "Authorization error")
        }
    }
}
