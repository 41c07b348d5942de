//! Random operations against a model that keeps the whole history in a list.

use crate::harness::{Harness, Watch};
use bytes::Bytes;
use ferrokube_store::{Committed, Error, Event, Expect, KeyValue, Page, Revision, Store};
use futures_util::{StreamExt, TryStreamExt};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything that happened since the test began.
#[derive(Default)]
struct Model {
    events: Vec<Event>,
    /// The revision at which it began: nothing is known of what was before.
    base: Revision,
    compacted: Revision,
    /// Every revision is one write of ours.
    dense: bool,
}

impl Model {
    fn new(base: Revision, dense: bool) -> Model {
        Model { events: Vec::new(), base, compacted: base, dense }
    }

    /// The last revision that wrote something.
    fn revision(&self) -> Revision {
        self.events.last().map_or(self.base, Event::revision)
    }

    fn at(&self, revision: Revision) -> BTreeMap<Bytes, KeyValue> {
        let mut map = BTreeMap::new();
        for event in self.events.iter().take_while(|e| e.revision() <= revision) {
            match event {
                Event::Put(kv) => drop(map.insert(kv.key.clone(), kv.clone())),
                Event::Delete { key, .. } => drop(map.remove(key)),
            }
        }
        map
    }

    /// What a write must do that got `revision`, if it got one.
    fn write(&mut self, key: &Bytes, value: Option<Bytes>, expect: Expect, revision: Revision) -> Result<Committed, Option<Revision>> {
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
        assert!(if self.dense { revision == self.revision() + 1 } else { revision > self.revision() }, "revision {revision}");
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
        let later = self.events.iter().skip_while(|e| e.revision() <= after);
        later.filter(|e| *key(e) >= *start && *key(e) < *end).cloned().collect()
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

/// Reads a watch until it has said that it delivered everything up to `until`.
async fn drain(watch: &mut Watch, until: Revision) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let batch = watch.next().await.expect("the watch goes on").expect("the watch is sound");
        events.extend(batch.events);
        if batch.revision >= until {
            return events;
        }
    }
}

struct Run<'h> {
    harness: &'h Harness,
    store: Option<Arc<dyn Store>>,
    model: Model,
    /// Runs on the same etcd do not see each other's keys.
    number: usize,
}

impl Run<'_> {
    fn store(&self) -> &dyn Store {
        &**self.store.as_ref().expect("only absent while reopening")
    }

    fn key(&self, n: u8) -> Bytes {
        Bytes::from(format!("/registry/run{}/{n:02}", self.number))
    }

    async fn current(&self) -> Revision {
        let current = self.store().revision().await.expect("revision");
        assert!(if self.model.dense { current == self.model.revision() } else { current >= self.model.revision() });
        current
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
                let (key, value) = (self.key(n), Bytes::from(vec![serial; len]));
                let expect = self.expect_of(&key, expect);
                let got = self.store().put(key.clone(), value.clone(), expect, None).await;
                let want = self.model.write(&key, Some(value), expect, got.as_ref().map_or(0, |c| c.revision));
                self.check_write(got, want);
            }
            Op::Delete { key: n, expect } => {
                let key = self.key(n);
                let expect = self.expect_of(&key, expect);
                let got = self.store().delete(key.clone(), expect).await;
                let want = self.model.write(&key, None, expect, got.as_ref().map_or(0, |c| c.revision));
                self.check_write(got, want);
            }
            Op::Concurrent { keys } => self.concurrent(&keys, serial).await,
            Op::Compact { back } => {
                let revision = self.current().await.saturating_sub(back).max(self.model.base);
                self.store().compact(revision).await.expect("compaction of the past");
                self.model.compacted = self.model.compacted.max(revision);
            }
            Op::Range { start, end, back, limit } => self.range(self.key(start), self.key(end), back, limit).await,
            Op::Watch { start, end, back } => self.watch(self.key(start), self.key(end), back).await,
            Op::Reopen => {
                self.store = None;
                self.store = Some(self.harness.open().await);
                self.current().await;
            }
        }
    }

    /// Writes in flight together: each gets its own revision, in some order.
    async fn concurrent(&mut self, keys: &[u8], serial: u8) {
        let writes = keys.iter().map(|n| self.store().put(self.key(*n), Bytes::from(vec![serial, *n]), Expect::Any, None));
        let done = futures_util::future::join_all(writes).await;
        let mut order: Vec<(Revision, u8)> = done.into_iter().zip(keys).map(|(c, n)| (c.expect("written").revision, *n)).collect();
        order.sort_unstable();
        for (revision, n) in order {
            let key = self.key(n);
            self.model.write(&key, Some(Bytes::from(vec![serial, n])), Expect::Any, revision).expect("any");
        }
    }

    async fn range(&self, start: Bytes, end: Bytes, back: u64, limit: usize) {
        let current = self.current().await;
        // 0 asks for the present, 1 for the future.
        let at = match back {
            0 => None,
            1 => Some(current + 1),
            _ => Some(current.saturating_sub(back - 2).max(self.model.base)),
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
                self.scan(start, end, at, &all).await;
            }
        }
    }

    async fn scan(&self, start: Bytes, end: Bytes, at: Revision, want: &[KeyValue]) {
        let pages: Vec<Page> = self.store().scan(start, end, Some(at)).await.expect("reads").try_collect().await.expect("pages");
        assert!(pages.iter().all(|page| page.revision == at && page.count == want.len() as u64));
        assert!(
            pages.iter().rev().map(|page| page.more).eq((0..pages.len()).map(|n| n > 0)),
            "at least one, and only the last is the last"
        );
        let items: Vec<KeyValue> = pages.into_iter().flat_map(|page| page.items).collect();
        assert_eq!(items, want);
    }

    async fn watch(&self, start: Bytes, end: Bytes, back: u64) {
        let after = self.current().await.saturating_sub(back).max(self.model.base);
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

/// Runs `cases` random sequences of operations on one engine.
fn answers_as_the_model_does(harness: &Harness, cases: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let config = ProptestConfig { cases, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() };
    let number = std::cell::Cell::new(0);
    let tried = proptest::test_runner::TestRunner::new(config).run(&prop::collection::vec(op(), 1..160), |ops| {
        runtime.block_on(async {
            let store = harness.open().await;
            let base = store.revision().await.expect("revision");
            let mut run = Run { harness, store: Some(store), model: Model::new(base, harness.is_dense()), number: number.get() };
            number.set(number.get() + 1);
            for (i, op) in ops.into_iter().enumerate() {
                run.apply(op, i as u8).await;
            }
            run.apply(Op::Reopen, 0).await;
            run.range(run.key(0), run.key(99), 0, 0).await;
        });
        Ok(())
    });
    tried.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn the_embedded_engine_answers_as_the_model_does() {
    answers_as_the_model_does(&Harness::embedded(4096), 96);
}

#[test]
fn etcd_answers_as_the_model_does() {
    if let Some(harness) = Harness::etcd() {
        answers_as_the_model_does(&harness, 16);
    }
}

/// A watch that is held while writes, compactions and cleaning go on sees every event once, in order.
async fn held_watch(harness: &Harness) {
    let store = harness.open().await;
    let key = crate::harness::key;
    let (start, end) = (key(3), key(7));
    let base = store.revision().await.expect("revision");
    let mut watch = store.watch(start.clone(), end.clone(), base).await.expect("a watch");
    let mut model = Model::new(base, harness.is_dense());
    let mut seen = Vec::new();
    for round in 0..600usize {
        let key = key(round * 7 % 12);
        if round % 11 == 10 {
            let got = store.delete(key.clone(), Expect::Any).await;
            let want = model.write(&key, None, Expect::Any, got.as_ref().map_or(0, |c| c.revision));
            assert_eq!(got.is_ok(), want.is_ok());
        } else {
            let value = Bytes::from(vec![round as u8; 300]);
            let done = store.put(key.clone(), value.clone(), Expect::Any, None).await.expect("written");
            model.write(&key, Some(value), Expect::Any, done.revision).expect("written");
        }
        if round % 50 == 49 {
            // A notice comes by itself: nobody asks for progress here.
            seen.extend(drain(&mut watch, model.revision()).await);
            store.compact(model.revision()).await.expect("compacted");
        }
    }
    assert_eq!(seen, model.events(&start, &end, base));
}

crate::harness::for_both_engines! {
    a_held_watch_sees_every_event_once_through_compaction_and_cleaning => super::held_watch,
}
