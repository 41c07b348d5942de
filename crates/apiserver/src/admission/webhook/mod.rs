//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: servers outside that change or refuse a write.
//!
//! Mutating webhooks are called one after the other, validating ones at once. A webhook that cannot be asked refuses
//! the write unless its `failurePolicy` is `Ignore`. Configurations and policies themselves are never intercepted, so that
//! a broken webhook can always be removed. Source: `admission/plugin/webhook`, `admission/v1`.

mod call;
mod matching;

use super::{Context, Operation, Outcome, list};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferrokube_api::patch::json_patch;
use ferrokube_api::status::Details;
use ferrokube_api::{Reason, Status};
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};

const GROUP: &str = "admissionregistration.k8s.io";

/// A webhook of a configuration.
struct Hook {
    spec: Value,
}

impl Hook {
    fn name(&self) -> &str {
        self.spec["name"].as_str().unwrap_or_default()
    }

    fn optional(&self) -> bool {
        self.spec["failurePolicy"] == "Ignore"
    }

    fn again(&self) -> bool {
        self.spec["reinvocationPolicy"] == "IfNeeded"
    }
}

/// What a webhook answered.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Response {
    uid: String,
    allowed: bool,
    status: Option<Value>,
    patch: Option<String>,
    patch_type: Option<String>,
    warnings: Option<Vec<String>>,
    audit_annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// Webhooks of all configurations of the kind that want to see the request, in order.
fn wanting(c: &Context<'_>, resource: &str, object: Option<&Value>) -> Vec<Hook> {
    if c.group == GROUP {
        return Vec::new();
    }
    let configurations = c.objects.list(GROUP, resource, "").into_iter().filter_map(|o| o.decode::<Value>().ok());
    let hooks = configurations.flat_map(|o| list(&o, "webhooks").cloned().collect::<Vec<_>>());
    hooks.filter(|spec| matching::wants(c, spec, object)).map(|spec| Hook { spec }).collect()
}

/// Calls the mutating webhooks; whether one changed the object.
pub(super) async fn mutate(c: &Context<'_>, mut object: Option<&mut Value>, outcome: &mut Outcome) -> Result<bool, Status> {
    let hooks = wanting(c, "mutatingwebhookconfigurations", object.as_deref());
    let mut changed_by = None;
    for (at, hook) in hooks.iter().enumerate() {
        if invoke(c, hook, object.as_deref_mut(), outcome).await? {
            changed_by = Some(at);
        }
    }
    // Those that ask for it see once more what later ones made of the object.
    if let Some(last) = changed_by {
        for hook in hooks[..last].iter().filter(|h| h.again()) {
            invoke(c, hook, object.as_deref_mut(), outcome).await?;
        }
    }
    Ok(changed_by.is_some())
}

/// Calls one mutating webhook; whether it changed the object.
async fn invoke(c: &Context<'_>, hook: &Hook, object: Option<&mut Value>, outcome: &mut Outcome) -> Result<bool, Status> {
    let Some(response) = ask(c, hook, object.as_deref()).await? else { return Ok(false) };
    let patch = response.patch.clone();
    let kind = response.patch_type.clone();
    settle(hook, response, outcome)?;
    let (Some(patch), Some(object)) = (patch.filter(|p| !p.is_empty()), object) else { return Ok(false) };
    if kind.as_deref() != Some("JSONPatch") {
        return unusable(hook, "the response has a patch whose patchType is not \"JSONPatch\"").map(|()| false);
    }
    let decoded = STANDARD.decode(patch).ok().and_then(|p| serde_json::from_slice::<Value>(&p).ok());
    let Some(patch) = decoded else { return unusable(hook, "the patch is not JSON in base64").map(|()| false) };
    let mut changed = object.clone();
    if let Err(status) = json_patch(&mut changed, patch) {
        return unusable(hook, &status.message).map(|()| false);
    }
    let differs = changed != *object;
    *object = changed;
    Ok(differs)
}

/// Calls the validating webhooks.
pub(super) async fn validate(c: &Context<'_>, object: Option<&Value>, outcome: &mut Outcome) -> Result<(), Status> {
    let hooks = wanting(c, "validatingwebhookconfigurations", object);
    let answers = join_all(hooks.iter().map(|hook| ask(c, hook, object))).await;
    for (hook, answer) in hooks.iter().zip(answers) {
        if let Some(response) = answer? {
            settle(hook, response, outcome)?;
        }
    }
    Ok(())
}

/// The answer; `None` when there is none and none is needed.
async fn ask(c: &Context<'_>, hook: &Hook, object: Option<&Value>) -> Result<Option<Response>, Status> {
    let harmless = matches!(hook.spec["sideEffects"].as_str(), Some("None" | "NoneOnDryRun"));
    if c.dry_run && !harmless {
        return Err(Status::bad_request(format!("admission webhook {:?} does not support dry run", hook.name())));
    }
    let uid = uuid::Uuid::new_v4().to_string();
    let review = review(c, &uid, object);
    let answer = call::post(c.objects, &hook.spec, &review).await;
    let response = answer.and_then(|body| {
        let mut review: Value = serde_json::from_slice(&body).map_err(|e| format!("the response is not JSON: {e}"))?;
        let response = Response::deserialize(review["response"].take()).map_err(|e| format!("unexpected response: {e}"))?;
        if response.uid == uid { Ok(response) } else { Err(format!("expected response.uid {uid:?}, got {:?}", response.uid)) }
    });
    match response {
        Ok(response) => Ok(Some(response)),
        Err(why) => unusable(hook, &format!("failed to call webhook: {why}")).map(|()| None),
    }
}

/// A webhook that failed: nothing when its policy says so, else a 500.
fn unusable(hook: &Hook, why: &str) -> Result<(), Status> {
    if hook.optional() {
        tracing::warn!(webhook = hook.name(), why, "Failed calling webhook, failing open");
        return Ok(());
    }
    tracing::warn!(webhook = hook.name(), why, "Failed calling webhook, failing closed");
    Err(Status::internal(format_args!("failed calling webhook {:?}: {why}", hook.name())))
}

/// Keeps warnings and annotations, and turns a no into its `Status`.
fn settle(hook: &Hook, response: Response, outcome: &mut Outcome) -> Result<(), Status> {
    outcome.warnings.extend(response.warnings.unwrap_or_default());
    let annotations = response.audit_annotations.unwrap_or_default();
    outcome.annotations.extend(annotations.into_iter().map(|(k, v)| (format!("{}/{k}", hook.name()), v)));
    if response.allowed {
        return Ok(());
    }
    let said = response.status.unwrap_or_default();
    let denied = format!("admission webhook {:?} denied the request", hook.name());
    let text = |field: &str| said[field].as_str().filter(|s| !s.is_empty());
    let message = match (text("message"), text("reason")) {
        (Some(message), _) => format!("{denied}: {message}"),
        (None, Some(reason)) => format!("{denied}: {reason}"),
        (None, None) => format!("{denied} without explanation"),
    };
    let mut status = Status::deserialize(&said).unwrap_or_else(|_| Status::failure(400, Reason::BadRequest, ""));
    (status.status, status.message) = ("Failure".into(), message);
    if status.code < 400 {
        status.code = 400;
    }
    status.details.get_or_insert_with(Details::default);
    Err(status)
}

fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// The `AdmissionReview` that is sent.
fn review(c: &Context<'_>, uid: &str, object: Option<&Value>) -> Value {
    let traveller = object.or(c.review.old);
    let said = traveller.and_then(|o| o["apiVersion"].as_str()).unwrap_or(c.version);
    let version = said.rsplit('/').next().unwrap_or(c.version);
    let said_kind = traveller.and_then(|o| o["kind"].as_str()).unwrap_or_default();
    let kind = json!({ "group": c.kind.0, "version": version, "kind": if c.kind.1.is_empty() { said_kind } else { c.kind.1 } });
    let resource = json!({ "group": c.group, "version": c.version, "resource": c.resource });
    let name = if c.name.is_empty() { object.and_then(|o| o["metadata"]["name"].as_str()).unwrap_or_default() } else { c.name };
    let mut request = json!({
        "uid": uid,
        "kind": kind, "resource": resource, "requestKind": kind, "requestResource": resource,
        "operation": operation(c.operation),
        "userInfo": crate::authz::reviews::user_info(c.user),
        "object": object, "oldObject": c.review.old,
        "dryRun": c.dry_run, "options": c.options,
    });
    for (field, value) in
        [("name", name), ("namespace", c.namespace), ("subResource", c.subresource), ("requestSubResource", c.subresource)]
    {
        if !value.is_empty() {
            request[field] = json!(value);
        }
    }
    json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request })
}

/// Tells the author of a policy or of match conditions what is not done yet, rather than let them trust in it.
pub(super) fn unenforced(c: &Context<'_>, object: Option<&Value>, outcome: &mut Outcome) -> Result<(), Status> {
    let Some(object) = object.filter(|_| c.group == GROUP && c.subresource.is_empty() && c.operation != Operation::Delete) else {
        return Ok(());
    };
    if c.resource.contains("admissionpolic") {
        let kind = object["kind"].as_str().unwrap_or("this object");
        outcome.warnings.push(format!("{kind} is stored but not enforced: this server does not evaluate admission policies yet"));
    }
    for hook in list(object, "webhooks").filter(|h| list(h, "matchConditions").next().is_some()) {
        let name = hook["name"].as_str().unwrap_or_default();
        outcome
            .warnings
            .push(format!("webhook {name:?} is called whatever its matchConditions say: this server does not evaluate them yet"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
