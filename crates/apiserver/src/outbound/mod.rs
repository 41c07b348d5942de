//! HTTPS to the servers that a cluster's operator names: webhooks of audit, authentication and authorization, and OpenID
//! providers.
//!
//! Where they are is said by a kubeconfig file or a URL with a CA, as upstream has it. Connections are kept for the next
//! request. Nothing here knows what is asked; and nothing here follows a redirect.

mod kubeconfig;
pub(crate) mod pool;
mod retry;
pub(crate) mod shelf;
pub(crate) mod trust;
pub(crate) mod words;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::Full;
use pool::Pool;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::Duration;

/// Who we are.
pub(crate) const AGENT: &str = "kube-apiserver/ferrokube";
/// Where Debian keeps the CAs of the world, for servers without a CA of their own.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OutboundError {
    #[error("{0}")]
    Config(String),
    #[error("{}", words::connecting(address, source))]
    Connect { address: String, source: std::io::Error },
    #[error("{}", words::shaking_hands(source))]
    Handshake { source: std::io::Error },
    #[error("context deadline exceeded")]
    Timeout,
    #[error("{}", words::exchanging(.0))]
    Http(#[from] hyper::Error),
    #[error("the answer could not be read: {0}")]
    Answer(String),
    #[error("{text}")]
    Refused { code: StatusCode, text: String },
}

impl OutboundError {
    /// Whether another try may help.
    pub fn is_transient(&self) -> bool {
        match self {
            OutboundError::Config(_) | OutboundError::Answer(_) => false,
            OutboundError::Refused { code, .. } => code.is_server_error() || *code == StatusCode::TOO_MANY_REQUESTS,
            _ => true,
        }
    }
}

/// A server and how to reach it.
pub struct Remote {
    /// Host and port to connect to.
    address: String,
    authority: HeaderValue,
    path: String,
    authorization: Option<HeaderValue>,
    pool: Pool,
}

fn config(why: impl std::fmt::Display) -> OutboundError {
    OutboundError::Config(why.to_string())
}

/// CAs from PEM; those of the system when it is empty.
pub(crate) fn roots(pem: &str) -> Result<RootCertStore, OutboundError> {
    let mut roots = RootCertStore::empty();
    if pem.is_empty() {
        let system = std::fs::read(SYSTEM_CAS).unwrap_or_default();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&system).filter_map(Result::ok));
        return Ok(roots);
    }
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(config)?).map_err(config)?;
    }
    if roots.is_empty() { Err(config("no certificate in the CA bundle")) } else { Ok(roots) }
}

/// Credentials and trust of a client.
#[derive(Default)]
struct Access {
    ca: String,
    certificate: String,
    key: String,
    server_name: String,
    authorization: Option<String>,
}

impl Access {
    fn tls(&self) -> Result<Arc<ClientConfig>, OutboundError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(config)?;
        let builder = if self.ca.is_empty() {
            builder.with_root_certificates(roots("")?)
        } else {
            let verifier = trust::verifier(roots(&self.ca)?, self.ca.as_bytes(), provider)?;
            builder.dangerous().with_custom_certificate_verifier(verifier)
        };
        if self.certificate.is_empty() {
            return Ok(Arc::new(builder.with_no_client_auth()));
        }
        let tls = crate::Tls { certificate: self.certificate.clone(), key: self.key.clone() };
        let (chain, key) = crate::server::tls::pair(&tls).map_err(config)?;
        Ok(Arc::new(builder.with_client_auth_cert(chain, key).map_err(config)?))
    }
}

impl Remote {
    /// The server of a kubeconfig's current context; `folder` is where its relative file names start.
    pub fn from_kubeconfig(text: &str, folder: &std::path::Path) -> Result<Self, OutboundError> {
        let (url, access) = kubeconfig::read(text, folder)?;
        Self::new(&url, &access, true)
    }

    /// The server of a kubeconfig file.
    pub fn from_kubeconfig_file(path: &std::path::Path) -> Result<Self, OutboundError> {
        let text = std::fs::read_to_string(path).map_err(|e| config(format_args!("{}: {e}", path.display())))?;
        Self::from_kubeconfig(&text, path.parent().unwrap_or(std::path::Path::new("/")))
    }

    /// An `https` URL whose certificate is signed by one of the CAs in PEM (empty: by one that the system trusts).
    pub fn from_url(url: &str, ca: &str) -> Result<Self, OutboundError> {
        Self::new(url, &Access { ca: ca.to_owned(), ..Access::default() }, false)
    }

    fn new(url: &str, access: &Access, plain: bool) -> Result<Self, OutboundError> {
        let uri: http::Uri = url.parse().map_err(|_| config(format_args!("unusable URL {url:?}")))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if plain => false,
            _ => return Err(config(format_args!("URL {url:?} is not https"))),
        };
        let host = uri.host().ok_or_else(|| config(format_args!("no host in URL {url:?}")))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = if access.server_name.is_empty() { bare.clone() } else { access.server_name.clone() };
        let authority = uri.authority().map_or(host, |a| a.as_str());
        let authorization = access.authorization.as_deref().map(HeaderValue::from_str).transpose().map_err(config)?;
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = if secure { Some(access.tls()?) } else { None };
        Ok(Remote {
            address: format!("{host}:{port}"),
            authority: HeaderValue::from_str(authority).map_err(config)?,
            path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
            authorization,
            pool: Pool::new(tls, ServerName::try_from(name).map_err(config)?),
        })
    }

    /// With a bearer token.
    pub fn with_token(mut self, token: &str) -> Result<Self, String> {
        self.authorization = Some(HeaderValue::from_str(&format!("Bearer {token}")).map_err(|e| e.to_string())?);
        Ok(self)
    }

    /// POSTs JSON to the server's URL; the body of a 2xx answer.
    pub async fn post(&self, body: Bytes, timeout: Duration) -> Result<Bytes, OutboundError> {
        self.within(timeout, Method::POST, body).await
    }

    /// GETs the server's URL; the body of a 2xx answer.
    pub async fn get(&self, timeout: Duration) -> Result<Bytes, OutboundError> {
        self.within(timeout, Method::GET, Bytes::new()).await
    }

    async fn within(&self, timeout: Duration, method: Method, body: Bytes) -> Result<Bytes, OutboundError> {
        tokio::time::timeout(timeout, self.send(method, body)).await.map_err(|_| OutboundError::Timeout)?
    }

    async fn send(&self, method: Method, body: Bytes) -> Result<Bytes, OutboundError> {
        let mut request = http::Request::builder()
            .method(method.clone())
            .uri(&self.path)
            .header(HOST, self.authority.clone())
            .header(ACCEPT, "application/json, */*")
            .header(USER_AGENT, AGENT);
        if method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        let request = request.body(Full::new(body)).map_err(config)?;
        self.pool.send(&self.address, &request).await?.success()
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({}{})", self.address, self.path)
    }
}
