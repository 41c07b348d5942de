//! The `AdmissionReview` that is sent, and what makes an answer a valid one.
//!
//! Reviews of one request differ by their uid alone as long as webhooks see the object in the same version: all else is written
//! once, from the objects as they are.
//!
//! Source: `admission/plugin/webhook/request`.

use super::super::Context;
use super::super::constraints::Seen;
use super::super::versions::View;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferrokube_api::Status;
use ferrokube_api::decode::explain;
use serde::Deserialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

const GROUP: &str = "admission.k8s.io";

/// The facts of an `AdmissionRequest` as somebody sees the request; the objects are not among them.
pub(in super::super) fn request(c: &Context<'_>, seen: &Seen, view: &View<'_>) -> Value {
    let traveller = view.object.as_deref().or(view.old.as_deref());
    let said = traveller.and_then(|o| o["apiVersion"].as_str()).unwrap_or(c.version);
    let said_kind = traveller.and_then(|o| o["kind"].as_str()).unwrap_or_default();
    let kind = if c.kind.1.is_empty() { said_kind } else { c.kind.1 };
    let version = if *seen == Seen::Own { said.rsplit('/').next().unwrap_or(c.version) } else { c.version };
    let own_kind = json!({ "group": c.kind.0, "version": version, "kind": kind });
    let own_resource = json!({ "group": c.group, "version": c.version, "resource": c.resource });
    let seen_kind = match seen.converts(c) {
        Some(other) => json!({ "group": other.group, "version": other.version, "kind": other.kind }),
        None => own_kind.clone(),
    };
    let seen_resource = match seen {
        Seen::As(other) => json!({ "group": other.group, "version": other.version, "resource": c.resource }),
        Seen::Own => own_resource.clone(),
    };
    let name = if c.name.is_empty() { traveller.and_then(|o| o["metadata"]["name"].as_str()).unwrap_or_default() } else { c.name };
    let mut request = json!({
        "kind": seen_kind, "resource": seen_resource, "requestKind": own_kind, "requestResource": own_resource,
        "operation": c.operation.as_str(),
        "userInfo": crate::authz::reviews::user_info(c.user),
        "dryRun": c.dry_run, "options": c.options,
    });
    for (field, value) in
        [("name", name), ("namespace", c.namespace), ("subResource", c.subresource), ("requestSubResource", c.subresource)]
    {
        if !value.is_empty() {
            request[field] = json!(value);
        }
    }
    request
}

/// What of a review is the same for all who see the request alike: everything behind the uid.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    version: &'static str,
    rest: Arc<str>,
}

impl Draft {
    fn new(c: &Context<'_>, version: &'static str, seen: &Seen, view: &View<'_>) -> Draft {
        // A `Value` writes itself without failing; what is absent is `null`, as upstream writes it.
        let written = |object: &Option<Cow<'_, Value>>| object.as_deref().unwrap_or(&Value::Null).to_string();
        let (object, old, facts) = (written(&view.object), written(&view.old), request(c, seen, view).to_string());
        let facts = facts.strip_prefix('{').unwrap_or("}");
        Draft { version, rest: format!("\"object\":{object},\"oldObject\":{old},{facts}}}").into() }
    }

    /// The review under a uid.
    pub(super) fn under(&self, uid: &str) -> String {
        let Draft { version, rest } = self;
        format!("{{\"kind\":\"AdmissionReview\",\"apiVersion\":\"{GROUP}/{version}\",\"request\":{{\"uid\":\"{uid}\",{rest}")
    }
}

/// The drafts of a request, by how it is seen and the version of the review.
#[derive(Debug, Default)]
pub(super) struct Drafts(Vec<(Seen, Draft)>);

impl Drafts {
    /// The draft for somebody, written when he is the first to see the request so.
    pub(super) async fn draft(
        &mut self,
        c: &Context<'_>,
        version: &'static str,
        seen: &Seen,
        object: Option<&Value>,
    ) -> Result<Draft, Status> {
        if let Some((_, draft)) = self.0.iter().find(|(known, draft)| known == seen && draft.version == version) {
            return Ok(draft.clone());
        }
        let draft = Draft::new(c, version, seen, &seen.view(c, object, c.review.old).await?);
        self.0.push((seen.clone(), draft.clone()));
        Ok(draft)
    }

    /// The object is another one now.
    pub(super) fn outdate(&mut self) {
        self.0.clear();
    }
}

/// What a webhook said.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) allowed: bool,
    pub(super) status: Value,
    /// A JSON patch.
    pub(super) patch: Option<Value>,
    pub(super) warnings: Vec<String>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// An answer, as far as anybody looks at it. What is `null` is as good as absent, as in Go.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer<'a> {
    #[serde(borrow)]
    api_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    response: Option<Response<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    #[serde(borrow)]
    uid: Option<Cow<'a, str>>,
    allowed: Option<bool>,
    status: Option<Value>,
    #[serde(borrow)]
    patch: Option<Cow<'a, str>>,
    #[serde(borrow)]
    patch_type: Option<Cow<'a, str>>,
    warnings: Option<Vec<String>>,
    audit_annotations: Option<BTreeMap<String, String>>,
}

/// Reads an answer. The error says why that was not possible, in the words of upstream's decoder.
pub(super) fn read(body: &[u8]) -> Result<Answer<'_>, String> {
    serde_json::from_slice(body).map_err(|e| format!("couldn't get version/kind; json parse error: {}", explain(body, &e)))
}

/// What an answer says. The error says what is wrong with it, in the words of upstream.
pub(super) fn verdict(answer: Answer<'_>, uid: &str, version: &str, mutating: bool) -> Result<Verdict, String> {
    let (got, kind) = (answer.api_version.as_deref().unwrap_or_default(), answer.kind.as_deref().unwrap_or_default());
    let wanted = format!("{GROUP}/{version}");
    if got != wanted || kind != "AdmissionReview" {
        return Err(format!("expected webhook response of {wanted}, Kind=AdmissionReview, got {got}, Kind={kind}"));
    }
    let response = answer.response.ok_or("webhook response was nil")?;
    let said = response.uid.as_deref().unwrap_or_default();
    if said != uid && !(version == "v1beta1" && said.is_empty()) {
        return Err(format!("expected response.uid={uid:?}, got {said:?}"));
    }
    let patch = if mutating { patch(&response, version)? } else { None };
    Ok(Verdict {
        allowed: response.allowed == Some(true),
        status: response.status.unwrap_or_default(),
        patch,
        warnings: response.warnings.unwrap_or_default(),
        annotations: response.audit_annotations.unwrap_or_default(),
    })
}

fn patch(response: &Response<'_>, version: &str) -> Result<Option<Value>, String> {
    let (text, kind) = (response.patch.as_deref().unwrap_or_default(), response.patch_type.as_deref().unwrap_or_default());
    match (text.is_empty(), kind) {
        (true, "") => return Ok(None),
        (true, _) if version == "v1beta1" => return Ok(None),
        (true, _) => return Err("webhook returned response.patchType but not response.patch".to_owned()),
        (false, "") if version == "v1beta1" => {}
        (false, "") => return Err("webhook returned response.patch but not response.patchType".to_owned()),
        (false, "JSONPatch") => {}
        (false, other) => return Err(format!("webhook returned invalid response.patchType of {other:?}")),
    }
    let bytes = STANDARD.decode(text).map_err(|e| format!("response.patch is not base64: {e}"))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("response.patch is not JSON: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(response: Value, mutating: bool) -> Result<bool, String> {
        let answer = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        verdict(read(answer.to_string().as_bytes())?, "u", "v1", mutating).map(|v| v.allowed)
    }

    #[test]
    fn answers_must_be_answers() {
        let err = |text: &str| Err(text.to_owned());
        assert_eq!(told(json!({"uid": "u", "allowed": true}), true), Ok(true));
        assert_eq!(told(json!({"uid": "x", "allowed": true}), true), err("expected response.uid=\"u\", got \"x\""));
        assert_eq!(told(Value::Null, true), err("webhook response was nil"));
        let nothing = json!({"uid": "u", "allowed": true, "status": null, "patch": null, "patchType": null, "warnings": null,
            "auditAnnotations": null, "somethingElse": {"a": [1]}});
        assert_eq!(told(nothing, true), Ok(true));
        let patch = json!({"uid": "u", "allowed": true, "patch": "W10="});
        assert_eq!(told(patch.clone(), true), err("webhook returned response.patch but not response.patchType"));
        assert_eq!(told(patch, false), Ok(true));
        let typed = json!({"uid": "u", "patchType": "Magic", "patch": "W10="});
        assert_eq!(told(typed, true), err("webhook returned invalid response.patchType of \"Magic\""));
        let nonsense = "couldn't get version/kind; json parse error: invalid character 'h' looking for beginning of value";
        assert_eq!(read(b"hello").err().as_deref(), Some(nonsense));
        let wrong = read(br#"{"kind":"Review","apiVersion":"v1"}"#).and_then(|answer| verdict(answer, "u", "v1", true)).err();
        let why = "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got v1, Kind=Review";
        assert_eq!(wrong.as_deref(), Some(why));
    }
}
