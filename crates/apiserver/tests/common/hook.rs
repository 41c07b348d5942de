//! A webhook of somebody: remembers what it was asked, and answers by a function.
#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "each test uses a part")]

use bytes::Bytes;
use ferrokube_apiserver::Tls;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

pub struct Hook {
    pub address: SocketAddr,
    seen: watch::Receiver<Vec<Value>>,
}

impl Hook {
    pub async fn start(answer: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static) -> Self {
        Self::serve(None, answer).await
    }

    /// The same over TLS.
    pub async fn start_tls(tls: &Tls, answer: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let chain = vec![CertificateDer::from_pem_slice(tls.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes()).unwrap();
        let config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
        Self::serve(Some(TlsAcceptor::from(Arc::new(config))), answer).await
    }

    async fn serve(tls: Option<TlsAcceptor>, answer: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, seen) = watch::channel(Vec::new());
        let (told, answer) = (Arc::new(told), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (told, answer) = (told.clone(), answer.clone());
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let (told, answer) = (told.clone(), answer.clone());
                    async move {
                        let path = request.uri().path().to_owned();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
                        let (code, reply) = answer(&path, &asked);
                        told.send_modify(|all| all.push(asked));
                        // A text is answered as it is.
                        let reply = reply.as_str().map_or_else(|| reply.to_string(), str::to_owned);
                        let response = http::Response::builder().status(code).body(Full::new(Bytes::from(reply)));
                        Ok::<_, Infallible>(response.unwrap())
                    }
                });
                let tls = tls.clone();
                tokio::spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => http.serve_connection(TokioIo::new(stream), service).await,
                        Some(tls) => http.serve_connection(TokioIo::new(tls.accept(stream).await.unwrap()), service).await,
                    }
                });
            }
        });
        Hook { address, seen }
    }

    /// What it was asked so far.
    pub fn seen(&self) -> Vec<Value> {
        self.seen.borrow().clone()
    }

    /// Waits until what it was asked satisfies the condition.
    pub async fn until(&mut self, enough: impl FnMut(&Vec<Value>) -> bool) -> Vec<Value> {
        let waited = tokio::time::timeout(Duration::from_secs(60), self.seen.wait_for(enough)).await;
        waited.expect("asked in time").unwrap().clone()
    }

    pub fn kubeconfig(&self, folder: &Path) -> PathBuf {
        let path = folder.join(format!("hook-{}.yaml", self.address.port()));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster: {{server: 'http://{}/hook'}}\nusers:\n- name: u\n  user: {{token: secret}}\ncontexts:\n- name: c\n  context: {{cluster: c, user: u}}\n",
            self.address
        );
        std::fs::write(&path, text).unwrap();
        path
    }
}
