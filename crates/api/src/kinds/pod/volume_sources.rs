//! Where volumes come from, for pods and for persistent volumes: one table of sources, and the rules of those that lie
//! elsewhere than on the node. Those of pods alone are in `volumes.rs`.

use super::volumes as own;
use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;

/// How a source is checked.
pub type Check = fn(&Value, &At, &mut Errors);

/// A source of volumes.
pub struct Source {
    /// Its field.
    pub key: &'static str,
    /// What its path says, where upstream calls it otherwise.
    shown: &'static str,
    /// What its path says when it is one source too many, likewise.
    again: &'static str,
    /// Its rules.
    check: Check,
}

const fn source(key: &'static str, check: Check) -> Source {
    Source { key, shown: key, again: key, check }
}

/// The sources in the order in which upstream looks for them.
const SOURCES: [Source; 30] = [
    source("emptyDir", own::empty_dir),
    source("hostPath", own::host_path),
    source("gitRepo", git_repo),
    Source { shown: "persistentDisk", ..source("gcePersistentDisk", |s, at, e| disk(s, "pdName", at, e)) },
    source("awsElasticBlockStore", |s, at, e| disk(s, "volumeID", at, e)),
    source("secret", |s, at, e| own::keyed(s, "secretName", at, e)),
    source("nfs", nfs),
    source("iscsi", iscsi),
    source("glusterfs", |s, at, e| all_required(s, &["endpoints", "path"], at, e)),
    source("flocker", flocker),
    source("persistentVolumeClaim", |s, at, e| check::required(s, "claimName", at, e)),
    source("rbd", |s, at, e| monitored(s, &["image"], at, e)),
    source("cinder", |s, at, e| with_secret(s, "volumeID", at, e)),
    Source { again: "cephFS", ..source("cephfs", |s, at, e| monitored(s, &[], at, e)) },
    source("quobyte", quobyte),
    Source { again: "downwarAPI", ..source("downwardAPI", own::downward_api) },
    source("fc", fibre_channel),
    source("flexVolume", flex_volume),
    source("configMap", |s, at, e| own::keyed(s, "name", at, e)),
    source("azureFile", |s, at, e| all_required(s, &["secretName", "shareName"], at, e)),
    source("vsphereVolume", |s, at, e| check::required(s, "volumePath", at, e)),
    source("photonPersistentDisk", |s, at, e| check::required(s, "pdID", at, e)),
    source("portworxVolume", |s, at, e| check::required(s, "volumeID", at, e)),
    source("azureDisk", azure_disk),
    source("storageos", storage_os),
    source("projected", own::projected),
    source("scaleIO", |s, at, e| all_required(s, &["gateway", "system", "volumeName"], at, e)),
    source("csi", own::csi),
    source("ephemeral", own::ephemeral),
    source("image", own::image),
];

/// The sources that persistent volumes have, in the order in which upstream looks for them there. A few are written another way.
const PERSISTENT: [Source; 22] = [
    source("hostPath", own::host_path),
    Source { shown: "persistentDisk", ..source("gcePersistentDisk", |s, at, e| disk(s, "pdName", at, e)) },
    source("awsElasticBlockStore", |s, at, e| disk(s, "volumeID", at, e)),
    source("glusterfs", |s, at, e| {
        all_required(s, &["endpoints", "path"], at, e);
        if let Some(namespace) = get(s, "endpointsNamespace").and_then(Value::as_str) {
            e.invalid_each(&at.child("endpointsNamespace"), namespace, names::dns1123_label(namespace));
        }
    }),
    source("flocker", flocker),
    source("nfs", nfs),
    source("rbd", |s, at, e| monitored(s, &["image"], at, e)),
    source("quobyte", quobyte),
    Source { again: "cephFS", ..source("cephfs", |s, at, e| monitored(s, &[], at, e)) },
    source("iscsi", iscsi),
    source("cinder", |s, at, e| {
        check::required(s, "volumeID", at, e);
        owned_secret(s, at, e);
    }),
    source("fc", fibre_channel),
    source("flexVolume", flex_volume),
    source("azureFile", |s, at, e| {
        all_required(s, &["secretName", "shareName"], at, e);
        if get(s, "secretNamespace").and_then(Value::as_str) == Some("") {
            e.required(&at.child("secretNamespace"), "");
        }
    }),
    source("vsphereVolume", |s, at, e| check::required(s, "volumePath", at, e)),
    source("photonPersistentDisk", |s, at, e| check::required(s, "pdID", at, e)),
    source("portworxVolume", |s, at, e| check::required(s, "volumeID", at, e)),
    source("azureDisk", azure_disk),
    source("scaleIO", |s, at, e| all_required(s, &["gateway", "system", "volumeName"], at, e)),
    source("local", local),
    source("storageos", |s, at, e| {
        check::required_form(s, "volumeName", names::dns1123_label, at, e);
        check::form(s, "volumeNamespace", names::dns1123_label, at, e);
        owned_secret(s, at, e);
    }),
    source("csi", driver),
];

/// The fields that name where a persistent volume comes from.
pub fn persistent_keys() -> impl Iterator<Item = &'static str> {
    PERSISTENT.iter().map(|s| s.key)
}

/// Checks that a persistent volume has one source; `placed` says whether it names its nodes.
pub fn validate_persistent(spec: &Value, placed: bool, at: &At, e: &mut Errors) {
    let mut found = false;
    for source in &PERSISTENT {
        let Some(s) = get(spec, source.key) else { continue };
        if found && source.key != "flexVolume" {
            e.forbidden(&at.child(source.again), "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        (source.check)(s, &at.child(source.shown), e);
        if source.key == "local" && !placed {
            e.required(&at.child("nodeAffinity"), "Local volume requires node affinity");
        }
    }
    if !found {
        e.required(at, "must specify a volume type");
    }
}

/// A secret with the namespace that it lies in.
fn owned_secret(s: &Value, at: &At, e: &mut Errors) {
    if let Some(secret) = get(s, "secretRef") {
        all_required(secret, &["name", "namespace"], &at.child("secretRef"), e);
    }
}

fn local(s: &Value, at: &At, e: &mut Errors) {
    check::required(s, "path", at, e);
    check::no_backsteps(text(s, "path"), &at.child("path"), e);
}

fn driver(s: &Value, at: &At, e: &mut Errors) {
    own::driver_name(text(s, "driver"), &at.child("driver"), e);
    check::required(s, "volumeHandle", at, e);
    for key in ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"] {
        if let Some(secret) = get(s, key) {
            let at = at.child(key);
            check::required_form(secret, "name", names::dns1123_subdomain, &at, e);
            check::required_form(secret, "namespace", names::dns1123_label, &at, e);
        }
    }
}

/// Checks that there is one source.
pub fn validate(volume: &Value, name: &str, at: &At, e: &mut Errors) {
    let mut found = false;
    for source in &SOURCES {
        let Some(s) = get(volume, source.key) else { continue };
        if found {
            e.forbidden(&at.child(source.again), "may not specify more than 1 volume type");
        } else {
            (source.check)(s, &at.child(source.shown), e);
        }
        found = true;
    }
    if !found {
        e.required(at, "must specify a volume type");
    }
    let portal = get(volume, "iscsi").filter(|s| has(s, "initiatorName")).map(|s| text(s, "targetPortal"));
    if portal.is_some_and(|portal| name.len() + 1 + portal.len() > 64) {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        e.invalid(&at.child("name"), &name.into(), why);
    }
}

pub fn all_required(s: &Value, keys: &[&str], path: &At, e: &mut Errors) {
    keys.iter().for_each(|key| check::required(s, key, path, e));
}

fn git_repo(s: &Value, at: &At, e: &mut Errors) {
    check::required(s, "repository", at, e);
    check::local_path(text(s, "directory"), &at.child("directory"), e);
}

fn disk(s: &Value, id: &str, at: &At, e: &mut Errors) {
    check::required(s, id, at, e);
    if let Some(n) = int(s, "partition").filter(|n| !(0..=255).contains(n)) {
        e.invalid(&at.child("partition"), &n.into(), &names::inclusive_range(1, 255));
    }
}

fn nfs(s: &Value, at: &At, e: &mut Errors) {
    all_required(s, &["server", "path"], at, e);
    if !text(s, "path").starts_with('/') {
        e.invalid(&at.child("path"), &text(s, "path").into(), "must be an absolute path");
    }
}

fn monitored(s: &Value, keys: &[&str], at: &At, e: &mut Errors) {
    if list(s, "monitors").is_empty() {
        e.required(&at.child("monitors"), "");
    }
    all_required(s, keys, at, e);
}

/// A source with an identifier and, maybe, the name of a secret.
fn with_secret(s: &Value, id: &str, at: &At, e: &mut Errors) {
    check::required(s, id, at, e);
    if let Some(secret) = get(s, "secretRef") {
        check::required(secret, "name", &at.child("secretRef"), e);
    }
}

fn iscsi(s: &Value, at: &At, e: &mut Errors) {
    const FORM: &str = "must be valid format";
    const START: &str = "must be valid format starting with iqn, eui, or naa";
    check::required(s, "targetPortal", at, e);
    let known = |name: &str| ["iqn", "eui", "naa"].iter().any(|p| name.starts_with(p));
    match text(s, "iqn") {
        "" => e.required(&at.child("iqn"), ""),
        iqn if !known(iqn) => e.invalid(&at.child("iqn"), &iqn.into(), START),
        iqn if !is_initiator(iqn) => e.invalid(&at.child("iqn"), &iqn.into(), FORM),
        _ => {}
    }
    check::within(s, "lun", 0, 255, at, e);
    if (flag(s, "chapAuthDiscovery") || flag(s, "chapAuthSession")) && !has(s, "secretRef") {
        e.required(&at.child("secretRef"), "");
    }
    match get(s, "initiatorName").and_then(Value::as_str) {
        Some(name) if !known(name) => e.invalid(&at.child("initiatorname"), &name.into(), START),
        Some(name) if !is_initiator(name) => e.invalid(&at.child("initiatorname"), &name.into(), FORM),
        _ => {}
    }
}

/// `iqn.2026-01.com.example:disk`, `eui.` and 16 letters or digits, or `naa.` and 32.
fn is_initiator(name: &str) -> bool {
    let Some((kind, rest)) = name.get(..3).zip(name.get(4..)) else { return false };
    let word = |n: usize| rest.len() == n && rest.bytes().all(|c| c.is_ascii_alphanumeric());
    match kind {
        "eui" => word(16),
        "naa" => word(32),
        _ => is_qualified(rest),
    }
}

/// A year and a month, a name, and after a colon anything without blanks and separators.
fn is_qualified(rest: &str) -> bool {
    let Some((date, rest)) = rest.split_once('.') else { return false };
    let Some((name, unique)) = rest.split_once(':') else { return false };
    let digits = |s: &str, n: usize| s.len() == n && s.bytes().all(|c| c.is_ascii_digit());
    let dated = date.split_once('-').is_some_and(|(year, month)| digits(year, 4) && digits(month, 2));
    let named = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-.".contains(&c));
    dated && named && !unique.is_empty() && !unique.contains([',', ';', '*', '&', '$', '|']) && !unique.contains(char::is_whitespace)
}

fn flocker(s: &Value, at: &At, e: &mut Errors) {
    let (name, uuid) = (text(s, "datasetName"), text(s, "datasetUUID"));
    match (name.is_empty(), uuid.is_empty()) {
        (true, true) => e.required(at, "one of datasetName and datasetUUID is required"),
        (false, false) => e.invalid(at, &"resource".into(), "datasetName and datasetUUID can not be specified simultaneously"),
        _ => {}
    }
    if name.contains('/') {
        e.invalid(&at.child("datasetName"), &name.into(), "must not contain '/'");
    }
}

fn quobyte(s: &Value, at: &At, e: &mut Errors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(s, "registry");
    if registry.is_empty() {
        e.required(&at.child("registry"), PAIRS);
    } else if text(s, "tenant").len() >= 65 {
        e.required(&at.child("tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for _ in registry.split(',').filter(|pair| !is_host_and_port(pair)) {
            e.invalid(&at.child("registry"), &registry.into(), PAIRS);
        }
    }
    check::required(s, "volume", at, e);
}

fn is_host_and_port(pair: &str) -> bool {
    match (pair.rsplit_once(':'), pair.strip_prefix('[')) {
        (None, _) => false,
        (Some(_), Some(inner)) => inner.split_once(']').is_some_and(|(_, port)| port.starts_with(':')),
        (Some((host, _)), None) => !host.contains(':'),
    }
}

fn fibre_channel(s: &Value, at: &At, e: &mut Errors) {
    let (targets, ids) = (list(s, "targetWWNs"), list(s, "wwids"));
    match (targets.is_empty(), ids.is_empty()) {
        (true, true) => e.required(&at.child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"),
        (false, false) => {
            e.invalid(&at.child("targetWWNs"), &s["targetWWNs"], "targetWWNs and wwids can not be specified simultaneously");
        }
        _ => {}
    }
    if !targets.is_empty() {
        if has(s, "lun") {
            check::within(s, "lun", 0, 255, at, e);
        } else {
            e.required(&at.child("lun"), "lun is required if targetWWNs is specified");
        }
    }
}

fn flex_volume(s: &Value, at: &At, e: &mut Errors) {
    check::required(s, "driver", at, e);
    let options = at.child("options");
    for (key, _) in entries(s, "options") {
        let space = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if space.ends_with(".kubernetes.io") || space.ends_with(".k8s.io") {
            e.invalid(&options.key(key), &key.into(), "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn azure_disk(s: &Value, at: &At, e: &mut Errors) {
    const MANAGED: &str = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    all_required(s, &["diskName", "diskURI"], at, e);
    check::choice_if_set(s, "cachingMode", &["None", "ReadOnly", "ReadWrite"], at, e);
    check::choice_if_set(s, "kind", &["Dedicated", "Managed", "Shared"], at, e);
    let uri = text(s, "diskURI");
    match get(s, "kind").and_then(Value::as_str) {
        Some("Managed") if !uri.starts_with("/subscriptions/") => e.not_supported(&at.child("diskURI"), &uri.into(), &[MANAGED]),
        Some("Managed") | None => {}
        Some(_) if !uri.starts_with("https://") => e.not_supported(&at.child("diskURI"), &uri.into(), &[BLOB]),
        Some(_) => {}
    }
}

fn storage_os(s: &Value, at: &At, e: &mut Errors) {
    check::required_form(s, "volumeName", names::dns1123_label, at, e);
    check::form(s, "volumeNamespace", names::dns1123_label, at, e);
    if let Some(secret) = get(s, "secretRef") {
        check::required(secret, "name", &at.child("secretRef"), e);
    }
}
