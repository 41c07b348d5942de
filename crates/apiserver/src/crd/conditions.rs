//! `status` of a CRD: names, conditions, stored versions. Source: apiextensions `controller/{status,establish}`.

use ferrokube_api::time;
use jiff::Timestamp;
use serde_json::{Value, json};

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// Which name is taken by another CRD of the group: condition reason and message.
fn conflict(definition: &Value, others: &[Value]) -> Option<(&'static str, String)> {
    let names = &definition["spec"]["names"];
    let group = text(&definition["spec"], "group");
    let taken: Vec<&Value> = others.iter().filter(|o| text(&o["spec"], "group") == group).map(|o| &o["spec"]["names"]).collect();
    let list = |n: &Value| -> Vec<String> {
        n["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let resources: Vec<String> =
        taken.iter().flat_map(|n| [vec![text(n, "plural").to_owned(), text(n, "singular").to_owned()], list(n)].concat()).collect();
    let kinds: Vec<&str> = taken.iter().flat_map(|n| [text(n, "kind"), text(n, "listKind")]).collect();
    let in_use = |name: &str| format!("{name:?} is already in use");
    for (key, reason) in [("plural", "PluralConflict"), ("singular", "SingularConflict")] {
        let name = text(names, key);
        if !name.is_empty() && resources.iter().any(|r| r == name) {
            return Some((reason, in_use(name)));
        }
    }
    if let Some(name) = list(names).iter().find(|n| resources.contains(n)) {
        return Some(("ShortNamesConflict", in_use(name)));
    }
    for (key, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        let name = text(names, key);
        if !name.is_empty() && kinds.contains(&name) {
            return Some((reason, in_use(name)));
        }
    }
    None
}

/// Whether the names are free (or were accepted before).
pub fn accepted(definition: &Value, others: &[Value]) -> bool {
    conflict(definition, others).is_none() || condition(definition, "Established").is_some_and(|c| c["status"] == "True")
}

fn condition<'v>(definition: &'v Value, kind: &str) -> Option<&'v Value> {
    definition["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

fn set(definition: &mut Value, kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) {
    let generation = definition["metadata"]["generation"].clone();
    let conditions = &mut definition["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    let mut new =
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": time::format_time(now)});
    if generation.is_i64() || generation.is_u64() {
        new["observedGeneration"] = generation;
    }
    match list.iter_mut().find(|c| c["type"] == kind) {
        Some(old) if old["status"] == new["status"] => {
            new["lastTransitionTime"] = old["lastTransitionTime"].clone();
            *old = new;
        }
        Some(old) => *old = new,
        None => list.push(new),
    }
}

/// The CRD with the status it should have; `None` when it has it.
pub fn status(definition: &Value, others: &[Value], now: Timestamp) -> Option<Value> {
    let mut wanted = definition.clone();
    if !wanted["status"].is_object() {
        wanted["status"] = json!({});
    }
    match conflict(definition, others) {
        Some((reason, message)) => set(&mut wanted, "NamesAccepted", "False", reason, &message, now),
        None => {
            wanted["status"]["acceptedNames"] = definition["spec"]["names"].clone();
            set(&mut wanted, "NamesAccepted", "True", "NoConflicts", "no conflicts found", now);
            set(&mut wanted, "Established", "True", "InitialNamesAccepted", "the initial names have been accepted", now);
        }
    }
    if definition["metadata"].get("deletionTimestamp").is_some() && condition(definition, "Terminating").is_none() {
        set(&mut wanted, "Terminating", "True", "InstanceDeletionInProgress", "CustomResource deletion is in progress", now);
    }
    (wanted["status"] != definition["status"]).then_some(wanted)
}
