//! The writer thread: the only one that appends to the log, and the only one that moves the present forward.
//!
//! It must answer nothing before the frame that holds it is synced, and must answer a refusal only after the writes it was refused
//! because of are durable.

use super::cleaner::Move;
use super::format::{FRAME_LEN, Header, Kind, Record};
use super::index::Version;
use super::queue::{Request, Write};
use super::segment::{Head, Place, Segment};
use super::{Shared, recover, stopped_error, watch};
use crate::{Committed, Error, Expect, Result, Revision};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// Capacity for frames that is kept between them.
const FRAME_KEPT: usize = 1 << 20;
/// Keys that expire in one frame at most.
const EXPIRE_STEP: usize = 1024;
/// How late a watch may learn of revisions that did not concern it.
const PROGRESS_DELAY: Duration = Duration::from_millis(50);
/// The wall clock may be set; a deadline is looked at again at least this often.
const CLOCK_RECHECK: Duration = Duration::from_secs(30);
/// After a failed attempt to delete expired keys.
const EXPIRE_RETRY: Duration = Duration::from_secs(1);

/// Milliseconds since the epoch by the wall clock, the clock of deadlines: they outlive the process.
pub(super) fn now_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// The deadline of a key written now, in milliseconds since the epoch. Rounded up: never before its time.
pub(super) fn deadline_after(ttl: Duration) -> u64 {
    let millis = u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    now_millis().saturating_add(1).saturating_add(millis)
}

/// A revision of the frame being built.
struct Revised {
    key: Bytes,
    version: Version,
    expiry: u64,
}

/// An answer to give once the frame is durable.
enum Answer {
    Write(oneshot::Sender<Result<Committed>>, Result<Committed>),
    Compact(oneshot::Sender<Result<()>>, Result<()>),
    Move(std::sync::mpsc::SyncSender<Result<()>>),
    Drop(std::sync::mpsc::SyncSender<Result<Arc<Segment>>>, u32),
}

/// A frame being built, and what follows from it.
#[derive(Default)]
struct Plan {
    frame: Vec<u8>,
    revised: Vec<Revised>,
    /// (key, revision, old place, new place)
    moved: Vec<(Arc<[u8]>, Revision, Place, Place)>,
    compacted: Option<Revision>,
    dropped: Vec<u32>,
    answers: Vec<Answer>,
    /// Present version of keys that this frame changes: revision and creation, `None` when gone.
    pending: HashMap<Bytes, Option<(Revision, Revision)>>,
}

struct Writer<'a> {
    shared: &'a Shared,
    head: Head,
    plan: Plan,
    /// The last frame did not fit on the disk.
    full: bool,
    progress_due: Option<Instant>,
    expire_again: Option<Instant>,
}

/// The writer thread's work, until the queue is stopped.
pub(super) fn run(shared: &Shared, head: Head) {
    let mut writer = Writer { shared, head, plan: Plan::default(), full: false, progress_due: None, expire_again: None };
    let mut requests = Vec::new();
    loop {
        let stop = shared.queue.take(writer.next_wake(), &mut requests);
        if stop {
            break;
        }
        writer.serve(&mut requests);
        writer.tell_progress();
    }
    writer.close();
}

impl Writer<'_> {
    /// When there is something to do without being asked.
    fn next_wake(&self) -> Option<Instant> {
        let deadline = self.shared.state.read().index.next_deadline().map(|deadline| {
            let wait = Duration::from_millis(deadline.saturating_sub(now_millis())).min(CLOCK_RECHECK);
            let at = Instant::now() + wait;
            self.expire_again.map_or(at, |again| at.max(again))
        });
        [deadline, self.progress_due].into_iter().flatten().min()
    }

    fn tell_progress(&mut self) {
        let Some(due) = self.progress_due else { return };
        if due <= Instant::now() {
            self.progress_due = None;
            watch::ask_progress(&self.shared.state.read(), false);
        }
    }

    fn serve(&mut self, requests: &mut Vec<Request>) {
        if self.full && requests.iter().any(Request::makes_room) {
            // These may not fail because of the writes they share a frame with. None of them has been answered, so the order is free.
            let mut first: Vec<Request> = requests.extract_if(.., |r| r.makes_room()).collect();
            self.round(&mut first);
        }
        self.round(requests);
    }

    /// One round: builds a frame of what expired and what is asked, writes it, shows it, answers.
    fn round(&mut self, requests: &mut Vec<Request>) {
        if let Err(error) = self.prepare() {
            requests.drain(..).for_each(|r| r.fail(&error));
            self.hold_expiry();
            return;
        }
        self.plan.frame.clear();
        self.plan.frame.resize(FRAME_LEN, 0);
        self.plan_expiry();
        // Moves go first: what supersedes a moved record must not come before it in the log.
        requests.sort_by_key(|r| !matches!(r, Request::Move { .. }));
        for request in requests.drain(..) {
            self.plan_request(request);
        }
        self.plan_own_compaction();
        let written = self.append();
        self.full = matches!(written, Err(Error::NoSpace { .. }));
        match &written {
            Ok(()) => self.publish(),
            Err(error) => {
                self.hold_expiry();
                if !matches!(error, Error::NoSpace { .. }) {
                    self.fail(error.clone());
                }
            }
        }
        self.answer(written);
        // Very large writes must not hold their memory for ever.
        self.plan.frame.shrink_to(FRAME_KEPT);
    }

    fn hold_expiry(&mut self) {
        self.expire_again = Some(Instant::now() + EXPIRE_RETRY);
    }

    /// Makes sure that the log can be appended to; starts a new segment when the last one is complete.
    fn prepare(&mut self) -> Result<()> {
        let state = self.shared.state.read();
        state.serving()?;
        if self.head.position < self.shared.options.segment_bytes {
            return Ok(());
        }
        let header = Header {
            id: self.head.segment.header.id + 1,
            salt: recover::salt(),
            revision: state.index.revision(),
            compacted: state.index.compacted(),
            oldest: state.segments.keys().next().copied().unwrap_or(1),
        };
        drop(state);
        // First the end of the old one: only in the last segment may anything follow the frames.
        if let Err(error) = self.head.finish() {
            self.fail(error.clone());
            return Err(error);
        }
        let segment = match Segment::create(&self.shared.dir, header, self.shared.options.fsync) {
            Ok(segment) => Arc::new(segment),
            // The old one can still take what fits; a full disk is reported when it can't.
            Err(Error::NoSpace { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        let length = super::format::HEADER_LEN as u64;
        self.head = Head::new(Arc::clone(&segment), length, self.shared.options.fsync);
        let mut state = self.shared.state.write();
        state.lengths.insert(header.id, length);
        state.segments.insert(header.id, segment);
        drop(state);
        self.shared.cleaner.wake();
        Ok(())
    }

    fn next_revision(&self) -> Revision {
        self.shared.state.read().index.revision() + 1 + self.plan.revised.len() as Revision
    }

    /// Place that the next record in the frame will have.
    fn next_place(&self, len: usize) -> Place {
        let offset = self.head.position as usize + self.plan.frame.len();
        Place { segment: self.head.segment.header.id, offset: offset as u32, len: len as u32 }
    }

    fn plan_expiry(&mut self) {
        if self.expire_again.is_some_and(|again| again > Instant::now()) {
            return;
        }
        self.expire_again = None;
        let due = self.shared.state.read().index.expired(now_millis(), EXPIRE_STEP);
        for (key, _) in due {
            self.plan_version(Bytes::copy_from_slice(&key), None, 0, 0);
        }
    }

    /// Adds a revision to the frame.
    fn plan_version(&mut self, key: Bytes, value: Option<&Bytes>, create: Revision, expiry: u64) -> Revision {
        let revision = self.next_revision();
        let kind = if value.is_some() { Kind::Put } else { Kind::Delete };
        let create = match value {
            Some(_) if create == 0 => revision,
            Some(_) => create,
            None => 0,
        };
        let value: &[u8] = value.map_or(&[], |v| v);
        let record = Record { kind, moved: false, revision, create, expiry, until: 0, key: &key, value };
        let place = self.next_place(record.len());
        record.encode(&mut self.plan.frame);
        self.plan.pending.insert(key.clone(), value_of(kind, revision, create));
        self.plan.revised.push(Revised { key, version: Version { revision, create, place }, expiry });
        revision
    }

    fn plan_request(&mut self, request: Request) {
        let answer = match request {
            Request::Write(write) => {
                let result = self.plan_write(&write);
                Answer::Write(write.answer, result)
            }
            Request::Compact { revision, answer } => {
                let result = self.plan_compaction(revision);
                Answer::Compact(answer, result)
            }
            Request::Move { moves, answer } => {
                moves.iter().for_each(|m| self.plan_move(m));
                Answer::Move(answer)
            }
            Request::Drop { segment, answer } => {
                self.plan_drop(segment);
                Answer::Drop(answer, segment)
            }
        };
        self.plan.answers.push(answer);
    }

    fn plan_write(&mut self, write: &Write) -> Result<Committed> {
        let present = match self.plan.pending.get(&write.key) {
            Some(pending) => *pending,
            None => self.shared.state.read().index.current(&write.key).map(|v| (v.revision, v.create)),
        };
        let actual = present.map(|(revision, _)| revision);
        let holds = match write.expect {
            // There is nothing to delete where there is nothing.
            Expect::Any => write.value.is_some() || actual.is_some(),
            Expect::Absent => write.value.is_some() && actual.is_none(),
            Expect::Revision(revision) => actual == Some(revision),
        };
        if !holds {
            return Err(Error::Conflict { actual });
        }
        let create = present.map_or(0, |(_, create)| create);
        let revision = self.plan_version(write.key.clone(), write.value.as_ref(), create, write.expiry);
        Ok(Committed { revision, previous_revision: actual })
    }

    fn plan_compaction(&mut self, revision: Revision) -> Result<()> {
        let current = self.next_revision() - 1;
        if revision > current {
            return Err(Error::Future { asked: revision, current });
        }
        let compacted = self.shared.state.read().index.compacted().max(self.plan.compacted.unwrap_or(0));
        if revision > compacted {
            Record::note(Kind::Compacted, revision).encode(&mut self.plan.frame);
            self.plan.compacted = Some(revision);
        }
        Ok(())
    }

    /// Compacts when history is beyond its limits. Half of it stays, so that this is rare.
    fn plan_own_compaction(&mut self) {
        if self.plan.revised.is_empty() {
            return;
        }
        let state = self.shared.state.read();
        let (compacted, current) = (state.index.compacted(), state.index.revision());
        let length = current - compacted;
        let beyond = length > self.shared.options.history_revisions || state.index.history_bytes() > self.shared.options.history_bytes;
        // While the last compaction is still being cleared away the figures do not show it.
        let due = beyond && length > 1 && !state.index.must_prune();
        drop(state);
        if due {
            // It can't be in the future: only revisions that are already shown are counted.
            let _ = self.plan_compaction(compacted + length / 2);
        }
    }

    fn plan_move(&mut self, moved: &Move) {
        let state = self.shared.state.read();
        let Some(version) = state.index.version(&moved.key, moved.revision).filter(|v| v.place == moved.from) else { return };
        let until = state.index.superseded_at(&moved.key, moved.revision);
        drop(state);
        let Some(record) = Record::decode(&moved.bytes) else { return };
        let record = Record { moved: true, until, ..record };
        let to = self.next_place(record.len());
        record.encode(&mut self.plan.frame);
        self.plan.moved.push((Arc::clone(&moved.key), version.revision, moved.from, to));
    }

    fn plan_drop(&mut self, segment: u32) {
        let state = self.shared.state.read();
        let oldest = state.segments.keys().next() == Some(&segment) && segment != self.head.segment.header.id;
        let unused = state.index.live_in(segment) == 0;
        drop(state);
        if oldest && unused {
            Record::note(Kind::Dropped, u64::from(segment)).encode(&mut self.plan.frame);
            self.plan.dropped.push(segment);
        }
    }

    fn append(&mut self) -> Result<()> {
        if self.plan.frame.len() == FRAME_LEN {
            return Ok(());
        }
        let makes_room = self.plan.moved.is_empty() && self.plan.revised.iter().all(|r| r.version.is_delete());
        self.head.append(&mut self.plan.frame, makes_room)
    }

    /// Shows what has become durable.
    fn publish(&mut self) {
        let mut guard = self.shared.state.write();
        let state = &mut *guard;
        for (key, revision, from, to) in self.plan.moved.drain(..) {
            state.index.relocate(&key, revision, from, to);
        }
        let mut concerned = Vec::new();
        for revised in self.plan.revised.drain(..) {
            state.index.apply(&revised.key, revised.version, revised.expiry);
            watch::note(&state.watches, &revised.key, revised.version.revision, &mut concerned);
        }
        if let Some(revision) = self.plan.compacted {
            state.index.set_compacted(revision);
            self.shared.cleaner.wake();
        }
        state.lengths.insert(self.head.segment.header.id, self.head.position);
        if self.progress_due.is_none() && watch::any_behind(state) {
            self.progress_due = Some(Instant::now() + PROGRESS_DELAY);
        }
        drop(guard);
        // Now they can read at once.
        concerned.iter().for_each(|watch| watch.wake());
    }

    /// Answers everyone. When the frame could not be written, nobody's write happened.
    fn answer(&mut self, written: Result<()>) {
        for answer in self.plan.answers.drain(..) {
            match answer {
                Answer::Write(to, result) => drop(to.send(written.clone().and(result))),
                Answer::Compact(to, result) => drop(to.send(written.clone().and(result))),
                Answer::Move(to) => drop(to.send(written.clone())),
                Answer::Drop(to, segment) => {
                    let mut state = self.shared.state.write();
                    let dropped = if written.is_ok() && self.plan.dropped.contains(&segment) {
                        state.lengths.remove(&segment);
                        state.segments.remove(&segment)
                    } else {
                        None
                    };
                    drop(state);
                    let in_use = || Error::Unavailable(format!("segment {segment} is in use"));
                    drop(to.send(written.clone().and_then(|()| dropped.ok_or_else(in_use))));
                }
            }
        }
        self.plan.revised.clear();
        self.plan.moved.clear();
        self.plan.dropped.clear();
        self.plan.pending.clear();
        self.plan.compacted = None;
    }

    /// The log can't go on: everyone is told until the store is opened again.
    fn fail(&self, error: Error) {
        tracing::error!(dir = %self.shared.dir.display(), %error, "the store stops");
        let mut state = self.shared.state.write();
        state.stopped = Some(error);
        watch::wake_all(&state);
    }

    fn close(&mut self) {
        let mut state = self.shared.state.write();
        let sound = state.stopped.is_none();
        state.stopped.get_or_insert_with(stopped_error);
        let revision = state.index.revision();
        watch::wake_all(&state);
        drop(state);
        if sound {
            // With a note behind it, damage to the last write is told apart from a torn end.
            self.plan.frame.clear();
            self.plan.frame.resize(FRAME_LEN, 0);
            Record::note(Kind::Closed, revision).encode(&mut self.plan.frame);
            let closed = self.head.append(&mut self.plan.frame, true).and_then(|()| self.head.finish());
            if let Err(error) = closed {
                tracing::warn!(%error, "closing the store");
            }
        }
    }
}

fn value_of(kind: Kind, revision: Revision, create: Revision) -> Option<(Revision, Revision)> {
    (kind == Kind::Put).then_some((revision, create))
}
