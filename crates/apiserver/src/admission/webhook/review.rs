//! The `AdmissionReview` that is sent, and what makes an answer a valid one.
//!
//! Source: `admission/plugin/webhook/request`.

use super::super::constraints::Seen;
use super::super::versions::View;
use super::super::{Context, list};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;

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

/// The review about an object, in the version that the webhook's rules name.
pub(super) fn review(c: &Context<'_>, version: &str, seen: &Seen, uid: &str, view: &View<'_>) -> Value {
    let mut request = request(c, seen, view);
    request["uid"] = json!(uid);
    request["object"] = json!(view.object);
    request["oldObject"] = json!(view.old);
    json!({ "kind": "AdmissionReview", "apiVersion": format!("{GROUP}/{version}"), "request": request })
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

/// Reads an answer. The error says what is wrong with it, in the words of upstream.
pub(super) fn verdict(body: &[u8], uid: &str, version: &str, mutating: bool) -> Result<Verdict, String> {
    let answer: Value = serde_json::from_slice(body).map_err(|e| format!("the response is not JSON: {e}"))?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let wanted = (format!("{GROUP}/{version}"), "AdmissionReview".to_owned());
    let got = (text(&answer["apiVersion"]), text(&answer["kind"]));
    if got != wanted {
        return Err(format!("expected webhook response of {}, Kind={}, got {}, Kind={}", wanted.0, wanted.1, got.0, got.1));
    }
    let response = &answer["response"];
    if !response.is_object() {
        return Err("webhook response was nil".to_owned());
    }
    let said = text(&response["uid"]);
    if said != uid && !(version == "v1beta1" && said.is_empty()) {
        return Err(format!("expected response.uid={uid:?}, got {said:?}"));
    }
    let patch = if mutating { patch(response, version)? } else { None };
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    Ok(Verdict {
        allowed: response["allowed"] == true,
        status: response["status"].clone(),
        patch,
        warnings: list(response, "warnings").filter_map(Value::as_str).map(str::to_owned).collect(),
        annotations: annotations.map(|(k, v)| (k.clone(), text(v))).collect(),
    })
}

fn patch(response: &Value, version: &str) -> Result<Option<Value>, String> {
    let (text, kind) = (response["patch"].as_str().unwrap_or_default(), response["patchType"].as_str().unwrap_or_default());
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
        verdict(answer.to_string().as_bytes(), "u", "v1", mutating).map(|v| v.allowed)
    }

    #[test]
    fn answers_must_be_answers() {
        let err = |text: &str| Err(text.to_owned());
        assert_eq!(told(json!({"uid": "u", "allowed": true}), true), Ok(true));
        assert_eq!(told(json!({"uid": "x", "allowed": true}), true), err("expected response.uid=\"u\", got \"x\""));
        assert_eq!(told(Value::Null, true), err("webhook response was nil"));
        let patch = json!({"uid": "u", "allowed": true, "patch": "W10="});
        assert_eq!(told(patch.clone(), true), err("webhook returned response.patch but not response.patchType"));
        assert_eq!(told(patch, false), Ok(true));
        let typed = json!({"uid": "u", "patchType": "Magic", "patch": "W10="});
        assert_eq!(told(typed, true), err("webhook returned invalid response.patchType of \"Magic\""));
        let wrong = verdict(br#"{"kind":"Review","apiVersion":"v1"}"#, "u", "v1", true).err();
        let why = "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got v1, Kind=Review";
        assert_eq!(wrong.as_deref(), Some(why));
    }
}
