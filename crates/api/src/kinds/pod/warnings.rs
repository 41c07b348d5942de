//! What is allowed in a pod or template and yet worth a warning.
//!
//! Only writes of people are warned about: new pods, and new or changed templates.

use super::{annotations, containers};
use crate::field::At;
use crate::kinds::json::*;
use crate::names;
use crate::quantity::Quantity;
use serde_json::Value;

mod overlaps;
mod ports;

/// Node labels that have a successor, and what to say about them.
const NODE_LABELS: [(&str, &str); 5] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    ("failure-domain.beta.kubernetes.io/region", "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
];

/// Annotations without a meaning, and what took their place.
const ANNOTATIONS: [(&str, &str); 3] = [
    ("scheduler.alpha.kubernetes.io/critical-pod", "non-functional in v1.16+; use the \"priorityClassName\" field instead"),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

/// Sources of volumes that are going or gone: the field, how its path reads, and since when.
const SOURCES: [(&str, &str, &str); 9] = [
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

const NO_POD: &str = "a null labelSelector results in matching no pod";

/// Where warnings go.
type Out = Vec<String>;

fn tell(out: &mut Out, path: &At, why: &str) {
    out.push(format!("{path}: {why}"));
}

/// Warnings about a new pod.
pub fn pod(o: &Value) -> Out {
    let mut out = host_names(o, "the Pod's hostname");
    spec_and_metadata(o, &At::ROOT, false, &mut out);
    out
}

/// Warnings about the name of an object that pods and their host names are called after.
pub fn host_names(o: &Value, used_in: &str) -> Out {
    let name = text_at(o, &["metadata", "name"]);
    let wrong = if name.is_empty() { Vec::new() } else { names::dns1123_label(name) };
    if wrong.is_empty() {
        return Vec::new();
    }
    let why = "which can result in surprising behavior; a DNS label is recommended";
    vec![format!("metadata.name: this is used in {used_in}, {why}: [{}]", wrong.join(" "))]
}

/// Warnings about a template.
pub fn template(template: &Value, path: &At) -> Out {
    let mut out = Vec::new();
    spec_and_metadata(template, path, true, &mut out);
    out
}

/// Warnings about a workload whose template stands at `spec.template`.
pub fn workload(o: &Value) -> Out {
    template(spec(o).get("template").unwrap_or(&NONE), &At::field("spec").child("template"))
}

/// Warnings about a workload that names its pods after itself.
pub fn named_workload(o: &Value) -> Out {
    let mut out = host_names(o, "Pod names and hostnames");
    out.extend(workload(o));
    out
}

/// Warnings about a changed workload: none when its spec is the same.
pub fn changed_workload(new: &Value, old: &Value) -> Out {
    if same(new.get("spec"), old.get("spec")) { Vec::new() } else { workload(new) }
}

fn spec_and_metadata(o: &Value, root: &At, is_template: bool, out: &mut Out) {
    let path = root.child("spec");
    let spec = spec(o);
    scheduling(spec, &path, out);
    old_annotations(o, root, out);
    volumes(spec, &path, out);
    twice(spec, &path.child("hostAliases"), "hostAliases", "ip", out);
    twice(spec, &path.child("imagePullSecrets"), "imagePullSecrets", "name", out);
    let secrets = path.child("imagePullSecrets");
    for (i, _) in list(spec, "imagePullSecrets").iter().enumerate().filter(|(_, s)| text(s, "name").is_empty()) {
        tell(out, &secrets.index(i).child("name"), "invalid empty name \"\"");
    }
    fractions(spec.get("overhead").unwrap_or(&NONE), &path.child("overhead"), out);
    old_profiles(o, root, is_template, out);
    containers::each(spec, &path, |c, at| container(c, at, out));
    ports::warn(spec, &path, out);
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|n| n < 0) {
        let why = "must be >= 0; negative values are invalid and will be treated as 1";
        tell(out, &path.child("terminationGracePeriodSeconds"), why);
    }
    affinity(spec, &path, out);
    addresses(spec, &path, out);
}

pub(in crate::kinds) fn old_label(label: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(l, _)| *l == label).map(|(_, why)| *why)
}

fn scheduling(spec: &Value, path: &At, out: &mut Out) {
    for (label, _) in entries(spec, "nodeSelector") {
        if let Some(why) = old_label(label) {
            tell(out, &path.child("nodeSelector").key(label), why);
        }
    }
    if let Some(affinity) = at(spec, &["affinity", "nodeAffinity"]) {
        node_affinity(affinity, &path.child("affinity").child("nodeAffinity"), out);
    }
    let constraints = path.child("topologySpreadConstraints");
    for (i, c) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let at = constraints.index(i);
        if let Some(why) = old_label(text(c, "topologyKey")) {
            tell(out, &at.child("topologyKey"), &format!("{} is {why}", text(c, "topologyKey")));
        }
        if !has(c, "labelSelector") {
            tell(out, &at.child("labelSelector"), NO_POD);
        }
    }
}

fn node_affinity(affinity: &Value, path: &At, out: &mut Out) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let required = path.child(REQUIRED);
    let terms = required.child("nodeSelectorTerms");
    for (i, term) in list_at(affinity, &[REQUIRED, "nodeSelectorTerms"]).iter().enumerate() {
        node_term(term, &terms.index(i), out);
    }
    let preferred = path.child(PREFERRED);
    for (i, term) in list(affinity, PREFERRED).iter().enumerate() {
        node_term(term.get("preference").unwrap_or(&NONE), &preferred.index(i).child("preference"), out);
    }
}

fn node_term(term: &Value, path: &At, out: &mut Out) {
    let expressions = path.child("matchExpressions");
    for (i, expression) in list(term, "matchExpressions").iter().enumerate() {
        let (at, key) = (expressions.index(i), text(expression, "key"));
        if let Some(why) = old_label(key) {
            tell(out, &at.child("key"), &format!("{key} is {why}"));
        }
    }
}

fn old_annotations(o: &Value, root: &At, out: &mut Out) {
    let path = root.child("metadata");
    let path = path.child("annotations");
    for (key, why) in ANNOTATIONS.iter().filter(|(key, _)| at(o, &["metadata", "annotations", key]).is_some()) {
        tell(out, &path.key(key), why);
    }
}

fn volumes(spec: &Value, path: &At, out: &mut Out) {
    let volumes = path.child("volumes");
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let at = volumes.index(i);
        for (_, shown, why) in SOURCES.iter().filter(|(key, ..)| has(volume, key)) {
            tell(out, &at.child(shown), why);
        }
        if let Some(claim) = crate::kinds::json::at(volume, &["ephemeral", "volumeClaimTemplate", "spec"]) {
            let at = at.child("ephemeral");
            let at = at.child("volumeClaimTemplate");
            crate::kinds::claim::spec_warnings(claim, &at.child("spec"), out);
        }
    }
    overlaps::warn(spec, out);
}

/// What a persistent volume has that is going: its source, and labels of nodes that it names.
pub fn old_volumes(spec: &Value, affinity: Option<&Value>, path: &At, out: &mut Out) {
    let required = path.child("nodeAffinity");
    let required = required.child("required");
    let terms = required.child("nodeSelectorTerms");
    for (i, term) in affinity.map_or(&[][..], |a| list(a, "nodeSelectorTerms")).iter().enumerate() {
        node_term(term, &terms.index(i), out);
    }
    for (_, shown, why) in SOURCES.iter().filter(|(key, ..)| has(spec, key)) {
        tell(out, &path.child(shown), why);
    }
}

/// Entries of a list that name again what one before them names.
fn twice(spec: &Value, path: &At, key: &str, what: &str, out: &mut Out) {
    let all = list(spec, key);
    for (i, item) in all.iter().enumerate() {
        if all[..i].iter().any(|other| text(other, what) == text(item, what)) {
            tell(out, &path.index(i).child(what), &format!("duplicate {what} {:?}", text(item, what)));
        }
    }
}

/// Amounts of bytes that are not whole.
pub fn fractions(amounts: &Value, path: &At, out: &mut Out) {
    for name in ["memory", "ephemeral-storage"] {
        fraction(amounts, name, path, out);
    }
}

/// An amount of bytes that is not whole.
pub fn fraction(amounts: &Value, name: &str, path: &At, out: &mut Out) {
    let Some(Ok(q)) = get(amounts, name).map(Quantity::from_json) else { return };
    if !q.is_whole() {
        tell(out, &path.key(name), &format!("fractional byte value {:?} is invalid, must be an integer", q.to_string()));
    }
}

/// Profiles of seccomp and AppArmor that only an annotation names.
fn old_profiles(o: &Value, root: &At, is_template: bool, out: &mut Out) {
    let Some(said) = at(o, &["metadata", "annotations"]) else { return };
    let path = root.child("metadata");
    let path = path.child("annotations");
    let whole = spec(o).get("securityContext").unwrap_or(&NONE);
    let gone = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    if has(said, annotations::SECCOMP_POD) && !has(whole, "seccompProfile") {
        tell(out, &path.key(annotations::SECCOMP_POD), gone);
    }
    containers::each(spec(o), root, |c, _| {
        let (context, name) = (c.get("securityContext").unwrap_or(&NONE), text(c, "name"));
        let key = format!("{}{name}", annotations::SECCOMP);
        if has(said, &key) && !has(context, "seccompProfile") {
            tell(out, &path.key(&key), gone);
        }
        // In a pod, the annotation has become the field by now.
        let key = format!("{}{name}", annotations::APP_ARMOR);
        let field = has(context, "appArmorProfile") || has(whole, "appArmorProfile");
        if has(said, &key) && is_template != field {
            tell(out, &path.key(&key), "deprecated since v1.30; use the \"appArmorProfile\" field instead");
        }
    });
}

fn container(c: &Value, path: &At, out: &mut Out) {
    if let Some(resources) = get(c, "resources") {
        let at = path.child("resources");
        for name in ["memory", "ephemeral-storage"] {
            for key in ["limits", "requests"] {
                fraction(resources.get(key).unwrap_or(&NONE), name, &at.child(key), out);
            }
        }
    }
    let env = path.child("env");
    let all = list(c, "env");
    for (i, variable) in all.iter().enumerate() {
        let (name, value) = (text(variable, "name"), text(variable, "value"));
        if !all[..i].iter().any(|v| text(v, "name") == name) {
            continue;
        }
        // `X=$(X)more` builds on the first definition; anything else hides it.
        let before = format!("$({name})");
        if has(variable, "valueFrom") || value == before || !value.contains(&before) {
            tell(out, &env.index(i), &format!("hides previous definition of {name:?}, which may be dropped when using apply"));
        }
    }
}

fn affinity(spec: &Value, path: &At, out: &mut Out) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let path = path.child("affinity");
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = at(spec, &["affinity", kind]) else { continue };
        let path = path.child(kind);
        let required = path.child(REQUIRED);
        for (i, _) in list(affinity, REQUIRED).iter().enumerate().filter(|(_, term)| !has(term, "labelSelector")) {
            tell(out, &required.index(i).child("labelSelector"), NO_POD);
        }
        let preferred = path.child(PREFERRED);
        for (i, term) in list(affinity, PREFERRED).iter().enumerate() {
            if at(term, &["podAffinityTerm", "labelSelector"]).is_none() {
                tell(out, &preferred.index(i).child("podAffinityTerm").child("labelSelector"), NO_POD);
            }
        }
    }
}

fn addresses(spec: &Value, path: &At, out: &mut Out) {
    let servers = path.child("dnsConfig");
    let servers = servers.child("nameservers");
    for (i, server) in list_at(spec, &["dnsConfig", "nameservers"]).iter().enumerate() {
        out.extend(names::odd_ip(&servers.index(i), server.as_str().unwrap_or_default()));
    }
    let aliases = path.child("hostAliases");
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        out.extend(names::odd_ip(&aliases.index(i).child("ip"), text(alias, "ip")));
    }
}

#[cfg(test)]
mod tests;
