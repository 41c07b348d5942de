//! One event: what is known of a request so far, and its JSON.

use super::policy::Verdict;
use super::{Level, Stage};
use crate::attributes::UserInfo;
use crate::authz::reviews::user_info;
use crate::request::RequestInfo;
use bytes::Bytes;
use ferrokube_api::time::format_micro_time;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
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
        let mut annotations: BTreeMap<&str, &str> = self.annotations.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        if !bodies {
            annotations.insert("audit.k8s.io/truncated", "true");
        }
        let written = Written {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: self.verdict.level.name(),
            audit_id: &self.id,
            stage: stage.name(),
            request_uri: &self.uri,
            verb: &self.verb,
            user: self.user.as_ref().map_or(json!({}), user_info),
            impersonated_user: self.impersonated.as_ref().map(user_info),
            authentication_metadata: (!self.constraint.is_empty()).then(|| json!({ "impersonationConstraint": self.constraint })),
            source_ips: &self.source_ips,
            user_agent: &self.user_agent,
            object_ref: self.object.as_ref().map(Reference::from),
            response_status: self.status.as_ref(),
            request_object: self.request.as_ref().filter(|_| bodies),
            response_object: self.response.as_ref().filter(|_| bodies),
            request_received_timestamp: format_micro_time(self.received),
            stage_timestamp: format_micro_time(at),
            annotations,
        };
        // Nothing in it can fail to be written.
        serde_json::to_vec(&written).unwrap_or_default().into()
    }
}

/// `audit.k8s.io/v1 Event`, its fields in upstream's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'e> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: &'e str,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'e str,
    verb: &'e str,
    user: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication_metadata: Option<Value>,
    #[serde(rename = "sourceIPs")]
    source_ips: &'e [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<Reference<'e>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<&'e Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<&'e Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<&'e Value>,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'e str, &'e str>,
}

/// `ObjectReference`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reference<'e> {
    #[serde(skip_serializing_if = "str::is_empty")]
    resource: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_group: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_version: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    resource_version: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: &'e str,
}

impl<'e> From<&'e ObjectRef> for Reference<'e> {
    fn from(object: &'e ObjectRef) -> Self {
        let info = &object.info;
        Reference {
            resource: &info.resource,
            namespace: &info.namespace,
            name: &info.name,
            uid: &object.uid,
            api_group: &info.group,
            api_version: &info.version,
            resource_version: &object.resource_version,
            subresource: &info.subresource,
        }
    }
}
