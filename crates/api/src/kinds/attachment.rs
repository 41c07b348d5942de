//! VolumeAttachment: which volume an attacher shall bring to which node. Source: `pkg/apis/storage/validation`,
//! `ValidatePersistentVolumeSpec` of the core group.

use super::json::*;
use super::{HookContext, Hooks, check, meta, pod, storage};
use crate::field::{At, Errors};
use crate::names;
use serde_json::{Value, json};

const SPEC: At<'static> = At::field("spec");
/// Bytes that an attacher may say about an attachment.
const LARGEST_METADATA: usize = 256 << 10;
/// Bytes of an error's message.
const LONGEST_MESSAGE: usize = 1024;

pub(super) const ATTACHMENT: Hooks = Hooks {
    default: Some(default),
    prepare_create: Some(prepare),
    validate_create: Some(created),
    validate_update: Some(updated),
    validate_status: Some(|new, _, e| (0..2).for_each(|_| status(new.get("status").unwrap_or(&NONE), e))),
    ..Hooks::NONE
};

fn default(o: &mut Value) {
    if let Some(spec) = at_mut(o, &["spec", "source", "inlineVolumeSpec"]) {
        storage::default_source(spec);
    }
}

fn prepare(o: &mut Value, _: &HookContext) {
    set(o, "status", json!({"attached": false}));
}

fn status(status: &Value, e: &mut Errors) {
    let path = At::field("status");
    let size: usize = entries(status, "attachmentMetadata").map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if size > LARGEST_METADATA {
        e.too_long(&path.child("attachmentMetadata"), LARGEST_METADATA);
    }
    for key in ["attachError", "detachError"] {
        let at = path.child(key);
        if text_at(status, &[key, "message"]).len() > LONGEST_MESSAGE {
            // Upstream tells the limit of the metadata.
            e.too_long(&at.child("message"), LARGEST_METADATA);
        }
        if let Some(code) = super::json::at(status, &[key, "errorCode"]).and_then(Value::as_i64).filter(|n| *n < 0) {
            e.invalid(&at.child("errorCode"), &code.into(), &names::inclusive_range(0, i32::MAX.into()));
        }
    }
}

fn attachment(o: &Value, e: &mut Errors) {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let spec = spec(o);
    check::required(spec, "attacher", &SPEC, e);
    let source = spec.get("source").unwrap_or(&NONE);
    let path = SPEC.child("source");
    match (get(source, "persistentVolumeName").and_then(Value::as_str), get(source, "inlineVolumeSpec")) {
        (None, None) => e.required(&path, ONE),
        (Some(_), Some(_)) => e.forbidden(&path, ONE),
        (Some(""), None) => e.required(&path.child("persistentVolumeName"), "must specify non empty persistentVolumeName"),
        (Some(_), None) => {}
        (None, Some(volume)) => inline(volume, &path.child("inlineVolumeSpec"), e),
    }
    e.invalid_each(&SPEC.child("nodeName"), text(spec, "nodeName"), names::dns1123_subdomain(text(spec, "nodeName")));
}

/// The volume of a pod's own whose plugin a CSI driver has taken over: as much of a persistent volume as that needs.
fn inline(volume: &Value, path: &At, e: &mut Errors) {
    const NOT_HERE: &str = "may not be specified in the context of inline volumes";
    let forbid = |key: &str, e: &mut Errors| {
        if has(volume, key) {
            e.forbidden(&path.child(key), NOT_HERE);
        }
    };
    forbid("claimRef", e);
    if entries(volume, "capacity").next().is_some() {
        e.forbidden(&path.child("capacity"), NOT_HERE);
    }
    if !has(volume, "csi") {
        e.required(&path.child("csi"), "has to be specified in the context of inline volumes");
    }
    if list(volume, "accessModes").is_empty() {
        e.required(&path.child("accessModes"), "");
    }
    storage::access_modes(volume, path, e);
    if !matches!(text(volume, "persistentVolumeReclaimPolicy"), "" | "Retain") {
        e.forbidden(&path.child("persistentVolumeReclaimPolicy"), "may only be Retain in the context of inline volumes");
    }
    forbid("nodeAffinity", e);
    pod::volume_sources::validate_persistent(volume, false, path, e);
    if !text(volume, "storageClassName").is_empty() {
        e.forbidden(&path.child("storageClassName"), NOT_HERE);
    }
    if get(volume, "volumeMode").is_some_and(|mode| mode != "Filesystem") {
        e.forbidden(&path.child("volumeMode"), "may not specify volumeMode other than Filesystem in the context of inline volumes");
    }
}

/// A new one is looked at more closely (`ValidateVolumeAttachmentV1`).
fn created(o: &Value, e: &mut Errors) {
    attachment(o, e);
    let spec = spec(o);
    pod::volumes::driver_name(text(spec, "attacher"), &SPEC.child("attacher"), e);
    if let Some(name) = at(spec, &["source", "persistentVolumeName"]).and_then(Value::as_str) {
        let path = SPEC.child("source");
        e.invalid_each(&path.child("persistentVolumeName"), name, names::dns1123_subdomain(name));
    }
}

/// Upstream looks at the new one twice, and tells of it twice; of a status likewise.
fn updated(new: &Value, old: &Value, e: &mut Errors) {
    attachment(new, e);
    attachment(new, e);
    meta::immutable_value(new.get("spec"), old.get("spec"), &SPEC, e);
}
