//! Random operations against a model that keeps the whole history in a list.

use bytes::Bytes;
use ferrokube_store::embedded::{Embedded, Options};
use ferrokube_store::{Committed, Error, Event, Expect, KeyValue, Revision, Store};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Everything that ever happened.
#[derive(Default)]
struct Model {
    events: Vec<Event>,
    compacted: Revision,
}

impl Model {
    fn revision(&self) -> Revision {
        self.events.len() as Revision
    }

    fn at(&self, revision: Revision) -> BTreeMap<Bytes, KeyValue> {
        let mut map = BTreeMap::new();
        for event in &self.events[..revision as usize] {
            match event {
                Event::Put(kv) => drop(map.insert(kv.key.clone(), kv.clone())),
                Event::Delete { key, .. } => drop(map.remove(key)),
            }
        }
        map
    }

    fn write(&mut self, key: &Bytes, value: Option<Bytes>, expect: Expect) -> Result<Committed, Option<Revision>> {
        let present = self.at(self.revision()).get(key).cloned();
        let actual = present.as_ref().map(|kv| kv.mod_revision);
        let holds = match expect {
            Expect::Any => value.is_some() || actual.is_some(),
            Expect::Absent => actual.is_none() && value.is_some(),
            Expect::Revision(r) => actual == Some(r),
        };
        if !holds {
            return Err(actual);
        }
        let revision = self.revision() + 1;
        self.events.push(match value {
            Some(value) => {
                let create_revision = present.map_or(revision, |kv| kv.create_revision);
                Event::Put(KeyValue { key: key.clone(), value, create_revision, mod_revision: revision })
            }
            None => Event::Delete { key: key.clone(), revision },
        });
        Ok(Committed { revision, previous_revision: actual })
    }

    fn events(&self, start: &[u8], end: &[u8], after: Revision) -> Vec<Event> {
        let key = |e: &Event| match e {
            Event::Put(kv) => kv.key.clone(),
            Event::Delete { key, .. } => key.clone(),
        };
        self.events[after as usize..].iter().filter(|e| *key(e) >= *start && *key(e) < *end).cloned().collect()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put { key: u8, len: usize, expect: u8 },
    Delete { key: u8, expect: u8 },
    Concurrent { keys: Vec<u8> },
    Compact { back: u64 },
    Range { start: u8, end: u8, back: u64, limit: usize },
    Watch { start: u8, end: u8, back: u64 },
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..12u8, 0..1500usize, 0..4u8).prop_map(|(key, len, expect)| Op::Put { key, len, expect }),
        3 => (0..12u8, 0..4u8).prop_map(|(key, expect)| Op::Delete { key, expect }),
        1 => prop::collection::vec(0..12u8, 1..20).prop_map(|keys| Op::Concurrent { keys }),
        1 => (0..40u64).prop_map(|back| Op::Compact { back }),
        3 => (0..13u8, 0..13u8, 0..40u64, 0..6usize).prop_map(|(start, end, back, limit)| Op::Range { start, end, back, limit }),
        2 => (0..13u8, 0..13u8, 0..40u64).prop_map(|(start, end, back)| Op::Watch { start, end, back }),
        1 => Just(Op::Reopen),
    ]
}

fn key(n: u8) -> Bytes {
    Bytes::from(format!("/registry/things/{n:02}"))
}

fn options() -> Options {
    // Small segments: rotation, copying forward and dropping happen all the time.
    Options { fsync: false, segment_bytes: 4096, ..Options::default() }
}

/// Reads a watch until it has said that it delivered everything up to `until`.
async fn drain(watch: &mut BoxStream<'static, ferrokube_store::Result<ferrokube_store::Batch>>, until: Revision) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let batch = watch.next().await.expect("the watch goes on").expect("the watch is sound");
        events.extend(batch.events);
        if batch.revision >= until {
            return events;
        }
    }
}

struct Run {
    dir: tempfile::TempDir,
    store: Option<Embedded>,
    model: Model,
}

impl Run {
    fn store(&self) -> &Embedded {
        self.store.as_ref().expect("only absent while reopening")
    }

    fn expect_of(&self, key: &Bytes, kind: u8) -> Expect {
        let present = self.model.at(self.model.revision()).get(key).map(|kv| kv.mod_revision);
        match kind {
            0 => Expect::Any,
            1 => Expect::Absent,
            2 => Expect::Revision(present.unwrap_or(1)),
            _ => Expect::Revision(self.model.revision().max(1)),
        }
    }

    fn check_write(&self, got: ferrokube_store::Result<Committed>, want: Result<Committed, Option<Revision>>) {
        match (got, want) {
            (Ok(got), Ok(want)) => assert_eq!(got, want),
            (Err(Error::Conflict { actual }), Err(want)) => assert_eq!(actual, want),
            (got, want) => panic!("got {got:?}, want {want:?}"),
        }
    }

    async fn apply(&mut self, op: Op, serial: u8) {
        match op {
            Op::Put { key: n, len, expect } => {
                let (key, value) = (key(n), Bytes::from(vec![serial; len]));
                let expect = self.expect_of(&key, expect);
                let got = self.store().put(key.clone(), value.clone(), expect, None).await;
                let want = self.model.write(&key, Some(value), expect);
                self.check_write(got, want);
            }
            Op::Delete { key: n, expect } => {
                let key = key(n);
                let expect = self.expect_of(&key, expect);
                let got = self.store().delete(key.clone(), expect).await;
                let want = self.model.write(&key, None, expect);
                self.check_write(got, want);
            }
            Op::Concurrent { keys } => self.concurrent(&keys, serial).await,
            Op::Compact { back } => {
                let revision = self.model.revision().saturating_sub(back);
                self.store().compact(revision).await.expect("compaction of the past");
                self.model.compacted = self.model.compacted.max(revision);
            }
            Op::Range { start, end, back, limit } => self.range(key(start), key(end), back, limit).await,
            Op::Watch { start, end, back } => self.watch(key(start), key(end), back).await,
            Op::Reopen => {
                self.store = None;
                self.store = Some(Embedded::open(self.dir.path(), options()).expect("opens again"));
                assert_eq!(self.store().revision().await.expect("revision"), self.model.revision());
            }
        }
    }

    /// Writes in flight together: each gets its own revision, in some order.
    async fn concurrent(&mut self, keys: &[u8], serial: u8) {
        let writes = keys.iter().map(|n| self.store().put(key(*n), Bytes::from(vec![serial, *n]), Expect::Any, None));
        let done = futures_util::future::join_all(writes).await;
        let mut order: Vec<(Revision, u8)> = done.into_iter().zip(keys).map(|(c, n)| (c.expect("written").revision, *n)).collect();
        order.sort_unstable();
        for (revision, n) in order {
            let want = self.model.write(&key(n), Some(Bytes::from(vec![serial, n])), Expect::Any).expect("any");
            assert_eq!(want.revision, revision);
        }
    }

    async fn range(&self, start: Bytes, end: Bytes, back: u64, limit: usize) {
        let current = self.model.revision();
        // 0 asks for the present, 1 for the future.
        let at = match back {
            0 => None,
            1 => Some(current + 1),
            _ => Some(current.saturating_sub(back - 2)),
        };
        let got = self.store().range(start.clone(), end.clone(), at, limit).await;
        let at = at.unwrap_or(current);
        match got {
            Err(Error::Future { asked, current: now }) => assert!(asked == current + 1 && now == current && at > current),
            Err(Error::Compacted { oldest }) => assert!(at < self.model.compacted && oldest == self.model.compacted),
            Err(e) => panic!("{e}"),
            Ok(page) => {
                assert!(at >= self.model.compacted && at <= current);
                let all: Vec<KeyValue> = self.model.at(at).into_values().filter(|kv| kv.key >= start && kv.key < end).collect();
                assert_eq!(page.count, all.len() as u64);
                assert_eq!(page.revision, at);
                let want: Vec<KeyValue> = all.iter().take(if limit == 0 { usize::MAX } else { limit }).cloned().collect();
                assert_eq!(page.items, want);
                assert_eq!(page.more, want.len() < all.len());
            }
        }
    }

    async fn watch(&self, start: Bytes, end: Bytes, back: u64) {
        let after = self.model.revision().saturating_sub(back);
        match self.store().watch(start.clone(), end.clone(), after).await {
            Err(Error::Compacted { oldest }) => assert!(after < self.model.compacted && oldest == self.model.compacted),
            Err(e) => panic!("{e}"),
            Ok(mut watch) => {
                assert!(after >= self.model.compacted);
                self.store().request_progress().await.expect("progress");
                assert_eq!(drain(&mut watch, self.model.revision()).await, self.model.events(&start, &end, after));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_answers_as_the_model_does(ops in prop::collection::vec(op(), 1..160)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let dir = tempfile::tempdir().expect("a directory");
            let store = Embedded::open(dir.path(), options()).expect("opens");
            let mut run = Run { dir, store: Some(store), model: Model::default() };
            for (i, op) in ops.into_iter().enumerate() {
                run.apply(op, i as u8).await;
            }
            run.apply(Op::Reopen, 0).await;
            run.range(key(0), key(99), 0, 0).await;
        });
    }
}

/// A watch that is held while writes, compactions and cleaning go on sees every event once, in order.
#[tokio::test]
async fn a_held_watch_sees_every_event_once_through_compaction_and_cleaning() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), options()).expect("opens");
    let (start, end) = (Bytes::from_static(b"/registry/things/03"), Bytes::from_static(b"/registry/things/07"));
    let mut watch = store.watch(start.clone(), end.clone(), 0).await.expect("a watch");
    let mut model = Model::default();
    let mut seen = Vec::new();
    for round in 0..600u32 {
        let key = key((round * 7 % 12) as u8);
        if round % 11 == 10 {
            let got = store.delete(key.clone(), Expect::Any).await;
            assert_eq!(got.is_ok(), model.write(&key, None, Expect::Any).is_ok());
        } else {
            let value = Bytes::from(vec![round as u8; 300]);
            store.put(key.clone(), value.clone(), Expect::Any, None).await.expect("written");
            model.write(&key, Some(value), Expect::Any).expect("written");
        }
        if round % 50 == 49 {
            // A notice comes by itself: nobody asks for progress here.
            seen.extend(drain(&mut watch, model.revision()).await);
            store.compact(model.revision()).await.expect("compacted");
        }
    }
    assert_eq!(seen, model.events(&start, &end, 0));
}

#[tokio::test]
async fn a_watch_that_fell_behind_a_compaction_ends_with_compacted() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), options()).expect("opens");
    let mut watch = store.watch(key(0), key(99), 0).await.expect("a watch");
    for _ in 0..5 {
        store.put(key(1), Bytes::from_static(b"x"), Expect::Any, None).await.expect("written");
    }
    store.compact(4).await.expect("compacted");
    assert!(matches!(watch.next().await, Some(Err(Error::Compacted { oldest: 4 }))));
    assert!(watch.next().await.is_none());
    assert!(matches!(store.watch(key(0), key(99), 6).await.err(), Some(Error::Future { asked: 6, current: 5 })));
}

#[tokio::test]
async fn a_watch_ends_when_the_engine_is_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), options()).expect("opens");
    let mut watch = store.watch(key(0), key(99), 0).await.expect("a watch");
    store.close();
    assert!(matches!(watch.next().await, Some(Err(Error::Unavailable(_)))));
    assert!(matches!(store.put(key(1), Bytes::new(), Expect::Any, None).await, Err(Error::Unavailable(_))));
}
