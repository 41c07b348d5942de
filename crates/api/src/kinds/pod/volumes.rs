//! Volumes of a pod, and how containers mount them.

use super::env;
use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;
use std::collections::HashSet;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const ONE_TYPE: &str = "may not specify more than 1 volume type";

type Source = fn(&Value, &At, &mut Errors);

fn anything(_: &Value, _: &At, _: &mut Errors) {}

/// Sources of volumes, in the order in which 1.36 looks for them, and how each is checked.
const SOURCES: [(&str, Source); 30] = [
    ("emptyDir", empty_dir),
    ("hostPath", host_path),
    ("gitRepo", |s, at, e| check::required(s, "repository", at, e)),
    ("gcePersistentDisk", |s, at, e| disk(s, "pdName", at, e)),
    ("awsElasticBlockStore", |s, at, e| disk(s, "volumeID", at, e)),
    ("secret", |s, at, e| keyed(s, "secretName", at, e)),
    ("nfs", nfs),
    ("iscsi", iscsi),
    ("glusterfs", |s, at, e| all_required(s, &["endpoints", "path"], at, e)),
    ("flocker", anything),
    ("persistentVolumeClaim", |s, at, e| check::required(s, "claimName", at, e)),
    ("rbd", |s, at, e| all_required(s, &["image"], at, e)),
    ("cinder", |s, at, e| check::required(s, "volumeID", at, e)),
    ("cephfs", anything),
    ("quobyte", |s, at, e| all_required(s, &["registry", "volume"], at, e)),
    ("downwardAPI", downward_api),
    ("fc", anything),
    ("flexVolume", |s, at, e| check::required(s, "driver", at, e)),
    ("configMap", |s, at, e| keyed(s, "name", at, e)),
    ("azureFile", |s, at, e| all_required(s, &["secretName", "shareName"], at, e)),
    ("vsphereVolume", |s, at, e| check::required(s, "volumePath", at, e)),
    ("photonPersistentDisk", |s, at, e| check::required(s, "pdID", at, e)),
    ("portworxVolume", |s, at, e| check::required(s, "volumeID", at, e)),
    ("azureDisk", |s, at, e| all_required(s, &["diskName", "diskURI"], at, e)),
    ("storageos", anything),
    ("projected", projected),
    ("scaleIO", |s, at, e| all_required(s, &["gateway", "system", "volumeName"], at, e)),
    ("csi", csi),
    ("ephemeral", ephemeral),
    ("image", image),
];

/// How a source of that name is checked.
pub fn source_check(key: &str) -> Option<fn(&Value, &At, &mut Errors)> {
    SOURCES.iter().find(|(name, _)| *name == key).map(|(_, check)| *check)
}

fn all_required(s: &Value, keys: &[&str], path: &At, e: &mut Errors) {
    keys.iter().for_each(|key| check::required(s, key, path, e));
}

/// Checks the volumes and returns those that are well formed, by name.
pub fn validate<'a>(spec: &'a Value, pod_name: Option<&str>, path: &At, e: &mut Errors) -> Vec<(&'a str, &'a Value)> {
    let mut good: Vec<(&str, &Value)> = Vec::new();
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let (at, before, name) = (path.index(i), e.len(), text(volume, "name"));
        source(volume, name, pod_name, &at, e);
        check::required_form(volume, "name", names::dns1123_label, &at, e);
        if good.iter().any(|(n, _)| *n == name) {
            e.duplicate(&at.child("name"), &name.into());
        }
        if e.len() == before {
            good.push((name, volume));
        }
    }
    good
}

fn source(volume: &Value, name: &str, pod_name: Option<&str>, at: &At, e: &mut Errors) {
    let mut found = false;
    for (key, checked) in SOURCES {
        let Some(s) = get(volume, key) else { continue };
        if found {
            e.forbidden(&at.child(key), ONE_TYPE);
        } else {
            checked(s, &at.child(key), e);
        }
        found = true;
    }
    if !found {
        e.required(at, "must specify a volume type");
    }
    if let (Some(pod), true) = (pod_name, has(volume, "ephemeral")) {
        let claim = format!("{pod}-{name}");
        for why in names::dns1123_subdomain(&claim) {
            e.invalid(&at.child("name"), &name.into(), &format!("PVC name {claim:?}: {why}"));
        }
    }
}

fn empty_dir(s: &Value, at: &At, e: &mut Errors) {
    let negative = |v: &Value| crate::quantity::Quantity::from_json(v).is_ok_and(|q| q.is_negative());
    if get(s, "sizeLimit").is_some_and(negative) {
        e.forbidden(&at.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
}

/// A path of the host.
pub fn host_path(s: &Value, at: &At, e: &mut Errors) {
    const TYPES: [&str; 8] = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let path = text(s, "path");
    if path.is_empty() {
        return e.required(&at.child("path"), "");
    }
    check::no_backsteps(path, &at.child("path"), e);
    check::choice_if_set(s, "type", &TYPES, at, e);
}

/// A disk of a cloud.
pub fn disk(s: &Value, id: &str, at: &At, e: &mut Errors) {
    check::required(s, id, at, e);
    if let Some(n) = int(s, "partition").filter(|n| !(0..=255).contains(n)) {
        e.invalid(&at.child("partition"), &n.into(), &names::inclusive_range(1, 255));
    }
}

/// A network file system.
pub fn nfs(s: &Value, at: &At, e: &mut Errors) {
    all_required(s, &["server", "path"], at, e);
    if !text(s, "path").starts_with('/') {
        e.invalid(&at.child("path"), &text(s, "path").into(), "must be an absolute path");
    }
}

fn iscsi(s: &Value, at: &At, e: &mut Errors) {
    all_required(s, &["targetPortal", "iqn"], at, e);
    let iqn = text(s, "iqn");
    if !iqn.is_empty() && !["iqn", "eui", "naa"].iter().any(|p| iqn.starts_with(p)) {
        e.invalid(&at.child("iqn"), &iqn.into(), "must be valid format starting with iqn, eui, or naa");
    }
    check::within(s, "lun", 0, 255, at, e);
    if (flag(s, "chapAuthDiscovery") || flag(s, "chapAuthSession")) && !has(s, "secretRef") {
        e.required(&at.child("secretRef"), "");
    }
}

fn mode(s: &Value, key: &str, at: &At, e: &mut Errors) {
    if let Some(n) = int(s, key).filter(|n| !(0..=0o777).contains(n)) {
        e.invalid(&at.child(key), &n.into(), MODE);
    }
}

fn keyed(s: &Value, name: &str, at: &At, e: &mut Errors) {
    check::required(s, name, at, e);
    mode(s, "defaultMode", at, e);
    key_paths(s, at, e);
}

fn key_paths(s: &Value, at: &At, e: &mut Errors) {
    let items = at.child("items");
    for (i, item) in list(s, "items").iter().enumerate() {
        let at = items.index(i);
        all_required(item, &["key", "path"], &at, e);
        check::local_non_reserved_path(text(item, "path"), &at.child("path"), e);
        mode(item, "mode", &at, e);
    }
}

fn downward_api(s: &Value, at: &At, e: &mut Errors) {
    mode(s, "defaultMode", at, e);
    list(s, "items").iter().for_each(|file| downward_file(file, at, e));
}

fn downward_file(file: &Value, at: &At, e: &mut Errors) {
    check::required(file, "path", at, e);
    check::local_non_reserved_path(text(file, "path"), &at.child("path"), e);
    match (get(file, "fieldRef"), get(file, "resourceFieldRef")) {
        (Some(field), resource) => {
            env::field_ref(field, &env::VOLUME_FIELDS, &at.child("fieldRef"), e);
            if resource.is_some() {
                e.invalid(at, &"resource".into(), "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (None, Some(resource)) => env::resource_ref(resource, true, &at.child("resourceFieldRef"), e),
        (None, None) => e.required(at, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(file, "mode", at, e);
}

fn projected(s: &Value, at: &At, e: &mut Errors) {
    mode(s, "defaultMode", at, e);
    let sources = at.child("sources");
    let mut seen = HashSet::new();
    for (i, source) in list(s, "sources").iter().enumerate() {
        let source_path = sources.index(i);
        let mut count = 0;
        for key in ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"] {
            let Some(what) = get(source, key) else { continue };
            count += 1;
            projection(key, what, &source_path.child(key), e);
            for path in projected_paths(key, what) {
                if !seen.insert(path) {
                    e.invalid(at, &projection_name(key, what, path).into(), "conflicting duplicate paths");
                }
            }
        }
        if count > 1 {
            e.forbidden(&source_path, "may not specify more than 1 volume type");
        }
    }
}

fn projection_name<'a>(key: &str, what: &'a Value, path: &'a str) -> &'a str {
    if matches!(key, "secret" | "configMap") { text(what, "name") } else { path }
}

fn projected_paths<'a>(key: &str, what: &'a Value) -> Vec<&'a str> {
    let own = text(what, "path");
    let paths = list(what, "items").iter().map(|item| text(item, "path"));
    let own = Some(own).filter(|_| matches!(key, "serviceAccountToken" | "clusterTrustBundle"));
    paths.chain(own).filter(|p| !p.is_empty()).collect()
}

fn projection(key: &str, what: &Value, at: &At, e: &mut Errors) {
    match key {
        "secret" | "configMap" => {
            check::required(what, "name", at, e);
            key_paths(what, at, e);
        }
        "downwardAPI" => list(what, "items").iter().for_each(|file| downward_file(file, at, e)),
        "serviceAccountToken" => token(what, at, e),
        "clusterTrustBundle" => {
            check::required(what, "path", at, e);
            check::local_non_reserved_path(text(what, "path"), &at.child("path"), e);
        }
        _ => {}
    }
}

fn token(what: &Value, at: &At, e: &mut Errors) {
    check::required(what, "path", at, e);
    check::local_non_reserved_path(text(what, "path"), &at.child("path"), e);
    match int(what, "expirationSeconds") {
        Some(n) if n < 600 => e.invalid(&at.child("expirationSeconds"), &n.into(), "may not specify a duration less than 10 minutes"),
        Some(n) if n > 1 << 32 => {
            e.invalid(&at.child("expirationSeconds"), &n.into(), "may not specify a duration larger than 2^32 seconds");
        }
        _ => {}
    }
}

fn csi(s: &Value, at: &At, e: &mut Errors) {
    driver_name(text(s, "driver"), &at.child("driver"), e);
    if let Some(secret) = get(s, "nodePublishSecretRef") {
        let path = at.child("nodePublishSecretRef");
        check::required_form(secret, "name", names::dns1123_subdomain, &path, e);
    }
}

/// The name of a CSI driver.
pub fn driver_name(name: &str, at: &At, e: &mut Errors) {
    if name.is_empty() {
        e.required(at, "");
    }
    if name.len() > 63 {
        e.too_long(at, 63);
    }
    e.invalid_each(at, name, names::dns1123_subdomain(&name.to_lowercase()));
}

fn ephemeral(s: &Value, at: &At, e: &mut Errors) {
    let at = at.child("volumeClaimTemplate");
    match get(s, "volumeClaimTemplate") {
        None => e.required(&at, ""),
        Some(template) => {
            crate::kinds::claim::validate_spec(template.get("spec").unwrap_or(&Value::Null), &at.child("spec"), e);
        }
    }
}

fn image(s: &Value, at: &At, e: &mut Errors) {
    check::required(s, "reference", at, e);
    check::choice(s, "pullPolicy", &["Always", "IfNotPresent", "Never"], at, e);
}

type Volumes<'a> = [(&'a str, &'a Value)];

fn volume<'a>(volumes: &Volumes<'a>, name: &str) -> Option<&'a Value> {
    volumes.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
}

/// `volumeMounts` of a container.
pub fn mounts(c: &Value, volumes: &Volumes, at: &At, e: &mut Errors) {
    let path = at.child("volumeMounts");
    let mounts = list(c, "volumeMounts");
    for (i, mount) in mounts.iter().enumerate() {
        let at = path.index(i);
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        check::required(mount, "name", &at, e);
        let source = volume(volumes, name);
        if source.is_none() {
            e.not_found(&at.child("name"), &name.into());
        }
        check::required(mount, "mountPath", &at, e);
        if mounts[..i].iter().any(|m| text(m, "mountPath") == target) {
            e.invalid(&at.child("mountPath"), &target.into(), "must be unique");
        }
        for device in list(c, "volumeDevices") {
            if text(device, "name") == name {
                e.invalid(&at.child("name"), &name.into(), "must not already exist in volumeDevices");
            }
            if text(device, "devicePath") == target {
                e.invalid(&at.child("mountPath"), &target.into(), "must not already exist as a path in volumeDevices");
            }
        }
        sub_paths(mount, source, &path, &at, e);
        propagation(mount, c, &path, e);
    }
}

fn sub_paths(mount: &Value, source: Option<&Value>, path: &At, at: &At, e: &mut Errors) {
    let is_image = source.is_some_and(|s| has(s, "image"));
    for key in ["subPath", "subPathExpr"] {
        let value = text(mount, key);
        if value.is_empty() {
            continue;
        }
        if is_image {
            e.invalid(&at.child(key), &value.into(), "not allowed in image volume sources");
        }
        if key == "subPathExpr" && !text(mount, "subPath").is_empty() {
            e.invalid(&at.child(key), &value.into(), "subPathExpr and subPath are mutually exclusive");
        }
        check::local_path(value, &path.child(key), e);
    }
}

fn propagation(mount: &Value, c: &Value, path: &At, e: &mut Errors) {
    const MODES: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
    check::choice_if_set(mount, "mountPropagation", &MODES, path, e);
    let privileged = at(c, &["securityContext", "privileged"]) == Some(&Value::Bool(true));
    if text(mount, "mountPropagation") == "Bidirectional" && !privileged {
        e.forbidden(&path.child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers");
    }
    let at = path.child("recursiveReadOnly");
    match get(mount, "recursiveReadOnly").and_then(Value::as_str) {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !flag(mount, "readOnly") {
                e.forbidden(&at, "may only be specified when readOnly is true");
            }
            if !matches!(text(mount, "mountPropagation"), "" | "None") {
                e.forbidden(&at, "may only be specified when mountPropagation is None or not specified");
            }
        }
        Some(other) => e.not_supported(&at, &other.into(), &["Disabled", "Enabled", "IfPossible"]),
    }
}

/// `volumeDevices` of a container.
pub fn devices(c: &Value, volumes: &Volumes, at: &At, e: &mut Errors) {
    let path = at.child("volumeDevices");
    let devices = list(c, "volumeDevices");
    for (i, device) in devices.iter().enumerate() {
        let at = path.index(i);
        let (name, target) = (text(device, "name"), text(device, "devicePath"));
        check::required(device, "name", &at, e);
        let twice = |key: &str, value: &str| devices[..i].iter().any(|d| text(d, key) == value);
        if twice("name", name) {
            e.invalid(&at.child("name"), &name.into(), "must be unique");
        }
        match volume(volumes, name) {
            None => e.not_found(&at.child("name"), &name.into()),
            Some(v) if !has(v, "persistentVolumeClaim") && !has(v, "ephemeral") => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                e.invalid(&at.child("name"), &name.into(), why);
            }
            Some(_) => {}
        }
        check::required(device, "devicePath", &at, e);
        if twice("devicePath", target) {
            e.invalid(&at.child("devicePath"), &target.into(), "must be unique");
        }
        if target.split('/').any(|part| part == "..") {
            e.invalid(&at.child("devicePath"), &target.into(), "can not contain backsteps ('..')");
        }
    }
}
