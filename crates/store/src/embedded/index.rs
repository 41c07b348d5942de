//! What the log says, in memory: for every key where its versions lie, and the recent history by revision. Pure: no files, no clock.
//!
//! Values are never here. Every revision above the compacted one is one write, so history is a queue of keys that is
//! addressed by revision. It must never forget a version that a read at an uncompacted revision could see.

use super::segment::Place;
use crate::Revision;
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// One version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// Revision that made it.
    pub revision: Revision,
    /// Revision that created the key; 0: this version says that the key is gone.
    pub create: Revision,
    /// Where its record lies.
    pub place: Place,
}

impl Version {
    /// Whether the key is gone with this version.
    pub fn is_delete(&self) -> bool {
        self.create == 0
    }
}

type Versions = SmallVec<[Version; 1]>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    keys: BTreeMap<Arc<[u8]>, Versions>,
    /// Key of every revision above `history_base`.
    history: VecDeque<Arc<[u8]>>,
    history_base: Revision,
    compacted: Revision,
    revision: Revision,
    /// Bytes of the records in use, by segment.
    live: BTreeMap<u32, u64>,
    live_total: u64,
    /// Bytes of the records that hold a key's present value.
    current_total: u64,
    deadlines: BTreeMap<(u64, Revision), Arc<[u8]>>,
    deadline_of: HashMap<Revision, u64>,
}

/// Whether `key` lies in `[start, end)`.
pub(super) fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    key >= start && key < end
}

impl Index {
    /// The latest revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Oldest revision that can be read or watched from.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Bytes of all records in use.
    pub fn live_total(&self) -> u64 {
        self.live_total
    }

    /// Bytes of records that are in use only for history.
    pub fn history_bytes(&self) -> u64 {
        self.live_total - self.current_total
    }

    /// Bytes of records in use in one segment.
    pub fn live_in(&self, segment: u32) -> u64 {
        self.live.get(&segment).copied().unwrap_or(0)
    }

    fn use_place(&mut self, place: Place) {
        *self.live.entry(place.segment).or_default() += u64::from(place.len);
        self.live_total += u64::from(place.len);
    }

    fn free_place(live: &mut BTreeMap<u32, u64>, live_total: &mut u64, place: Place) {
        *live_total -= u64::from(place.len);
        if let Some(bytes) = live.get_mut(&place.segment) {
            *bytes -= u64::from(place.len);
            if *bytes == 0 {
                live.remove(&place.segment);
            }
        }
    }

    /// The present version of `key`, when the key exists.
    pub fn current(&self, key: &[u8]) -> Option<Version> {
        self.keys.get(key)?.last().copied().filter(|v| !v.is_delete())
    }

    /// The version of `key` that `revision` made.
    pub fn version(&self, key: &[u8], revision: Revision) -> Option<Version> {
        let versions = self.keys.get(key)?;
        versions.binary_search_by_key(&revision, |v| v.revision).ok().map(|i| versions[i])
    }

    /// The revision that superseded `revision` of `key`; 0 when none has.
    pub fn superseded_at(&self, key: &[u8], revision: Revision) -> Revision {
        self.keys.get(key).and_then(|versions| versions.iter().find(|v| v.revision > revision)).map_or(0, |v| v.revision)
    }

    /// Keys of `[start, end)` as they stood at `at`, in order.
    pub fn range<'a>(&'a self, start: &[u8], end: &[u8], at: Revision) -> impl Iterator<Item = (&'a Arc<[u8]>, Version)> {
        let bounds = (start < end).then_some((Bound::Included(start), Bound::Excluded(end)));
        bounds.into_iter().flat_map(|bounds| self.keys.range::<[u8], _>(bounds)).filter_map(move |(key, versions)| {
            let version = *versions.iter().rev().find(|v| v.revision <= at)?;
            (!version.is_delete()).then_some((key, version))
        })
    }

    /// Takes in the next revision.
    pub fn apply(&mut self, key: &[u8], version: Version, expiry: u64) {
        debug_assert_eq!(version.revision, self.revision + 1, "every revision is one write");
        let key = match self.keys.get_key_value(key) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::from(key),
        };
        let versions = self.keys.entry(Arc::clone(&key)).or_default();
        if let Some(before) = versions.last().filter(|v| !v.is_delete()) {
            self.current_total -= u64::from(before.place.len);
            if let Some(deadline) = self.deadline_of.remove(&before.revision) {
                self.deadlines.remove(&(deadline, before.revision));
            }
        }
        versions.push(version);
        if !version.is_delete() {
            self.current_total += u64::from(version.place.len);
        }
        self.use_place(version.place);
        self.set_deadline(&key, version.revision, expiry);
        self.history.push_back(key);
        self.revision = version.revision;
    }

    fn set_deadline(&mut self, key: &Arc<[u8]>, revision: Revision, expiry: u64) {
        if expiry != 0 {
            self.deadlines.insert((expiry, revision), Arc::clone(key));
            self.deadline_of.insert(revision, expiry);
        }
    }

    /// When the key that `revision` wrote expires, in milliseconds since the epoch; 0: never.
    pub fn deadline(&self, revision: Revision) -> u64 {
        self.deadline_of.get(&revision).copied().unwrap_or(0)
    }

    /// The earliest time at which a key expires, in milliseconds since the epoch.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.keys().next().map(|(deadline, _)| *deadline)
    }

    /// Up to `limit` keys whose time has come at `now`, with the revision that set it.
    pub fn expired(&self, now: u64, limit: usize) -> Vec<(Arc<[u8]>, Revision)> {
        let due = self.deadlines.range(..=(now, Revision::MAX));
        due.take(limit).map(|((_, revision), key)| (Arc::clone(key), *revision)).collect()
    }

    /// Notes that the record of a version now lies elsewhere, unless the version has gone meanwhile.
    pub fn relocate(&mut self, key: &[u8], revision: Revision, from: Place, to: Place) {
        let found = self.keys.get_mut(key).and_then(|versions| versions.iter_mut().find(|v| v.revision == revision && v.place == from));
        if let Some(version) = found {
            version.place = to;
            Index::free_place(&mut self.live, &mut self.live_total, from);
            self.use_place(to);
        }
    }

    /// The key that revision `revision` wrote, when it is within history.
    pub fn history_key(&self, revision: Revision) -> Option<&Arc<[u8]>> {
        self.history.get(usize::try_from(revision.checked_sub(self.history_base + 1)?).ok()?)
    }

    /// From now on, nothing before `revision` can be read. Its memory is freed by [`Index::prune`].
    pub fn set_compacted(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision);
    }

    /// Whether compacted history still takes memory.
    pub fn must_prune(&self) -> bool {
        self.history_base < self.compacted
    }

    /// Frees up to `steps` revisions of compacted history.
    pub fn prune(&mut self, steps: usize) {
        for _ in 0..steps {
            if !self.must_prune() {
                return;
            }
            let Some(key) = self.history.pop_front() else { return };
            self.history_base += 1;
            // All of it is dropped up to the compacted revision at once; later steps for the same key find nothing left to do.
            if let Some(versions) = self.keys.get_mut(&key) {
                let compacted = self.compacted;
                let gone = Index::prunable(versions, compacted);
                for version in versions.drain(..gone) {
                    Index::free_place(&mut self.live, &mut self.live_total, version.place);
                }
                if versions.is_empty() {
                    self.keys.remove(&key);
                } else {
                    versions.shrink_to_fit();
                }
            }
        }
    }

    /// How many of the oldest versions no read at or after `compacted` can see.
    fn prunable(versions: &[Version], compacted: Revision) -> usize {
        let visible = versions.iter().rposition(|v| v.revision <= compacted);
        visible.map_or(0, |i| if versions[i].is_delete() { i + 1 } else { i })
    }
}

/// Builds an [`Index`] from the records of a log, in the order they lie there.
#[derive(Debug, Default)]
pub(super) struct Rebuild {
    keys: BTreeMap<Arc<[u8]>, Versions>,
    compacted: Revision,
    revision: Revision,
    last_written: Revision,
    superseded: Vec<(Arc<[u8]>, Revision, Revision)>,
    expiries: HashMap<Revision, u64>,
}

impl Rebuild {
    /// What a segment's header or a note says of the store as a whole.
    pub fn note(&mut self, revision: Revision, compacted: Revision) {
        self.revision = self.revision.max(revision);
        self.compacted = self.compacted.max(compacted);
    }

    /// A version in the place where it was first written. The error says what is wrong.
    pub fn written(&mut self, key: &[u8], version: Version, expiry: u64) -> Result<(), String> {
        if version.revision <= self.last_written {
            return Err(format!("revision {} follows revision {}", version.revision, self.last_written));
        }
        self.last_written = version.revision;
        self.note(version.revision, 0);
        self.insert(key, version, expiry);
        Ok(())
    }

    /// A version that was copied forward, superseded at `until` (0: not when it was copied).
    pub fn moved(&mut self, key: &[u8], version: Version, expiry: u64, until: Revision) {
        let key = self.insert(key, version, expiry);
        if until != 0 {
            self.superseded.push((key, version.revision, until));
        }
    }

    fn insert(&mut self, key: &[u8], version: Version, expiry: u64) -> Arc<[u8]> {
        let key: Arc<[u8]> = match self.keys.get_key_value(key) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::from(key),
        };
        let versions = self.keys.entry(Arc::clone(&key)).or_default();
        match versions.binary_search_by_key(&version.revision, |v| v.revision) {
            Ok(i) => versions[i] = version,
            Err(i) => versions.insert(i, version),
        }
        if expiry != 0 {
            self.expiries.insert(version.revision, expiry);
        }
        key
    }

    /// The index. The error says what the log lacks.
    pub fn finish(mut self) -> Result<Index, String> {
        for (key, revision, until) in &self.superseded {
            if *until <= self.compacted
                && let Some(versions) = self.keys.get_mut(key)
            {
                versions.retain(|v| v.revision != *revision);
            }
        }
        let (compacted, revision) = (self.compacted, self.revision);
        if compacted > revision {
            return Err(format!("compacted up to revision {compacted}, but revisions end at {revision}"));
        }
        self.keys.retain(|_, versions| {
            let gone = Index::prunable(versions, compacted);
            versions.drain(..gone);
            versions.shrink_to_fit();
            !versions.is_empty()
        });
        let mut index = Index { compacted, revision, history_base: compacted, ..Index::default() };
        let mut history: Vec<Option<Arc<[u8]>>> = vec![None; (revision - compacted) as usize];
        let mut deadlines = Vec::new();
        for (key, versions) in &self.keys {
            for version in versions.iter() {
                index.use_place(version.place);
                if version.revision > compacted {
                    history[(version.revision - compacted - 1) as usize] = Some(Arc::clone(key));
                }
            }
            if let Some(current) = versions.last().filter(|v| !v.is_delete()) {
                index.current_total += u64::from(current.place.len);
                if let Some(expiry) = self.expiries.get(&current.revision) {
                    deadlines.push((Arc::clone(key), current.revision, *expiry));
                }
            }
        }
        for (key, revision, expiry) in deadlines {
            index.set_deadline(&key, revision, expiry);
        }
        let lacking = history.iter().position(Option::is_none);
        if let Some(i) = lacking {
            return Err(format!("revision {} is missing (revisions {compacted} to {revision} must be there)", compacted + 1 + i as u64));
        }
        index.history = history.into_iter().flatten().collect();
        // Filled in order at once, its nodes are full; grown key by key they are half empty.
        index.keys = self.keys.into_iter().collect();
        Ok(index)
    }
}
