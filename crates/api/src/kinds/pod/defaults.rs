//! What 1.36 fills into pods and pod templates.

use crate::kinds::check::{canonical_amount, canonical_amounts};
use crate::kinds::json::*;
use serde_json::{Map, Value, json};

const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
/// Files of volumes are readable by all, writable by the owner: 0644.
const FILE_MODE: i64 = 0o644;

/// Defaults of a pod.
pub fn pod(pod: &mut Value) {
    let spec = object(pod, "spec");
    pod_spec(spec);
    for key in ["containers", "initContainers"] {
        each_mut(spec, key).for_each(requests_from_limits);
    }
    super::resources::default_pod_level(spec);
    fill(spec, "enableServiceLinks", true);
    if flag(spec, "hostNetwork") {
        for key in ["containers", "initContainers"] {
            each_mut(spec, key).for_each(host_ports);
        }
    }
    pod_addresses(pod);
}

/// Defaults of a pod template: those of its spec.
pub fn template(template: &mut Value) {
    pod_spec(object(template, "spec"));
}

/// Requests default to limits, in pods only.
fn requests_from_limits(container: &mut Value) {
    let Some(resources) = get_mut(container, "resources") else { return };
    let Some(Value::Object(limits)) = get(resources, "limits").cloned() else { return };
    let requests = object(resources, "requests");
    for (name, amount) in limits {
        fill(requests, &name, amount);
    }
}

fn host_ports(container: &mut Value) {
    for port in each_mut(container, "ports") {
        if let Some(n) = int(port, "containerPort") {
            fill_int(port, "hostPort", n);
        }
    }
}

/// `podIP` and `podIPs` say the same.
pub fn pod_addresses(pod: &mut Value) {
    let Some(status) = get_mut(pod, "status") else { return };
    if let Some(first) = list(status, "podIPs").first() {
        let first = text(first, "ip").to_owned();
        set(status, "podIP", first);
    } else if !text(status, "podIP").is_empty() {
        let only = json!([{"ip": text(status, "podIP")}]);
        set(status, "podIPs", only);
    }
}

/// Defaults of a pod spec, in a pod or in a template.
pub fn pod_spec(spec: &mut Value) {
    fill_text(spec, "dnsPolicy", "ClusterFirst");
    fill_text(spec, "restartPolicy", "Always");
    fill(spec, "securityContext", Map::new());
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill_text(spec, "schedulerName", "default-scheduler");
    service_account_alias(spec);
    for key in CONTAINER_LISTS {
        each_mut(spec, key).for_each(container);
    }
    each_mut(spec, "volumes").for_each(volume);
    canonical_amounts(spec, "overhead");
    if let Some(resources) = get_mut(spec, "resources") {
        canonical_amounts(resources, "limits");
        canonical_amounts(resources, "requests");
    }
    // A field of a feature that is off (GenericWorkload).
    remove(spec, "schedulingGroup");
}

/// The old name of the field always says what the new one says.
fn service_account_alias(spec: &mut Value) {
    let (new, old) = (text(spec, "serviceAccountName"), text(spec, "serviceAccount"));
    match (new.is_empty(), old.is_empty()) {
        (true, true) => {}
        (true, false) => copy_text(spec, "serviceAccount", "serviceAccountName"),
        (false, _) => copy_text(spec, "serviceAccountName", "serviceAccount"),
    }
}

fn copy_text(v: &mut Value, from: &str, to: &str) {
    let value = text(v, from).to_owned();
    set(v, to, value);
}

/// Defaults of a container of any sort.
pub fn container(c: &mut Value) {
    if text(c, "imagePullPolicy").is_empty() {
        let policy = pull_policy(text(c, "image"));
        set(c, "imagePullPolicy", policy);
    }
    fill_text(c, "terminationMessagePath", "/dev/termination-log");
    fill_text(c, "terminationMessagePolicy", "File");
    let resources = object(c, "resources");
    canonical_amounts(resources, "limits");
    canonical_amounts(resources, "requests");
    for port in each_mut(c, "ports") {
        fill_text(port, "protocol", "TCP");
    }
    for variable in each_mut(c, "env") {
        if let Some(source) = get_mut(variable, "valueFrom") {
            downward_refs(source);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(p) = get_mut(c, probe) {
            self::probe(p);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(h) = at_mut(c, &["lifecycle", hook]) {
            handler(h);
        }
    }
    no_stop_signal(c);
    if let Some(context) = get_mut(c, "securityContext").filter(|s| has(s, "procMount")) {
        fill_text(context, "procMount", "Default");
    }
}

/// A field of a feature that is off (ContainerStopSignals).
fn no_stop_signal(c: &mut Value) {
    let Some(lifecycle) = get_mut(c, "lifecycle") else { return };
    if remove(lifecycle, "stopSignal").is_some() && same(c.get("lifecycle"), None) {
        remove(c, "lifecycle");
    }
}

fn downward_refs(source: &mut Value) {
    if let Some(field) = get_mut(source, "fieldRef") {
        fill_text(field, "apiVersion", "v1");
    }
    if let Some(resource) = get_mut(source, "resourceFieldRef") {
        fill(resource, "divisor", "0");
        canonical_amount(&mut resource["divisor"]);
    }
    if let Some(file) = get_mut(source, "fileKeyRef") {
        fill(file, "optional", false);
    }
}

fn probe(p: &mut Value) {
    handler(p);
    fill_int(p, "timeoutSeconds", 1);
    fill_int(p, "periodSeconds", 10);
    fill_int(p, "successThreshold", 1);
    fill_int(p, "failureThreshold", 3);
}

fn handler(h: &mut Value) {
    if let Some(http) = get_mut(h, "httpGet") {
        fill_text(http, "path", "/");
        fill_text(http, "scheme", "HTTP");
    }
    if let Some(grpc) = get_mut(h, "grpc") {
        fill(grpc, "service", "");
    }
}

/// `Always` for the tag `latest`, said or implied, else `IfNotPresent`.
pub fn pull_policy(image: &str) -> &'static str {
    if image_tag(image) == Some("latest") { "Always" } else { "IfNotPresent" }
}

/// The tag of an image reference: `latest` when there is neither tag nor digest; none for a digest or no reference at all.
fn image_tag(image: &str) -> Option<&str> {
    let (name, digest) = image.split_once('@').map_or((image, false), |(n, _)| (n, true));
    let path_start = name.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match name[path_start..].split_once(':') {
        Some((_, tag)) => (&name[..name.len() - tag.len() - 1], Some(tag)),
        None => (name, None),
    };
    let path = repository.split_once('/').filter(|(host, _)| host.contains(['.', ':']) || *host == "localhost").map_or(repository, |p| p.1);
    let fine = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-/".contains(&c);
    if path.is_empty() || !path.bytes().all(fine) {
        return None;
    }
    tag.or(if digest { None } else { Some("latest") })
}

/// Defaults of a volume.
pub fn volume(v: &mut Value) {
    let has_source = v.as_object().is_some_and(|v| v.iter().any(|(k, source)| k != "name" && !source.is_null()));
    if !has_source {
        set(v, "emptyDir", Map::new());
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(s) = get_mut(v, source) {
            fill(s, "defaultMode", FILE_MODE);
            each_mut(s, "items").for_each(downward_refs);
            each_mut(s, "sources").for_each(projection);
        }
    }
    if let Some(path) = get_mut(v, "hostPath") {
        fill(path, "type", "");
    }
    if let Some(size) = at_mut(v, &["emptyDir", "sizeLimit"]) {
        canonical_amount(size);
    }
    if let Some(image) = get_mut(v, "image").filter(|i| text(i, "pullPolicy").is_empty()) {
        let policy = pull_policy(text(image, "reference"));
        set(image, "pullPolicy", policy);
    }
    if let Some(spec) = at_mut(v, &["ephemeral", "volumeClaimTemplate", "spec"]) {
        crate::kinds::claim::spec_defaults(spec);
    }
    network_disks(v);
}

fn projection(source: &mut Value) {
    // Sources of features that are off (ClusterTrustBundleProjection, PodCertificateRequest).
    for key in ["clusterTrustBundle", "podCertificate"] {
        remove(source, key);
    }
    if let Some(token) = get_mut(source, "serviceAccountToken") {
        fill(token, "expirationSeconds", 3600);
    }
    if let Some(d) = get_mut(source, "downwardAPI") {
        each_mut(d, "items").for_each(downward_refs);
    }
}

/// Defaults of volumes that live elsewhere; persistent volumes have the same ones.
pub fn network_disks(v: &mut Value) {
    const TEXTS: &[(&str, &[(&str, &str)])] = &[
        ("iscsi", &[("iscsiInterface", "default")]),
        ("rbd", &[("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")]),
        ("scaleIO", &[("storageMode", "ThinProvisioned"), ("fsType", "xfs")]),
        ("azureDisk", &[("cachingMode", "ReadWrite"), ("fsType", "ext4"), ("kind", "Shared")]),
    ];
    for (source, texts) in TEXTS {
        if let Some(s) = get_mut(v, source) {
            texts.iter().for_each(|(key, value)| fill_text(s, key, value));
        }
    }
    if let Some(disk) = get_mut(v, "azureDisk") {
        fill(disk, "readOnly", false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (image, want) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("host:5000/a/nginx:v1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("nginx:latest@sha256:abc", "Always"),
            ("Bad Image", "IfNotPresent"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }
}
