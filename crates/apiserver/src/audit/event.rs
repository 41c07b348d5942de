//! One event: what is known of a request so far, and its JSON.

use super::policy::Verdict;
use super::{Level, Stage};
use crate::attributes::UserInfo;
use crate::authz::reviews::user_info;
use crate::request::RequestInfo;
use bytes::Bytes;
use ferrokube_api::time::format_micro_time;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// `objectRef`.
#[derive(Debug, Default)]
pub(super) struct ObjectRef {
    pub info: RequestInfo,
    pub uid: String,
    pub resource_version: String,
}

/// What is known of a request that is written down.
#[derive(Debug)]
pub(super) struct Event {
    pub verdict: Verdict,
    pub id: String,
    pub uri: String,
    pub verb: String,
    pub user: Option<UserInfo>,
    pub impersonated: Option<UserInfo>,
    /// The verb that allowed it, for constrained impersonation.
    pub constraint: String,
    pub source_ips: Vec<String>,
    pub user_agent: String,
    pub object: Option<ObjectRef>,
    pub status: Option<Value>,
    pub request: Option<Value>,
    pub response: Option<Value>,
    pub received: Timestamp,
    pub annotations: BTreeMap<String, String>,
}

/// Leaves out `metadata.managedFields`, also of the items of a list.
pub(super) fn without_managed_fields(object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(without_managed_fields);
    }
}

impl Event {
    /// Whether the stage is written down.
    pub fn wants(&self, stage: Stage) -> bool {
        self.verdict.level > Level::None && self.verdict.omitted & stage.bit() == 0
    }

    /// The object that was sent, as far as the level allows. Its metadata completes the reference.
    pub fn set_request(&mut self, object: &Value) {
        if let Some(reference) = &mut self.object {
            let meta = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
            let fill = |slot: &mut String, field: &str| {
                if slot.is_empty() {
                    meta(field).clone_into(slot);
                }
            };
            fill(&mut reference.info.namespace, "namespace");
            fill(&mut reference.info.name, "name");
            fill(&mut reference.uid, "uid");
            fill(&mut reference.resource_version, "resourceVersion");
        }
        if self.verdict.level >= Level::Request {
            self.request = Some(self.cleaned(object.clone()));
        }
    }

    pub fn cleaned(&self, mut object: Value) -> Value {
        if self.verdict.omit_managed_fields {
            without_managed_fields(&mut object);
        }
        object
    }

    /// The event of a stage as JSON. With `bodies` false the objects are left out and an annotation says so.
    pub fn json(&self, stage: Stage, at: Timestamp, bodies: bool) -> Bytes {
        let mut out = Map::new();
        let mut put = |key: &str, value: Value| _ = out.insert(key.to_owned(), value);
        put("kind", "Event".into());
        put("apiVersion", "audit.k8s.io/v1".into());
        put("level", self.verdict.level.name().into());
        put("auditID", self.id.as_str().into());
        put("stage", stage.name().into());
        put("requestURI", self.uri.as_str().into());
        put("verb", self.verb.as_str().into());
        put("user", self.user.as_ref().map_or(json!({}), user_info));
        if let Some(user) = &self.impersonated {
            put("impersonatedUser", user_info(user));
        }
        if !self.constraint.is_empty() {
            put("authenticationMetadata", json!({ "impersonationConstraint": self.constraint }));
        }
        put("sourceIPs", json!(self.source_ips));
        if !self.user_agent.is_empty() {
            put("userAgent", self.user_agent.as_str().into());
        }
        if let Some(object) = &self.object {
            put("objectRef", reference(object));
        }
        if let Some(status) = &self.status {
            put("responseStatus", status.clone());
        }
        if let Some(object) = self.request.as_ref().filter(|_| bodies) {
            put("requestObject", object.clone());
        }
        if let Some(object) = self.response.as_ref().filter(|_| bodies) {
            put("responseObject", object.clone());
        }
        put("requestReceivedTimestamp", format_micro_time(self.received).into());
        put("stageTimestamp", format_micro_time(at).into());
        let mut annotations = json!(self.annotations);
        if !bodies {
            annotations["audit.k8s.io/truncated"] = "true".into();
        }
        if annotations.as_object().is_some_and(|a| !a.is_empty()) {
            put("annotations", annotations);
        }
        Value::Object(out).to_string().into()
    }
}

fn reference(object: &ObjectRef) -> Value {
    let info = &object.info;
    let fields = [
        ("resource", &info.resource),
        ("namespace", &info.namespace),
        ("name", &info.name),
        ("uid", &object.uid),
        ("apiGroup", &info.group),
        ("apiVersion", &info.version),
        ("resourceVersion", &object.resource_version),
        ("subresource", &info.subresource),
    ];
    let said = fields.into_iter().filter(|(_, text)| !text.is_empty());
    Value::Object(said.map(|(key, text)| (key.to_owned(), Value::from(text.as_str()))).collect())
}
