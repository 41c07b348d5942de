//! The HTTPS port of a component. Health is for everybody; everything else for those whom the API server knows and allows.

use super::ignored::Serving as Ignored;
use super::pages::{Answer, Pages, refusal};
use super::{Component, client, pod_resources};
use crate::flags::{NamedPair, TlsVersion, read};
use anyhow::{Context, Result};
use clap::Args;
use ferrokube_apiserver::ServingConfig;
use ferrokube_apiserver::Tls;
use ferrokube_apiserver::request::Query;
use ferrokube_apiserver::server::names::Certificates;
use ferrokube_apiserver::server::{answer, profile};
use ferrokube_client::reviews::{Reviews, User};
use ferrokube_client::{Client, Status, Target};
use http::{Method, Request, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::RwLock;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use serde_json::json;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// How long a client may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often the CA of client certificates is looked up.
const LOOKUP: Duration = Duration::from_secs(60);

/// Where and how a component serves; `PORT` is the one it has upstream.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Serving")]
pub struct ServingFlags<const PORT: u16> {
    /// Address to serve health and metrics on
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port to serve them on over HTTPS; 0 serves nothing
    #[arg(long, default_value_t = PORT)]
    pub secure_port: u16,
    /// Certificate to serve with [default: one that nobody signed]
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Key of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Certificate and key for clients that ask for certain names [names: those of the certificate]; may be given several times
    #[arg(long, value_name = "CERT,KEY[:NAME,...]")]
    tls_sni_cert_key: Vec<NamedPair>,
    /// CA of client certificates [default: the one that the API server publishes]
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// Kubeconfig of the one who may ask the API server who somebody is [default: ours]
    #[arg(long, value_name = "FILE")]
    authentication_kubeconfig: Option<PathBuf>,
    /// Kubeconfig of the one who may ask the API server what somebody may do [default: ours]
    #[arg(long, value_name = "FILE")]
    authorization_kubeconfig: Option<PathBuf>,
    /// Paths that everybody may see
    #[arg(long, value_name = "PATHS", value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    authorization_always_allow_paths: Vec<String>,
    /// Do not ask the API server for the CA of client certificates
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    authentication_skip_lookup: bool,
    /// The oldest TLS that is spoken
    #[arg(long, value_enum, default_value = "VersionTLS12")]
    tls_min_version: TlsVersion,
    /// Cipher suites of TLS 1.2 [default: all that are safe]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tls_cipher_suites: Vec<String>,
    /// Show at /debug/pprof where the processor's time goes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    profiling: bool,
    /// Speak HTTP/1.1 only
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    disable_http2_serving: bool,
    /// Metrics that are not shown
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    disabled_metrics: Vec<String>,
    #[command(flatten)]
    ignored: Ignored,
}

/// What a connection is agreed on with.
struct Own {
    certificates: Arc<Certificates>,
    tls: ServingConfig,
    http2: bool,
}

struct Server {
    pages: Pages,
    /// Who lists pods for `/metrics/resources`, where there is such a page.
    lister: Option<Client>,
    authentication: Reviews,
    authorization: Reviews,
    open: Vec<String>,
    profiling: bool,
    http2: bool,
}

impl<const PORT: u16> ServingFlags<PORT> {
    /// Listens, and serves in the background for as long as the process lives.
    pub async fn serve(&self, component: &Component, flags: Vec<(String, String)>) -> Result<()> {
        if self.secure_port == 0 {
            return Ok(());
        }
        let address = SocketAddr::new(self.bind_address, self.secure_port);
        let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        let by = |path: &Option<PathBuf>| path.as_ref().map_or(Ok(component.client.clone()), |path| client(path, component.name));
        let (authenticator, authorizer) = (by(&self.authentication_kubeconfig)?, by(&self.authorization_kubeconfig)?);
        let server = Server {
            pages: Pages::new(component, flags, self.disabled_metrics.clone()),
            lister: component.pod_resources.then(|| component.client.clone()),
            authentication: Reviews::new(authenticator.clone()),
            authorization: Reviews::new(authorizer),
            open: self.authorization_always_allow_paths.clone(),
            profiling: self.profiling,
            http2: !self.disable_http2_serving,
        };
        super::gates::show(&component.metrics, &component.features);
        let named = NamedPair::read_all(&self.tls_sni_cert_key)?;
        let certificates = Certificates::new(&self.certificate()?, &named).context("the serving certificates")?;
        let tls = ServingConfig {
            min_tls: self.tls_min_version.into(),
            cipher_suites: self.tls_cipher_suites.clone(),
            ..ServingConfig::default()
        };
        let own = Arc::new(Own { certificates: Arc::new(certificates), tls, http2: server.http2 });
        let given = self.client_ca_file.as_deref().map(read).transpose()?;
        let tls = Arc::new(RwLock::new(acceptor(&own, given.as_deref())?));
        if given.is_none() && !self.authentication_skip_lookup {
            tokio::spawn(follow_client_ca(authenticator, own, tls.clone()));
        }
        tokio::spawn(accept(listener, tls, Arc::new(server)));
        Ok(())
    }

    fn certificate(&self) -> Result<Tls> {
        let (Some(certificate), Some(key)) = (&self.tls_cert_file, &self.tls_private_key_file) else {
            // As upstream's components make it where they are given none.
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
            return Ok(Tls { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() });
        };
        Ok(Tls { certificate: read(certificate)?, key: read(key)? })
    }
}

fn acceptor(own: &Own, client_ca: Option<&str>) -> Result<TlsAcceptor> {
    let provider = Arc::new(own.tls.provider()?);
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(own.tls.versions())?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(certificate?)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(own.certificates.clone());
    let protocols: &[&[u8]] = if own.http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The CA of client certificates is what the API server says, also when it says something else later.
async fn follow_client_ca(client: Client, own: Arc<Own>, tls: Arc<RwLock<TlsAcceptor>>) {
    let target = Target {
        version: "v1".into(),
        resource: "configmaps".into(),
        namespace: "kube-system".into(),
        name: "extension-apiserver-authentication".into(),
        ..Target::default()
    };
    let mut known = String::new();
    loop {
        match client.request(Method::GET, &target, "", None).await {
            Ok(map) => {
                let ca = map["data"]["client-ca-file"].as_str().unwrap_or_default();
                if ca != known {
                    match acceptor(&own, Some(ca).filter(|ca| !ca.is_empty())) {
                        Ok(fresh) => *tls.write() = fresh,
                        Err(e) => tracing::warn!("the CA of client certificates is of no use: {e:#}"),
                    }
                    ca.clone_into(&mut known);
                }
            }
            Err(e) => tracing::debug!("the CA of client certificates is not known: {e}"),
        }
        tokio::time::sleep(LOOKUP).await;
    }
}

async fn accept(listener: TcpListener, tls: Arc<RwLock<TlsAcceptor>>, server: Arc<Server>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (tls, server) = (tls.read().clone(), server.clone());
        tokio::spawn(async move {
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await else { return };
            let peer = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).and_then(|c| User::of_certificate(c));
            let http2 = server.http2;
            let service = service_fn(move |request: Request<Incoming>| {
                let (server, peer) = (server.clone(), peer.clone());
                async move { Ok::<_, Infallible>(server.answer(&request, peer).await) }
            });
            // A client that goes is no concern of ours.
            let builder = auto::Builder::new(TokioExecutor::new());
            let builder = if http2 { builder } else { builder.http1_only() };
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Server {
    async fn answer(&self, request: &Request<Incoming>, peer: Option<User>) -> Answer {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        if !self.open.iter().any(|open| covers(open, path))
            && let Err(refused) = self.admit(request, peer).await
        {
            return refused;
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return answer::refusal(http::StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        }
        match &self.lister {
            Some(lister) if path == "/metrics/resources" => pod_resources::page(lister).await,
            _ if self.profiling && profile::is_ours(path) => {
                let query = Query::parse(Some(query));
                profile::page(path, query.get("seconds")).await
            }
            _ => self.pages.page(path, query),
        }
    }

    async fn admit(&self, request: &Request<Incoming>, peer: Option<User>) -> Result<(), Answer> {
        let user = match peer {
            Some(user) => user,
            None if !request.headers().contains_key(header::AUTHORIZATION) => {
                User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] }
            }
            None => self.authentication.bearer(request.headers()).await.ok_or_else(|| refusal(&Status::unauthorized()))?,
        };
        let verb = request.method().as_str().to_ascii_lowercase();
        let path = request.uri().path();
        match self.authorization.allowed(&user, json!({"nonResourceAttributes": {"path": path, "verb": verb}})).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let message = format!("forbidden: User \"{}\" cannot {verb} path \"{path}\"", user.name);
                Err(refusal(&Status::failure(403, ferrokube_api::Reason::Forbidden, message)))
            }
            Err(e) => {
                tracing::warn!("authorization: {e}");
                Err(refusal(&Status::internal("the API server could not be asked")))
            }
        }
    }
}

/// Whether a path of `--authorization-always-allow-paths` opens this one: itself, or all below where it ends in `/*`.
fn covers(open: &str, path: &str) -> bool {
    let (open, path) = (open.trim_start_matches('/'), path.trim_start_matches('/'));
    open.strip_suffix('*').map_or(open == path, |prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_paths_are_exact_unless_they_end_in_a_star() {
        for (open, path, want) in [
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/ping", false),
            ("healthz/*", "/healthz/ping", true),
            ("/healthz", "/metrics", false),
        ] {
            assert_eq!(covers(open, path), want, "{open} {path}");
        }
    }
}
