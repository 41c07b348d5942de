//! What is packed in the cache reads as if it were not.

use super::kind::{KindCache, Range};
use super::{EventType, Interest, outline};
use bytes::Bytes;
use ferrokube_api::Object;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;

type Key = (String, String);
/// What a client sees, by key.
type Model = BTreeMap<Key, (u64, Bytes)>;

fn cache() -> Arc<KindCache> {
    let pods = ferrokube_api::kinds::builtin().iter().find(|kind| kind.kind == "Pod").expect("a row");
    Arc::new(KindCache::new(Arc::new(pods.clone()), "pods".to_owned(), None))
}

/// A pod of one of a few origins, as it is stored. Some are unlike all others, some are too short to be packed.
fn stored(random: &mut StdRng, (namespace, name): &Key) -> Bytes {
    let origin = name.split('-').next().unwrap_or_default().repeat(20);
    let more: String = match random.random_range(0..10) {
        0 => (0..random.random_range(0..4000)).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect(),
        1 => String::new(),
        _ => (0..60).map(|n| format!(r#""{origin}-{n}":"{}","#, n * origin.len())).collect(),
    };
    let status = random.random_range(0..1000);
    let annotations = format!(r#""annotations":{{{}}},"#, more.trim_end_matches(','));
    let annotations = if more.contains(':') { annotations } else { format!(r#""annotations":{{"a":"{more}"}},"#) };
    format!(
        r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{{annotations}"labels":{{"app":"{origin}"}},"name":"{name}","namespace":"{namespace}"}},"spec":{{"nodeName":"n{status}"}},"status":{{"phase":"Running","podIP":"10.0.0.{status}"}}}}"#
    )
    .into()
}

fn shown(objects: &[Arc<Object>]) -> Vec<(Key, u64, Bytes)> {
    objects.iter().map(|o| ((o.key.namespace.to_string(), o.key.name.to_string()), o.revision, o.json())).collect()
}

fn expected(model: &Model, namespace: &str) -> Vec<(Key, u64, Bytes)> {
    let inside = model.iter().filter(|((ns, _), _)| namespace.is_empty() || ns == namespace);
    inside.map(|(key, (revision, json))| (key.clone(), *revision, json.clone())).collect()
}

fn packed(cache: &KindCache) -> usize {
    cache.list("").iter().filter(|o| o.json.template().is_some()).count()
}

/// Everything that a client can ask of a cache whose objects are packed as they grow old, compared with a map of plain bytes.
#[test]
fn objects_packed_in_the_cache_are_shown_as_they_were_written() {
    let mut random = StdRng::seed_from_u64(11);
    let (cache, mut model) = (cache(), Model::new());
    let (_, mut watch) = cache.watch_with_objects(Arc::new(Interest::all()), 0);
    let mut past: Vec<(u64, Model)> = Vec::new();
    for revision in 1..=6_000u64 {
        let grow = random.random_range(0..6_000) > revision / 2;
        let origin = ["web", "db", "job", "x"][random.random_range(0..4)];
        let key = (format!("ns{}", random.random_range(0..3)), format!("{origin}-{}", random.random_range(0..400)));
        let before = model.get(&key).cloned();
        let after = grow.then(|| stored(&mut random, &key));
        let passed = match &after {
            Some(stored) => {
                let json = outline::splice(stored, revision).expect("an object");
                model.insert(key.clone(), (revision, json));
                cache.put(&key.0, &key.1, stored, revision)
            }
            None => {
                model.remove(&key);
                cache.delete(&key.0, &key.1, revision)
            }
        };
        passed.iter().for_each(|event| cache.pack(event));

        if before.is_none() && after.is_none() {
            assert!(watch.ready().is_none());
        } else {
            let event = watch.ready().expect("an event");
            let (kind, object) = event.project(|_| true).expect("a change");
            let (wanted, json) = match (&before, &after) {
                (None, _) => (EventType::Added, model[&key].1.clone()),
                (Some(_), Some(_)) => (EventType::Modified, model[&key].1.clone()),
                (Some((_, json)), None) => (EventType::Deleted, outline::splice(&outline::unsplice(json), revision).expect("an object")),
            };
            assert_eq!((kind, object.json()), (wanted, json));
        }
        let found = cache.get(&key.0, &key.1);
        assert_eq!(found.map(|o| o.json()), model.get(&key).map(|(_, json)| json.clone()));
        if revision % 500 == 0 {
            assert_eq!(shown(&cache.list("")), expected(&model, ""));
            let page = Range { namespace: "ns1", after: Some(("ns1", "job-2")), limit: 50 };
            let rest: Vec<_> = expected(&model, "ns1").into_iter().filter(|((_, name), _, _)| name.as_str() > "job-2").collect();
            let snapshot = cache.snapshot(page, revision, |_| true);
            assert_eq!(shown(&snapshot.objects), rest.iter().take(50).cloned().collect::<Vec<_>>());
            assert_eq!(snapshot.remaining, rest.len().saturating_sub(50));
            past.push((revision, model.clone()));
        }
    }
    let readable: Vec<_> =
        past.iter().filter_map(|(at, model)| Some((cache.snapshot_at(Range::default(), *at, |_| true).ok()?, model))).collect();
    assert!(readable.len() > 2, "history covers some of the past");
    for (snapshot, model) in readable {
        assert_eq!(shown(&snapshot.objects), expected(model, ""));
    }
    let (all, packed) = (model.len(), packed(&cache));
    assert!(packed * 2 > all, "{packed} of {all} are packed");
}

/// What a server finds at its start is packed before anyone asks for it, and read by everyone.
#[test]
fn objects_packed_while_they_are_loaded_are_shown_as_they_are_stored() {
    let mut random = StdRng::seed_from_u64(12);
    let (cache, mut objects, mut model) = (cache(), Vec::<Arc<Object>>::new(), Model::new());
    for n in 0..2_000u64 {
        let key = ("ns".to_owned(), format!("{}-{n:05}", if n < 1000 { "a" } else { "b" }));
        let stored = stored(&mut random, &key);
        model.insert(key, (n + 1, outline::splice(&stored, n + 1).expect("an object")));
        let object = outline::object(&cache.row().fields, &stored, n + 1, objects.last().map(Arc::as_ref)).expect("an object");
        cache.pack_next(&object, objects.last());
        objects.push(Arc::new(object));
    }
    cache.load(objects, 2_000);
    assert_eq!(shown(&cache.list("")), expected(&model, ""));
    assert!(packed(&cache) > 1_500);
    let plain: usize = model.values().map(|(_, json)| json.len()).sum();
    assert_eq!(cache.size(), (2_000, plain), "the size is that of what is shown");
}
