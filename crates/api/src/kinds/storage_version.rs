//! StorageVersion: in which version each API server of a cluster writes the objects of a resource, and which versions it can read.
//!
//! Source: `pkg/apis/apiserverinternal/validation`, `pkg/registry/apiserverinternal`, `apiserver/pkg/storageversion/updater.go`.

use super::json::*;
use super::{Hooks, common};
use crate::field::{At, Errors};
use crate::names;
use crate::time::format_time;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Group, version and plural.
pub const RESOURCE: (&str, &str, &str) = ("internal.apiserver.k8s.io", "v1alpha1", "storageversions");
/// The condition that says whether all servers write the same version.
const AGREED: &str = "AllEncodingVersionsEqual";
const STATUS: At<'static> = At::field("status");

pub(super) const STORAGE_VERSION: Hooks = Hooks {
    prepare_create: Some(common::reset_status),
    // What stands besides the status is empty.
    validate_update: Some(|_, _, _| ()),
    validate_status: Some(|new, _, e| status(new.get("status").unwrap_or(&NONE), e)),
    validate_name: Some(object_name),
    ..Hooks::NONE
};

/// What the server of this id says of a resource, put among what the servers said before.
pub fn say(object: &mut Value, server: &Value, now: Timestamp) {
    let said = &mut object["status"]["storageVersions"];
    if !said.is_array() {
        *said = json!([]);
    }
    if let Some(all) = said.as_array_mut() {
        match all.iter_mut().find(|s| s["apiServerID"] == server["apiServerID"]) {
            Some(before) => *before = server.clone(),
            None => all.push(server.clone()),
        }
    }
    agree(object, now);
}

/// Leaves only the servers that are wanted; whether one went.
pub fn keep(object: &mut Value, wanted: impl Fn(&str) -> bool, now: Timestamp) -> bool {
    let Some(all) = object["status"]["storageVersions"].as_array_mut() else { return false };
    let before = all.len();
    all.retain(|server| wanted(text(server, "apiServerID")));
    let gone = all.len() < before;
    if gone {
        agree(object, now);
    }
    gone
}

/// Ids of the servers that said something.
pub fn servers(object: &Value) -> impl Iterator<Item = &str> {
    list_at(object, &["status", "storageVersions"]).iter().map(|server| text(server, "apiServerID"))
}

/// The version in which all servers write, if it is one.
fn common_version(status: &Value) -> Option<&str> {
    let mut versions = list(status, "storageVersions").iter().map(|server| text(server, "encodingVersion"));
    let first = versions.next()?;
    versions.all(|version| version == first).then_some(first)
}

/// Says whether the servers agree, and since when they do or do not.
fn agree(object: &mut Value, now: Timestamp) {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
    let status = &mut object["status"];
    let common = common_version(status).map(str::to_owned);
    let before = get(status, "commonEncodingVersion").and_then(Value::as_str).map(str::to_owned);
    if let Some(fields) = status.as_object_mut() {
        match &common {
            Some(version) => fields.insert("commonEncodingVersion".to_owned(), json!(version)),
            None => fields.remove("commonEncodingVersion"),
        };
    }
    let (state, reason, message) = match &common {
        Some(_) => ("True", "CommonEncodingVersionSet", "Common encoding version set"),
        None => ("False", "CommonEncodingVersionUnset", "Common encoding version unset"),
    };
    let mut condition =
        json!({ "type": AGREED, "status": state, "reason": reason, "message": message, "lastTransitionTime": format_time(now) });
    if generation != 0 {
        condition["observedGeneration"] = json!(generation);
    }
    let conditions = &mut status["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(all) = conditions.as_array_mut() else { return };
    let moved = before.is_some() && common.is_some() && before != common;
    match all.iter_mut().find(|c| c["type"] == AGREED) {
        Some(old) => {
            if old["status"] == state && !moved {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => all.push(condition),
    }
}

/// `<group>.<resource>`.
fn object_name(name: &str) -> Vec<String> {
    let Some((group, resource)) = name.rsplit_once('.') else { return vec!["name must be in the form of <group>.<resource>".to_owned()] };
    let group = names::dns1123_subdomain(group).into_iter().map(|why| format!("the group segment {why}"));
    group.chain(names::dns1035_label(resource).into_iter().map(|why| format!("the resource segment {why}"))).collect()
}

fn status(status: &Value, e: &mut Errors) {
    for (i, server) in list(status, "storageVersions").iter().enumerate() {
        storage_version(server, &STATUS.child("storageVersions").index(i), e);
    }
    common_is_right(status, e);
    conditions(status, e);
}

fn storage_version(server: &Value, path: &At, e: &mut Errors) {
    let (id, encoding) = (text(server, "apiServerID"), text(server, "encodingVersion"));
    e.invalid_each(&path.child("apiServerID"), id, names::dns1123_subdomain(id));
    let version = |path: At, version: &str, e: &mut Errors| {
        let wrong = api_version(version);
        if !wrong.is_empty() {
            e.invalid(&path, &version.into(), &wrong.join(","));
        }
    };
    version(path.child("encodingVersion"), encoding, e);
    let decodable = list(server, "decodableVersions");
    for (i, one) in decodable.iter().enumerate() {
        version(path.child("decodableVersions").index(i), one.as_str().unwrap_or_default(), e);
    }
    if !decodable.iter().any(|one| one == encoding) {
        let why = format!("decodableVersions must include encodingVersion {encoding}");
        e.invalid(&path.child("decodableVersions"), &decodable.into(), &why);
    }
}

fn common_is_right(status: &Value, e: &mut Errors) {
    let path = STATUS.child("commonEncodingVersion");
    let said = get(status, "commonEncodingVersion").and_then(Value::as_str);
    let shown = said.map_or(NONE, Value::from);
    match (common_version(status), said) {
        (None, Some(_)) => e.invalid(
            &path,
            &shown,
            "should be nil if servers do not agree on the same encoding version, or if there is no server reporting the supported versions yet",
        ),
        (Some(is), None) => e.invalid(&path, &shown, &format!("the common encoding version is {is}")),
        (Some(is), Some(said)) if is != said => e.invalid(&path, &shown, &format!("the actual common encoding version is {is}")),
        _ => {}
    }
}

/// Named as upstream names them: by their place in the status itself.
fn conditions(status: &Value, e: &mut Errors) {
    let all = list(status, "conditions");
    for (i, condition) in all.iter().enumerate() {
        let (at, kind) = (STATUS.index(i), text(condition, "type"));
        if let Some(first) = all[..i].iter().rposition(|c| text(c, "type") == kind) {
            let why = format!("the type of the condition is not unique, it also appears in conditions[{first}]");
            e.invalid(&at.child("type"), &kind.into(), &why);
        }
        e.invalid_each(&at.child("type"), kind, names::qualified_name(kind));
        e.invalid_each(&at.child("status"), kind, names::qualified_name(text(condition, "status")));
        if text(condition, "reason").is_empty() {
            e.required(&at.child("reason"), "reason cannot be empty");
        }
        if text(condition, "message").is_empty() {
            e.required(&at.child("message"), "message cannot be empty");
        }
    }
}

/// What is wrong with `version` or `group/version`.
fn api_version(text: &str) -> Vec<String> {
    const EMPTY: &str = "must be non-empty";
    let each = |part: &str, wrong: Vec<String>| wrong.into_iter().map(|why| format!("{part} part: {why}")).collect::<Vec<_>>();
    let (group, version) = match text.split('/').collect::<Vec<_>>()[..] {
        [version] => (None, version),
        [group, version] => (Some(group), version),
        _ => {
            let form = names::dns1035_label("/").concat();
            return vec![format!("an apiVersion is {form} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyVersion')")];
        }
    };
    let mut wrong = match group {
        Some("") => vec![format!("group part: {EMPTY}")],
        Some(group) => each("group", names::dns1123_subdomain(group)),
        None => Vec::new(),
    };
    if version.is_empty() {
        wrong.push(format!("version part: {EMPTY}"))
    } else {
        wrong.extend(each("version", names::dns1035_label(version)))
    }
    wrong
}
