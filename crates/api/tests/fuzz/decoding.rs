//! JSON, YAML and protobuf bodies, of built-in and of custom kinds.

use crate::generate;
use ferrokube_api::decode::{ContentType, Decoded, Strictness, decode, normalize, parse};
use ferrokube_api::protobuf;
use ferrokube_api::schema::{Gvk, Schema, set_defaults};
use ferrokube_testkit::fuzz::{Random, assert_same, change, damage, run, text, value};
use serde_json::{Value, json};

/// What is true of any body: the three ways to treat unknown fields differ in nothing else, and what was read is read
/// again as the same.
fn check_body(bytes: &[u8], content: ContentType, schema: &Schema) -> Option<Decoded> {
    let warned = decode(bytes, content, schema, Strictness::Warn);
    let ignored = decode(bytes, content, schema, Strictness::Ignore);
    let strict = decode(bytes, content, schema, Strictness::Strict);
    let Ok(read) = warned else {
        assert!(ignored.is_err() && strict.is_err(), "what one refuses all refuse");
        return None;
    };
    let ignored = ignored.expect("unknown fields are no reason");
    assert_eq!(ignored.value, read.value);
    assert!(ignored.warnings.is_empty());
    assert_eq!(strict.is_ok(), read.warnings.is_empty(), "{:?}", read.warnings);
    let again = decode(read.value.to_string().as_bytes(), ContentType::Json, schema, Strictness::Strict);
    let again = again.unwrap_or_else(|e| panic!("it was read before: {e:?}\n{:#}", read.value));
    assert_same(&again.value, &read.value, "reading is idempotent");
    assert_eq!(normalize(read.value.clone(), schema, Strictness::Strict).expect("it was read before").value, read.value);
    Some(read)
}

#[test]
fn a_json_body_is_read_in_the_same_way_whatever_is_said_of_unknown_fields() {
    run("json", 400, |random| {
        let schema = generate::schema(random);
        let wrong = *random.one(&[0, 0, 1, 4]);
        let mut bytes = generate::object(random, &schema, wrong).to_string().into_bytes();
        if random.chance(60) {
            damage(random, &mut bytes);
        }
        check_body(&bytes, ContentType::Json, &schema);
    });
}

#[test]
fn json_is_yaml_and_damaged_yaml_is_an_answer() {
    run("yaml", 200, |random| {
        let schema = generate::schema(random);
        let object = generate::object(random, &schema, 0);
        let mut bytes = object.to_string().into_bytes();
        if random.chance(60) {
            damage(random, &mut bytes);
            damage(random, &mut bytes);
            check_body(&bytes, ContentType::Yaml, &schema);
            let _ = parse(&bytes, ContentType::Yaml);
        }
    });
}

#[test]
fn protobuf_carries_what_json_says() {
    run("protobuf", 400, |random| {
        let schema = generate::schema(random);
        let object = generate::object(random, &schema, 0);
        let Ok(Decoded { value: object, .. }) = normalize(object, &schema, Strictness::Ignore) else { return };
        let mut bytes = protobuf::write(object.to_string().as_bytes(), &schema).expect("it is an object");
        let read = |bytes: &[u8]| protobuf::read(bytes, &schema).ok().map(|v| normalize(v, &schema, Strictness::Ignore));
        let there = read(&bytes).expect("it was written").expect("it fits").value;
        let back = protobuf::write(there.to_string().as_bytes(), &schema).expect("it is an object");
        assert_eq!(read(&back).expect("it was written").expect("it fits").value, there, "the second way changes nothing");
        damage(random, &mut bytes);
        if let Some(Ok(found)) = read(&bytes) {
            let again = protobuf::write(found.value.to_string().as_bytes(), &schema);
            let again = again.unwrap_or_else(|e| panic!("{e}: {}", found.value));
            let again = read(&again).expect("it was written").expect("it fits").value;
            assert_eq!(
                protobuf::write(again.to_string().as_bytes(), &schema).ok(),
                protobuf::write(found.value.to_string().as_bytes(), &schema).ok()
            );
        }
    });
}

/// A structural schema, mostly.
fn custom(random: &mut Random, depth: usize) -> Value {
    let mut schema = match random.below(if depth == 0 { 5 } else { 9 }) {
        0 => json!({"type": "string"}),
        1 => json!({"type": "integer"}),
        2 => json!({"type": "boolean"}),
        3 => json!({"type": "number"}),
        4 => json!({"x-kubernetes-int-or-string": true}),
        5 => json!({"type": "array", "items": custom(random, depth - 1)}),
        6 => json!({"type": "object", "additionalProperties": custom(random, depth - 1)}),
        _ => {
            let names = ["a", "b", "c", "apiVersion", "metadata"];
            let properties: serde_json::Map<String, Value> =
                (0..random.below(4)).map(|_| ((*random.one(&names)).to_owned(), custom(random, depth - 1))).collect();
            json!({"type": "object", "properties": properties})
        }
    };
    for (key, percent) in [("nullable", 15), ("x-kubernetes-preserve-unknown-fields", 10), ("x-kubernetes-embedded-resource", 4)] {
        if random.chance(percent) {
            schema[key] = true.into();
        }
    }
    if random.chance(25) {
        schema["default"] = fitting(random, &schema);
    }
    if random.chance(3) {
        change(random, &mut schema);
    }
    schema
}

/// A value of a schema.
fn fitting(random: &mut Random, schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("string") => text(random).into(),
        Some("integer") => 7.into(),
        Some("boolean") => true.into(),
        Some("number") => 1.5.into(),
        Some("array") => (0..random.below(3)).map(|_| fitting(random, &schema["items"])).collect(),
        Some("object") => {
            let declared = schema["properties"].as_object().into_iter().flatten();
            let mut map: serde_json::Map<String, Value> = declared.filter(|_| true).map(|(k, s)| (k.clone(), fitting(random, s))).collect();
            map.retain(|_, _| random.chance(60));
            if random.chance(15) {
                map.insert(text(random), value(random, 1));
            }
            map.into()
        }
        _ => 1.into(),
    }
}

#[test]
fn pruning_and_defaulting_of_custom_objects_are_done_once_and_for_all() {
    let gvk = || Gvk { group: "example.com".into(), version: "v1".into(), kind: "Thing".into() };
    run("custom", 1000, |random| {
        let root = json!({"type": "object", "properties": {"spec": custom(random, 4), "status": custom(random, 2)}});
        let Ok(schema) = Schema::custom(gvk(), Some(&root)) else { return };
        let mut object = fitting(random, &root);
        for _ in 0..random.below(4) {
            change(random, &mut object);
        }
        if let Value::Object(map) = &mut object {
            map.insert("apiVersion".into(), "example.com/v1".into());
            map.insert("kind".into(), "Thing".into());
            map.insert("metadata".into(), json!({"name": "a"}));
        }
        let mut bytes = object.to_string().into_bytes();
        if random.chance(20) {
            damage(random, &mut bytes);
        }
        let Some(read) = check_body(&bytes, ContentType::Json, &schema) else { return };
        let mut defaulted = read.value;
        set_defaults(&mut defaulted, schema.root());
        let mut again = defaulted.clone();
        set_defaults(&mut again, schema.root());
        assert_same(&again, &defaulted, "defaulting is idempotent");
    });
}
