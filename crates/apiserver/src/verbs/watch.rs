//! watch: the events of a kind from a position on, as frames.
//!
//! A frame is made of the object's bytes and two words. Events that wait are sent together. Bookmarks carry the
//! revision that everything sent so far covers.

use super::Answer;
use super::options::{Freshness, ListOptions, revision};
use crate::cache::{Event, EventType, Projection, Watch};
use crate::crd::selected;
use crate::output::negotiate::Accept;
use crate::output::table::{self, Include};
use crate::output::{Body, Format, Shape, present, protobuf};
use crate::pipeline::Request;
use crate::registry::{Entry, hash_of};
use crate::request::RequestInfo;
use crate::websocket;
use bytes::{Bytes, BytesMut};
use ferrokube_api::labels::ResolvedFields;
use ferrokube_api::{Object, Status};
use futures_util::{Stream, StreamExt};
use serde_json::{Value, json};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Between bookmarks.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// Before the end of a watch, a last bookmark.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// Bytes sent at once at most, when many events wait.
const BLOCK: usize = 64 * 1024;

/// How the frames of one watch are written.
struct Framing {
    entry: Arc<Entry>,
    accept: Accept,
    include: Include,
    /// Columns are sent once.
    columns: bool,
    /// Names this way of writing among those of other watchers, for what is shared ([`Event::frame`]).
    way: u64,
}

impl Framing {
    fn new(entry: &Arc<Entry>, accept: Accept, include: Include) -> Self {
        let kind = &entry.kind;
        let way = hash_of((&*kind.group, &*kind.version, accept));
        Framing { entry: entry.clone(), accept, include, columns: true, way }
    }

    fn object(&mut self, object: &Arc<Object>) -> Result<Bytes, Status> {
        match self.accept.shape {
            Shape::Object => Ok(present::object(&self.entry, object)?.json()),
            Shape::Partial | Shape::PartialList => present::partial(&object.json(), self.accept.beta),
            Shape::Table => {
                let columns = if std::mem::replace(&mut self.columns, false) { table::columns(&self.entry) } else { Value::Null };
                table::single(&self.entry, object, &columns, self.include, self.accept.beta, jiff::Timestamp::now())
            }
        }
    }

    /// The object in protobuf. Its metadata alone is of no version of the row.
    fn wire(&self, object: &Arc<Object>) -> Result<Bytes, Status> {
        let shown = if self.accept.shape == Shape::Object { present::object(&self.entry, object)? } else { object.clone() };
        protobuf::one(&self.entry, &shown.json(), self.accept.shape, self.accept.beta)
    }

    fn state(&mut self, out: &mut BytesMut, kind: EventType, object: &Arc<Object>) {
        let encoded = match self.accept.format {
            Format::Protobuf => self.wire(object),
            Format::Json | Format::Yaml => self.object(object),
        };
        match encoded {
            Ok(encoded) => self.frame(out, kind.as_str(), &encoded),
            Err(status) => self.error(out, &status),
        }
    }

    fn frame(&self, out: &mut BytesMut, kind: &str, encoded: &[u8]) {
        match self.accept.format {
            Format::Protobuf => out.extend_from_slice(&ferrokube_api::protobuf::watch_frame(kind, encoded)),
            Format::Json | Format::Yaml => frame(out, kind, encoded),
        }
    }

    fn error(&self, out: &mut BytesMut, status: &Status) {
        let json = status.to_json();
        match self.accept.format {
            Format::Protobuf => self.frame(out, "ERROR", &protobuf::value(&json).unwrap_or_default()),
            Format::Json | Format::Yaml => self.frame(out, "ERROR", &json),
        }
    }

    /// One event, encoded once for all watchers that read it the same way. A Table tells the age of things, so it is
    /// each watcher's own.
    fn event(&mut self, event: &Event, kind: EventType, object: &Arc<Object>) -> Bytes {
        let (own, way) = (self.accept.shape == Shape::Table, self.way.wrapping_add(kind as u64));
        let mut encode = || {
            let mut out = BytesMut::new();
            self.state(&mut out, kind, object);
            out.freeze()
        };
        if own { encode() } else { event.frame(way, encode) }
    }

    fn bookmark(&self, out: &mut BytesMut, revision: u64, initial_end: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, version) = match self.accept.shape {
            Shape::Object => (self.entry.kind.kind.as_ref(), self.entry.kind.api_version()),
            Shape::Partial | Shape::PartialList => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            Shape::Table => ("Table", "meta.k8s.io/v1".to_owned()),
        };
        let mut object = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
        if self.accept.shape == Shape::Table {
            object["columnDefinitions"] = Value::Null;
            object["rows"] = json!([{"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]}}]);
        }
        let json = object.to_string();
        match self.accept.format {
            Format::Protobuf => {
                let encoded = protobuf::one(&self.entry, json.as_bytes(), self.accept.shape, self.accept.beta);
                self.frame(out, "BOOKMARK", &encoded.unwrap_or_default());
            }
            Format::Json | Format::Yaml => self.frame(out, "BOOKMARK", json.as_bytes()),
        }
    }
}

fn frame(out: &mut BytesMut, kind: &str, json: &[u8]) {
    out.reserve(json.len() + kind.len() + 24);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(json);
    out.extend_from_slice(b"}\n");
}

/// What exists when a watch begins, told piece by piece: all of it encoded at once could be more than all else in memory.
struct Start {
    objects: std::vec::IntoIter<Arc<Object>>,
    revision: u64,
    /// Whether a bookmark follows.
    bookmark: bool,
    /// What was asked for and when.
    asked: (RequestInfo, Instant),
    /// By a webhook, where there is one.
    converted: bool,
}

/// A running watch.
struct Running {
    server: Arc<crate::ApiServer>,
    framing: Framing,
    watch: Watch,
    start: Option<Start>,
    /// What selects by fields of the version watched.
    shown: ResolvedFields,
    bookmarks: bool,
    deadline: Instant,
    /// The next bookmark or the end. Set once and polled, not made anew for every event.
    alarm: Pin<Box<Sleep>>,
}

impl Running {
    fn frame(&mut self, event: &Event) -> Option<Bytes> {
        let interest = self.watch.interest();
        let (kind, object) = event.project(|o| interest.wants(o))?;
        Some(self.framing.event(event, kind, &object))
    }

    /// The next frame that is there already.
    fn ready(&mut self) -> Option<Bytes> {
        loop {
            let event = self.watch.ready()?;
            if let Some(frame) = self.frame(&event) {
                return Some(frame);
            }
        }
    }

    /// A frame and those that wait behind it. Most of the time there is one, and it is everybody's.
    fn block(&mut self, first: Bytes) -> Bytes {
        let Some(second) = self.ready() else { return first };
        let mut out = BytesMut::with_capacity((first.len() + second.len()) * 2);
        out.extend_from_slice(&first);
        out.extend_from_slice(&second);
        self.fill(&mut out);
        out.freeze()
    }

    fn fill(&mut self, out: &mut BytesMut) {
        while out.len() < BLOCK {
            let Some(frame) = self.ready() else { return };
            out.extend_from_slice(&frame);
        }
    }

    /// Everything applied so far is in the queue, so after the queue the bookmark holds.
    fn bookmark(&mut self) -> Bytes {
        let revision = self.server.caches.applied();
        let mut out = BytesMut::new();
        self.fill(&mut out);
        // When too much waits, events go first and the bookmark another time.
        if out.len() < BLOCK {
            self.framing.bookmark(&mut out, revision, false);
        }
        out.freeze()
    }

    /// The next piece of what exists; `None` when all of it is told.
    fn initial(&mut self) -> Option<Bytes> {
        let start = self.start.as_mut()?;
        let size: usize = start.objects.as_slice().iter().take(BLOCK / 256).map(|o| o.json.len() + 64).sum();
        let mut out = BytesMut::with_capacity(size.min(2 * BLOCK));
        for object in start.objects.by_ref() {
            self.framing.state(&mut out, EventType::Added, &object);
            if out.len() >= BLOCK {
                return Some(out.freeze());
            }
        }
        if start.bookmark {
            self.framing.bookmark(&mut out, start.revision, true);
            let (info, asked) = &start.asked;
            self.server.metrics.told_initially(info, asked.elapsed());
        }
        self.start = None;
        (!out.is_empty()).then(|| out.freeze())
    }
}

impl Stream for Running {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let this = &mut *self;
        if let Some(out) = this.initial() {
            return Poll::Ready(Some(out));
        }
        loop {
            match this.watch.poll_next(cx) {
                Poll::Ready(Some(event)) => {
                    if let Some(first) = this.frame(&event) {
                        return Poll::Ready(Some(this.block(first)));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => break,
            }
        }
        ready!(this.alarm.as_mut().poll(cx));
        if Instant::now() >= this.deadline {
            return Poll::Ready(None);
        }
        let next = next_alarm(this.deadline, this.bookmarks);
        this.alarm.as_mut().reset(next);
        // Registers for the next alarm; it is in the future.
        let _ = this.alarm.as_mut().poll(cx);
        Poll::Ready(Some(this.bookmark()))
    }
}

/// The same for objects that a conversion webhook brings into the version watched, or that are selected by fields of that version:
/// waited for event by event, asked for once for all who watch.
impl Running {
    async fn put_converted(&mut self, out: &mut BytesMut, event: &Event) {
        match self.projected(event).await {
            Ok(Some((kind, object))) => out.extend_from_slice(&self.framing.event(event, kind, &object)),
            Ok(None) => {}
            Err(status) => self.framing.error(out, &status),
        }
    }

    /// What an event is to this watcher, with the object in the version watched.
    async fn projected(&self, event: &Event) -> Result<Option<Projection>, Status> {
        let interest = self.watch.interest();
        if self.shown.is_everything() {
            let Some((kind, object)) = event.project(|o| interest.wants(o)) else { return Ok(None) };
            return Ok(Some((kind, self.server.converted_event(&self.framing.entry, event, kind, object).await?)));
        }
        let before = self.selected(event, EventType::Deleted, event.departed()).await?;
        let after = self.selected(event, EventType::Modified, event.after.clone()).await?;
        Ok(match (before, after) {
            (None, Some(now)) => Some((EventType::Added, now)),
            (Some(_), Some(now)) => Some((EventType::Modified, now)),
            (Some(last), None) => Some((EventType::Deleted, last)),
            (None, None) => None,
        })
    }

    /// An object of an event in the version watched, if it is selected.
    async fn selected(&self, event: &Event, kind: EventType, object: Option<Arc<Object>>) -> Result<Option<Arc<Object>>, Status> {
        let (entry, interest) = (&self.framing.entry, self.watch.interest());
        let Some(object) = object.filter(|o| interest.wants(o)) else { return Ok(None) };
        let object = self.server.converted_event(entry, event, kind, object).await?;
        Ok(Some(object).filter(|o| selected(entry, &self.shown, o)))
    }

    /// As [`Running::bookmark`]: the revision is read before the queue is emptied.
    async fn bookmark_converted(&mut self, out: &mut BytesMut) {
        let revision = self.server.caches.applied();
        while let Some(event) = self.watch.ready() {
            self.put_converted(out, &event).await;
        }
        self.framing.bookmark(out, revision, false);
    }

    /// As [`Running::initial`]: all of it is converted before the first piece.
    async fn initial_converted(&mut self) -> Option<Bytes> {
        if let Some(start) = self.start.as_mut().filter(|start| !start.converted) {
            let objects = std::mem::take(&mut start.objects).collect();
            match self.server.converted(&self.framing.entry, objects).await {
                Ok(mut objects) => {
                    objects.retain(|o| selected(&self.framing.entry, &self.shown, o));
                    (start.objects, start.converted) = (objects.into_iter(), true);
                }
                Err(status) => {
                    self.start = None;
                    let mut out = BytesMut::new();
                    self.framing.error(&mut out, &status);
                    return Some(out.freeze());
                }
            }
        }
        self.initial()
    }

    async fn next_converted(mut self) -> Option<(Bytes, Self)> {
        if let Some(out) = self.initial_converted().await {
            return Some((out, self));
        }
        loop {
            let mut out = BytesMut::new();
            tokio::select! {
                biased;
                event = self.watch.next() => {
                    let event = event?;
                    self.put_converted(&mut out, &event).await;
                }
                () = self.alarm.as_mut() => {
                    if Instant::now() >= self.deadline {
                        return None;
                    }
                    self.bookmark_converted(&mut out).await;
                    let next = next_alarm(self.deadline, self.bookmarks);
                    self.alarm.as_mut().reset(next);
                }
            }
            if !out.is_empty() {
                return Some((out.freeze(), self));
            }
        }
    }
}

/// When to wake up next: for a bookmark every minute, for a last one shortly before the end, for the end.
fn next_alarm(deadline: Instant, bookmarks: bool) -> Instant {
    let (now, last) = (Instant::now(), deadline - LAST_BOOKMARK);
    if !bookmarks || now >= last { deadline } else { last.min(now + BOOKMARKS) }
}

impl Request<'_> {
    /// GET with `watch`.
    pub async fn watch(&self) -> Result<Answer, Status> {
        let options = ListOptions::parse(&self.query, &self.entry, &self.info)?;
        let cache = self.cache()?;
        let interest = Arc::new(options.selection.clone().interest(self.namespace(), &self.info.name));
        let include = Include::parse(self.query.get("includeObject"))?;
        let framing = Framing::new(&self.entry, self.accept, include);
        let initial = options.initial_events;
        let (start, watch) = match (options.version.as_str(), initial) {
            // From now or from any state: synthetic events for what exists, then what happens.
            ("" | "0", None | Some(true)) | (_, Some(true)) => {
                let applied = self.fresh(options.freshness).await?;
                let (snapshot, watch) = cache.watch_with_objects(interest, applied);
                let end = initial == Some(true) && options.bookmarks;
                let objects = snapshot.objects.into_iter();
                (
                    Some(Start {
                        objects,
                        revision: snapshot.revision,
                        bookmark: end,
                        asked: (self.info.clone(), Instant::now()),
                        converted: false,
                    }),
                    watch,
                )
            }
            ("" | "0", Some(false)) => {
                let applied = self.fresh(Freshness::Latest).await?;
                let (_, watch) = cache.watch_with_objects(interest, applied);
                (None, watch)
            }
            (text, _) => {
                let revision = revision(text, false)?;
                // What the client knows already must not be told again.
                self.fresh(Freshness::NotOlderThan(revision)).await?;
                match cache.watch_after(interest, revision) {
                    Ok(watch) => (None, watch),
                    Err(old) => return self.gone(&framing, revision, old.oldest),
                }
            }
        };
        // Watches that name no time end at different times, so that clients do not come back all at once.
        let least = self.server.serving.config.min_request_timeout;
        let seconds = options.timeout.unwrap_or_else(|| least.mul_f64(rand::random_range(1.0..2.0)));
        let deadline = Instant::now() + seconds;
        let running = Running {
            server: self.server.clone(),
            framing,
            watch,
            start,
            shown: options.selection.shown,
            bookmarks: options.bookmarks,
            deadline,
            alarm: Box::pin(tokio::time::sleep_until(next_alarm(deadline, options.bookmarks))),
        };
        // A server that stops ends all watches in its caches; this one may have come a moment later.
        let converts = !running.shown.is_everything() || self.entry.custom.as_ref().is_some_and(|c| c.conversion.is_some());
        let body = match (self.server.is_stopping(), converts) {
            (true, _) => Body::Empty,
            (false, true) => Body::Stream(futures_util::stream::unfold(running, Running::next_converted).boxed()),
            (false, false) => Body::Stream(running.boxed()),
        };
        self.streamed(body)
    }

    /// A watch that ends at once: what happened since `revision` is no longer known.
    fn gone(&self, framing: &Framing, revision: u64, oldest: u64) -> Result<Answer, Status> {
        let status = Status::expired(format!("too old resource version: {revision} ({oldest})"));
        let mut out = BytesMut::new();
        framing.error(&mut out, &status);
        self.streamed(Body::Full(out.freeze()))
    }

    fn streamed(&self, body: Body) -> Result<Answer, Status> {
        if websocket::wanted(&self.headers) {
            return self.watch_in_websocket(body).map(Answer::Raw);
        }
        let media = self.accept.format.stream_media_type();
        let mut response = http::Response::new(body);
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media));
        Ok(Answer::Raw(response))
    }
}
