//! Patches against what their documents say of them.

use crate::generate;
use ferrokube_api::decode::{Strictness, normalize};
use ferrokube_api::patch::{json_patch, merge_patch, strategic_merge};
use ferrokube_testkit::fuzz::{Random, assert_same, change, run, text, value};
use serde_json::{Map, Value, json};

/// RFC 7396, word by word.
fn merged(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = if let Value::Object(map) = target { map } else { Map::new() };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let old = target.remove(name).unwrap_or_default();
            target.insert(name.clone(), merged(old, value));
        }
    }
    Value::Object(target)
}

#[test]
fn a_merge_patch_does_what_the_rfc_says() {
    run("merge", 800, |random| {
        let schema = generate::schema(random);
        let document = generate::object(random, &schema, 3);
        let mut patch = if random.chance(50) { document.clone() } else { value(random, 3) };
        (0..random.below(5)).for_each(|_| change(random, &mut patch));
        let mut found = document.clone();
        match merge_patch(&mut found, &patch) {
            Ok(()) => {
                assert_eq!(found, merged(document, &patch));
                let once = found.clone();
                merge_patch(&mut found, &patch).expect("it went before");
                assert_eq!(found, once, "a second time changes nothing");
            }
            Err(_) => assert!(!patch.is_object() && found == document),
        }
    });
}

fn pointer(random: &mut Random, value: &Value, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() && random.chance(85) => {
            let key = map.keys().nth(random.below(map.len())).expect("not empty");
            out.push('/');
            out.push_str(&key.replace('~', "~0").replace('/', "~1"));
            pointer(random, &map[key], out);
        }
        Value::Array(list) if random.chance(85) => {
            let at = random.below(list.len() + 1);
            out.push_str(&if random.chance(10) { "/-".to_owned() } else { format!("/{at}") });
            list.get(at).into_iter().for_each(|v| pointer(random, v, out));
        }
        _ if random.chance(20) => {
            out.push('/');
            out.push_str(&text(random));
        }
        _ => {}
    }
}

fn operation(random: &mut Random, document: &Value) -> Value {
    let (mut path, mut from) = (String::new(), String::new());
    pointer(random, document, &mut path);
    pointer(random, document, &mut from);
    let name = *random.one(&["add", "remove", "replace", "move", "copy", "test", "add", "replace"]);
    let value = document.pointer(&path).filter(|_| name == "test").cloned().unwrap_or_else(|| value(random, 2));
    json!({"op": name, "path": path, "from": from, "value": value})
}

#[test]
fn a_json_patch_is_its_operations_one_after_the_other() {
    run("json-patch", 1000, |random| {
        let schema = generate::schema(random);
        let document = generate::object(random, &schema, 0);
        let mut operations: Vec<Value> = (0..1 + random.below(5)).map(|_| operation(random, &document)).collect();
        if random.chance(10) {
            let at = random.below(operations.len());
            change(random, &mut operations[at]);
        }
        let mut found = document.clone();
        match json_patch(&mut found, &operations.clone().into()) {
            Err(_) => assert_same(&found, &document, "nothing of a patch that fails stays"),
            Ok(()) => {
                // One after the other comes to the same.
                let mut step = document;
                for operation in &operations {
                    json_patch(&mut step, &json!([operation])).expect("it went with the others");
                }
                assert_eq!(step, found);
                if let Some(last) = operations.last().filter(|o| matches!(o["op"].as_str(), Some("add" | "replace" | "test"))) {
                    let path = last["path"].as_str().unwrap_or_default();
                    let there = found.pointer(path);
                    // What is not there is the same as null to a test.
                    let absent = there.is_none() && last["op"] == "test" && last["value"].is_null();
                    assert!(path.ends_with("/-") || absent || there == Some(&last["value"]), "{last} {found}");
                }
            }
        }
    });
}

/// What list elements are told apart by, in one list or another.
const MERGE_KEYS: [&str; 9] = ["name", "containerPort", "port", "mountPath", "devicePath", "ip", "uid", "type", "topologyKey"];

/// Whether no two elements of a list are the same or go by the same name: nobody could say which of them is meant.
fn told_apart(list: &[Value]) -> bool {
    let same = |a: &Value, b: &Value| a == b || MERGE_KEYS.iter().any(|key| a.get(key).is_some_and(|v| b.get(key) == Some(v)));
    list.iter().enumerate().all(|(at, value)| !list[..at].iter().any(|other| same(value, other)))
}

/// No directive and no `null`, and what list elements are told apart by is there, and different.
fn plain(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().all(|(k, v)| !k.starts_with('$') && !v.is_null() && plain(v)),
        Value::Array(list) => told_apart(list) && list.iter().all(plain),
        _ => true,
    }
}

#[test]
fn a_strategic_patch_with_nothing_changes_nothing_and_a_plain_one_only_once() {
    run("strategic", 800, |random| {
        let schema = generate::schema(random);
        let object = |random: &mut Random| generate::object(random, &schema, 0);
        let Ok(live) = normalize(object(random), &schema, Strictness::Ignore) else { return };
        let live = live.value;
        let mut same = live.clone();
        strategic_merge(&mut same, json!({}), &schema).expect("there is nothing to refuse");
        assert_eq!(same, live);
        let mut patch = object(random);
        if random.chance(40) {
            for _ in 0..random.below(4) {
                change(random, &mut patch);
            }
            if !patch.is_object() {
                return;
            }
            let directive = (*random.one(&["replace", "delete", "merge", "x"])).into();
            if let Some(spec) = patch["spec"].as_object_mut().filter(|_| random.chance(30)) {
                spec.insert("$patch".into(), directive);
            }
            if let Some(spec) = patch["spec"].as_object_mut().filter(|_| random.chance(30)) {
                let name = (*random.one(&["$setElementOrder/containers", "$deleteFromPrimitiveList/x", "$retainKeys"])).into();
                spec.insert(name, value(random, 2));
            }
        }
        let plain = plain(&patch);
        let mut once = live.clone();
        if strategic_merge(&mut once, patch.clone(), &schema).is_err() {
            return;
        }
        let mut twice = once.clone();
        // An element without its key is taken where there was no list, and refused where there is one, upstream as well.
        if plain && strategic_merge(&mut twice, patch, &schema).is_ok() {
            assert_same(&twice, &once, "a second time changes nothing");
        }
    });
}
