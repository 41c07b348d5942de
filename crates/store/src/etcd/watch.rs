//! Watches. A watch is a stream of its own to one member, and a position: everything up to there was delivered. When the stream
//! breaks it is opened again behind the position, at whichever member serves, for as long as it takes.
//!
//! Must never move the position over a revision that may still have an event to come, nor deliver anything at or before it again, nor go
//! on behind its position in another history: an etcd that lost its last writes (one member of 3.5.0 to 3.5.4 that is killed, a disk that
//! lies, a restored backup) gives the same revisions to other writes.

use super::error::{Refusal, judge};
use super::progress::{Asking, is_reliable, marker};
use super::wire::event::EventType;
use super::wire::maintenance_client::MaintenanceClient;
use super::wire::watch_client::WatchClient;
use super::wire::{self, StatusRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, watch_request};
use super::write::{signed, unsigned};
use super::{Known, Shared, closed};
use crate::{Batch, Error, Event, Result, Revision};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Request, Streaming};

/// How long a watch may be behind before it asks: most of the time the event is on its way.
const PATIENCE: Duration = Duration::from_millis(10);
/// The same when asking costs a write.
const PATIENCE_WITH_MARKER: Duration = Duration::from_millis(40);
/// Asked again after this.
const AGAIN: Duration = Duration::from_millis(150);
/// A member that answers nothing for this long, although it was asked, is left.
const SILENCE: Duration = Duration::from_secs(10);
/// How long opening may take.
const OPENING: Duration = Duration::from_secs(5);
/// Pauses between attempts to open again: doubled up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// An open stream.
struct Open {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    /// Number of the member.
    member: usize,
    asking: Asking,
    /// Parts of a response that etcd sent in several.
    fragments: Vec<wire::Event>,
}

/// Something to do about progress.
struct Due {
    at: Instant,
    /// Until the position is here.
    until: Revision,
    /// When it was first asked.
    asked: Option<Instant>,
}

struct Watch {
    shared: Arc<Shared>,
    known: tokio::sync::watch::Receiver<Known>,
    /// The range, in etcd's keys.
    start: Bytes,
    end: Bytes,
    position: Revision,
    /// What the position's history is known by.
    last: Option<Landmark>,
    /// Requests for progress that were served.
    asked: u64,
    open: Option<Open>,
    due: Option<Due>,
    pause: Duration,
    ended: bool,
}

/// The last event that came.
struct Landmark {
    /// In etcd's words. A copy: a part of the response would hold all of it.
    key: Bytes,
    revision: Revision,
    deleted: bool,
}

impl Landmark {
    fn of(event: &wire::Event) -> Option<Landmark> {
        let deleted = event.r#type() == EventType::Delete;
        let of = |kv: &wire::KeyValue| Landmark { key: Bytes::copy_from_slice(&kv.key), revision: unsigned(kv.mod_revision), deleted };
        event.kv.as_ref().map(of)
    }

    /// Whether it stands in this history, where `found` is the revision of its key at any later position.
    fn stands(&self, found: Option<Revision>) -> bool {
        found == (!self.deleted).then_some(self.revision)
    }
}

/// Why a stream could not be opened.
enum NotOpen {
    /// The position is lost.
    For(Error),
    /// Later.
    Now(String),
}

/// [`crate::Store::watch`].
pub(super) async fn open(shared: Arc<Shared>, start: Bytes, end: Bytes, after: Revision) -> Result<BoxStream<'static, Result<Batch>>> {
    let known = shared.known.subscribe();
    let asked = known.borrow().asked;
    let (start, end) = (shared.keys.outward(start), shared.keys.outward(end));
    let mut watch =
        Watch { shared, known, start, end, position: after, last: None, asked, open: None, due: None, pause: PAUSE.0, ended: false };
    let deadline = Instant::now() + watch.shared.caller.timeout;
    loop {
        match watch.open().await {
            Ok(()) => break,
            Err(NotOpen::For(error)) => return Err(error),
            Err(NotOpen::Now(text)) if Instant::now() + watch.pause >= deadline => return Err(Error::Unavailable(text)),
            Err(NotOpen::Now(_)) => watch.rest().await,
        }
    }
    Ok(stream::unfold(watch, |mut watch| async move { watch.next().await.map(|batch| (batch, watch)) }).boxed())
}

fn event(shared: &Shared, event: wire::Event) -> Option<Event> {
    let deleted = event.r#type() == EventType::Delete;
    let kv = event.kv?;
    Some(if deleted {
        Event::Delete { key: shared.keys.inward(kv.key), revision: unsigned(kv.mod_revision) }
    } else {
        Event::Put(shared.item(kv))
    })
}

impl Watch {
    async fn rest(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE.1);
    }

    /// Opens the stream behind the position.
    async fn open(&mut self) -> std::result::Result<(), NotOpen> {
        let (member, url, channel) = {
            let (member, known, channel) = self.shared.caller.members.active();
            (member, known.url.clone(), channel)
        };
        let later = |status: tonic::Status| NotOpen::Now(format!("watching etcd: {:?}", judge(&status, &url).error));
        let opening = async {
            let status = MaintenanceClient::new(channel.clone()).status(StatusRequest {}).await.map_err(later)?;
            let marker = marker(&self.shared.keys.root());
            // A watch of keys that are not ours does without the marker.
            let asking = if is_reliable(&status.get_ref().version) || self.start < marker { Asking::Request } else { Asking::Marker };
            let create = WatchCreateRequest {
                key: if asking == Asking::Marker { marker } else { self.start.clone() },
                // etcd refuses a range without keys.
                range_end: if self.start < self.end { self.end.clone() } else { [&self.start[..], b"\0"].concat().into() },
                start_revision: signed(self.position + 1),
                progress_notify: true,
                fragment: true,
            };
            let (requests, inbox) = mpsc::channel(16);
            let create = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
            requests.try_send(create).map_err(|e| NotOpen::Now(e.to_string()))?;
            let outgoing = stream::unfold(inbox, |mut inbox| async move { inbox.recv().await.map(|request| (request, inbox)) });
            let mut request = Request::new(outgoing);
            // A member that lost the others must say so instead of staying silent.
            request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
            let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
            let responses = client.watch(request).await.map_err(later)?.into_inner();
            Ok(Open { requests, responses, member, asking, fragments: Vec::new() })
        };
        let opened = match tokio::time::timeout(OPENING, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(NotOpen::Now(format!("watching etcd: {url} does not answer"))),
        };
        let opened = opened.inspect_err(|_| self.shared.caller.members.leave(member))?;
        // Asked only now: what is compacted after the stream was opened, the stream itself tells.
        let landmark = self.last.as_ref().map(|last| last.key.clone());
        match self.shared.stood_at(landmark, self.position).await {
            Ok(found) if self.last.as_ref().is_none_or(|last| last.stands(found)) => {}
            Ok(_) => return Err(NotOpen::For(Error::Rewritten { position: self.position })),
            Err(refusal @ (Refusal::Compacted | Refusal::Future)) => {
                let error = self.shared.explain(refusal, self.position).await;
                return Err(if matches!(error, Error::Unavailable(_)) { NotOpen::Now(error.to_string()) } else { NotOpen::For(error) });
            }
            Err(other) => return Err(NotOpen::Now(other.plain().to_string())),
        }
        self.open = Some(opened);
        self.due = None;
        self.look_at_known();
        Ok(())
    }

    async fn next(&mut self) -> Option<Result<Batch>> {
        if self.ended {
            return None;
        }
        let outcome = self.advance().await;
        self.ended = outcome.is_err();
        Some(outcome)
    }

    /// Waits for something to tell.
    async fn advance(&mut self) -> Result<Batch> {
        loop {
            if self.known.borrow().closed {
                return Err(closed());
            }
            let Some(open) = &mut self.open else {
                self.rest().await;
                match self.open().await {
                    Ok(()) => {}
                    Err(NotOpen::For(error)) => return Err(error),
                    Err(NotOpen::Now(text)) => {
                        tracing::warn!(%text, "a watch is interrupted; it goes on when etcd answers");
                    }
                }
                continue;
            };
            let due = self.due.as_ref().map(|due| due.at);
            let due = async { tokio::time::sleep_until(due?).await.into() };
            tokio::select! {
                biased;
                response = open.responses.message() => match response {
                    Ok(Some(response)) => if let Some(batch) = self.take(response).await? { return Ok(batch) },
                    Ok(None) => self.lose("etcd ended the stream"),
                    Err(status) => self.lose(&status.to_string()),
                },
                changed = self.known.changed() => {
                    changed.map_err(|_| closed())?;
                    self.look_at_known();
                }
                Some(()) = due => self.ask().await,
            }
        }
    }

    /// Gives the stream up.
    fn lose(&mut self, why: &str) {
        if let Some(open) = self.open.take() {
            tracing::info!(%why, position = self.position, "the stream of a watch broke; it is opened again behind its position");
            self.shared.caller.members.leave(open.member);
        }
    }

    /// Notes that etcd is further, or that somebody wants to know.
    fn look_at_known(&mut self) {
        let known = *self.known.borrow_and_update();
        let patience = match self.open.as_ref().map(|open| open.asking) {
            Some(Asking::Marker) => PATIENCE_WITH_MARKER,
            _ => PATIENCE,
        };
        if known.asked != self.asked {
            self.asked = known.asked;
            // Even when nothing is missing: an answer is wanted.
            self.due = Some(Due { at: Instant::now(), until: known.revision.max(self.position + 1), asked: None });
        } else if self.due.is_none() && known.revision > self.position {
            self.due = Some(Due { at: Instant::now() + patience, until: known.revision, asked: None });
        }
    }

    /// Asks how far the watch is.
    async fn ask(&mut self) {
        let (Some(due), Some(open)) = (&mut self.due, &self.open) else { return };
        let now = Instant::now();
        if now - *due.asked.get_or_insert(now) > SILENCE {
            self.lose("no sign of progress");
            return;
        }
        due.at = now + AGAIN;
        match open.asking {
            Asking::Request => {
                let request = WatchRequest { request_union: Some(watch_request::RequestUnion::ProgressRequest(WatchProgressRequest {})) };
                // A full channel means that the stream does not move; then the answer would not come either.
                let _ = open.requests.try_send(request);
            }
            Asking::Marker => {
                if let Err(error) = self.shared.write_marker().await {
                    tracing::warn!(%error, "the progress of a watch cannot be asked for");
                }
            }
        }
    }

    /// Takes in a response. `None`: nothing to tell yet.
    async fn take(&mut self, response: WatchResponse) -> Result<Option<Batch>> {
        if response.canceled || response.compact_revision > 0 {
            if response.compact_revision > 0 {
                return Err(Error::Compacted { oldest: unsigned(response.compact_revision) });
            }
            self.lose(&response.cancel_reason);
            return Ok(None);
        }
        let Some(open) = &mut self.open else { return Ok(None) };
        if response.created {
            return Ok(None);
        }
        if response.events.is_empty() && open.fragments.is_empty() {
            // Progress: the position is that of the store, unless this etcd says so too early.
            let header = response.header.map_or(0, |h| unsigned(h.revision));
            let requested = response.watch_id < 0;
            return Ok((!requested || open.asking == Asking::Request).then(|| self.arrive(Vec::new(), header)));
        }
        open.fragments.extend(response.events);
        if response.fragment {
            return Ok(None);
        }
        let events = std::mem::take(&mut open.fragments);
        // The header may be ahead of a watch that catches up: the last event is what was delivered.
        let last = events.last().and_then(Landmark::of);
        let reached = last.as_ref().map_or(0, |last| last.revision);
        if reached > self.position {
            self.last = last;
        }
        let ours = |key: &Bytes| *key >= self.start && *key < self.end;
        let new = |e: &wire::Event| e.kv.as_ref().is_some_and(|kv| ours(&kv.key) && unsigned(kv.mod_revision) > self.position);
        let events = events.into_iter().filter(new).filter_map(|e| event(&self.shared, e)).collect();
        Ok(Some(self.arrive(events, reached)))
    }

    fn arrive(&mut self, events: Vec<Event>, reached: Revision) -> Batch {
        self.pause = PAUSE.0;
        self.position = self.position.max(reached);
        if self.due.as_ref().is_some_and(|due| due.until <= self.position || events.is_empty() && due.asked.is_some()) {
            self.due = None;
        }
        self.look_at_known();
        Batch { events, revision: self.position }
    }
}
