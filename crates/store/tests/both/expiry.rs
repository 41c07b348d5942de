//! Times to live.

use crate::harness::{Harness, for_both_engines, key, next_event};
use bytes::Bytes;
use ferrokube_store::{Error, Event, Expect};
use std::time::{Duration, Instant};

async fn goes(harness: &Harness) {
    let store = harness.open().await;
    let base = store.revision().await.expect("revision");
    let mut watch = store.watch(key(0), key(9), base).await.expect("a watch");
    let (ttl, asked) = (harness.shortest_ttl(), Instant::now());
    let put = store.put(key(1), Bytes::from_static(b"x"), Expect::Any, Some(ttl)).await.expect("written");
    assert!(matches!(next_event(&mut watch).await, Event::Put(kv) if kv.mod_revision == put.revision));
    assert!(matches!(next_event(&mut watch).await, Event::Delete { key: k, revision } if k == key(1) && revision > put.revision));
    assert!(asked.elapsed() >= ttl, "not before its time");
    assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
    assert_eq!(store.get(key(1)).await.expect("reads"), None);
}

async fn later_write_wins(harness: &Harness) {
    let store = harness.open().await;
    let short = Some(harness.shortest_ttl());
    store.put(key(1), Bytes::new(), Expect::Any, short).await.expect("written");
    store.put(key(1), Bytes::new(), Expect::Any, None).await.expect("written");
    store.put(key(2), Bytes::new(), Expect::Any, short).await.expect("written");
    // On a slow machine its time may have passed by now.
    let deleted = store.delete(key(2), Expect::Any).await;
    assert!(matches!(deleted, Ok(_) | Err(Error::Conflict { actual: None })), "{deleted:?}");
    store.put(key(2), Bytes::new(), Expect::Any, Some(Duration::from_secs(3600))).await.expect("written");
    // The third key's expiry tells that the time of the others has passed as well.
    let last = store.put(key(3), Bytes::new(), Expect::Any, short.map(|short| short * 2)).await.expect("written");
    let mut watch = store.watch(key(0), key(9), last.revision).await.expect("a watch");
    assert!(matches!(next_event(&mut watch).await, Event::Delete { key: k, .. } if k == key(3)));
    assert!(store.get(key(1)).await.expect("reads").is_some());
    assert!(store.get(key(2)).await.expect("reads").is_some());
}

for_both_engines! {
    a_key_goes_when_its_time_has_passed_with_a_revision_and_an_event => super::goes,
    a_later_write_or_delete_takes_the_deadline_away => super::later_write_wins,
}
