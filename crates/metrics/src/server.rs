//! The HTTPS server behind the APIService.
//!
//! Its certificate is made when it starts and stands in the APIService (`caBundle`), so that the API server takes it and no other.
//! Whoever shows a certificate of the front-proxy CA is the API server and has authorized what it asks; must never answer
//! anybody else.

use crate::listing::{self, Metadata};
use crate::routes::{self, Form, Question, Selectors};
use crate::scrape::{FRESH, FRESH_IF_WANTING, Scraper};
use crate::usage::{Known, MeasuredPod};
use crate::{GROUP, NAMESPACE, SERVICE, answers};
use ferrokube_api::Status;
use ferrokube_client::{Client, Error};
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection lasts of which nobody knows whose it is.
const STRANGER: Duration = Duration::from_secs(10);
/// After an accept that failed: others must close their sockets first.
const PAUSE: Duration = Duration::from_millis(100);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No certificate can be made for it.
    #[error("cannot make a serving certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The front-proxy CA cannot be read.
    #[error("the front-proxy CA is not usable: {0}")]
    FrontProxy(String),
    /// The certificates do not make a TLS server.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Settings of the server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens; port 0 takes any.
    pub listen: SocketAddr,
    /// The CA of front proxies, PEM: who shows a certificate of it is the API server.
    pub front_proxy_ca: String,
}

/// A running server; dropping it stops it.
pub struct Server {
    address: SocketAddr,
    certificate: String,
    tasks: JoinSet<()>,
}

impl Server {
    /// Listens and serves. Nodes, pods and kubelets are asked with this client.
    ///
    /// # Errors
    /// The address cannot be had, or the CA makes no sense.
    pub fn start(config: Config, client: Client) -> BoxFuture<'static, Result<Self, ServerError>> {
        // Boxed here: an `async fn` would be compiled again in every program that awaits it.
        Box::pin(Self::come_up(config, client))
    }

    async fn come_up(config: Config, client: Client) -> Result<Self, ServerError> {
        let name = format!("{SERVICE}.{NAMESPACE}.svc");
        let made = rcgen::generate_simple_self_signed(vec![name, config.listen.ip().to_string()])?;
        let tls = tls(&config.front_proxy_ca, &made)?;
        let cannot = |source| ServerError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let answering = Arc::new(Answering { scraper: Scraper::new(client.clone()), client });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, tls, answering));
        Ok(Server { address, certificate: made.cert.pem(), tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate to take from it, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Serves until dropped; returns only when its task has died, which is a bug.
    pub async fn run(mut self) {
        if let Some(Err(e)) = self.tasks.join_next().await {
            tracing::error!("metrics server task ended: {e}");
        }
    }
}

fn tls(front_proxy_ca: &str, made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Result<TlsAcceptor, ServerError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unusable = |e: &dyn std::fmt::Display| ServerError::FrontProxy(e.to_string());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(front_proxy_ca.as_bytes()) {
        roots.add(certificate.map_err(|e| unusable(&e))?)?;
    }
    // Who has none is told so in a `Status`.
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated().build();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(|e| rustls::Error::General(e.to_owned()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients.map_err(|e| unusable(&e))?)
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Connections end with the server.
async fn accept(listener: TcpListener, tls: TlsAcceptor, answering: Arc<Answering>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, tls.clone(), answering.clone()));
                }
                Err(e) => {
                    tracing::warn!("metrics server: {e}");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, answering: Arc<Answering>) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await else { return };
    // A certificate that the CA has not signed has not come so far.
    let known = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
    let service = service_fn(move |request: Request<Incoming>| {
        let answering = answering.clone();
        async move { Ok::<_, Infallible>(if known { answering.handle(&request).await } else { failure(&Status::unauthorized()) }) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    // Strangers hold no connections.
    let limit = if known { Duration::MAX } else { STRANGER };
    if let Ok(Err(e)) = tokio::time::timeout(limit, serving).await {
        tracing::debug!("metrics server: {e}");
    }
}

type Answer = Response<Full<Bytes>>;

fn json(code: StatusCode, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

fn failure(status: &Status) -> Answer {
    json(StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), status.to_json())
}

/// Answers questions.
struct Answering {
    client: Client,
    scraper: Scraper,
}

impl Answering {
    async fn handle<B>(&self, request: &Request<B>) -> Answer {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let accept = request.headers().get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or_default();
        let answer = match routes::question(request.method(), path, query) {
            Ok(question) => self.answer(question, routes::form(accept, query)).await,
            Err(status) => Err(status),
        };
        match answer {
            Ok(value) => json(StatusCode::OK, value.to_string().into_bytes()),
            Err(status) => failure(&status),
        }
    }

    async fn answer(&self, question: Question, form: Form) -> Result<Value, Status> {
        match question {
            Question::Health => Ok("ok".into()),
            Question::Groups => Ok(answers::groups()),
            Question::Group => Ok(answers::group()),
            Question::Resources => Ok(answers::resources()),
            Question::Nodes(selectors) => self.nodes(&selectors, form).await,
            Question::Pods { namespace, selectors } => self.pods(&namespace, &selectors, form).await,
            Question::Node(name) => {
                let node = listing::node(&self.client, &name).await.map_err(|e| told(&e, "nodes", &name))?;
                let found = self.of_nodes(&[node]).await.pop();
                found.map(|item| answers::one(item, form)).ok_or_else(|| Status::not_found(GROUP, "nodes", &name))
            }
            Question::Pod { namespace, name } => {
                let shown = format!("{namespace}/{name}");
                let pod = listing::pod(&self.client, &namespace, &name).await.map_err(|e| told(&e, "pods", &shown))?;
                let found = self.of_pods(&[pod]).await.pop();
                found.map(|item| answers::one(item, form)).ok_or_else(|| Status::not_found(GROUP, "pods", &shown))
            }
        }
    }

    async fn nodes(&self, selectors: &Selectors, form: Form) -> Result<Value, Status> {
        let nodes = listing::nodes(&self.client, selectors).await.map_err(|e| told(&e, "nodes", ""))?;
        Ok(answers::list("NodeMetrics", self.of_nodes(&nodes).await, form))
    }

    async fn pods(&self, namespace: &str, selectors: &Selectors, form: Form) -> Result<Value, Status> {
        let pods = listing::pods(&self.client, namespace, selectors).await.map_err(|e| told(&e, "pods", ""))?;
        Ok(answers::list("PodMetrics", self.of_pods(&pods).await, form))
    }

    async fn of_nodes(&self, nodes: &[listing::Node]) -> Vec<answers::Item> {
        let known = self.scraper.known(listing::speaking(nodes), FRESH).await;
        let now = Timestamp::now();
        let item = |of: &Metadata| Some(answers::node(of, &known.get(&of.name)?.node?, now));
        nodes.iter().filter_map(|node| item(&node.metadata)).collect()
    }

    async fn of_pods(&self, pods: &[listing::Pod]) -> Vec<answers::Item> {
        let mut known = self.scraper.known(listing::hosts(pods), FRESH).await;
        let wanting = pods.iter().filter(|pod| measured(pod, &known).is_none());
        let again = self.scraper.known(listing::hosts(wanting), FRESH_IF_WANTING).await;
        known.extend(again);
        let now = Timestamp::now();
        pods.iter().filter_map(|pod| Some(answers::pod(&pod.metadata, &measured(pod, &known)?, now))).collect()
    }
}

fn measured(pod: &listing::Pod, known: &HashMap<String, Arc<Known>>) -> Option<MeasuredPod> {
    known.get(pod.runs_on()?)?.pod(&pod.metadata.namespace, &pod.metadata.name, &pod.running())
}

/// What went wrong on the way to the API server, told to whom the API server asks for.
fn told(error: &Error, resource: &str, name: &str) -> Status {
    match error.status() {
        _ if error.is_not_found() => Status::not_found(GROUP, resource, name),
        // A selector that makes no sense is its author's business.
        Some(status) if status.code == 400 => status.clone(),
        _ => {
            tracing::warn!("the {resource} of which usage is asked cannot be read: {error}");
            Status::internal(format!("unable to read {resource}"))
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
