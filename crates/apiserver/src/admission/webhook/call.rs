//! The call itself: HTTPS POST of a review, to a URL or to a service of the cluster.
//!
//! A service is reached at any of its ready endpoints, and at its cluster address when none is known: the API server does not
//! depend on a service proxy running beside it. The certificate must be valid for `<service>.<namespace>.svc`. Connections are
//! kept for the next review. Servers behind a URL may speak HTTP/2; those behind a service are spoken to in HTTP/1.1, so that
//! concurrent reviews spread over its endpoints, as upstream has it.

use crate::objects::Objects;
use crate::outbound::pool::{Pool, with_http2};
use crate::outbound::{AGENT, roots, trust};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http_body_util::Full;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Seconds a webhook may take when it says nothing.
const TIMEOUT: u64 = 10;

/// Where a webhook is.
enum Place {
    /// Host and port.
    At(String),
    Service {
        namespace: String,
        name: String,
        port: u64,
    },
}

/// What is said to it, and over what.
struct Line {
    place: Place,
    /// `Host` header.
    authority: String,
    /// With the time limit in its query.
    path: String,
    pool: Pool,
}

/// A webhook's server. Mistakes in the configuration are kept and told when it is used.
pub(crate) struct Client {
    line: Result<Line, String>,
    timeout: Duration,
}

impl Client {
    /// From a `clientConfig`.
    pub fn new(config: &Value, seconds: Option<u64>) -> Client {
        let seconds = seconds.unwrap_or(TIMEOUT);
        Client { line: Line::new(config, seconds), timeout: Duration::from_secs(seconds) }
    }

    /// Sends the review, which is JSON; the body of a 2xx answer, or why there is none.
    pub async fn post(&self, objects: &dyn Objects, review: Bytes) -> Result<Bytes, String> {
        let line = self.line.as_ref().map_err(Clone::clone)?;
        let shown = format!("Post \"https://{}{}\"", line.authority, line.path);
        let address = line.place.address(objects).map_err(|why| format!("{shown}: {why}"))?;
        let request = http::Request::post(&line.path)
            .header(HOST, &line.authority)
            .header(USER_AGENT, AGENT)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .body(Full::new(review))
            .map_err(|e| e.to_string())?;
        match tokio::time::timeout(self.timeout, line.pool.send(&address, &request)).await {
            Ok(Ok(answer)) if !answer.code.is_success() => Err(answer.refusal()),
            Ok(Ok(answer)) if answer.body.is_empty() => Err(answer.empty()),
            Ok(Ok(answer)) => Ok(answer.body),
            Ok(Err(why)) => Err(format!("{shown}: {why}")),
            Err(_) => Err(format!("{shown}: context deadline exceeded")),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.line.as_ref().map_or("Client", |line| &line.authority))
    }
}

impl Line {
    fn new(config: &Value, seconds: u64) -> Result<Line, String> {
        let tls = trusted(config)?;
        let (place, name, authority, path, tls) = match config["url"].as_str() {
            Some(url) => {
                let uri: http::Uri = url.parse().map_err(|_| format!("unusable url {url:?}"))?;
                let host = uri.host().ok_or_else(|| format!("no host in url {url:?}"))?;
                if uri.scheme_str() != Some("https") {
                    return Err(format!("url {url:?} is not https"));
                }
                let authority = uri.authority().map_or(host, |a| a.as_str()).to_owned();
                let address = format!("{host}:{}", uri.port_u16().unwrap_or(443));
                let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
                let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                (Place::At(address), bare, authority, path, with_http2(tls))
            }
            None => {
                let service = &config["service"];
                let text = |field: &str| service[field].as_str().unwrap_or_default().to_owned();
                let port = service["port"].as_u64().unwrap_or(443);
                let host = format!("{}.{}.svc", text("name"), text("namespace"));
                let path = format!("/{}", text("path").trim_start_matches('/'));
                let place = Place::Service { namespace: text("namespace"), name: text("name"), port };
                (place, host.clone(), format!("{host}:{port}"), path, tls)
            }
        };
        let name = ServerName::try_from(name).map_err(|e| e.to_string())?;
        let path = format!("{path}{}timeout={seconds}s", if path.contains('?') { '&' } else { '?' });
        Ok(Line { place, authority, path, pool: Pool::new(Some(Arc::new(tls)), name) })
    }
}

fn trusted(config: &Value) -> Result<ClientConfig, String> {
    let bundle = config["caBundle"].as_str().unwrap_or_default();
    let pem = STANDARD.decode(bundle).map_err(|_| "caBundle is not base64".to_owned())?;
    let pem = String::from_utf8(pem).map_err(|_| "unable to load root certificates: the CA bundle is not PEM".to_owned())?;
    let roots = roots(&pem).map_err(|e| format!("unable to load root certificates: {e}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    if pem.is_empty() {
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let verifier = trust::verifier(roots, pem.as_bytes(), provider).map_err(|e| e.to_string())?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

impl Place {
    /// Host and port to connect to now.
    fn address(&self, objects: &dyn Objects) -> Result<String, String> {
        match self {
            Place::At(address) => Ok(address.clone()),
            Place::Service { namespace, name, port } => endpoint(objects, namespace, name, *port),
        }
    }
}

/// Address and port behind a service port: those of any ready endpoint, so that reviews spread over them.
pub(super) fn endpoint(objects: &dyn Objects, namespace: &str, name: &str, port: u64) -> Result<String, String> {
    let service: Value =
        objects.get("", "services", namespace, name).and_then(|s| s.decode().ok()).ok_or_else(|| format!("service {name:?} not found"))?;
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" {
        return Ok(format!("{}:{port}", spec["externalName"].as_str().unwrap_or_default()));
    }
    let ports = super::super::list(spec, "ports");
    let found = ports
        .into_iter()
        .find(|p| p["port"].as_u64() == Some(port))
        .ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let port_name = found["name"].as_str().unwrap_or_default();
    let mut found = Vec::new();
    let slices = objects.list("discovery.k8s.io", "endpointslices", namespace).into_iter();
    for slice in slices.filter(|s| s.label("kubernetes.io/service-name") == Some(name)) {
        let Ok(slice) = slice.decode::<Value>() else { continue };
        let number = super::super::list(&slice, "ports")
            .find(|p| p["name"].as_str().unwrap_or_default() == port_name)
            .and_then(|p| p["port"].as_u64());
        let Some(number) = number else { continue };
        let ready = super::super::list(&slice, "endpoints").filter(|e| e["conditions"]["ready"] != false);
        found.extend(ready.filter_map(|e| e["addresses"][0].as_str()).map(|ip| joined(ip, number)));
    }
    if !found.is_empty() {
        return Ok(found.swap_remove(rand::random_range(0..found.len())));
    }
    match spec["clusterIP"].as_str().filter(|ip| !ip.is_empty() && *ip != "None") {
        Some(ip) => Ok(joined(ip, port)),
        None => Err(format!("no endpoints available for service {name:?}")),
    }
}

fn joined(ip: &str, port: u64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
