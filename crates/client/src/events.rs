//! Events: what components tell people about objects.
//!
//! Same event again (object, reason, message, source): its count goes up instead of a new one being made; many that differ
//! only in their message become one, and what is said too often about an object is dropped ([`crate::correlate`]). Recording never blocks and never fails the caller; a full queue drops the event with a log line.
//! Several events are written at once, of which no two are the same one: what happens again while it is being written is
//! counted and written afterwards, once.
//!
//! There are two ways to write them, as upstream: counted ones of `v1`, and those of `events.k8s.io/v1`, which say what was
//! done ([`What`]) and become a series when it is done again. Which one a component uses is a fact of Kubernetes.

use crate::correlate::{Correlator, forget};
use crate::{Client, Patch, Resource};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::api::events::v1::{self as events, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// `type` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// `Normal`.
    Normal,
    /// `Warning`.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// What a component did or tried: the part of an event that only those of `events.k8s.io/v1` have.
#[derive(Clone, Debug, Default)]
pub struct What {
    /// `action`.
    pub action: &'static str,
    /// The object for whose sake it was done.
    pub related: Option<ObjectReference>,
}

impl From<&'static str> for What {
    fn from(action: &'static str) -> Self {
        What { action, related: None }
    }
}

struct Note {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    what: What,
    message: String,
    at: Timestamp,
}

/// Records events of one component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
}

/// How many events may wait to be written.
const BACKLOG: usize = 10_000;
/// How many are written at once.
const WRITES: usize = 16;
/// Before the message of an event that stands for many.
const COMBINED: &str = "(combined from similar events): ";
/// Longest note of an event of `events.k8s.io/v1`, in bytes, and how one ends that was longer.
const LONGEST_NOTE: usize = 1024;
const CUT: &str = " ...";

impl Recorder {
    /// A recorder that writes through `client` as `component` (on `host`, for node components).
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        Self::writing(Source { client, component: component.into(), host: host.into(), series: false })
    }

    /// A recorder that writes events of `events.k8s.io/v1` as `controller`, an instance of it on this host.
    pub fn of_series(client: Client, controller: &str) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = format!("{controller}-{}", host.trim());
        Self::writing(Source { client, component: controller.into(), host, series: true })
    }

    fn writing(source: Source) -> Self {
        let (notes, inbox) = mpsc::channel(BACKLOG);
        let source = Arc::new(source);
        let writer = Writer {
            source,
            known: HashMap::new(),
            correlator: Correlator::default(),
            writing: FuturesUnordered::new(),
            again: HashMap::new(),
        };
        tokio::spawn(writer.run(inbox));
        Recorder { notes }
    }

    /// Records that something happened to an object.
    pub fn event(&self, about: ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        self.did(What::default(), about, kind, reason, message);
    }

    /// Records what was done about an object.
    pub fn did(&self, what: impl Into<What>, about: ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let note = Note { about, kind, reason: reason.into(), what: what.into(), message: message.into(), at: Timestamp::now() };
        if let Err(e) = self.notes.try_send(note) {
            tracing::warn!("event not recorded: {e}");
        }
    }

    /// Records about a typed object.
    pub fn about<R: Resource>(&self, object: &R, kind: EventType, reason: &str, message: impl Into<String>) {
        self.event(reference(object), kind, reason, message);
    }
}

/// The reference by which an event names an object.
pub fn reference<R: Resource>(object: &R) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(R::API_VERSION.into()),
        kind: Some(R::KIND.into()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// Identity of "the same event again".
type Fingerprint = (String, String, String, String, EventType, String, String);

struct Known {
    namespace: String,
    name: String,
    count: i32,
    at: Timestamp,
}

/// A write that is done, and what is known of the event afterwards.
type Written = (Fingerprint, Option<Known>);

struct Writer {
    source: Arc<Source>,
    known: HashMap<Fingerprint, Known>,
    correlator: Correlator,
    writing: FuturesUnordered<BoxFuture<'static, Written>>,
    /// Events being written, with how often they came again meanwhile and the last time.
    again: HashMap<Fingerprint, Option<(Note, i32)>>,
}

impl Writer {
    /// Ends when the last recorder has gone and everything is written.
    async fn run(mut self, mut inbox: mpsc::Receiver<Note>) {
        let mut open = true;
        while open || !self.writing.is_empty() {
            tokio::select! {
                note = inbox.recv(), if open && self.writing.len() < WRITES => match note {
                    Some(note) => self.hear(note),
                    None => open = false,
                },
                Some(written) = self.writing.next() => self.is_written(written),
            }
        }
    }

    fn hear(&mut self, mut note: Note) {
        let mut key = fingerprint(&note);
        // Series are of one thing each: similar ones stay apart.
        if !self.source.series && self.correlator.is_combined(&note.about, note.kind, &note.reason, &note.message, note.at) {
            key.6 = COMBINED.into();
            note.message.insert_str(0, COMBINED);
        }
        if self.correlator.may_write(&note.about, note.at) {
            self.take(key, note, 1);
        } else if let Some(known) = self.known.get_mut(&key) {
            // Counted all the same: the next that is written says how many there were.
            known.count += 1;
        }
    }

    fn take(&mut self, key: Fingerprint, note: Note, times: i32) {
        if let Some(again) = self.again.get_mut(&key) {
            let before = again.take().map_or(0, |(_, n)| n);
            *again = Some((note, before + times));
            return;
        }
        self.again.insert(key.clone(), None);
        let (source, known) = (self.source.clone(), self.known.remove(&key));
        self.writing.push(Box::pin(async move {
            let reason = note.reason.clone();
            let known = source.write(note, times, known).await;
            let known = known.inspect_err(|e| tracing::debug!(reason, "event not written: {e}"));
            (key, known.ok())
        }));
    }

    fn is_written(&mut self, (key, known): Written) {
        let again = self.again.remove(&key).flatten();
        if let Some(known) = known {
            forget(&mut self.known, |k| k.at);
            self.known.insert(key.clone(), known);
        }
        if let Some((note, times)) = again {
            self.take(key, note, times);
        }
    }
}

/// Who records.
struct Source {
    client: Client,
    component: String,
    /// The host, or the instance of those that write series.
    host: String,
    series: bool,
}

impl Source {
    async fn write(&self, note: Note, times: i32, known: Option<Known>) -> crate::Result<Known> {
        if let Some(known) = known {
            let known = Known { count: known.count + times, at: note.at, ..known };
            match self.again(&note, &known).await {
                // It expired: make a new one.
                Err(e) if e.is_not_found() => {}
                Err(e) => {
                    tracing::debug!(reason = note.reason, "event not written: {e}");
                    return Ok(known);
                }
                Ok(()) => return Ok(known),
            }
        }
        let metadata = metadata(&note);
        let (namespace, name) = (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
        if self.series {
            self.client.create(&self.new_series(&note, times, metadata)).await?;
        } else {
            let mut event = self.new_event(&note, metadata);
            event.count = Some(times);
            self.client.create(&event).await?;
        }
        Ok(Known { namespace, name, count: times, at: note.at })
    }

    /// Says that an event happened again.
    async fn again(&self, note: &Note, known: &Known) -> crate::Result<()> {
        let (namespace, name) = (&known.namespace, &known.name);
        if self.series {
            let series = EventSeries { count: known.count, last_observed_time: MicroTime(note.at) };
            let patch = Patch::Strategic(serde_json::json!({"series": series}));
            return self.client.patch::<events::Event>(namespace, name, &patch).await.map(drop);
        }
        let patch = serde_json::json!({"count": known.count, "lastTimestamp": seconds(note.at), "message": note.message});
        self.client.patch::<Event>(namespace, name, &Patch::Strategic(patch)).await.map(drop)
    }

    fn new_series(&self, note: &Note, times: i32, metadata: ObjectMeta) -> events::Event {
        let at = MicroTime(note.at);
        events::Event {
            metadata,
            event_time: Some(at.clone()),
            series: (times > 1).then_some(EventSeries { count: times, last_observed_time: at }),
            reporting_controller: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone()),
            action: Some(note.what.action.to_owned()),
            reason: Some(note.reason.clone()),
            regarding: Some(note.about.clone()),
            related: note.what.related.clone(),
            note: Some(cut(&note.message)),
            type_: Some(note.kind.as_str().into()),
            ..events::Event::default()
        }
    }

    fn new_event(&self, note: &Note, metadata: ObjectMeta) -> Event {
        let at = Time(note.at);
        Event {
            metadata,
            involved_object: note.about.clone(),
            type_: Some(note.kind.as_str().into()),
            reason: Some(note.reason.clone()),
            message: Some(note.message.clone()),
            source: Some(EventSource { component: Some(self.component.clone()), host: Some(self.host.clone()).filter(|h| !h.is_empty()) }),
            first_timestamp: Some(at.clone()),
            last_timestamp: Some(at),
            count: Some(1),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone()),
            ..Event::default()
        }
    }
}

fn metadata(note: &Note) -> ObjectMeta {
    let namespace = note.about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
    let subject = note.about.name.as_deref().unwrap_or_default();
    let name = format!("{subject}.{:x}", note.at.as_nanosecond());
    ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() }
}

/// A note as long as it may be.
fn cut(message: &str) -> String {
    if message.len() <= LONGEST_NOTE {
        return message.to_owned();
    }
    format!("{}{CUT}", &message[..message.floor_char_boundary(LONGEST_NOTE - CUT.len())])
}

fn fingerprint(note: &Note) -> Fingerprint {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    let about = &note.about;
    let place = format!("{}/{}", text(&about.kind), text(&about.field_path));
    (place, text(&about.namespace), text(&about.name), text(&about.uid), note.kind, note.reason.clone(), note.message.clone())
}

/// Whole seconds, as `metav1.Time` is written.
fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
