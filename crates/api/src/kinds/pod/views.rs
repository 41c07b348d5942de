//! Views of a pod besides its status: ephemeral containers, and resources of a running pod.

use super::{annotations, ratchet, resources, update};
use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::kinds::{HookContext, View};
use serde_json::Value;

const SPEC: At<'static> = At::field("spec");
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// The views of a pod besides its status.
pub const VIEWS: &[View] = &[
    View { name: "ephemeralcontainers", prepare: keep_but_ephemeral, validate: validate_ephemeral },
    View { name: "resize", prepare: keep_but_resources, validate: validate_resize },
];

fn keep_but_ephemeral(new: &mut Value, old: &Value, _: &HookContext) {
    let wanted = new.get("spec").cloned().unwrap_or_default();
    let metadata = new.get("metadata").cloned();
    *new = old.clone();
    keep_labels(new, metadata);
    copy(object(new, "spec"), &wanted, "ephemeralContainers");
}

/// Of the metadata, a view takes only what identifies the write.
fn keep_labels(new: &mut Value, metadata: Option<Value>) {
    let Some(metadata) = metadata else { return };
    for key in ["resourceVersion", "managedFields"] {
        copy(object(new, "metadata"), &metadata, key);
    }
}

fn validate_ephemeral(new: &Value, old: &Value, e: &mut Errors) {
    if annotations::is_mirror(old) {
        *e = Errors::default();
        return e.forbidden(&At::ROOT, "static pods do not support ephemeral containers");
    }
    ratchet::checked(new, old, super::validate, e);
    let path = SPEC.child("ephemeralContainers");
    let (new, old) = (list(spec(new), "ephemeralContainers"), list(spec(old), "ephemeralContainers"));
    for before in old {
        let name = text(before, "name");
        match new.iter().rfind(|c| text(c, "name") == name) {
            None => e.forbidden(&path, &format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(now) if !same(Some(now), Some(before)) => {
                let diff = update::difference(now, before);
                e.forbidden(&path, &format!("existing ephemeral containers {name:?} may not be changed\n{diff}"));
            }
            Some(_) => {}
        }
    }
}

fn keep_but_resources(new: &mut Value, old: &Value, _: &HookContext) {
    let (wanted, before) = (new.get("spec").cloned().unwrap_or_default(), spec(old));
    if LISTS.iter().any(|key| list(&wanted, key).len() != list(before, key).len()) {
        // Kept as it is for validation to refuse.
        return;
    }
    let metadata = new.get("metadata").cloned();
    *new = old.clone();
    keep_labels(new, metadata);
    let spec = object(new, "spec");
    for key in LISTS {
        let from = list(&wanted, key);
        if from.iter().zip(list(before, key)).any(|(c, o)| text(c, "name") != text(o, "name")) {
            copy(spec, &wanted, key);
            continue;
        }
        for (c, from) in each_mut(spec, key).zip(from) {
            copy(c, from, "resources");
            copy(c, from, "resizePolicy");
        }
    }
    copy(spec, &wanted, "resources");
}

fn validate_resize(new: &Value, old: &Value, e: &mut Errors) {
    let (new_spec, old_spec) = (spec(new), spec(old));
    let never = if annotations::is_mirror(old) {
        Some("static pods cannot be resized")
    } else {
        Some("windows pods cannot be resized").filter(|_| text_at(old_spec, &["os", "name"]) == "windows")
    };
    if let Some(why) = never {
        *e = Errors::default();
        return e.forbidden(&At::ROOT, why);
    }
    ratchet::checked(new, old, super::validate, e);
    let class = text_at(old, &["status", "qosClass"]);
    if resources::qos_class(new_spec) != if class.is_empty() { resources::qos_class(old_spec) } else { class } {
        e.invalid(&SPEC, &class.into(), "Pod QOS Class may not change as a result of resizing");
    }
    if !node_can(old) {
        e.forbidden(&SPEC, "Pod running on node without support for resize");
    }
    let whole = |s: &Value| !same(at(s, &["resources", "requests"]), None) || !same(at(s, &["resources", "limits"]), None);
    if whole(old_spec) || whole(new_spec) {
        resized_pod(new_spec, old_spec, e);
    }
    if in_order(new_spec, old_spec, e) {
        resized_containers(new_spec, old_spec, e);
    }
}

/// A running container whose resources are not reported runs on a node that cannot resize.
fn node_can(pod: &Value) -> bool {
    let statuses = list_at(pod, &["status", "containerStatuses"]);
    statuses.iter().find(|s| at(s, &["state", "running"]).is_some()).is_none_or(|s| has(s, "resources"))
}

fn in_order(new: &Value, old: &Value, e: &mut Errors) -> bool {
    let before = e.len();
    for key in LISTS {
        let path = SPEC.child(key);
        let (now, was) = (list(new, key), list(old, key));
        if now.len() != was.len() {
            e.forbidden(&path, &format!("{key} may not be added or removed on resize"));
            continue;
        }
        for (i, _) in now.iter().zip(was).enumerate().filter(|(_, (c, o))| text(c, "name") != text(o, "name")) {
            e.forbidden(&path.index(i).child("name"), &format!("{key} may not be renamed or reordered on resize"));
        }
    }
    e.len() == before
}

fn limits_and_requests<'a>(v: &'a Value, key: &str) -> &'a Value {
    at(v, &["resources", key]).unwrap_or(&NONE)
}

/// Whether an amount that was there is gone.
fn removed(new: &Value, old: &Value, key: &str) -> bool {
    let now = limits_and_requests(new, key);
    limits_and_requests(old, key).as_object().into_iter().flatten().any(|(name, _)| now.get(name).is_none())
}

/// Whether anything but cpu and memory changed in resources.
fn other_resources_changed(new: &Value, old: &Value) -> bool {
    let lists = ["limits", "requests"].iter().any(|key| {
        let (now, was) = (limits_and_requests(new, key), limits_and_requests(old, key));
        let names = |v: &Value| v.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let fixed = |name: &String| !matches!(name.as_str(), "cpu" | "memory");
        names(now).iter().chain(&names(was)).filter(|n| fixed(n)).any(|name| now.get(name) != was.get(name))
    });
    lists || !same(at(new, &["resources", "claims"]), at(old, &["resources", "claims"]))
}

fn resized_pod(new: &Value, old: &Value, e: &mut Errors) {
    let path = SPEC.child("resources");
    if has(old, "resources") && !has(new, "resources") {
        return e.forbidden(&path, "pod-level resources cannot be removed");
    }
    for key in ["requests", "limits"] {
        if removed(new, old, key) {
            e.forbidden(&path.child(key), &format!("pod-level resource {key} cannot be removed"));
        }
    }
    if other_resources_changed(new, old) {
        e.forbidden(&SPEC, "only cpu and memory resources are mutable at pod-level");
    }
}

fn resized_containers(new: &Value, old: &Value, e: &mut Errors) {
    for key in ["initContainers", "containers"] {
        let lists = SPEC.child(key);
        for (i, (c, before)) in list(new, key).iter().zip(list(old, key)).enumerate() {
            let at = lists.index(i);
            let path = at.child("resources");
            for part in ["requests", "limits"] {
                if removed(c, before, part) {
                    e.forbidden(&path.child(part), &format!("resource {part} cannot be removed"));
                }
            }
        }
    }
    let other = |c: &Value, before: &Value| other_resources_changed(c, before) || !same(c.get("resizePolicy"), before.get("resizePolicy"));
    for (c, before) in list(new, "containers").iter().zip(list(old, "containers")) {
        if other(c, before) {
            e.forbidden(&SPEC, "only cpu and memory resources are mutable");
        }
    }
    let lists = SPEC.child("initContainers");
    for (i, (c, before)) in list(new, "initContainers").iter().zip(list(old, "initContainers")).enumerate() {
        if other(c, before) {
            e.forbidden(&lists.index(i), "only cpu and memory resources for init or sidecar containers are mutable");
        }
        let once = !resources::is_sidecar(c) && !same(Some(c), Some(before));
        for _ in list(c, "resizePolicy").iter().filter(|p| once && text(p, "restartPolicy") == "RestartContainer") {
            let why = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            e.forbidden(&lists.index(i), why);
        }
    }
}
