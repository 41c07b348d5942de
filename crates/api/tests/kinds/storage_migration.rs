//! Migrations to the storage version of now: what is refused, in which words, and what `kubectl get` shows.

use crate::validation::{made, told};
use crate::{context, lines, merge, object, row, update};
use ferrokube_api::field::Errors;
use serde_json::{Value, json};

const KIND: &str = "StorageVersionMigration";

fn of(group: &str, resource: &str) -> Value {
    json!({"spec": {"resource": {"group": group, "resource": resource}}})
}

#[test]
fn a_migration_names_a_resource_and_keeps_to_it() {
    for fine in [of("", "secrets"), of("stable.example.com", "testcrds")] {
        assert_eq!(told(KIND, fine), Vec::<String>::new());
    }
    assert_eq!(told(KIND, of("apps", "")), ["spec.resource.resource: Required value: resource is required to be set"]);
    let odd = told(KIND, of("Apps", "Deployments/status"));
    assert!(odd[0].starts_with("spec.resource.resource: Invalid value: \"Deployments/status\": a DNS-1035 label must"), "{odd:?}");
    assert!(odd[1].starts_with("spec.resource.group: Invalid value: \"Apps\": a lowercase RFC 1123 subdomain must"), "{odd:?}");
    let old = made(KIND, of("apps", "deployments"));
    let mut new = old.clone();
    assert_eq!(update(row(KIND), &mut new, &old), Vec::<String>::new());
    new["spec"]["resource"]["resource"] = json!("replicasets");
    let want = "spec: Invalid value: {\"Resource\":{\"group\":\"apps\",\"resource\":\"replicasets\"}}: field is immutable";
    assert_eq!(update(row(KIND), &mut new, &old), [want]);
}

#[test]
fn a_new_migration_has_no_status() {
    let mut rest = of("", "secrets");
    merge(&mut rest, json!({"status": {"resourceVersion": "3"}}));
    assert_eq!(made(KIND, rest)["status"], json!({}));
}

fn condition(kind: &str, status: &str) -> Value {
    json!({"type": kind, "status": status, "reason": "Why", "message": "", "lastTransitionTime": "2026-06-01T11:00:00Z"})
}

/// A status with these conditions.
fn said(version: &str, conditions: &[(&str, &str)]) -> Value {
    let list: Vec<Value> = conditions.iter().map(|(kind, status)| condition(kind, status)).collect();
    json!({"resourceVersion": version, "conditions": list})
}

fn change(old: Value, new: Value) -> Vec<String> {
    let with = |status: Value| {
        let mut o = object(KIND, of("", "secrets"));
        o["status"] = status;
        o
    };
    let mut e = Errors::default();
    row(KIND).hooks.validate_status.unwrap()(&with(new), &with(old), &mut e);
    lines(e).into_iter().map(|line| line.split_once("]: ").map_or(line.clone(), |(_, why)| why.to_owned())).collect()
}

#[test]
fn what_a_migration_came_to_is_final() {
    let nothing = || json!({});
    for (old, new) in [
        (nothing(), said("", &[("Running", "True")])),
        (said("", &[("Running", "True")]), said("123", &[("Running", "True")])),
        (said("123", &[("Running", "True")]), said("123", &[("Running", "False"), ("Succeeded", "True")])),
        (said("123", &[("Running", "True")]), said("123", &[("Running", "True"), ("Failed", "True")])),
        (said("123", &[("Failed", "True")]), said("123", &[("Failed", "True")])),
    ] {
        assert_eq!(change(old, new), Vec::<String>::new());
    }
    for (old, new, want) in [
        (said("123", &[]), said("456", &[]), "status.resourceVersion: Invalid value: \"456\": field is immutable"),
        (said("", &[]), said("abc", &[]), "status.resourceVersion: Invalid value: \"abc\": resource version is not well formed: abc"),
        (said("", &[]), said("0", &[]), "status.resourceVersion: Invalid value: \"0\": resource version is not well formed: 0"),
        (
            nothing(),
            said("", &[("Succeeded", "True"), ("Failed", "True")]),
            "Both success and failed conditions cannot be true at the same time",
        ),
        (
            said("1", &[("Succeeded", "True")]),
            said("1", &[("Succeeded", "False")]),
            "Success condition cannot be set to false once it is true",
        ),
        (said("1", &[("Failed", "True")]), said("1", &[]), "Failed condition cannot be set to false once it is true"),
    ] {
        assert_eq!(change(old, new), [want]);
    }
    let reasonless = json!({"conditions": [{"type": "Running", "status": "True", "lastTransitionTime": "2026-06-01T11:00:00Z"}]});
    assert_eq!(change(nothing(), reasonless), ["status.conditions[0].reason: Required value: must be set"]);
}

#[test]
fn a_table_shows_what_is_migrated_and_how_far_it_is() {
    let cells = |group: &str, conditions: &[(&str, &str)]| {
        let mut o = object(KIND, of(group, "widgets"));
        o["status"] = said("1", conditions);
        row(KIND).hooks.cells.unwrap()(&o, &context())
    };
    assert_eq!(cells("example.com", &[]), [json!("a"), json!("widgets.example.com"), json!("")]);
    assert_eq!(cells("", &[("Running", "True")]), [json!("a"), json!("widgets"), json!("Running")]);
    assert_eq!(cells("", &[("Running", "False"), ("Failed", "True")])[2], "Failed");
    assert_eq!(cells("", &[("Running", "False"), ("Succeeded", "True")])[2], "Succeeded");
}
