//! Events: what components tell people about objects.
//!
//! Same event again (object, reason, message, source): its count goes up instead of a new one being made, as client-go's
//! correlator does. Recording never blocks and never fails the caller; a full queue drops the event with a log line.

use crate::{Client, Patch, Resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use std::collections::HashMap;
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

struct Note {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Records events of one component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
}

/// How many events may wait to be written.
const BACKLOG: usize = 1000;
/// How many recent events are remembered for counting (as client-go's correlator).
const REMEMBERED: usize = 4096;

impl Recorder {
    /// A recorder that writes through `client` as `component` (on `host`, for node components).
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (notes, inbox) = mpsc::channel(BACKLOG);
        let writer = Writer { client, component: component.into(), host: host.into(), known: HashMap::new() };
        tokio::spawn(writer.run(inbox));
        Recorder { notes }
    }

    /// Records that something happened to an object.
    pub fn event(&self, about: ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let note = Note { about, kind, reason: reason.into(), message: message.into(), at: Timestamp::now() };
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

struct Writer {
    client: Client,
    component: String,
    host: String,
    known: HashMap<Fingerprint, Known>,
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Note>) {
        while let Some(note) = inbox.recv().await {
            if let Err(e) = self.write(&note).await {
                tracing::debug!(reason = note.reason, "event not written: {e}");
            }
        }
    }

    async fn write(&mut self, note: &Note) -> crate::Result<()> {
        let key = fingerprint(note);
        if let Some(known) = self.known.get_mut(&key) {
            known.count += 1;
            known.at = note.at;
            let patch = serde_json::json!({"count": known.count, "lastTimestamp": seconds(note.at)});
            match self.client.patch::<Event>(&known.namespace, &known.name, &Patch::Strategic(patch)).await {
                Err(e) if e.is_not_found() => drop(self.known.remove(&key)), // It expired: make a new one.
                other => return other.map(drop),
            }
        }
        let event = self.new_event(note);
        let (namespace, name) = (event.metadata.namespace.clone(), event.metadata.name.clone());
        self.client.create(&event).await?;
        self.remember(key, namespace.unwrap_or_default(), name.unwrap_or_default(), note.at);
        Ok(())
    }

    fn remember(&mut self, key: Fingerprint, namespace: String, name: String, at: Timestamp) {
        if self.known.len() >= REMEMBERED {
            let mut ages: Vec<Timestamp> = self.known.values().map(|k| k.at).collect();
            ages.sort_unstable();
            let middle = ages[ages.len() / 2];
            self.known.retain(|_, k| k.at > middle);
        }
        self.known.insert(key, Known { namespace, name, count: 1, at });
    }

    fn new_event(&self, note: &Note) -> Event {
        let at = Time(note.at);
        let namespace = note.about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
        let subject = note.about.name.as_deref().unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{subject}.{:x}", note.at.as_nanosecond())),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
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
