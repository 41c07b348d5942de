//! What other API servers leave in a store that this one takes over: protobuf of built-in kinds, JSON in another order of keys,
//! objects in a version that upstream stores and we do not. Read as the form that we write ourselves.
//!
//! Nothing here writes. An object keeps its bytes in the store until it is changed, and whoever goes back finds them as they
//! were. Our own values are told by their first bytes and never looked at.

mod definitions;

use crate::output::canonical;
use ferrokube_api::decode::{self, ContentType, Strictness};
use ferrokube_api::kinds::{self, Kind};
use ferrokube_api::protobuf::{self, MAGIC, Malformed};
use ferrokube_api::schema::{Gvk, Schema, Types};
use serde_json::Value;
use std::borrow::Cow;

/// How every object that we encode begins.
const OWN: &[u8] = b"{\"kind\":";
/// CRDs as upstream stores them.
const OLD_DEFINITION: &[u8] = b"{\"kind\":\"CustomResourceDefinition\",\"apiVersion\":\"apiextensions.k8s.io/v1beta1\"";

/// Why a value of another server cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Unknown {
    #[error("the value is protobuf, and cannot be read: {0}")]
    Protobuf(#[from] Malformed),
    #[error(
        "the value is a protobuf {kind} of {version}, which is not known here; have the server that wrote it write it anew in a newer version"
    )]
    Kind { kind: String, version: String },
    #[error("the value is a protobuf {kind} of {version} that does not fit its type: {why}")]
    Type { kind: String, version: String, why: String },
}

/// Whether reading a value takes more than looking at it.
pub fn is_protobuf(stored: &[u8]) -> bool {
    stored.starts_with(MAGIC)
}

/// Stored bytes as we would have written them. What is no object comes back as it is.
///
/// # Errors
/// For protobuf of unknown kinds, and for what is damaged.
pub fn native(stored: &[u8]) -> Result<Cow<'_, [u8]>, Unknown> {
    if stored.starts_with(MAGIC) {
        return protobuf(stored).map(|value| canonical::encode(&current(value)).into());
    }
    if stored.starts_with(OWN) && !stored.starts_with(OLD_DEFINITION) {
        return Ok(stored.into());
    }
    match serde_json::from_slice::<Value>(stored) {
        Ok(value) if value["metadata"].is_object() && value["kind"].is_string() => Ok(canonical::encode(&current(value)).into()),
        _ => Ok(stored.into()),
    }
}

fn protobuf(stored: &[u8]) -> Result<Value, Unknown> {
    let (version, kind) = protobuf::named_in(stored)?;
    let (group, number) = version.split_once('/').unwrap_or(("", &version));
    let schema = Types::builtin().name_of(group, number, &kind).and_then(Schema::builtin);
    let Some(schema) = schema else { return Err(Unknown::Kind { kind, version }) };
    let read = protobuf::read(stored, &schema)?;
    let gvk = Gvk { group: group.to_owned().into(), version: number.to_owned().into(), kind: kind.clone().into() };
    // What Go's generated code always writes is dropped on the way through the decoder.
    let decoded = decode::decode_as(read.to_string().as_bytes(), ContentType::Json, &schema, &gvk, Strictness::Ignore);
    decoded.map(|d| d.value).map_err(|status| Unknown::Type { kind, version, why: status.message })
}

/// The object in the version that we store.
fn current(mut value: Value) -> Value {
    let version = value["apiVersion"].as_str().unwrap_or_default().to_owned();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let kind = value["kind"].as_str().unwrap_or_default();
    if (group, kind) == (crate::crd::GROUP, "CustomResourceDefinition") && version.ends_with("/v1beta1") {
        definitions::to_v1(&mut value);
        return value;
    }
    let rows: Vec<&Kind> = kinds::known().filter(|k| k.group == group && k.kind == kind).collect();
    let own = rows.iter().find(|k| k.api_version() == version);
    match own.and_then(|k| k.hooks.to_storage) {
        Some(convert) => convert(&mut value),
        // Versions of one kind without a conversion differ in name only.
        None => {
            if let Some(stored) = rows.iter().find(|k| k.stored_as.is_none()).filter(|k| k.api_version() != version) {
                value["apiVersion"] = stored.api_version().into();
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(stored: &[u8]) -> Value {
        serde_json::from_slice(&native(stored).expect("readable")).expect("JSON")
    }

    #[test]
    fn our_own_values_are_left_alone() {
        let own = br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"}}"#;
        assert!(matches!(native(own), Ok(Cow::Borrowed(bytes)) if bytes == own));
        assert!(matches!(native(b"no object"), Ok(Cow::Borrowed(b"no object"))));
    }

    #[test]
    fn protobuf_is_read_as_json_of_the_version_that_is_stored() {
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a", "namespace": "b", "labels": {"l": "1"}}, "data": {"k": "v"}});
        let schema = Schema::builtin("io.k8s.api.core.v1.ConfigMap").expect("a type");
        let stored = protobuf::write(object.to_string().as_bytes(), &schema).expect("encodes");
        assert_eq!(read(&stored), object);
        let policy =
            json!({"kind": "MutatingAdmissionPolicy", "apiVersion": "admissionregistration.k8s.io/v1beta1", "metadata": {"name": "p"}});
        assert_eq!(current(policy)["apiVersion"], "admissionregistration.k8s.io/v1");
        let scaler = json!({"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v1", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
        let scaler = current(scaler);
        assert_eq!(
            (scaler["apiVersion"].as_str(), scaler["spec"]["metrics"][0]["type"].as_str()),
            (Some("autoscaling/v2"), Some("Resource"))
        );
    }

    #[test]
    fn a_custom_object_in_the_order_of_go_is_read_in_ours() {
        let stored = br#"{"apiVersion":"a.example.com/v1","data":{"metadata":{"name":"no"}},"kind":"A","metadata":{"name":"a"}}
"#;
        let read = native(stored).expect("readable");
        assert!(
            read.starts_with(br#"{"kind":"A","apiVersion":"a.example.com/v1","metadata":{"name":"a"}"#),
            "{}",
            String::from_utf8_lossy(&read)
        );
    }

    #[test]
    fn what_cannot_be_read_says_what_it_is() {
        let mut stored = protobuf::enveloped("policy/v1beta1", "PodSecurityPolicy", b"");
        assert!(native(&stored).expect_err("unknown").to_string().contains("PodSecurityPolicy of policy/v1beta1"));
        stored.truncate(9);
        assert!(native(&stored).is_err());
    }
}
