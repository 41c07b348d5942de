//! Volumes, claims and the classes behind them.

use super::json::*;
use super::{HookContext, Hooks, check, meta, pod};
use crate::field::{At, Errors};
use crate::names;
use crate::quantity::Quantity;
use crate::time;
use serde_json::{Value, json};

const SPEC: At<'static> = At::field("spec");
const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub(super) const VOLUME: Hooks = Hooks {
    default: Some(default_volume),
    prepare_create: Some(|o, context| {
        set(o, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": time::format_time(context.now)}))
    }),
    prepare_status: Some(volume_phase),
    validate_create: Some(volume),
    validate_update: Some(volume_update),
    ..Hooks::NONE
};
pub(super) const CLAIM: Hooks = Hooks {
    default: Some(default_claim),
    prepare_create: Some(|o, _| set(o, "status", json!({"phase": "Pending"}))),
    validate_create: Some(claim),
    validate_update: Some(claim_update),
    ..Hooks::NONE
};
pub(super) const STORAGE_CLASS: Hooks =
    Hooks { default: Some(default_class), validate_create: Some(class), validate_update: Some(class_update), ..Hooks::NONE };
pub(super) const ATTRIBUTES_CLASS: Hooks =
    Hooks { validate_create: Some(attributes_class), validate_update: Some(attributes_update), ..Hooks::NONE };
pub(super) const ATTACHMENT: Hooks = Hooks {
    prepare_create: Some(prepare_attachment),
    validate_create: Some(attachment),
    validate_update: Some(|new, old, e| fixed_spec(new, old, attachment, e)),
    ..Hooks::NONE
};
pub(super) const CSI_DRIVER: Hooks = Hooks { default: Some(default_driver), validate_create: Some(driver), ..Hooks::NONE };
pub(super) const CSI_NODE: Hooks = Hooks { validate_create: Some(csi_node), ..Hooks::NONE };

fn fixed_spec(new: &Value, old: &Value, validate: fn(&Value, &mut Errors), e: &mut Errors) {
    validate(new, e);
    meta::immutable_value(new.get("spec"), old.get("spec"), &SPEC, e);
}

fn default_volume(o: &mut Value) {
    let spec = object(o, "spec");
    fill_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    fill_text(spec, "volumeMode", "Filesystem");
    check::canonical_amounts(spec, "capacity");
    if let Some(path) = get_mut(spec, "hostPath") {
        fill(path, "type", "");
    }
    pod::network_disks(spec);
    fill_text(object(o, "status"), "phase", "Pending");
}

/// A new phase has its time; another's word for it counts (`persistentvolume.statusStrategy`).
fn volume_phase(new: &mut Value, old: &Value, context: &HookContext) {
    let (now, was) = (text_at(new, &["status", "phase"]), text_at(old, &["status", "phase"]));
    let told = at(new, &["status", "lastPhaseTransitionTime"]) != at(old, &["status", "lastPhaseTransitionTime"]);
    if now != was && !told {
        set(object(new, "status"), "lastPhaseTransitionTime", time::format_time(context.now));
    }
}

/// Defaults of a claim, on its own or in a StatefulSet.
pub(super) fn default_claim(o: &mut Value) {
    claim_spec_defaults(object(o, "spec"));
    let status = object(o, "status");
    fill_text(status, "phase", "Pending");
    check::canonical_amounts(status, "capacity");
}

/// Defaults of a claim's spec, wherever it stands.
pub(super) fn claim_spec_defaults(spec: &mut Value) {
    fill_text(spec, "volumeMode", "Filesystem");
    let resources = object(spec, "resources");
    check::canonical_amounts(resources, "requests");
    check::canonical_amounts(resources, "limits");
    // The old and the new way to name a source say the same, when they can.
    if let (Some(source), false) = (get(spec, "dataSource").cloned(), has(spec, "dataSourceRef")) {
        set(spec, "dataSourceRef", source);
    } else if let (Some(source), false) = (get(spec, "dataSourceRef").cloned(), has(spec, "dataSource"))
        && text(&source, "namespace").is_empty()
        && matches!(text(&source, "kind"), "PersistentVolumeClaim" | "VolumeSnapshot")
    {
        set(spec, "dataSource", source);
    }
}

fn access_modes(spec: &Value, path: &At, none: &str, e: &mut Errors) {
    let at = path.child("accessModes");
    let modes = list(spec, "accessModes");
    if modes.is_empty() {
        e.required(&at, none);
    }
    for mode in texts(spec, "accessModes").filter(|m| !MODES.contains(m)) {
        e.not_supported(&at, &mode.into(), &MODES);
    }
    if modes.len() > 1 && modes.iter().any(|m| m == "ReadWriteOncePod") {
        e.forbidden(&at, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Checks a claim's spec, wherever it stands.
pub(super) fn validate_claim_spec(spec: &Value, path: &At, e: &mut Errors) {
    access_modes(spec, path, "at least 1 access mode is required", e);
    if let Some(selector) = get(spec, "selector") {
        check::label_selector(selector, &path.child("selector"), e);
    }
    let resources = path.child("resources");
    let requests = resources.child("requests");
    match at(spec, &["resources", "requests", "storage"]) {
        None => e.required(&resources.key("storage"), ""),
        Some(amount) => {
            if Quantity::from_json(amount).is_ok_and(|q| q <= Quantity::ZERO) {
                e.invalid(&requests, &Quantity::from_json(amount).unwrap_or_default().to_string().into(), "must be greater than zero");
            }
        }
    }
    check::form(spec, "storageClassName", names::dns1123_subdomain, path, e);
    check::choice_if_set(spec, "volumeMode", &["Block", "Filesystem"], path, e);
    check::form(spec, "volumeAttributesClassName", names::dns1123_subdomain, path, e);
    for key in ["dataSource", "dataSourceRef"] {
        if let Some(source) = get(spec, key) {
            let at = path.child(key);
            check::required(source, "name", &at, e);
            check::required(source, "kind", &at, e);
        }
    }
}

fn claim(o: &Value, e: &mut Errors) {
    validate_claim_spec(spec(o), &SPEC, e);
}

fn claim_update(new: &Value, old: &Value, e: &mut Errors) {
    claim(new, e);
    let (now, was) = (spec(new), spec(old));
    let storage = |s: &Value| at(s, &["resources", "requests", "storage"]).and_then(|v| Quantity::from_json(v).ok());
    let bound = text_at(old, &["status", "phase"]) == "Bound";
    let mut munged = now.clone();
    if text(was, "volumeName").is_empty() {
        // Binding sets the volume, and with it the class.
        copy(&mut munged, was, "volumeName");
        if text(was, "storageClassName").is_empty() {
            copy(&mut munged, was, "storageClassName");
        }
    }
    if bound {
        copy(&mut munged, was, "resources");
        copy(&mut munged, was, "volumeAttributesClassName");
    }
    if !same(Some(&munged), Some(was)) {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        return e.forbidden(&SPEC, why);
    }
    let capacity = at(old, &["status", "capacity", "storage"]).and_then(|v| Quantity::from_json(v).ok()).unwrap_or_default();
    if let (Some(n), Some(o)) = (storage(now), storage(was))
        && n < o
        && n <= capacity
    {
        let path = SPEC.child("resources");
        let path = path.child("requests");
        e.forbidden(&path.child("storage"), "field can not be less than status.capacity");
    }
}

type SourceCheck = fn(&Value, &At, &mut Errors);

fn volume_source(key: &str) -> Option<SourceCheck> {
    Some(match key {
        "hostPath" => pod::volumes::host_path,
        "nfs" => pod::volumes::nfs,
        "gcePersistentDisk" => |s, at, e| pod::volumes::disk(s, "pdName", at, e),
        "awsElasticBlockStore" => |s, at, e| pod::volumes::disk(s, "volumeID", at, e),
        "csi" => |s, at, e| {
            pod::volumes::driver_name(text(s, "driver"), &at.child("driver"), e);
            check::required(s, "volumeHandle", at, e);
        },
        "local" => |s, at, e| {
            check::required(s, "path", at, e);
            check::no_backsteps(text(s, "path"), &at.child("path"), e);
        },
        "glusterfs"
        | "rbd"
        | "iscsi"
        | "cinder"
        | "cephfs"
        | "fc"
        | "flocker"
        | "flexVolume"
        | "azureFile"
        | "azureDisk"
        | "vsphereVolume"
        | "quobyte"
        | "photonPersistentDisk"
        | "portworxVolume"
        | "scaleIO"
        | "storageos" => |_, _, _| {},
        _ => return None,
    })
}

fn sources(spec: &Value) -> impl Iterator<Item = (&str, &Value, SourceCheck)> {
    let fields = spec.as_object().into_iter().flatten();
    fields.filter(|(_, v)| !v.is_null()).filter_map(|(k, v)| Some((k.as_str(), v, volume_source(k)?)))
}

fn volume(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    access_modes(spec, &SPEC, "", e);
    let capacity = SPEC.child("capacity");
    match at(spec, &["capacity", "storage"]) {
        None => e.required(&capacity, ""),
        Some(amount) => {
            if Quantity::from_json(amount).is_ok_and(|q| q <= Quantity::ZERO) {
                e.invalid(&capacity.key("storage"), amount, "must be greater than zero");
            }
        }
    }
    check::choice(spec, "persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"], &SPEC, e);
    let mut found = false;
    for (key, source, checked) in sources(spec) {
        if found {
            e.forbidden(&SPEC.child(key), "may not specify more than 1 volume type");
        } else {
            checked(source, &SPEC.child(key), e);
        }
        found = true;
    }
    if !found {
        e.required(&SPEC, "must specify a volume type");
    }
    let recycle = text(spec, "persistentVolumeReclaimPolicy") == "Recycle";
    if recycle && text_at(spec, &["hostPath", "path"]) == "/" {
        e.forbidden(&SPEC.child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'");
    }
    check::form(spec, "storageClassName", names::dns1123_subdomain, &SPEC, e);
    check::choice_if_set(spec, "volumeMode", &["Block", "Filesystem"], &SPEC, e);
    let affinity = SPEC.child("nodeAffinity");
    match at(spec, &["nodeAffinity", "required"]) {
        Some(selector) => pod::placement::node_selector(selector, &affinity.child("required"), e),
        None if has(spec, "nodeAffinity") => e.required(&affinity.child("required"), "must specify required node constraints"),
        None if has(spec, "local") => e.required(&affinity, "Local volume requires node affinity"),
        None => {}
    }
}

fn volume_update(new: &Value, old: &Value, e: &mut Errors) {
    volume(new, e);
    let (new, old) = (spec(new), spec(old));
    let fixed = sources(new).chain(sources(old)).all(|(key, _, _)| same(new.get(key), old.get(key)));
    if !fixed {
        e.forbidden(&SPEC.child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation");
    }
    check::immutable(new, old, "volumeMode", &SPEC, e);
    if has(old, "nodeAffinity") {
        check::immutable(new, old, "nodeAffinity", &SPEC, e);
    }
}

fn default_class(o: &mut Value) {
    fill_text(o, "reclaimPolicy", "Delete");
    fill_text(o, "volumeBindingMode", "Immediate");
}

fn class(o: &Value, e: &mut Errors) {
    let provisioner = text(o, "provisioner");
    let path = At::field("provisioner");
    if provisioner.is_empty() {
        e.required(&path, "");
    } else {
        e.invalid_each(&path, provisioner, names::qualified_name(&provisioner.to_lowercase()));
    }
    for (key, value) in entries(o, "parameters").filter(|(k, _)| k.is_empty()) {
        e.invalid(&At::field("parameters"), &json!({ key: value }), "field must not be empty.");
    }
    check::choice_if_set(o, "reclaimPolicy", &["Delete", "Retain"], &At::ROOT, e);
    check::choice_if_set(o, "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], &At::ROOT, e);
}

fn class_update(new: &Value, old: &Value, e: &mut Errors) {
    class(new, e);
    for key in ["parameters", "provisioner", "reclaimPolicy"] {
        if !same(new.get(key), old.get(key)) {
            e.forbidden(&At::field(key), &format!("updates to {key} are forbidden."));
        }
    }
    meta::immutable_value(new.get("volumeBindingMode"), old.get("volumeBindingMode"), &At::field("volumeBindingMode"), e);
}

fn attributes_class(o: &Value, e: &mut Errors) {
    pod::volumes::driver_name(text(o, "driverName"), &At::field("driverName"), e);
    if same(o.get("parameters"), None) {
        e.required(&At::field("parameters"), "must contain at least one key/value pair");
    }
}

fn attributes_update(new: &Value, old: &Value, e: &mut Errors) {
    attributes_class(new, e);
    for key in ["driverName", "parameters"] {
        if !same(new.get(key), old.get(key)) {
            e.forbidden(&At::field(key), &format!("updates to {key} are forbidden."));
        }
    }
}

fn prepare_attachment(o: &mut Value, _: &HookContext) {
    set(o, "status", json!({"attached": false}));
}

fn attachment(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    pod::volumes::driver_name(text(spec, "attacher"), &SPEC.child("attacher"), e);
    check::required_form(spec, "nodeName", names::dns1123_subdomain, &SPEC, e);
    let source = spec.get("source").unwrap_or(&NONE);
    match (has(source, "persistentVolumeName"), has(source, "inlineVolumeSpec")) {
        (false, false) => e.required(&SPEC.child("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (true, true) => e.forbidden(&SPEC.child("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        _ => {}
    }
}

fn default_driver(o: &mut Value) {
    let spec = object(o, "spec");
    fill(spec, "attachRequired", true);
    fill(spec, "podInfoOnMount", false);
    fill(spec, "storageCapacity", false);
    fill_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if list(spec, "volumeLifecycleModes").is_empty() {
        set(spec, "volumeLifecycleModes", json!(["Persistent"]));
    }
    fill(spec, "requiresRepublish", false);
    fill(spec, "seLinuxMount", false);
}

fn driver(o: &Value, e: &mut Errors) {
    let meta = At::field("metadata");
    pod::volumes::driver_name(text_at(o, &["metadata", "name"]), &meta.child("name"), e);
    let spec = spec(o);
    check::choice_if_set(spec, "fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType"], &SPEC, e);
    let path = SPEC.child("volumeLifecycleModes");
    for mode in texts(spec, "volumeLifecycleModes").filter(|m| !matches!(*m, "Ephemeral" | "Persistent")) {
        e.not_supported(&path, &mode.into(), &["Ephemeral", "Persistent"]);
    }
}

fn csi_node(o: &Value, e: &mut Errors) {
    let path = SPEC.child("drivers");
    let drivers = list(spec(o), "drivers");
    for (i, driver) in drivers.iter().enumerate() {
        let at = path.index(i);
        let name = text(driver, "name");
        pod::volumes::driver_name(name, &at.child("name"), e);
        check::required(driver, "nodeID", &at, e);
        if drivers[..i].iter().any(|d| text(d, "name") == name) {
            e.duplicate(&at.child("name"), &name.into());
        }
    }
}
