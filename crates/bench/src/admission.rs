//! What every write of a measurement passes on request: webhooks that this process answers, and policies.
//!
//! It applies to the namespace of the run alone and is gone with it. Nothing is measured before all of it is in force, which on
//! any server is a little later than its creation.

use crate::api::Room;
use crate::connect::{Call, Server};
use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";
/// How long a server may take to know of what was made.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it does.
const LOOK: Duration = Duration::from_millis(50);

/// How much admission there is besides what the server does by itself.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Validating webhooks that each create and update calls; this process answers them
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    webhooks: usize,
    /// Mutating webhooks, which are called one after the other
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    mutating_webhooks: usize,
    /// ValidatingAdmissionPolicies that each create and update is judged by
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    policies: usize,
    /// Address of this machine at which the server calls the webhooks
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    webhook_address: IpAddr,
}

/// What was made, to be taken away again.
#[derive(Default)]
pub(crate) struct Gate {
    paths: Vec<String>,
    webhooks: Option<Webhooks>,
}

/// The end that answers webhooks.
struct Webhooks {
    address: SocketAddr,
    certificate: String,
    /// How often each was called.
    calls: Arc<[AtomicUsize]>,
    task: JoinHandle<()>,
}

impl Drop for Webhooks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gate {
    /// Makes what is wanted and waits until it is in force. Whatever comes of that, `leave` takes it away.
    pub async fn set_up(&mut self, options: &Options, room: &Room) -> anyhow::Result<()> {
        for n in 0..options.policies {
            let (policy, binding) = policy(room, n);
            self.make(&room.server, "validatingadmissionpolicies", &policy).await?;
            self.make(&room.server, "validatingadmissionpolicybindings", &binding).await?;
        }
        let (validating, mutating) = (options.webhooks, options.mutating_webhooks);
        if validating + mutating > 0 {
            let webhooks = Webhooks::start(options.webhook_address, validating + mutating).await?;
            let first = configuration("ValidatingWebhookConfiguration", room, &webhooks, 0..validating);
            let second = configuration("MutatingWebhookConfiguration", room, &webhooks, validating..validating + mutating);
            self.webhooks = Some(webhooks);
            self.make(&room.server, "validatingwebhookconfigurations", &first).await?;
            self.make(&room.server, "mutatingwebhookconfigurations", &second).await?;
        }
        for n in 0..options.policies {
            let refused = |status: StatusCode| !status.is_success();
            until(&format!("policy {n}"), || async move { Ok(refused(probe(room, &format!("probe-{n}")).await?)) }).await?;
        }
        let Some(webhooks) = &self.webhooks else { return Ok(()) };
        let calls = &webhooks.calls;
        until("the webhooks", || async move {
            probe(room, "any").await?;
            Ok(calls.iter().all(|calls| calls.load(Ordering::Relaxed) > 0))
        })
        .await
    }

    async fn make(&mut self, server: &Server, resource: &str, object: &Value) -> anyhow::Result<()> {
        let path = format!("{REGISTRATION}/{resource}");
        server.ok(0, Call::new(Method::POST, path.as_str(), object.to_string())).await?;
        self.paths.push(format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default()));
        Ok(())
    }

    /// Takes all of it away.
    pub async fn leave(self, server: &Server) -> anyhow::Result<()> {
        let mut result = Ok(());
        for path in self.paths.into_iter().rev() {
            result = result.and(server.ok(0, Call::new(Method::DELETE, path, Bytes::new())).await.map(drop));
        }
        result
    }
}

async fn until<F>(what: &str, mut holds: impl FnMut() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<bool>>,
{
    let began = Instant::now();
    while !holds().await? {
        if began.elapsed() > PATIENCE {
            bail!("the server does not use {what} within {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Would this ConfigMap be created?
async fn probe(room: &Room, name: &str) -> anyhow::Result<StatusCode> {
    let path = format!("/api/v1/namespaces/{}/configmaps?dryRun=All", room.namespace);
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    Ok(room.server.call(0, Call::new(Method::POST, path, body.to_string())).await?.0)
}

/// The requests that are concerned, in the words of policies and webhooks alike.
fn rules() -> Value {
    json!([{"operations": ["CREATE", "UPDATE"], "apiGroups": ["", "coordination.k8s.io"], "apiVersions": ["v1"],
        "resources": ["configmaps", "pods", "leases"]}])
}

fn selector(room: &Room) -> Value {
    json!({"matchLabels": {"kubernetes.io/metadata.name": &*room.namespace}})
}

/// A policy that refuses one name, and looks at what every object has; and its binding.
fn policy(room: &Room, n: usize) -> (Value, Value) {
    let name = format!("{}-{n}", room.namespace);
    let expression = format!("object.metadata.name != 'probe-{n}' && object.metadata.?labels.orValue({{}}).all(k, k.size() < 64)");
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"namespaceSelector": selector(room), "resourceRules": rules()},
            "validations": [{"expression": expression, "message": "this name shows that the policy is in force"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    (policy, binding)
}

fn configuration(kind: &str, room: &Room, webhooks: &Webhooks, numbers: std::ops::Range<usize>) -> Value {
    let webhook = |n: usize| {
        json!({
            "name": format!("n{n}.bench.ferrokube.invalid"),
            "clientConfig": {
                "url": format!("https://{}/{n}", webhooks.address),
                "caBundle": STANDARD.encode(&webhooks.certificate),
            },
            "namespaceSelector": selector(room),
            "rules": rules(),
            "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": &*room.namespace},
        "webhooks": numbers.map(webhook).collect::<Vec<_>>(),
    })
}

impl Webhooks {
    /// Answers at a free port until it is dropped.
    async fn start(host: IpAddr, count: usize) -> anyhow::Result<Webhooks> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![host.to_string()])?.self_signed(&key)?;
        let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let versions = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions()?;
        let mut tls = versions.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind((host, 0)).await.with_context(|| format!("listening on {host}"))?;
        let address = listener.local_addr()?;
        let calls: Arc<[AtomicUsize]> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        let task = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), Arc::clone(&calls)));
        Ok(Webhooks { address, certificate: certificate.pem(), calls, task })
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, calls: Arc<[AtomicUsize]>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, calls) = (tls.clone(), Arc::clone(&calls));
        // Whoever gives up half-way is the server, which tells of it in the answer to the write.
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| answer(request, Arc::clone(&calls)));
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, calls: Arc<[AtomicUsize]>) -> anyhow::Result<Response<Full<Bytes>>> {
    let number: usize = request.uri().path().trim_start_matches('/').parse()?;
    let body = request.into_body().collect().await?.to_bytes();
    if let Some(calls) = calls.get(number) {
        calls.fetch_add(1, Ordering::Relaxed);
    }
    let answer = allowed(&body).context("no review")?;
    Ok(Response::builder().header("content-type", "application/json").body(Full::from(answer))?)
}

/// What matters of an AdmissionReview: the object in it may have a `uid` before its own.
#[derive(Deserialize)]
struct Review {
    request: Asked,
}

#[derive(Deserialize)]
struct Asked {
    uid: String,
}

/// Yes to a review.
fn allowed(review: &[u8]) -> serde_json::Result<String> {
    let review: Review = serde_json::from_slice(review)?;
    let response = json!({"uid": review.request.uid, "allowed": true});
    Ok(json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_is_answered_with_its_own_uid() {
        let object = json!({"metadata": {"uid": "of the object"}});
        let review = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {"object": object, "uid": "u-1"}});
        let answer: Value = serde_json::from_str(&allowed(review.to_string().as_bytes()).expect("an answer")).expect("JSON");
        assert_eq!(answer["response"], json!({"uid": "u-1", "allowed": true}));
        assert!(allowed(b"{}").is_err());
    }
}
