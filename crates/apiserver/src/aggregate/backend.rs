//! TLS towards a remote server, and the requests that this server makes of its own: discovery, for availability and for the
//! merged documents.

use super::spec::Spec;
use crate::connect::kubelet::Anything;
use crate::connect::passage::{Destination, Lines, NoAnswer, Passenger};
use crate::outbound::trust;
use crate::output::Body;
use crate::server::Tls;
use crate::server::tls::{TlsError, pair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, HeaderMap, HeaderValue, UPGRADE};
use http::{Method, Response};
use http_body_util::{BodyExt, Limited};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Where Debian keeps the CAs of the world, for APIServices without `caBundle`.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// How long a check may take; kube-aggregator gives its client 5 s and itself 6.
const PATIENCE: Duration = Duration::from_secs(6);
/// Longest document that is read.
const MAX_DOCUMENT: usize = 16 << 20;

/// The front-proxy client certificate.
#[derive(Debug)]
pub(super) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    pub fn new(tls: &Tls) -> Result<Self, TlsError> {
        let (chain, key) = pair(tls)?;
        Ok(Identity { chain, key })
    }
}

/// How to reach a remote server.
#[derive(Debug)]
pub(super) struct Backend {
    /// For connections that are upgraded, and for all others.
    tls: Result<(Arc<ClientConfig>, Arc<Lines>), String>,
    host: String,
}

impl Backend {
    /// Mistakes in the APIService are kept and told when it is used.
    pub fn new(spec: &Spec, identity: Option<&Identity>) -> Backend {
        let tls = config(spec, identity).map(|tls| (Arc::new(tls.clone()), Lines::new(&tls)));
        Backend { tls, host: spec.host() }
    }

    /// What keeps it from being asked at all.
    pub fn check(&self) -> Result<(), String> {
        self.tls.as_ref().map(drop).map_err(Clone::clone)
    }

    /// Passes a request on: an upgrade takes a connection of its own.
    pub async fn pass(&self, passenger: Passenger, to: &Destination) -> Result<Response<Body>, NoAnswer> {
        let (tls, lines) = self.tls.as_ref().map_err(|why| NoAnswer::Unreachable(why.clone()))?;
        if passenger.headers.contains_key(UPGRADE) {
            return passenger.pass(tls.clone(), to, true).await;
        }
        passenger.pass_over(lines, to).await
    }

    /// It is at these places and no others.
    pub fn moved(&self, places: &[(String, u16)]) {
        if let Ok((_, lines)) = &self.tls {
            lines.retain(&places.iter().map(|place| self.destination(place.clone(), String::new())).collect::<Vec<_>>());
        }
    }

    /// A request to one of its endpoints.
    pub fn destination(&self, place: (String, u16), path: String) -> Destination {
        Destination { host: place.0, port: place.1, tls: true, path, name: Some(self.host.clone()) }
    }

    /// Gets a document as the aggregator itself. The error tells what came instead.
    pub async fn get(&self, place: (String, u16), path: &str) -> Result<Value, String> {
        let url = format!("https://{}:{}{path}", place.0, place.1);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert("x-remote-user", HeaderValue::from_static("system:kube-aggregator"));
        headers.insert("x-remote-group", HeaderValue::from_static("system:masters"));
        let destination = self.destination(place, path.to_owned());
        let passenger =
            Passenger { method: Method::GET, headers, body: None, upgrade: None, stopping: Default::default(), trail: Default::default() };
        self.check()?;
        let exchange = async {
            let response = self.pass(passenger, &destination).await.map_err(|e| format!("failing or missing response from {url}: {e}"))?;
            document(response, &url).await
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(format!("timed out waiting for {url}")))
    }
}

async fn document(response: Response<Body>, url: &str) -> Result<Value, String> {
    let code = response.status();
    if !code.is_success() {
        return Err(format!("failing or missing response from {url}: bad status from {url}: {}", code.as_u16()));
    }
    let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await;
    let body = body.map_err(|e| format!("failing or missing response from {url}: {e}"))?.to_bytes();
    serde_json::from_slice(&body).map_err(|e| format!("failing or missing response from {url}: {e}"))
}

fn config(spec: &Spec, identity: Option<&Identity>) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let builder = if spec.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anything::new(provider)))
    } else {
        let pem = match spec.ca_bundle.as_str() {
            "" => std::fs::read(SYSTEM_CAS).unwrap_or_default(),
            bundle => STANDARD.decode(bundle).map_err(|_| "caBundle is not base64".to_owned())?,
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
        if spec.ca_bundle.is_empty() || roots.is_empty() {
            builder.with_root_certificates(roots)
        } else {
            builder.dangerous().with_custom_certificate_verifier(trust::verifier(roots, &pem, provider).map_err(|e| e.to_string())?)
        }
    };
    match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key()).map_err(|e| e.to_string()),
        None => Ok(builder.with_no_client_auth()),
    }
}
