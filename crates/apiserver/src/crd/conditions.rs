//! `status` of a CRD: names, conditions, stored versions. Source: apiextensions `controller/{status,establish,nonstructuralschema,apiapproval}`.

use super::structural;
use ferrokube_api::kinds::approval::{self, Approval};
use ferrokube_api::time;
use jiff::Timestamp;
use serde_json::{Value, json};

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

fn short_names(names: &Value) -> Vec<String> {
    names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Names that other CRDs of a group have.
struct Taken {
    resources: Vec<String>,
    kinds: Vec<String>,
}

impl Taken {
    fn by(others: &[&Value]) -> Taken {
        let (mut resources, mut kinds) = (Vec::new(), Vec::new());
        for names in others {
            resources.extend([text(names, "plural").to_owned(), text(names, "singular").to_owned()]);
            resources.extend(short_names(names));
            kinds.extend([text(names, "kind").to_owned(), text(names, "listKind").to_owned()]);
        }
        Taken { resources, kinds }
    }
}

/// Reason and message of a condition.
type Said = (&'static str, String);

fn in_use(name: &str) -> String {
    format!("{name:?} is already in use")
}

/// Takes over what is wanted.
fn take(accepted: &mut Value, wanted: &Value, key: &str) {
    match (wanted.get(key), accepted.as_object_mut()) {
        (Some(value), Some(accepted)) => _ = accepted.insert(key.to_owned(), value.clone()),
        (None, Some(accepted)) => _ = accepted.remove(key),
        _ => {}
    }
}

/// The same, unless another CRD has it.
fn take_free(accepted: &mut Value, wanted: &Value, key: &str, taken: &[String]) -> Result<(), String> {
    let name = text(wanted, key);
    if name != text(accepted, key) && !name.is_empty() && taken.iter().any(|t| t == name) {
        return Err(in_use(name));
    }
    take(accepted, wanted, key);
    Ok(())
}

fn take_short_names(accepted: &mut Value, wanted: &Value, taken: &[String]) -> Result<(), String> {
    let had = short_names(accepted);
    let new = short_names(wanted).into_iter().filter(|n| !had.contains(n));
    let refused: Vec<String> = new.filter(|n| taken.contains(n)).map(|n| in_use(&n)).collect();
    match refused.as_slice() {
        [] => {
            take(accepted, wanted, "shortNames");
            Ok(())
        }
        [only] => Err(only.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// The names that a CRD gets, and the last of the conflicts: where another CRD has one, it stays as it was.
pub fn names(definition: &Value, others: &[&Value]) -> (Value, Option<Said>) {
    let wanted = &definition["spec"]["names"];
    let taken = Taken::by(others);
    let mut accepted = definition["status"]["acceptedNames"].clone();
    if !accepted.is_object() {
        accepted = json!({"kind": "", "plural": ""});
    }
    let tries = [
        ("PluralConflict", take_free(&mut accepted, wanted, "plural", &taken.resources)),
        ("SingularConflict", take_free(&mut accepted, wanted, "singular", &taken.resources)),
        ("ShortNamesConflict", take_short_names(&mut accepted, wanted, &taken.resources)),
        ("KindConflict", take_free(&mut accepted, wanted, "kind", &taken.kinds)),
        ("ListKindConflict", take_free(&mut accepted, wanted, "listKind", &taken.kinds)),
    ];
    // Categories are everybody's.
    take(&mut accepted, wanted, "categories");
    let conflict = tries.into_iter().rev().find_map(|(reason, tried)| tried.err().map(|message| (reason, message)));
    (accepted, conflict)
}

/// Whether a CRD has been taken into service before.
pub fn is_established(definition: &Value) -> bool {
    condition(definition, "Established").is_some_and(|c| c["status"] == "True")
}

fn condition<'v>(definition: &'v Value, kind: &str) -> Option<&'v Value> {
    definition["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

/// The definition whose status is being written.
struct Draft {
    definition: Value,
    now: Timestamp,
}

impl Draft {
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let generation = self.definition["metadata"]["generation"].clone();
        let conditions = &mut self.definition["status"]["conditions"];
        if !conditions.is_array() {
            *conditions = json!([]);
        }
        let Some(list) = conditions.as_array_mut() else { return };
        let mut new = json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": time::format_time(self.now)});
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

    fn unset(&mut self, kind: &str) {
        if let Some(list) = self.definition["status"]["conditions"].as_array_mut() {
            list.retain(|c| c["type"] != kind);
        }
    }
}

/// The CRD with the status it should have; `None` when it has it. `others` are the names that other CRDs of its group have.
pub fn status(definition: &Value, others: &[&Value], now: Timestamp) -> Option<Value> {
    let mut draft = Draft { definition: definition.clone(), now };
    if !draft.definition["status"].is_object() {
        draft.definition["status"] = json!({});
    }
    let (names, conflict) = names(definition, others);
    draft.definition["status"]["acceptedNames"] = names;
    let established = is_established(definition);
    match conflict {
        Some((reason, message)) => {
            draft.set("NamesAccepted", "False", reason, &message);
            if !established {
                draft.set("Established", "False", "NotAccepted", "not all names are accepted");
            }
        }
        None => {
            draft.set("NamesAccepted", "True", "NoConflicts", "no conflicts found");
            draft.set("Established", "True", "InitialNamesAccepted", "the initial names have been accepted");
        }
    }
    structure(&mut draft);
    policy(&mut draft);
    if definition["metadata"].get("deletionTimestamp").is_some() && condition(definition, "Terminating").is_none() {
        draft.set("Terminating", "True", "InstanceDeletionInProgress", "CustomResource deletion is in progress");
    }
    let generation = &definition["metadata"]["generation"];
    if generation.is_i64() || generation.is_u64() {
        draft.definition["status"]["observedGeneration"] = generation.clone();
    }
    (draft.definition["status"] != definition["status"]).then_some(draft.definition)
}

/// Schemas that are not structural are told of; a condition that says otherwise is not kept.
fn structure(draft: &mut Draft) {
    let causes = structural::violations(&draft.definition).into_causes();
    if causes.is_empty() {
        return draft.unset("NonStructuralSchema");
    }
    let told: Vec<String> = causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    draft.set("NonStructuralSchema", "True", "Violations", &told.join("\n"));
}

/// Whether a CRD in a group of Kubernetes' own has been approved.
fn policy(draft: &mut Draft) {
    const KIND: &str = "KubernetesAPIApprovalPolicyConformant";
    if !approval::is_protected(text(&draft.definition["spec"], "group")) {
        return draft.unset(KIND);
    }
    let annotation = draft.definition["metadata"]["annotations"][approval::ANNOTATION].as_str().unwrap_or_default();
    let (state, message) = approval::of(annotation);
    let (status, reason) = match state {
        Approval::Approved => ("True", "ApprovedAnnotation"),
        Approval::Bypassed => ("False", "UnapprovedAnnotation"),
        Approval::Missing => ("False", "MissingAnnotation"),
        Approval::Invalid => ("False", "InvalidAnnotation"),
    };
    draft.set(KIND, status, reason, &message);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd(name: &str, short: &[&str]) -> Value {
        let schema = json!({"openAPIV3Schema": {"type": "object"}});
        json!({"metadata": {"name": format!("{name}s.example.com"), "generation": 3}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": format!("{name}s"), "singular": name, "kind": name, "listKind": format!("{name}List"), "shortNames": short},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}})
    }

    fn told(definition: &Value, kind: &str) -> Option<(String, String, String)> {
        let found = condition(definition, kind)?;
        Some((text(found, "status").to_owned(), text(found, "reason").to_owned(), text(found, "message").to_owned()))
    }

    fn said(status: &str, reason: &str, message: &str) -> Option<(String, String, String)> {
        Some((status.to_owned(), reason.to_owned(), message.to_owned()))
    }

    #[test]
    fn names_that_others_have_are_refused_and_the_rest_accepted() {
        let (mine, other) = (crd("widget", &["w", "x", "y"]), crd("wisp", &["w", "x"]));
        let told_of = status(&mine, &[&other["spec"]["names"]], Timestamp::UNIX_EPOCH).expect("a new status");
        let message = "[\"w\" is already in use, \"x\" is already in use]";
        assert_eq!(told(&told_of, "NamesAccepted"), said("False", "ShortNamesConflict", message));
        assert_eq!(told(&told_of, "Established"), said("False", "NotAccepted", "not all names are accepted"));
        let names = &told_of["status"]["acceptedNames"];
        assert_eq!((names["plural"].as_str(), names.get("shortNames")), (Some("widgets"), None));
        let settled = status(&mine, &[], Timestamp::UNIX_EPOCH).expect("a new status");
        assert_eq!(told(&settled, "Established"), said("True", "InitialNamesAccepted", "the initial names have been accepted"));
        assert_eq!(settled["status"]["observedGeneration"], 3);
        assert_eq!(settled["status"]["acceptedNames"], mine["spec"]["names"]);
        assert!(status(&settled, &[], Timestamp::UNIX_EPOCH).is_none(), "nothing more to say");
    }

    #[test]
    fn approval_and_structure_are_told() {
        let mut mine = crd("widget", &[]);
        mine["spec"]["group"] = json!("widgets.k8s.io");
        let missing = status(&mine, &[], Timestamp::UNIX_EPOCH).expect("a new status");
        assert_eq!(
            told(&missing, "KubernetesAPIApprovalPolicyConformant").map(|t| (t.0, t.1)),
            Some(("False".into(), "MissingAnnotation".into()))
        );
        mine["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "https://example.com/1"});
        let approved = status(&mine, &[], Timestamp::UNIX_EPOCH).expect("a new status");
        assert_eq!(
            told(&approved, "KubernetesAPIApprovalPolicyConformant"),
            said("True", "ApprovedAnnotation", "approved in https://example.com/1")
        );
        assert_eq!(told(&approved, "NonStructuralSchema"), None);
        mine["spec"]["preserveUnknownFields"] = json!(true);
        mine["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"] = json!({"spec": {}});
        let loose = status(&mine, &[], Timestamp::UNIX_EPOCH).expect("a new status");
        let message = "spec.preserveUnknownFields: Invalid value: true: must be false\nspec.versions[0].schema.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields";
        assert_eq!(told(&loose, "NonStructuralSchema"), said("True", "Violations", message));
        mine["spec"]["preserveUnknownFields"] = json!(false);
        mine["status"] = loose["status"].clone();
        mine["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type": "object"});
        let mended = status(&mine, &[], Timestamp::UNIX_EPOCH).expect("a new status");
        assert_eq!(told(&mended, "NonStructuralSchema"), None);
    }
}
