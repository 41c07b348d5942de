//! Every fixture of the upstream round-trip tests goes through every hook of its kind: nothing panics, and defaulting
//! twice is defaulting once.

use crate::context;
use ferrokube_api::field::Errors;
use ferrokube_api::kinds::{self, meta};
use serde_json::Value;
use std::path::Path;

fn fixtures() -> Option<Vec<Value>> {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/data/staging/src/k8s.io/api/testdata/HEAD");
    let files = std::fs::read_dir(at).ok()?.filter_map(|f| Some(f.ok()?.path()));
    let json = files.filter(|f| f.extension().is_some_and(|x| x == "json"));
    Some(json.map(|f| serde_json::from_slice(&std::fs::read(f).unwrap()).unwrap()).collect())
}

#[test]
fn hooks_survive_every_fixture() {
    let Some(fixtures) = fixtures() else {
        eprintln!("SKIP: no ../shared/reference beside the workspace; hooks were not run on upstream fixtures");
        return;
    };
    let mut met = 0;
    for fixture in fixtures {
        let Some(api_version) = fixture["apiVersion"].as_str() else { continue };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let Some(kind) = kinds::lookup_kind(group, version, fixture["kind"].as_str().unwrap_or_default()) else {
            continue;
        };
        met += 1;
        survives(kind, &fixture);
    }
    assert!(met >= 55, "only {met} fixtures belong to built-in kinds");
}

/// Runs every hook on a fixture.
fn survives(kind: &kinds::Kind, fixture: &Value) {
    let hooks = &kind.hooks;
    let mut object = fixture.clone();
    if let Some(default) = hooks.default {
        default(&mut object);
        let once = object.clone();
        default(&mut object);
        assert_eq!(once, object, "{} is not stable under defaulting", kind.kind);
    }
    let mut e = Errors::default();
    meta::validate(kind, &object, &mut e);
    hooks.validate_create.inspect(|validate| validate(&object, &mut e));
    hooks.validate_update.inspect(|validate| validate(&object, &fixture, &mut e));
    hooks.validate_status.inspect(|validate| validate(&object, &fixture, &mut e));
    hooks.grace.inspect(|grace| assert!(grace(&object) != i64::MIN));
    if let Some(cells) = hooks.cells {
        assert_eq!(cells(&object, &context()).len(), kind.columns.len(), "{}", kind.kind);
    }
    for view in hooks.views {
        let mut new = object.clone();
        (view.prepare)(&mut new, &object, &context());
        (view.validate)(&new, &object, &mut e);
    }
    let mut copy = object.clone();
    hooks.prepare_update.inspect(|prepare| prepare(&mut copy, &object, &context()));
    hooks.prepare_status.inspect(|prepare| prepare(&mut copy, &object, &context()));
    hooks.prepare_create.inspect(|prepare| prepare(&mut copy, &context()));
    if let (Some(to), Some(from)) = (hooks.to_storage, hooks.from_storage) {
        let mut stored = object.clone();
        to(&mut stored);
        from(&mut stored);
        to(&mut stored);
        from(&mut stored);
        assert_eq!(stored["kind"], object["kind"]);
    }
}

/// Every part of the value, down to a depth, as a JSON pointer.
fn parts(value: &Value, depth: usize, at: &str, all: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(k, v)| (k.replace('~', "~0").replace('/', "~1"), v)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        _ => Vec::new(),
    };
    for (key, child) in children {
        let at = format!("{at}/{key}");
        if depth > 1 {
            parts(child, depth - 1, &at, all);
        }
        all.push(at);
    }
}

#[test]
fn hooks_survive_objects_that_lack_a_part() {
    const DEPTH: usize = 4;
    let Some(fixtures) = fixtures() else {
        eprintln!("SKIP: no ../shared/reference beside the workspace; hooks were not run on mutilated upstream fixtures");
        return;
    };
    for fixture in fixtures {
        let Some(api_version) = fixture["apiVersion"].as_str() else { continue };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let Some(kind) = kinds::lookup_kind(group, version, fixture["kind"].as_str().unwrap_or_default()) else { continue };
        let mut all = Vec::new();
        parts(&fixture, DEPTH, "", &mut all);
        for path in all.iter().filter(|p| *p != "/kind" && *p != "/apiVersion") {
            let mut less = fixture.clone();
            let (parent, key) = path.rsplit_once('/').unwrap();
            match less.pointer_mut(parent).unwrap() {
                Value::Object(map) => _ = map.remove(&key.replace("~1", "/").replace("~0", "~")),
                Value::Array(list) => _ = list.remove(key.parse::<usize>().unwrap()),
                _ => {}
            }
            survives(kind, &less);
        }
    }
}
