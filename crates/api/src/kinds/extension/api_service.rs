//! APIServices: who serves a group and version (`pkg/apis/apiregistration/validation`).

use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::kinds::{Hooks, check, common};
use crate::names;
use serde_json::Value;

pub(in crate::kinds) const HOOKS: Hooks = Hooks {
    default: Some(default_api_service),
    prepare_create: Some(common::reset_status),
    validate_create: Some(api_service),
    validate_name: Some(names::path_segment),
    ..Hooks::NONE
};

const SPEC: At<'static> = At::field("spec");

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
            let bytes = text(spec, "caBundle").trim_end_matches('=').len() * 3 / 4;
            e.invalid(&SPEC.child("caBundle"), &format!("{bytes} bytes").into(), "local APIServices may not have a caBundle");
        }
        if insecure {
            e.invalid(&SPEC.child("insecureSkipTLSVerify"), &true.into(), "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    };
    let path = SPEC.child("service");
    check::required(service, "namespace", &path, e);
    check::required(service, "name", &path, e);
    if let Some(n) = int(service, "port") {
        for why in names::port_number(n) {
            e.invalid(&path.child("port"), &n.into(), &format!("port is not valid: {why}"));
        }
    }
    if insecure && bundle {
        e.invalid(&SPEC.child("insecureSkipTLSVerify"), &true.into(), "may not be true if caBundle is present");
    }
}
