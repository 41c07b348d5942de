//! Connections to the members of an etcd cluster: one multiplexed HTTP/2 connection each, made when first needed and again after it
//! broke. Calls go to one member until it turns out unfit, then to the next.
//!
//! Certificates are read anew for each connection, so that rotated files take effect without a restart.

use crate::{Error, Result};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// As kube-apiserver's client: a silent connection is asked for a sign of life, and given up without one.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Large, so that a page of objects does not wait for window updates.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Files for `https` endpoints: kube-apiserver's `--etcd-cafile`, `--etcd-certfile` and `--etcd-keyfile`.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Authorities that sign the members' certificates, PEM. Required.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, PEM: etcd takes its common name as the user.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
}

impl Tls {
    fn read(&self) -> std::result::Result<rustls::ClientConfig, String> {
        let ca = self.ca_file.as_ref().ok_or("https endpoints of etcd need --etcd-cafile")?;
        let failed = |path: &PathBuf, e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).map_err(|e| failed(ca, &e))? {
            roots.add(certificate.map_err(|e| failed(ca, &e))?).map_err(|e| failed(ca, &e))?;
        }
        if roots.is_empty() {
            return Err(failed(ca, &"no certificate in it"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| e.to_string())?.with_root_certificates(roots);
        let mut config = match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|e| failed(cert, &e))?;
                let private = PrivateKeyDer::from_pem_file(key).map_err(|e| failed(key, &e))?;
                builder.with_client_auth_cert(chain, private).map_err(|e| failed(cert, &e))?
            }
            (None, None) => builder.with_no_client_auth(),
            _ => return Err("--etcd-certfile and --etcd-keyfile go together".into()),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// One member.
pub(super) struct Member {
    /// Its client URL.
    pub url: String,
    channel: Channel,
}

/// All members, and the one that calls go to.
pub(super) struct Members {
    all: Vec<Member>,
    active: AtomicUsize,
}

impl Members {
    /// Prepares connections. Nothing is sent yet, but certificates are read to find mistakes early.
    pub fn new(endpoints: &[String], tls: &Tls) -> Result<Members> {
        if endpoints.is_empty() {
            return Err(Error::Unavailable("no etcd endpoint is given".into()));
        }
        let all = endpoints.iter().map(|url| member(url, tls)).collect::<Result<Vec<_>>>()?;
        Ok(Members { all, active: AtomicUsize::new(0) })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The member to call now, with its number.
    pub fn active(&self) -> (usize, &Member, Channel) {
        let at = self.active.load(Ordering::Relaxed) % self.all.len();
        (at, &self.all[at], self.all[at].channel.clone())
    }

    /// Has calls go to the next member, unless somebody else has seen to that.
    pub fn leave(&self, unfit: usize) {
        let next = (unfit + 1) % self.all.len();
        if self.active.compare_exchange(unfit, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() && next != unfit {
            tracing::warn!(from = %self.all[unfit].url, to = %self.all[next].url, "an etcd member cannot serve; calls go to another one");
        }
    }
}

fn member(url: &str, tls: &Tls) -> Result<Member> {
    let wrong = |why: &str| Error::Unavailable(format!("{url:?} is not a URL of an etcd member: {why}"));
    let uri: Uri = url.trim().parse().map_err(|e: http::uri::InvalidUri| wrong(&e.to_string()))?;
    let authority = uri.authority().ok_or_else(|| wrong("no host"))?.clone();
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong("it must start with http:// or https://")),
    };
    if secure {
        tls.read().map_err(Error::Unavailable)?;
    }
    let port = authority.port_u16().unwrap_or(2379);
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let tls = secure.then(|| tls.clone());
    let dial = tower::service_fn(move |_: Uri| dial(host.clone(), port, tls.clone()));
    // etcd takes a client's certificate only from requests that say they came over TLS.
    let scheme = if secure { "https" } else { "http" };
    let origin = Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build().map_err(|e| wrong(&e.to_string()))?;
    let channel = Endpoint::from(origin)
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .buffer_size(4096)
        .connect_with_connector_lazy(dial);
    Ok(Member { url: url.trim().to_owned(), channel })
}

/// Both kinds of byte streams.
trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

async fn dial(host: String, port: u16, tls: Option<Tls>) -> std::io::Result<TokioIo<Box<dyn Stream>>> {
    let connect = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = tls else { return Ok::<Box<dyn Stream>, std::io::Error>(Box::new(stream)) };
        let config = tls.read().map_err(std::io::Error::other)?;
        let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Ok(Box::new(stream))
    };
    let stream = tokio::time::timeout(CONNECT, connect).await;
    Ok(TokioIo::new(stream.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn members_are_checked_before_anything_is_sent() {
        let tls = Tls::default();
        let refused = |urls: &[&str]| {
            let urls: Vec<String> = urls.iter().map(|u| (*u).to_owned()).collect();
            Members::new(&urls, &tls).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(refused(&[]).contains("no etcd endpoint"));
        assert!(refused(&["127.0.0.1:2379"]).contains("http:// or https://"), "{}", refused(&["127.0.0.1:2379"]));
        assert!(refused(&["https://127.0.0.1:2379"]).contains("--etcd-cafile"));
        assert_eq!(refused(&["http://127.0.0.1:2379", "http://[::1]:2379"]), "");
    }

    #[tokio::test]
    async fn only_the_member_in_use_can_be_left() {
        let urls = ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"].map(str::to_owned);
        let members = Members::new(&urls, &Tls::default()).expect("three members");
        members.leave(0);
        members.leave(0);
        assert_eq!(members.active().0, 1, "two callers that saw the same failure move on by one");
        members.leave(1);
        members.leave(2);
        assert_eq!(members.active().0, 0);
    }
}
