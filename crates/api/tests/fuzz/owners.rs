//! Who owns what, as managers apply and update at random.

use crate::generate;
use ferrokube_api::apply::{Writer, apply, track_update};
use ferrokube_api::decode::{Strictness, normalize};
use ferrokube_api::schema::Schema;
use ferrokube_testkit::fuzz::{Random, assert_same, change, run};
use jiff::Timestamp;
use serde_json::Value;

fn writer<'a>(manager: &'a str, api_version: &'a str, second: i64) -> Writer<'a> {
    Writer {
        manager,
        api_version,
        subresource: "",
        has_status: false,
        status_resets: None,
        versions: None,
        now: Timestamp::from_second(1_800_000_000 + second).expect("in range"),
    }
}

fn without_owners(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    value
}

fn read(value: Value, schema: &Schema) -> Option<Value> {
    normalize(value, schema, Strictness::Ignore).ok().map(|d| d.value)
}

fn configuration(random: &mut Random, schema: &Schema) -> Value {
    // In the form in which it will be stored: what a manager writes in another form than the server shows is, upstream as
    // well, not the same.
    let mut value = read(generate::object(random, schema, 0), schema).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
    }
    value
}

#[test]
fn applying_again_changes_nothing_and_leaving_gives_back() {
    run("apply", 200, |random| {
        let schema = generate::schema(random);
        let Some(version) = schema.root().gvk().map(|g| g.api_version()) else { return };
        let first = configuration(random, &schema);
        let Ok(one) = apply(None, first.clone(), &schema, false, &writer("a", &version, 0)) else { return };
        let Some(one) = read(one, &schema) else { return };
        let again = apply(Some(&one), first.clone(), &schema, false, &writer("a", &version, 9)).expect("nobody else owns anything");
        let again = read(again, &schema).expect("it was read before");
        assert_same(&without_owners(&again), &without_owners(&one), "the same again");
        // Another who says the same is no conflict, and keeps it when the first leaves.
        let both = apply(Some(&one), first.clone(), &schema, false, &writer("b", &version, 1)).expect("the same is no conflict");
        let both = read(both, &schema).expect("it was read before");
        assert_same(&without_owners(&both), &without_owners(&one), "two say the same");
        let mut nothing = first.clone();
        if let Some(map) = nothing.as_object_mut() {
            map.retain(|k, _| matches!(k.as_str(), "apiVersion" | "kind" | "metadata"));
            let name = map["metadata"]["name"].clone();
            map.insert("metadata".into(), serde_json::json!({"name": name}));
        }
        let left = apply(Some(&both), nothing, &schema, false, &writer("a", &version, 2)).expect("leaving is no conflict");
        let left = read(left, &schema).expect("it was read before");
        assert_same(&without_owners(&left), &without_owners(&one), "b still says it");
    });
}

#[test]
fn whatever_managers_do_their_records_can_be_read_and_a_forced_apply_wins() {
    run("owners", 100, |random| {
        let schema = generate::schema(random);
        let Some(version) = schema.root().gvk().map(|g| g.api_version()) else { return };
        let mut live: Option<Value> = None;
        for second in 0..6 {
            let manager = *random.one(&["a", "b", "c"]);
            let writer = writer(manager, &version, second);
            let next = if random.chance(50) {
                let patch = configuration(random, &schema);
                let Ok(next) = apply(live.as_ref(), patch.clone(), &schema, true, &writer) else { continue };
                let Some(next) = read(next, &schema) else { continue };
                // What others leave behind in a struct goes once nobody owns it, and the empty struct with it, which the
                // configuration then brings again: after two more times it is settled.
                let again = |live: &Value| {
                    let applied = apply(Some(live), patch.clone(), &schema, false, &writer).expect("it is all the writer's own");
                    read(applied, &schema).expect("it was read before")
                };
                let settled = again(&again(&next));
                assert_same(&without_owners(&again(&settled)), &without_owners(&settled), "forced and settled");
                next
            } else {
                let mut new = live.clone().unwrap_or_else(|| configuration(random, &schema));
                change(random, &mut new);
                let Some(mut new) = read(new, &schema).filter(|n| n["metadata"].is_object()) else { continue };
                track_update(live.as_ref(), &mut new, &schema, &writer);
                let mut same = new.clone();
                track_update(Some(&new), &mut same, &schema, &writer);
                assert_same(&same, &new, "a write that changes nothing changes no owner");
                new
            };
            live = Some(next);
        }
    });
}
