//! CustomResourceDefinitions: defaults, the memory of storage versions, rules (`pkg/apis/apiextensions/validation`).

use super::{approval, formats, versions};
use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::kinds::{HookContext, Hooks, admission, check, meta};
use crate::names;
use serde_json::{Value, json};

pub(in crate::kinds) const HOOKS: Hooks = Hooks {
    default: Some(default_definition),
    prepare_create: Some(prepare_definition),
    prepare_update: Some(|new, old, _| remember_storage_version(new, old.get("status"))),
    validate_create: Some(create),
    validate_update: Some(update),
    validate_status: Some(|new, _, e| status(new, e)),
    warnings: Some(formats::warnings),
    update_warnings: Some(formats::update_warnings),
    ..Hooks::NONE
};

const SPEC: At<'static> = At::field("spec");
const STATUS: At<'static> = At::field("status");

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
    if flag(spec, "preserveUnknownFields") {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        e.invalid(&SPEC.child("preserveUnknownFields"), &true.into(), why);
    }
    definition_names(spec.get("names").unwrap_or(&NONE), e);
    versions::all(spec, e);
    conversion(spec.get("conversion").unwrap_or(&NONE), &SPEC.child("conversion"), e);
}

fn create(o: &Value, e: &mut Errors) {
    definition(o, e);
    approved(o, None, e);
}

/// Groups of Kubernetes' own need an approval. What an object said before, it may go on to say.
fn approved(o: &Value, old: Option<&Value>, e: &mut Errors) {
    if !approval::is_protected(text(spec(o), "group")) {
        return;
    }
    let annotation = |o: &Value| text_at(o, &["metadata", "annotations", approval::ANNOTATION]).to_owned();
    let (now, why) = approval::of(&annotation(o));
    if old.is_some_and(|old| approval::of(&annotation(old)).0 == now) {
        return;
    }
    let metadata = At::field("metadata");
    let annotations = metadata.child("annotations");
    let path = annotations.key(approval::ANNOTATION);
    match now {
        approval::Approval::Missing => e.required(&path, &why),
        approval::Approval::Invalid => e.invalid(&path, &annotation(o).into(), &why),
        approval::Approval::Approved | approval::Approval::Bypassed => {}
    }
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

fn conversion(conversion: &Value, at: &At, e: &mut Errors) {
    const NEEDED: &str = "required when strategy is set to Webhook";
    let webhook = get(conversion, "webhook");
    match (text(conversion, "strategy"), webhook) {
        ("None", Some(_)) => e.forbidden(&at.child("webhook"), "should not be set when strategy is not set to Webhook"),
        ("None", None) => {}
        ("Webhook", None) => e.required(&at.child("webhook"), NEEDED),
        ("Webhook", Some(webhook)) => {
            let at = at.child("webhook");
            match get(webhook, "clientConfig") {
                None => e.required(&at.child("clientConfig"), NEEDED),
                Some(config) => admission::client_config(config, &at.child("clientConfig"), e),
            }
            admission::review_versions(webhook, "conversionReviewVersions", "", true, &at, e);
        }
        ("", _) => e.required(&at.child("strategy"), ""),
        (other, _) => e.not_supported(&at.child("strategy"), &other.into(), &["None", "Webhook"]),
    }
}

fn is_established(o: &Value) -> bool {
    let established = |c: &Value| text(c, "type") == "Established" && text(c, "status") == "True";
    list_at(o, &["status", "conditions"]).iter().any(established)
}

fn update(new: &Value, old: &Value, e: &mut Errors) {
    definition(new, e);
    approved(new, Some(old), e);
    let (now, was) = (spec(new), spec(old));
    let path = SPEC.child("names");
    if is_established(old) {
        check::immutable(now, was, "scope", &SPEC, e);
        meta::immutable_value(at(now, &["names", "kind"]), at(was, &["names", "kind"]), &path.child("kind"), e);
    }
    check::immutable(now, was, "group", &SPEC, e);
    meta::immutable_value(at(now, &["names", "plural"]), at(was, &["names", "plural"]), &path.child("plural"), e);
    status(new, e);
}

/// Every version that was ever stored must still be there, and so must the one that is stored now.
fn status(o: &Value, e: &mut Errors) {
    let path = STATUS.child("storedVersions");
    let stored: Vec<&str> = list_at(o, &["status", "storedVersions"]).iter().filter_map(Value::as_str).collect();
    let versions = list(spec(o), "versions");
    for (i, name) in stored.iter().enumerate().filter(|(_, n)| !versions.iter().any(|v| text(v, "name") == **n)) {
        e.invalid(&path.index(i), &(*name).into(), "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions".replace("v1", name).as_str());
    }
    if let Some(storage) = versions.iter().find(|v| flag(v, "storage")).map(|v| text(v, "name")).filter(|s| !stored.contains(s)) {
        let shown = at(o, &["status", "storedVersions"]).unwrap_or(&NONE);
        e.invalid(&path, shown, &format!("must have the storage version {storage}"));
    }
}
