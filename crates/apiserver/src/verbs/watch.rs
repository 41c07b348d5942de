//! watch: the events of a kind from a position on, as frames.
//!
//! A frame is made of the object's bytes and two words. Events that wait are sent together. Bookmarks carry the
//! revision that everything sent so far covers.

use super::Answer;
use super::options::{Freshness, ListOptions, revision};
use crate::cache::{EventType, Snapshot, Watch};
use crate::output::negotiate::Accept;
use crate::output::table::{self, Include};
use crate::output::{Body, Format, Shape, present, protobuf};
use crate::pipeline::Request;
use crate::registry::{Entry, hash_of};
use bytes::{Bytes, BytesMut};
use ferrokube_api::{Object, Status};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

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
}

impl Framing {
    fn object(&mut self, object: &Arc<Object>) -> Result<Bytes, Status> {
        match self.accept.shape {
            Shape::Object => Ok(present::object(&self.entry, object)?.json.clone()),
            Shape::Partial | Shape::PartialList => present::partial(&object.json, self.accept.beta),
            Shape::Table => {
                let columns = if std::mem::replace(&mut self.columns, false) { table::columns(&self.entry) } else { Value::Null };
                table::single(&self.entry, object, &columns, self.include, self.accept.beta, jiff::Timestamp::now())
            }
        }
    }

    fn event(&mut self, out: &mut BytesMut, kind: EventType, object: &Arc<Object>) {
        let encoded = match self.accept.format {
            Format::Protobuf => self.wire(object),
            Format::Json | Format::Yaml => self.object(object),
        };
        match encoded {
            Ok(encoded) => self.frame(out, kind.as_str(), &encoded),
            Err(status) => self.error(out, &status),
        }
    }

    /// The object in protobuf. Its metadata alone is of no version of the row.
    fn wire(&self, object: &Arc<Object>) -> Result<Bytes, Status> {
        let shown = if self.accept.shape == Shape::Object { present::object(&self.entry, object)? } else { object.clone() };
        protobuf::one(&self.entry, &shown.json, self.accept.shape, self.accept.beta)
    }

    /// As [`Framing::event`], but encoded once for all watchers that share the event and the format.
    fn shared(&mut self, out: &mut BytesMut, event: &crate::cache::Event, kind: EventType, object: &Arc<Object>) {
        if self.accept.format != Format::Protobuf {
            return self.event(out, kind, object);
        }
        let name = hash_of((&self.entry.kind.version, &self.entry.kind.group, self.accept, kind == EventType::Deleted));
        let mut failed = None;
        let encoded = event.frame(name, || self.wire(object).map_err(|status| failed = Some(status)).unwrap_or_default());
        match failed {
            Some(status) => self.error(out, &status),
            None => self.frame(out, kind.as_str(), &encoded),
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

/// A running watch.
struct Running {
    server: Arc<crate::ApiServer>,
    framing: Framing,
    watch: Watch,
    start: Option<(Snapshot, bool)>,
    bookmarks: bool,
    deadline: Instant,
    /// The next bookmark or the end. Set once and polled, not made anew for every event.
    alarm: Pin<Box<Sleep>>,
    /// The server stops.
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Running {
    /// Whether objects may have to go through a conversion webhook, which is waited for.
    fn converts(&self) -> bool {
        self.framing.entry.custom.as_ref().is_some_and(|c| c.conversion.is_some())
    }

    /// As [`Running::put`], through the webhook.
    async fn put_converted(&mut self, out: &mut BytesMut, event: &crate::cache::Event) {
        let interest = self.watch.interest();
        let Some((kind, object)) = event.project(|o| interest.wants(o)) else { return };
        match self.server.converted_one(&self.framing.entry, object).await {
            Ok(object) => self.framing.event(out, kind, &object),
            Err(status) => self.framing.error(out, &status),
        }
    }

    /// A bookmark after everything that waits, through the webhook.
    async fn bookmark_converted(&mut self, out: &mut BytesMut) {
        let revision = self.server.caches.applied();
        while let Some(event) = self.watch.ready() {
            self.put_converted(out, &event).await;
        }
        self.framing.bookmark(out, revision, false);
    }

    fn drain(&mut self, out: &mut BytesMut) {
        while out.len() < BLOCK {
            let Some(event) = self.watch.ready() else { return };
            self.put(out, &event);
        }
    }

    fn put(&mut self, out: &mut BytesMut, event: &crate::cache::Event) {
        let interest = self.watch.interest();
        if let Some((kind, object)) = event.project(|o| interest.wants(o)) {
            self.framing.shared(out, event, kind, &object);
        }
    }

    /// Everything applied so far is in the queue, so after the queue the bookmark holds.
    fn bookmark(&mut self, out: &mut BytesMut) {
        let revision = self.server.caches.applied();
        let mut more = true;
        while more {
            let before = out.len();
            self.drain(out);
            more = out.len() >= BLOCK && out.len() > before;
            if more {
                return; // Too much waits: events first, the bookmark another time.
            }
        }
        self.framing.bookmark(out, revision, false);
    }

    fn initial(&mut self, snapshot: &Snapshot, bookmark: bool) -> Bytes {
        let size: usize = snapshot.objects.iter().map(|o| o.json.len() + 40).sum();
        let mut out = BytesMut::with_capacity(size + 256);
        for object in &snapshot.objects {
            self.framing.event(&mut out, EventType::Added, object);
        }
        if bookmark {
            self.framing.bookmark(&mut out, snapshot.revision, true);
        }
        out.freeze()
    }

    async fn next(mut self) -> Option<(Bytes, Self)> {
        if let Some((mut snapshot, bookmark)) = self.start.take() {
            match self.server.converted(&self.framing.entry, std::mem::take(&mut snapshot.objects)).await {
                Ok(objects) => snapshot.objects = objects,
                Err(status) => {
                    let mut out = BytesMut::new();
                    self.framing.error(&mut out, &status);
                    return Some((out.freeze(), self));
                }
            }
            let out = self.initial(&snapshot, bookmark);
            if !out.is_empty() {
                return Some((out, self));
            }
        }
        loop {
            let mut out = BytesMut::new();
            tokio::select! {
                biased;
                () = self.stop.as_mut() => return None,
                () = self.alarm.as_mut() => {
                    if Instant::now() >= self.deadline {
                        return None;
                    }
                    if self.converts() {
                        self.bookmark_converted(&mut out).await;
                    } else {
                        self.bookmark(&mut out);
                    }
                    let next = next_alarm(self.deadline, self.bookmarks);
                    self.alarm.as_mut().reset(next);
                }
                event = self.watch.next() => {
                    let event = event?;
                    if self.converts() {
                        self.put_converted(&mut out, &event).await;
                    } else {
                        self.put(&mut out, &event);
                        self.drain(&mut out);
                    }
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
        let framing = Framing { entry: self.entry.clone(), accept: self.accept, include, columns: true };
        let initial = options.initial_events;
        let (start, watch) = match (options.version.as_str(), initial) {
            // From now or from any state: synthetic events for what exists, then what happens.
            ("" | "0", None | Some(true)) | (_, Some(true)) => {
                let applied = self.fresh(options.freshness).await?;
                let (snapshot, watch) = cache.watch_with_objects(interest, applied);
                let end = initial == Some(true) && options.bookmarks;
                (Some((snapshot, end)), watch)
            }
            ("" | "0", Some(false)) => {
                let applied = self.fresh(Freshness::Latest).await?;
                let (_, watch) = cache.watch_with_objects(interest, applied);
                (None, watch)
            }
            (text, _) => {
                let revision = revision(text)?;
                // What the client knows already must not be told again.
                self.fresh(Freshness::NotOlderThan(revision)).await?;
                match cache.watch_after(interest, revision) {
                    Ok(watch) => (None, watch),
                    Err(old) => return Ok(self.gone(&framing, revision, old.oldest)),
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
            bookmarks: options.bookmarks,
            deadline,
            alarm: Box::pin(tokio::time::sleep_until(next_alarm(deadline, options.bookmarks))),
            stop: Box::pin(self.server.stopping.clone().cancelled_owned()),
        };
        let stream = futures_util::stream::unfold(running, Running::next).boxed();
        Ok(self.streamed(Body::Stream(stream)))
    }

    /// A watch that ends at once: what happened since `revision` is no longer known.
    fn gone(&self, framing: &Framing, revision: u64, oldest: u64) -> Answer {
        let status = Status::expired(format!("too old resource version: {revision} ({oldest})"));
        let mut out = BytesMut::new();
        framing.error(&mut out, &status);
        self.streamed(Body::Full(out.freeze()))
    }

    fn streamed(&self, body: Body) -> Answer {
        let media = self.accept.format.stream_media_type();
        let mut response = http::Response::new(body);
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media));
        Answer::Raw(response)
    }
}
