//! Where watches begin and what they refuse; pages that need several answers.

use crate::harness::{Harness, for_both_engines, key, next_event};
use bytes::Bytes;
use ferrokube_store::{Error, Event, Expect, Page, prefix_end};
use futures_util::{StreamExt, TryStreamExt};

async fn refuses(harness: &Harness) {
    let store = harness.open().await;
    let mut last = 0;
    for _ in 0..6 {
        last = store.put(key(1), Bytes::from_static(b"x"), Expect::Any, None).await.expect("written").revision;
    }
    let compacted = last - 2;
    store.compact(compacted).await.expect("compacted");
    store.compact(compacted - 1).await.expect("what is compacted further already is no error");
    let refused = store.watch(key(0), key(9), compacted - 1).await.err();
    assert!(matches!(refused, Some(Error::Compacted { oldest }) if oldest == compacted), "{refused:?}");
    let refused = store.range(key(0), key(9), Some(compacted - 1), 0).await.err();
    assert!(matches!(refused, Some(Error::Compacted { oldest }) if oldest == compacted), "{refused:?}");
    let refused = store.watch(key(0), key(9), last + 50).await.err();
    assert!(matches!(refused, Some(Error::Future { asked, current }) if asked == last + 50 && current >= last), "{refused:?}");
    let refused = store.compact(last + 50).await.err();
    assert!(matches!(refused, Some(Error::Future { .. })), "{refused:?}");
    let mut watch = store.watch(key(0), key(9), compacted).await.expect("from the compacted revision on");
    assert_eq!(next_event(&mut watch).await.revision(), compacted + 1);
}

async fn ends(harness: &Harness) {
    let store = harness.open().await;
    let base = store.revision().await.expect("revision");
    let mut watch = store.watch(key(0), key(9), base).await.expect("a watch");
    drop(store);
    assert!(matches!(watch.next().await, Some(Err(Error::Unavailable(_)))));
    assert!(watch.next().await.is_none());
}

async fn pages(harness: &Harness) {
    let store = harness.open().await;
    // More than one answer of etcd has, and one value larger than a gRPC message is by default.
    let writes = (0..1300).map(|n| store.put(key(n), Bytes::from(format!("value {n}")), Expect::Absent, None));
    futures_util::future::try_join_all(writes).await.expect("written");
    store.put(key(700), Bytes::from(vec![b'x'; 1_400_000]), Expect::Any, None).await.expect("a large value");
    let all = store.range(key(0), prefix_end(b"/registry/things/"), None, 0).await.expect("reads");
    assert_eq!((all.items.len(), all.count, all.more), (1300, 1300, false));
    assert!(all.items.iter().enumerate().all(|(n, kv)| kv.key == key(n)));
    let some = store.range(key(100), prefix_end(b"/registry/things/"), Some(all.revision), 900).await.expect("reads");
    assert_eq!((some.items.len(), some.count, some.more), (900, 1200, true));
    assert_eq!(some.items[..], all.items[100..1000]);
    // Large values make many pages of a scan.
    let large = (0..8).map(|n| store.put(key(n), Bytes::from(vec![b'x'; 1_400_000]), Expect::Any, None));
    futures_util::future::try_join_all(large).await.expect("large values");
    let all = store.range(key(0), prefix_end(b"/registry/things/"), None, 0).await.expect("reads");
    let pages: Vec<Page> =
        store.scan(key(0), prefix_end(b"/registry/things/"), None).await.expect("reads").try_collect().await.expect("pages");
    assert!(pages.len() > 1 && pages.iter().all(|page| page.revision == all.revision && page.count == 1300));
    assert!(pages.iter().rev().map(|page| page.more).eq((0..pages.len()).map(|n| n > 0)));
    assert!(pages.into_iter().flat_map(|page| page.items).eq(all.items));
    assert_eq!(store.get(key(700)).await.expect("reads").map(|kv| kv.value.len()), Some(1_400_000));
    assert!(store.size_on_disk().await.expect("size") > 0);
}

async fn too_large(harness: &Harness) {
    let store = harness.open().await;
    let refused = store.put(key(1), Bytes::from(vec![0; 70 << 20]), Expect::Any, None).await.err();
    assert!(matches!(refused, Some(Error::TooLarge(_))), "{refused:?}");
    store.put(key(1), Bytes::from_static(b"x"), Expect::Absent, None).await.expect("goes on");
}

async fn deletes(harness: &Harness) {
    let store = harness.open().await;
    let refused = store.delete(key(1), Expect::Any).await.err();
    assert!(matches!(refused, Some(Error::Conflict { actual: None })), "{refused:?}");
    let put = store.put(key(1), Bytes::from_static(b"x"), Expect::Absent, None).await.expect("written").revision;
    for expect in [Expect::Absent, Expect::Revision(put + 1)] {
        let refused = store.delete(key(1), expect).await.err();
        assert!(matches!(refused, Some(Error::Conflict { actual }) if actual == Some(put)), "{refused:?}");
    }
    let mut watch = store.watch(key(0), key(9), put).await.expect("a watch");
    let deleted = store.delete(key(1), Expect::Revision(put)).await.expect("deleted");
    assert_eq!(deleted.previous_revision, Some(put));
    assert_eq!(next_event(&mut watch).await, Event::Delete { key: key(1), revision: deleted.revision });
}

for_both_engines! {
    a_watch_cannot_begin_in_what_is_compacted_or_not_yet_there => super::refuses,
    a_watch_ends_when_the_engine_is_dropped => super::ends,
    a_long_range_is_one_moment_in_order_with_its_count => super::pages,
    what_is_too_large_is_refused_as_such => super::too_large,
    deletes_hold_their_expectation => super::deletes,
}
