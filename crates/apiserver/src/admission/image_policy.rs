//! ImagePolicyWebhook: a server outside says which images may run.
//!
//! Its verdicts are kept for a while, so that it is not asked again for the same pod. Source: `plugin/pkg/admission/imagepolicy`.

use super::{Context, Operation, Outcome, list};
use crate::outbound::Remote;
use ferrokube_api::Status;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the server may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Tries of one question.
const TRIES: u32 = 5;
/// Verdicts kept.
const KEPT: usize = 1024;
/// Annotations of a pod that go along.
const GOES_ALONG: &str = ".image-policy.k8s.io/";

/// How the server is asked.
pub(super) struct ImagePolicy {
    remote: Remote,
    allow_ttl: Duration,
    deny_ttl: Duration,
    backoff: Duration,
    /// What holds when it does not answer.
    default_allow: bool,
    verdicts: Mutex<HashMap<String, (Instant, Value)>>,
}

impl std::fmt::Debug for ImagePolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ImagePolicy(default {})", self.default_allow)
    }
}

/// Seconds or milliseconds of a configuration: absent is the default, -1 is none.
fn duration(value: &Value, default: u64, unit: Duration, longest: u64) -> Result<Duration, String> {
    match value.as_i64() {
        None | Some(0) => Ok(unit * u32::try_from(default).unwrap_or(u32::MAX)),
        Some(-1) => Ok(Duration::ZERO),
        Some(n) if n > 0 && n as u64 <= longest => Ok(unit * u32::try_from(n).unwrap_or(u32::MAX)),
        Some(n) => Err(format!("valid value is between 1 and {longest}, got {n}")),
    }
}

impl ImagePolicy {
    /// Reads `imagePolicy`; the kubeconfig it names is looked for in `folder`.
    pub(super) fn read(value: &Value, folder: &Path) -> Result<Self, String> {
        let policy = &value["imagePolicy"];
        let file = policy["kubeConfigFile"].as_str().filter(|f| !f.is_empty()).ok_or("imagePolicy.kubeConfigFile: Required value")?;
        let second = Duration::from_secs(1);
        Ok(ImagePolicy {
            remote: Remote::from_kubeconfig_file(&folder.join(file)).map_err(|e| e.to_string())?,
            allow_ttl: duration(&policy["allowTTL"], 300, second, 1800)?,
            deny_ttl: duration(&policy["denyTTL"], 30, second, 1800)?,
            backoff: duration(&policy["retryBackoff"], 500, Duration::from_millis(1), 300_000)?,
            default_allow: policy["defaultAllow"] == true,
            verdicts: Mutex::default(),
        })
    }

    /// Asks about a pod that is made, or gets containers.
    pub(super) async fn validate(&self, c: &Context<'_>, object: Option<&Value>, outcome: &mut Outcome) -> Result<(), Status> {
        let door = match c.operation {
            Operation::Create => c.subresource.is_empty(),
            Operation::Update => matches!(c.subresource, "" | "ephemeralcontainers"),
            _ => false,
        };
        let Some(pod) = object.filter(|_| door && c.group.is_empty() && c.resource == "pods") else { return Ok(()) };
        if c.operation == Operation::Update && c.review.old.is_some_and(|old| images(old) == images(pod)) {
            return Ok(());
        }
        let spec = question(c, pod);
        let status = match self.known(&spec).map_or_else(|| Err(()), Ok) {
            Ok(status) => status,
            Err(()) => match self.ask(&spec).await {
                Ok(status) => self.keep(&spec, status),
                Err(why) if self.default_allow => {
                    tracing::warn!(why, "the image policy webhook does not answer; its default lets the pod pass");
                    outcome.annotations.push(("alpha.image-policy.k8s.io/failed-open".to_owned(), "true".to_owned()));
                    return Ok(());
                }
                Err(why) => return Err(c.forbidden(object, why)),
            },
        };
        for (key, value) in status["auditAnnotations"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            outcome.annotations.push((format!("imagepolicywebhook.image-policy.k8s.io/{key}"), value));
        }
        if status["allowed"] == true {
            return Ok(());
        }
        let why = match status["reason"].as_str().filter(|r| !r.is_empty()) {
            Some(reason) => format!("image policy webhook backend denied one or more images: {reason}"),
            None => "one or more images rejected by webhook backend".to_owned(),
        };
        Err(c.forbidden(object, why))
    }

    fn known(&self, spec: &Value) -> Option<Value> {
        let verdicts = self.verdicts.lock();
        verdicts.get(&spec.to_string()).filter(|(until, _)| Instant::now() < *until).map(|(_, status)| status.clone())
    }

    fn keep(&self, spec: &Value, status: Value) -> Value {
        let ttl = if status["allowed"] == true { self.allow_ttl } else { self.deny_ttl };
        let mut verdicts = self.verdicts.lock();
        let now = Instant::now();
        if verdicts.len() >= KEPT {
            verdicts.retain(|_, (until, _)| now < *until);
        }
        if verdicts.len() < KEPT {
            verdicts.insert(spec.to_string(), (now + ttl, status.clone()));
        }
        status
    }

    async fn ask(&self, spec: &Value) -> Result<Value, String> {
        let review = json!({"kind": "ImageReview", "apiVersion": "imagepolicy.k8s.io/v1alpha1", "metadata": {}, "spec": spec, "status": {"allowed": false}});
        let body = bytes::Bytes::from(review.to_string());
        let mut wait = self.backoff;
        for left in (0..TRIES).rev() {
            match self.remote.post(body.clone(), TIMEOUT).await {
                Ok(answer) => {
                    let mut answer: Value = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
                    return Ok(answer["status"].take());
                }
                Err(error) if left > 0 && error.is_transient() => tracing::debug!(%error, "image policy webhook; trying again"),
                Err(error) => return Err(error.to_string()),
            }
            tokio::time::sleep(wait).await;
            wait = wait.mul_f64(1.5);
        }
        Err("no answer".to_owned())
    }
}

fn images(pod: &Value) -> BTreeSet<String> {
    let kinds = ["initContainers", "containers", "ephemeralContainers"].into_iter();
    kinds.flat_map(|kind| list(&pod["spec"], kind)).filter_map(|c| c["image"].as_str()).map(str::to_owned).collect()
}

/// The spec of an `ImageReview`.
fn question(c: &Context<'_>, pod: &Value) -> Value {
    let containers = ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|kind| list(&pod["spec"], kind));
    let containers: Vec<Value> = containers.map(|c| json!({"image": c["image"]})).collect();
    let annotations = pod["metadata"]["annotations"].as_object();
    let annotations: Map<String, Value> =
        annotations.into_iter().flatten().filter(|(k, _)| k.contains(GOES_ALONG)).map(|(k, v)| (k.clone(), v.clone())).collect();
    json!({"containers": containers, "annotations": annotations, "namespace": c.namespace})
}

#[cfg(test)]
mod tests {
    use super::super::{Admission, AdmissionConfig, Review};
    use super::*;
    use crate::attributes::UserInfo;
    use crate::authz::Authorizer;
    use crate::objects::testing::Map;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::TokioIo;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::TcpListener;

    /// A server that refuses the image `bad`; where it listens, and how often it was asked.
    async fn server() -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counter = counter.clone();
                let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let counter = counter.clone();
                    async move {
                        counter.fetch_add(1, Ordering::Relaxed);
                        let body = request.into_body().collect().await.expect("a body").to_bytes();
                        let mut review: Value = serde_json::from_slice(&body).expect("json");
                        let bad = list(&review["spec"], "containers").any(|c| c["image"] == "bad");
                        review["status"] = json!({"allowed": !bad, "reason": if bad { "not scanned" } else { "" }});
                        Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(review.to_string()))))
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
        (port, asked)
    }

    fn admission(folder: &Path, port: u16, default_allow: bool) -> Admission {
        let kubeconfig = json!({
            "kind": "Config", "apiVersion": "v1", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}/review")}}], "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(folder.join("policy.kubeconfig"), kubeconfig.to_string()).expect("written");
        let policy = json!({"imagePolicy": {"kubeConfigFile": "policy.kubeconfig", "retryBackoff": 1, "defaultAllow": default_allow}});
        let config = AdmissionConfig {
            enable: vec!["ImagePolicyWebhook".into()],
            disable: vec!["ServiceAccount".into()],
            plugins: [("ImagePolicyWebhook".to_owned(), policy)].into(),
            folder: folder.to_owned(),
            ..AdmissionConfig::default()
        };
        let map = Arc::new(Map::default());
        Admission::new(map.clone(), Arc::new(Authorizer::new(map)), &config).expect("a configuration")
    }

    async fn create(admission: &Admission, image: &str) -> Result<Outcome, String> {
        let user = UserInfo::default();
        let review = Review {
            user: &user,
            operation: Operation::Create,
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            kind: ("", "Pod"),
            namespace: "dev",
            name: "p",
            old: None,
            options: &Value::Null,
            dry_run: false,
            schema: None,
        };
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": image}]}});
        let mut outcome = Outcome::default();
        admission.validate(&review, Some(&pod), &mut outcome).await.map_err(|e| e.message)?;
        Ok(outcome)
    }

    #[tokio::test]
    async fn images_run_as_the_server_says_and_it_is_asked_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (port, asked) = server().await;
        let admission = admission(folder.path(), port, false);
        create(&admission, "good").await.expect("allowed");
        create(&admission, "good").await.expect("allowed");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let told = create(&admission, "bad").await.expect_err("denied");
        assert_eq!(told, "pods \"p\" is forbidden: image policy webhook backend denied one or more images: not scanned");
    }

    #[tokio::test]
    async fn without_an_answer_the_default_holds() {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        assert!(create(&admission(folder.path(), port, false), "i").await.is_err());
        let outcome = create(&admission(folder.path(), port, true), "i").await.expect("allowed");
        let failed_open = ("alpha.image-policy.k8s.io/failed-open".to_owned(), "true".to_owned());
        assert!(outcome.annotations.contains(&failed_open));
    }
}
