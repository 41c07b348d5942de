//! The server over real TLS: who is answered, and by which certificate the server is known.

use bytes::Bytes;
use ferrokube_client::{Change, Client, Selection, Transport, TransportError};
use ferrokube_metrics::{Config, Server};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// No API server is there.
struct Nobody;

impl Transport for Nobody {
    fn send(&self, _: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Bytes>, TransportError>> {
        Box::pin(async { Err(TransportError::new("nobody answers")) })
    }

    fn subscribe(&self, _: Selection) -> BoxStream<'static, Change> {
        stream::pending().boxed()
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).expect("no names");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA")
}

type Credential = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_of(authority: &CertifiedIssuer<'static, KeyPair>) -> Credential {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["front-proxy-client".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, authority).expect("signed");
    (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
}

/// Gets a path as the aggregator does: by the name of the Service, trusting the certificate that stands in `caBundle`.
async fn get(server: &Server, path: &str, credential: Option<Credential>) -> Result<(u16, Value), Box<dyn std::error::Error>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.certificate().as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_root_certificates(roots);
    let config = match credential {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    let stream = tokio::net::TcpStream::connect(server.address()).await?;
    let name = ServerName::try_from("metrics-server.kube-system.svc")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::builder().uri(path).header("host", "metrics-server").body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let code = answer.status().as_u16();
    Ok((code, serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?))
}

#[tokio::test]
async fn only_the_front_proxy_is_answered() -> Result<(), Box<dyn std::error::Error>> {
    let (ours, other) = (authority("front-proxy-ca"), authority("another"));
    let config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), front_proxy_ca: ours.pem() };
    let server = Server::start(config, Client::new(Arc::new(Nobody), "test")).await?;
    let path = "/apis/metrics.k8s.io/v1beta1";
    let (code, list) = get(&server, path, Some(client_of(&ours))).await?;
    assert_eq!((code, &list["kind"]), (200, &Value::from("APIResourceList")));
    let (code, status) = get(&server, path, None).await?;
    assert_eq!((code, &status["kind"], &status["reason"]), (401, &Value::from("Status"), &Value::from("Unauthorized")));
    assert!(get(&server, path, Some(client_of(&other))).await.is_err(), "a certificate of another CA does not even get through TLS");
    let (code, status) = get(&server, &format!("{path}/nodes"), Some(client_of(&ours))).await?;
    assert_eq!((code, &status["kind"]), (500, &Value::from("Status")));
    Ok(())
}

#[tokio::test]
async fn a_server_without_a_front_proxy_does_not_start() {
    let config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), front_proxy_ca: String::new() };
    let Err(error) = Server::start(config, Client::new(Arc::new(Nobody), "test")).await else { panic!("it started") };
    assert!(error.to_string().starts_with("the front-proxy CA is not usable"), "{error}");
}
