//! `POST .../serviceaccounts/<name>/token`: a TokenRequest in, the same with a token out.

use super::{Claims, Kubernetes, Reference, ServiceAccountTokens};
use crate::objects::Objects;
use ferrokube_api::field::{Errors, Path};
use ferrokube_api::{Object, Status};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Shortest life that may be asked for.
const MIN_SECONDS: i64 = 600;
/// Longest life that may be asked for.
const MAX_SECONDS: i64 = 1 << 32;
/// What the API server gives when nothing is asked for.
const DEFAULT_SECONDS: i64 = 3600;
/// The life that the ServiceAccount admission plugin asks for, by which old clients are recognised.
const EXTENDABLE_SECONDS: i64 = 3607;
/// The life such tokens get instead.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    audiences: Option<Vec<String>>,
    expiration_seconds: Option<i64>,
    bound_object_ref: Option<BoundObject>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct BoundObject {
    kind: String,
    api_version: String,
    name: String,
    uid: String,
}

/// What the token gets bound to.
#[derive(Default)]
struct Bound {
    pod: Option<Reference>,
    node: Option<Reference>,
    secret: Option<Reference>,
}

fn reference(object: &Object) -> Reference {
    Reference { name: object.key.name.to_string(), uid: object.uid.to_string() }
}

/// Sets what 1.36 defaults in a TokenRequest; the pipeline may call it before admission.
pub fn default_request(request: &mut Value) {
    if let Some(spec) = request.get_mut("spec").and_then(Value::as_object_mut)
        && spec.get("expirationSeconds").is_none_or(Value::is_null)
    {
        spec.insert("expirationSeconds".into(), DEFAULT_SECONDS.into());
    }
}

fn validate(spec: &Spec) -> Result<i64, Status> {
    let seconds = spec.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
    let mut errors = Errors::default();
    let path = Path::new("spec").child("expirationSeconds");
    if seconds < MIN_SECONDS {
        errors.invalid(&path, &seconds.into(), "may not specify a duration less than 10 minutes");
    }
    if seconds > MAX_SECONDS {
        errors.invalid(&path, &seconds.into(), "may not specify a duration larger than 2^32 seconds");
    }
    if errors.is_empty() { Ok(seconds) } else { Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", errors.into_causes())) }
}

fn find(objects: &dyn Objects, resource: &str, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
    objects.get("", resource, namespace, name).ok_or_else(|| Status::not_found("", resource, name))
}

fn bind(objects: &dyn Objects, namespace: &str, account: &str, to: &BoundObject) -> Result<Bound, Status> {
    let mut bound = Bound::default();
    let object = match (to.api_version.as_str(), to.kind.as_str()) {
        ("v1", "Pod") => {
            let pod = find(objects, "pods", namespace, &to.name)?;
            bind_pod(objects, account, &pod, &mut bound)?;
            pod
        }
        ("v1", "Node") => {
            let node = find(objects, "nodes", "", &to.name)?;
            bound.node = Some(reference(&node));
            node
        }
        ("v1", "Secret") => {
            let secret = find(objects, "secrets", namespace, &to.name)?;
            bound.secret = Some(reference(&secret));
            secret
        }
        (version, kind) => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            return Err(Status::bad_request(format!("cannot bind token to object of type {group}/{version}, Kind={kind}")));
        }
    };
    if !to.uid.is_empty() && to.uid != *object.uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            to.uid
        );
        return Err(Status::conflict("", &to.kind, &to.name, &why));
    }
    Ok(bound)
}

fn bind_pod(objects: &dyn Objects, account: &str, pod: &Object, bound: &mut Bound) -> Result<(), Status> {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct PodSpec {
        service_account_name: String,
        node_name: String,
    }
    #[derive(Deserialize)]
    struct Pod {
        #[serde(default)]
        spec: PodSpec,
    }
    let spec = pod.decode::<Pod>().map_err(|e| Status::internal(format_args!("unreadable pod: {e}")))?.spec;
    if spec.service_account_name != account {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        )));
    }
    bound.pod = Some(reference(pod));
    if !spec.node_name.is_empty() {
        // A pod may name a node that has no Node object (yet): the token then carries the name alone.
        let node = objects.get("", "nodes", "", &spec.node_name);
        bound.node = Some(node.map_or(Reference { name: spec.node_name, uid: String::new() }, |n| reference(&n)));
    }
    Ok(())
}

impl ServiceAccountTokens {
    /// Answers a TokenRequest for the service account. `now` is the time of the request. The second part of the answer
    /// are warnings for the client. Errors: 404 for missing objects, 400, 409 and 422 as the Go server.
    pub fn request(
        &self,
        objects: &dyn Objects,
        namespace: &str,
        name: &str,
        mut request: Value,
        now: jiff::Timestamp,
    ) -> Result<(Value, Vec<String>), Status> {
        let account = find(objects, "serviceaccounts", namespace, name)?;
        check_metadata(&request, &account)?;
        let spec: Spec = match request.get("spec") {
            Some(spec) if !spec.is_null() => Spec::deserialize(spec).map_err(|e| Status::bad_request(e.to_string()))?,
            _ => Spec::default(),
        };
        let mut seconds = validate(&spec)?;
        let audiences = spec.audiences.clone().filter(|a| !a.is_empty()).unwrap_or_else(|| self.api_audiences.clone());
        let bound = spec.bound_object_ref.as_ref().map(|to| bind(objects, namespace, name, to)).transpose()?.unwrap_or_default();
        let mut warnings = Vec::new();
        if self.max_expiration_seconds > 0 && seconds > self.max_expiration_seconds {
            warnings.push(format!("requested expiration of {seconds} seconds shortened to {} seconds", self.max_expiration_seconds));
            seconds = self.max_expiration_seconds;
        }
        let claims = self.claims(&account, bound, audiences.clone(), seconds, now.as_second());
        let expires = now.as_second() + seconds;
        complete(&mut request, &account, &audiences, seconds);
        request["status"] = json!({ "token": self.sign(claims), "expirationTimestamp": rfc3339(expires) });
        Ok((request, warnings))
    }

    fn claims(&self, account: &Object, bound: Bound, aud: Vec<String>, seconds: i64, now: i64) -> Claims {
        let for_us = aud.iter().any(|a| self.api_audiences.contains(a));
        let extend = self.extend_expiration && bound.pod.is_some() && seconds == EXTENDABLE_SECONDS && for_us;
        let life = if extend { EXTENDED_SECONDS } else { seconds };
        Claims {
            aud,
            exp: now + life,
            iat: now,
            iss: String::new(),
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: Kubernetes {
                namespace: account.key.namespace.to_string(),
                node: bound.node,
                pod: bound.pod,
                secret: bound.secret,
                serviceaccount: reference(account),
                warnafter: extend.then_some(now + seconds),
            },
            nbf: now,
            sub: super::username(&account.key.namespace, &account.key.name),
        }
    }
}

/// Name, namespace and uid may be left out of the request, but must not contradict the path.
fn check_metadata(request: &Value, account: &Object) -> Result<(), Status> {
    let field = |name: &str| request["metadata"][name].as_str().unwrap_or_default();
    let (name, namespace, uid) = (field("name"), field("namespace"), field("uid"));
    if !name.is_empty() && name != &*account.key.name {
        return Err(Status::bad_request(format!(
            "service account name in the URL ({}) does not match the name in the token request ({name})",
            account.key.name
        )));
    }
    if !namespace.is_empty() && namespace != &*account.key.namespace {
        return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    if !uid.is_empty() && uid != &*account.uid {
        let why = format!("the UID in the token request ({uid}) does not match the UID of the service account ({})", account.uid);
        return Err(Status::conflict("", "serviceaccounts", &account.key.name, &why));
    }
    Ok(())
}

fn complete(request: &mut Value, account: &Object, audiences: &[String], seconds: i64) {
    if !request["metadata"].is_object() {
        request["metadata"] = json!({});
    }
    request["metadata"]["name"] = json!(*account.key.name);
    request["metadata"]["namespace"] = json!(*account.key.namespace);
    if !request["spec"].is_object() {
        request["spec"] = json!({});
    }
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = json!(seconds);
    request["kind"] = json!("TokenRequest");
    request["apiVersion"] = json!("authentication.k8s.io/v1");
}

fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}
