//! What API servers say of the versions they store: what is refused, in which words, and what `kubectl get` shows.

use crate::{context, create, lines, object, row};
use ferrokube_api::field::Errors;
use ferrokube_api::kinds::storage_version::{keep, say, servers};
use jiff::Timestamp;
use serde_json::{Value, json};

const KIND: &str = "StorageVersion";

fn named(name: &str) -> Value {
    let mut o = object(KIND, json!({"spec": {}}));
    o["metadata"]["name"] = json!(name);
    o
}

#[test]
fn a_name_is_a_group_and_a_resource_and_a_new_one_has_no_status() {
    let made = |name: &str| create(row(KIND), &mut named(name));
    for fine in ["core.pods", "apps.deployments", "storage.k8s.io.csinodes"] {
        assert_eq!(made(fine), Vec::<String>::new());
    }
    assert_eq!(made("pods"), ["metadata.name: Invalid value: \"pods\": name must be in the form of <group>.<resource>"]);
    let odd = made("Apps.Deployments");
    assert!(odd[0].starts_with("metadata.name: Invalid value: \"Apps.Deployments\": the group segment a lowercase RFC 1123"), "{odd:?}");
    assert!(odd[1].starts_with("metadata.name: Invalid value: \"Apps.Deployments\": the resource segment a DNS-1035"), "{odd:?}");
    let mut o = named("core.pods");
    o["status"] = json!({"commonEncodingVersion": "v1"});
    create(row(KIND), &mut o);
    assert_eq!(o["status"], json!({}));
}

fn at(hour: u8) -> Timestamp {
    format!("2026-06-01T{hour:02}:00:00Z").parse().unwrap()
}

fn server(id: &str, version: &str) -> Value {
    json!({"apiServerID": id, "encodingVersion": version, "decodableVersions": ["apps/v1", version], "servedVersions": ["apps/v1"]})
}

/// Version that is common, state, reason and since when.
fn told(o: &Value) -> [&str; 4] {
    let condition = &o["status"]["conditions"][0];
    let text = |v: &'static str| condition[v].as_str().unwrap();
    [o["status"]["commonEncodingVersion"].as_str().unwrap_or_default(), text("status"), text("reason"), &text("lastTransitionTime")[11..13]]
}

#[test]
fn servers_agree_or_not_and_since_when_is_kept() {
    let mut o = named("apps.deployments");
    say(&mut o, &server("a", "apps/v1"), at(1));
    assert_eq!(told(&o), ["apps/v1", "True", "CommonEncodingVersionSet", "01"]);
    say(&mut o, &server("b", "apps/v1"), at(2));
    assert_eq!((told(&o)[3], servers(&o).count()), ("01", 2), "they agree as before");
    say(&mut o, &server("b", "apps/v2"), at(3));
    assert_eq!(told(&o), ["", "False", "CommonEncodingVersionUnset", "03"]);
    say(&mut o, &server("a", "apps/v2"), at(4));
    assert_eq!(told(&o), ["apps/v2", "True", "CommonEncodingVersionSet", "04"]);
    let same = o.clone();
    say(&mut o, &server("a", "apps/v2"), at(5));
    assert_eq!(o, same, "nothing new");
    assert!(!keep(&mut o, |_| true, at(6)) && o == same);
    assert!(keep(&mut o, |id| id == "b", at(6)));
    assert_eq!((told(&o)[3], servers(&o).collect::<Vec<_>>()), ("04", vec!["b"]));
    let mut alone = named("apps.deployments");
    say(&mut alone, &server("a", "apps/v1"), at(1));
    say(&mut alone, &server("a", "apps/v2"), at(2));
    assert_eq!(told(&alone)[3], "02", "they agree, and on another one than before");
}

fn change(status: Value) -> Vec<String> {
    let (old, mut new) = (named("apps.deployments"), named("apps.deployments"));
    new["status"] = status;
    let mut e = Errors::default();
    row(KIND).hooks.validate_status.unwrap()(&new, &old, &mut e);
    lines(e)
}

#[test]
fn a_status_says_what_is_so() {
    let mut fine = named("apps.deployments");
    say(&mut fine, &server("a", "apps/v1"), at(1));
    assert_eq!(change(fine["status"].clone()), Vec::<String>::new());
    assert_eq!(change(json!({})), Vec::<String>::new());
    let two = |common: Value| {
        let mut status = json!({"storageVersions": [server("a", "apps/v1"), server("b", "apps/v2")]});
        if !common.is_null() {
            status["commonEncodingVersion"] = common;
        }
        status
    };
    assert_eq!(change(two(Value::Null)), Vec::<String>::new());
    let path = "status.commonEncodingVersion: Invalid value: ";
    assert_eq!(
        change(two(json!("apps/v1"))),
        [format!(
            "{path}\"apps/v1\": should be nil if servers do not agree on the same encoding version, or if there is no server reporting the supported versions yet"
        )]
    );
    let one = |common: Option<&str>| change(json!({"storageVersions": [server("a", "apps/v1")], "commonEncodingVersion": common}));
    assert_eq!(one(None), [format!("{path}\"null\": the common encoding version is apps/v1")]);
    assert_eq!(one(Some("v1")), [format!("{path}\"v1\": the actual common encoding version is apps/v1")]);
}

#[test]
fn versions_have_a_form_and_conditions_a_reason() {
    let one = |id: &str, encoding: &str, decodable: Value| {
        let server = json!({"apiServerID": id, "encodingVersion": encoding, "decodableVersions": decodable});
        change(json!({"storageVersions": [server], "commonEncodingVersion": encoding}))
    };
    let path = "status.storageVersions[0]";
    assert_eq!(
        one("a", "apps/v1", json!(["v1"])),
        [format!("{path}.decodableVersions: Invalid value: [\"v1\"]: decodableVersions must include encodingVersion apps/v1")]
    );
    let odd = one("A", "/V1", json!(["a/b/c", "/V1"]));
    assert!(odd[0].starts_with(&format!("{path}.apiServerID: Invalid value: \"A\": a lowercase RFC 1123 subdomain")), "{odd:?}");
    let want = format!("{path}.encodingVersion: Invalid value: \"/V1\": group part: must be non-empty,version part: a DNS-1035 label");
    assert!(odd[1].starts_with(&want), "{odd:?}");
    let want = format!("{path}.decodableVersions[0]: Invalid value: \"a/b/c\": an apiVersion is a DNS-1035 label");
    assert!(odd[2].starts_with(&want) && odd[2].ends_with("and '/' (e.g. 'example.com/MyVersion')"), "{odd:?}");
    let condition = json!({"type": "Known", "status": "True", "reason": "", "message": ""});
    assert_eq!(
        change(json!({"conditions": [condition, {"type": "Known", "status": "True", "reason": "Why", "message": "so"}]})),
        [
            "status[0].reason: Required value: reason cannot be empty",
            "status[0].message: Required value: message cannot be empty",
            "status[1].type: Invalid value: \"Known\": the type of the condition is not unique, it also appears in conditions[0]",
        ]
    );
}

#[test]
fn a_table_shows_what_each_server_stores() {
    let mut o = named("apps.deployments");
    let cells = |o: &Value| row(KIND).hooks.cells.unwrap()(o, &context());
    assert_eq!(cells(&o)[..3], [json!("apps.deployments"), json!("<unset>"), json!("")]);
    for id in ["a", "b", "c", "d"] {
        say(&mut o, &server(id, "apps/v1"), at(1));
    }
    assert_eq!(cells(&o)[1..3], [json!("apps/v1"), json!("a=apps/v1,b=apps/v1,c=apps/v1 + 1 more...")]);
}
