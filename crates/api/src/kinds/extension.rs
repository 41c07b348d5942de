//! CustomResourceDefinitions and APIServices: their defaults, and what is checked without knowing schemas.

use super::json::*;
use super::{HookContext, Hooks, check, common};
use crate::field::{At, Errors};
use crate::names;
use serde_json::{Value, json};

pub(super) const DEFINITION: Hooks = Hooks {
    default: Some(default_definition),
    prepare_create: Some(prepare_definition),
    prepare_update: Some(|new, old, _| remember_storage_version(new, old.get("status"))),
    validate_create: Some(definition),
    ..Hooks::NONE
};
pub(super) const API_SERVICE: Hooks = Hooks {
    default: Some(default_api_service),
    prepare_create: Some(common::reset_status),
    validate_create: Some(api_service),
    validate_name: Some(names::path_segment),
    ..Hooks::NONE
};

const SPEC: At<'static> = At::field("spec");

fn default_definition(o: &mut Value) {
    let spec = object(o, "spec");
    let names = object(spec, "names");
    let kind = text(names, "kind").to_owned();
    if !kind.is_empty() {
        fill_text(names, "singular", &kind.to_lowercase());
        fill_text(names, "listKind", &format!("{kind}List"));
    }
    fill_text(object(spec, "conversion"), "strategy", "None");
    if let Some(service) = at_mut(spec, &["conversion", "webhook", "clientConfig", "service"]) {
        fill(service, "port", 443);
    }
}

fn prepare_definition(o: &mut Value, _: &HookContext) {
    set(o, "status", json!({"conditions": null, "acceptedNames": {"kind": "", "plural": ""}, "storedVersions": []}));
    remember_storage_version(o, None);
}

/// Every version that ever was the storage version is listed in the status.
fn remember_storage_version(o: &mut Value, old_status: Option<&Value>) {
    let storage = list_at(o, &["spec", "versions"]).iter().find(|v| flag(v, "storage")).map(|v| text(v, "name").to_owned());
    if let Some(old) = old_status {
        set(o, "status", old.clone());
    }
    let Some(storage) = storage else { return };
    let status = object(o, "status");
    fill(status, "storedVersions", Vec::<Value>::new());
    if let Some(list) = status["storedVersions"].as_array_mut().filter(|l| !l.iter().any(|v| *v == storage)) {
        list.push(storage.into());
    }
}

fn definition(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    let (group, plural) = (text(spec, "group"), text_at(spec, &["names", "plural"]));
    let name = text_at(o, &["metadata", "name"]);
    if name != format!("{plural}.{group}") {
        let path = At::field("metadata");
        e.invalid(&path.child("name"), &name.into(), "must be spec.names.plural+\".\"+spec.group");
    }
    let at = SPEC.child("group");
    if group.is_empty() {
        e.required(&at, "");
    } else {
        e.invalid_each(&at, group, names::dns1123_subdomain(group));
        if !group.contains('.') {
            e.invalid(&at, &group.into(), "should be a domain with at least one dot");
        }
    }
    check::choice(spec, "scope", &["Cluster", "Namespaced"], &SPEC, e);
    definition_names(spec.get("names").unwrap_or(&NONE), e);
    versions(spec, e);
}

fn definition_names(all: &Value, e: &mut Errors) {
    let path = SPEC.child("names");
    for key in ["plural", "singular", "kind", "listKind"] {
        match text(all, key) {
            "" => e.required(&path.child(key), ""),
            value => e.invalid_each(&path.child(key), value, names::dns1035_label(&value.to_lowercase())),
        }
    }
    if text(all, "kind") == text(all, "listKind") && !text(all, "kind").is_empty() {
        e.invalid(&path.child("listKind"), &text(all, "listKind").into(), "kind and listKind may not be the same");
    }
    for key in ["shortNames", "categories"] {
        let list = path.child(key);
        for (i, name) in texts(all, key).enumerate() {
            e.invalid_each(&list.index(i), name, names::dns1035_label(name));
        }
    }
}

fn versions(spec: &Value, e: &mut Errors) {
    let path = SPEC.child("versions");
    let all = list(spec, "versions");
    if all.is_empty() {
        e.required(&path, "must have at least one version");
    }
    for (i, version) in all.iter().enumerate() {
        let (at, name) = (path.index(i), text(version, "name"));
        e.invalid_each(&at.child("name"), name, names::dns1035_label(name));
        if all[..i].iter().any(|v| text(v, "name") == name) {
            e.invalid(&path, &spec["versions"], "must contain unique version names");
        }
        if super::json::at(version, &["schema", "openAPIV3Schema"]).is_none() {
            let schema = at.child("schema");
            e.required(&schema.child("openAPIV3Schema"), "schemas are required");
        }
    }
    if !all.is_empty() && all.iter().filter(|v| flag(v, "storage")).count() != 1 {
        e.invalid(&path, &spec["versions"], "must have exactly one version marked as storage version");
    }
}

fn default_api_service(o: &mut Value) {
    if let Some(service) = at_mut(o, &["spec", "service"]) {
        fill(service, "port", 443);
    }
}

fn api_service(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let wanted = format!("{version}.{group}");
    let name = text_at(o, &["metadata", "name"]);
    if name != wanted {
        let path = At::field("metadata");
        e.invalid(&path.child("name"), &name.into(), &format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"));
    }
    if !group.is_empty() {
        e.invalid_each(&SPEC.child("group"), group, names::dns1123_subdomain(group));
    }
    e.invalid_each(&SPEC.child("version"), version, names::dns1035_label(version));
    for (key, max) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
        let n = int(spec, key).unwrap_or_default();
        if n <= 0 || n > max {
            e.invalid(&SPEC.child(key), &n.into(), &format!("must be positive and less than {max}"));
        }
    }
    let bundle = !text(spec, "caBundle").is_empty();
    let insecure = flag(spec, "insecureSkipTLSVerify");
    let Some(service) = get(spec, "service") else {
        if bundle {
            e.invalid(&SPEC.child("caBundle"), &"".into(), "local APIServices may not have a caBundle");
        }
        if insecure {
            e.invalid(&SPEC.child("insecureSkipTLSVerify"), &true.into(), "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    };
    let path = SPEC.child("service");
    check::required(service, "namespace", &path, e);
    check::required(service, "name", &path, e);
    if insecure && bundle {
        e.invalid(&SPEC.child("insecureSkipTLSVerify"), &true.into(), "may not be true if caBundle is present");
    }
}
