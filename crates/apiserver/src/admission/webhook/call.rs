//! The call itself: HTTPS POST of a review, to a URL or to a service of the cluster.
//!
//! A service is reached at one of its ready endpoints, and at its cluster address when none is known: the API server does not
//! depend on a service proxy running beside it. The certificate must be valid for `<service>.<namespace>.svc`.

use crate::objects::Objects;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Seconds a webhook may take when it says nothing.
const TIMEOUT: u64 = 10;
/// Longest answer that is read.
const MAX_ANSWER: usize = 3 << 20;
/// Where Debian keeps the CAs of the world, for URLs without `caBundle`.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where a webhook is.
struct Address {
    /// Host and port to connect to.
    connect: String,
    /// Name on its certificate.
    name: String,
    /// `Host` header.
    authority: String,
    path: String,
}

/// Sends the review; the body of a 2xx answer, or why there is none.
pub(crate) async fn post(objects: &dyn Objects, hook: &Value, review: &Value) -> Result<Bytes, String> {
    let config = &hook["clientConfig"];
    let address = address(objects, config)?;
    let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT);
    let path = if address.path.contains('?') {
        format!("{}&timeout={seconds}s", address.path)
    } else {
        format!("{}?timeout={seconds}s", address.path)
    };
    let shown = format!("Post \"https://{}{path}\"", address.authority);
    let call = exchange(&address, &path, trusted(config)?, review);
    match tokio::time::timeout(Duration::from_secs(seconds), call).await {
        Ok(answer) => answer.map_err(|why| format!("{shown}: {why}")),
        Err(_) => Err(format!("{shown}: context deadline exceeded")),
    }
}

fn trusted(config: &Value) -> Result<ClientConfig, String> {
    let pem = match config["caBundle"].as_str().filter(|b| !b.is_empty()) {
        Some(bundle) => STANDARD.decode(bundle).map_err(|_| "caBundle is not base64".to_owned())?,
        None => std::fs::read(SYSTEM_CAS).unwrap_or_default(),
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

async fn exchange(address: &Address, path: &str, tls: ClientConfig, review: &Value) -> Result<Bytes, String> {
    let stream = TcpStream::connect(&address.connect).await.map_err(|e| format!("dial tcp {}: {e}", address.connect))?;
    let _ = stream.set_nodelay(true);
    let name = ServerName::try_from(address.name.clone()).map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(|e| format!("tls: {e}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let request = http::Request::post(path)
        .header(http::header::HOST, &address.authority)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::ACCEPT, "application/json, */*")
        .body(Full::new(Bytes::from(review.to_string())))
        .map_err(|e| e.to_string())?;
    let talk = async {
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?.to_bytes();
        if code.is_success() {
            Ok(body)
        } else {
            Err(format!("the server answered {code}: {}", String::from_utf8_lossy(&body[..body.len().min(256)])))
        }
    };
    // The connection lives as long as the answer needs it; nothing is left running behind.
    let mut connection = std::pin::pin!(connection);
    let mut talk = std::pin::pin!(talk);
    tokio::select! {
        answer = &mut talk => answer,
        ended = &mut connection => match ended {
            Ok(()) => talk.await,
            Err(e) => Err(e.to_string()),
        },
    }
}

fn address(objects: &dyn Objects, config: &Value) -> Result<Address, String> {
    if let Some(url) = config["url"].as_str() {
        let uri: http::Uri = url.parse().map_err(|_| format!("unusable url {url:?}"))?;
        let host = uri.host().ok_or_else(|| format!("no host in url {url:?}"))?;
        if uri.scheme_str() != Some("https") {
            return Err(format!("url {url:?} is not https"));
        }
        let port = uri.port_u16().unwrap_or(443);
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        return Ok(Address { connect: format!("{host}:{port}"), name: bare, authority: format!("{host}:{port}"), path });
    }
    let service = &config["service"];
    let text = |field: &str| service[field].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let port = service["port"].as_u64().unwrap_or(443);
    let host = format!("{namespace}.svc");
    let host = format!("{name}.{host}");
    let path = if text("path").starts_with('/') { text("path").to_owned() } else { format!("/{}", text("path")) };
    let connect = endpoint(objects, namespace, name, port)?;
    Ok(Address { connect, name: host.clone(), authority: format!("{host}:{port}"), path })
}

/// Address and port behind a service port.
fn endpoint(objects: &dyn Objects, namespace: &str, name: &str, port: u64) -> Result<String, String> {
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
    let slices = objects.list("discovery.k8s.io", "endpointslices", namespace).into_iter();
    for slice in slices.filter(|s| s.label("kubernetes.io/service-name") == Some(name)) {
        let Ok(slice) = slice.decode::<Value>() else { continue };
        let number = super::super::list(&slice, "ports")
            .find(|p| p["name"].as_str().unwrap_or_default() == port_name)
            .and_then(|p| p["port"].as_u64());
        let ready =
            super::super::list(&slice, "endpoints").find(|e| e["conditions"]["ready"] != false).and_then(|e| e["addresses"][0].as_str());
        if let (Some(number), Some(ip)) = (number, ready) {
            return Ok(joined(ip, number));
        }
    }
    match spec["clusterIP"].as_str().filter(|ip| !ip.is_empty() && *ip != "None") {
        Some(ip) => Ok(joined(ip, port)),
        None => Err(format!("no endpoints available for service {name:?}")),
    }
}

fn joined(ip: &str, port: u64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
