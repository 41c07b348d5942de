//! What a request leaves behind for audit, step by step. Every step is one call in the pipeline and returns at once
//! when nothing is written down.

use super::event::{Event, ObjectRef};
use super::{Audit, Level, Stage};
use crate::admission::Outcome;
use crate::attributes::UserInfo;
use crate::authz::Decision;
use crate::output::Body;
use crate::request::RequestInfo;
use crate::server::metrics::Active;
use bytes::Bytes;
use ferrokube_api::{Reason, Status};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bodies that are too large to be parsed for audit are left out.
const MAX_BODY: usize = 8 << 20;

/// The record of one request. The last one to hold it completes it: a watch, long after its response began.
struct Record {
    audit: Arc<Audit>,
    id: HeaderValue,
    received: Timestamp,
    event: Mutex<Option<Event>>,
    finished: AtomicBool,
}

/// The trail of a request; without a record when audit is off. Whoever carries a request's bytes to their end holds it, and with it
/// the request's place among those that take long.
#[derive(Clone, Default)]
pub struct Trail {
    record: Option<Arc<Record>>,
    _active: Option<Arc<Active>>,
}

/// `X-Forwarded-For`, `X-Real-Ip`, and the address of the connection (`utilnet.SourceIPs`).
fn source_ips(headers: &HeaderMap, peer: Option<IpAddr>) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut all: Vec<IpAddr> = text("x-forwarded-for").split(',').filter_map(|ip| ip.trim().parse().ok()).collect();
    if all.is_empty() {
        all.extend(text("x-real-ip").parse::<IpAddr>().ok());
    }
    // A component of this process has no connection: it is here.
    let peer = peer.unwrap_or(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST));
    if all.last() != Some(&peer) {
        all.push(peer);
    }
    all.iter().map(IpAddr::to_string).collect()
}

impl Record {
    fn with<R>(&self, step: impl FnOnce(&mut Event) -> R) -> Option<R> {
        self.event.lock().as_mut().map(step)
    }

    /// Asks the policy, and begins the event unless it says None.
    fn begin(&self, parts: &Parts, info: &RequestInfo, user: Option<&UserInfo>, peer: Option<IpAddr>) {
        let verdict = self.audit.policy.judge(info, user);
        self.audit.counts.levels[verdict.level as usize].fetch_add(1, Ordering::Relaxed);
        if verdict.level == Level::None {
            return;
        }
        let text = |name| parts.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default().to_owned();
        let object = info.resource_request.then(|| ObjectRef { info: info.clone(), ..ObjectRef::default() });
        *self.event.lock() = Some(Event {
            verdict,
            id: self.id.to_str().unwrap_or_default().to_owned(),
            uri: parts.uri.path_and_query().map_or_else(|| parts.uri.path().to_owned(), |p| p.as_str().to_owned()),
            verb: info.verb.clone(),
            user: user.cloned(),
            impersonated: None,
            constraint: String::new(),
            source_ips: source_ips(&parts.headers, peer),
            user_agent: text(http::header::USER_AGENT),
            object,
            status: None,
            request: None,
            response: None,
            received: self.received,
            annotations: Default::default(),
        });
    }

    /// The event of a stage for one sink, cut short when the sink wants that. `None`: too large even so.
    fn rendered(&self, stage: Stage) -> Vec<(usize, Option<Bytes>)> {
        let now = Timestamp::now();
        let event = self.event.lock();
        let Some(event) = event.as_ref().filter(|e| e.wants(stage)) else { return Vec::new() };
        let whole = event.json(stage, now, true);
        let fitting = |max: usize| {
            let cut = if whole.len() > max { event.json(stage, now, false) } else { whole.clone() };
            (cut.len() <= max).then_some(cut)
        };
        let sinks = self.audit.sinks.iter().enumerate();
        sinks.map(|(at, sink)| (at, sink.max_event().map_or_else(|| Some(whole.clone()), fitting))).collect()
    }

    async fn emit(&self, stage: Stage) -> Result<(), Status> {
        for (at, event) in self.rendered(stage) {
            // Boxed: a sink may ask another server, and every request would be as large as that.
            let taken = Box::pin(self.audit.sinks[at].take(event)).await;
            self.audit.counts.events.fetch_add(1, Ordering::Relaxed);
            if !taken && stage == Stage::RequestReceived && self.audit.sinks[at].is_strict() {
                self.audit.counts.rejected.fetch_add(1, Ordering::Relaxed);
                return Err(Status::failure(500, Reason::InternalError, "audit event could not be written"));
            }
        }
        Ok(())
    }

    /// From where nobody can wait.
    fn emit_later(&self, stage: Stage) {
        for (at, event) in self.rendered(stage) {
            self.audit.counts.events.fetch_add(1, Ordering::Relaxed);
            self.audit.sinks[at].take_later(event);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !*self.finished.get_mut() {
            self.emit_later(Stage::ResponseComplete);
        }
    }
}

impl Trail {
    /// The trail of a request that just came. Its id is the client's `Audit-ID`, else a new one.
    pub fn new(audit: Option<&Arc<Audit>>, headers: &HeaderMap, active: Option<Active>) -> Self {
        let record = audit.map(|audit| {
            let said = headers.get("audit-id").filter(|id| id.len() <= 64 && id.to_str().is_ok()).cloned();
            let made = || HeaderValue::from_str(&uuid::Uuid::new_v4().to_string());
            let id = said.or_else(|| made().ok()).unwrap_or(HeaderValue::from_static("unknown"));
            let audit = audit.clone();
            let finished = AtomicBool::new(false);
            Arc::new(Record { audit, id, received: Timestamp::now(), event: Mutex::new(None), finished })
        });
        Trail { record, _active: active.map(Arc::new) }
    }

    /// Whether anything is written down at all.
    pub fn is_active(&self) -> bool {
        self.record.is_some()
    }

    /// The value of `Audit-ID`.
    pub fn id(&self) -> Option<&HeaderValue> {
        self.record.as_ref().map(|r| &r.id)
    }

    /// The user is known: the policy decides. An error ends the request (mode blocking-strict).
    pub async fn received(&self, parts: &Parts, info: &RequestInfo, user: &UserInfo, peer: Option<IpAddr>) -> Result<(), Status> {
        let Some(record) = &self.record else { return Ok(()) };
        record.begin(parts, info, Some(user), peer);
        record.emit(Stage::RequestReceived).await
    }

    /// A component of this process begins to watch: received and answered at once. It is complete when the trail goes.
    pub fn subscribed(&self, parts: &Parts, info: &RequestInfo, user: &UserInfo) {
        let Some(record) = &self.record else { return };
        record.begin(parts, info, Some(user), None);
        record.emit_later(Stage::RequestReceived);
        record.with(|e| e.status = Some(json!({ "metadata": {}, "code": 200 })));
        record.emit_later(Stage::ResponseStarted);
    }

    /// Nobody proved who they are.
    pub fn unauthenticated(&self, parts: &Parts, info: &RequestInfo, peer: Option<IpAddr>) {
        let Some(record) = &self.record else { return };
        record.begin(parts, info, None, peer);
        let mut attempted = Vec::new();
        let authorization = parts.headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if authorization.to_ascii_lowercase().starts_with("bearer ") {
            attempted.push("bearer");
        }
        if authorization.to_ascii_lowercase().starts_with("basic ") {
            attempted.push("basic");
        }
        let what = if attempted.is_empty() {
            "Authentication failed, no credentials provided".to_owned()
        } else {
            format!("Authentication failed, attempted: {}", attempted.join(", "))
        };
        let status = json!({ "metadata": {}, "status": "Failure", "message": what, "reason": "Unauthorized", "code": 401 });
        record.with(|e| e.status = Some(status));
        record.emit_later(Stage::ResponseStarted);
        record.finished.store(true, Ordering::Relaxed);
    }

    /// The request goes on in somebody else's name; `constraint` is the verb that allowed it, unless it is the plain one.
    pub fn impersonated(&self, user: &UserInfo, constraint: &str) {
        let Some(record) = &self.record else { return };
        record.with(|e| {
            e.impersonated = Some(user.clone());
            constraint.clone_into(&mut e.constraint);
        });
    }

    /// Authorization has decided.
    pub fn decided(&self, decision: &Decision) {
        let Some(record) = &self.record else { return };
        record.with(|e| {
            let word = if decision.allowed() { "allow" } else { "forbid" };
            e.annotations.insert("authorization.k8s.io/decision".to_owned(), word.to_owned());
            e.annotations.insert("authorization.k8s.io/reason".to_owned(), decision.reason().to_owned());
        });
    }

    /// The decoded object of the request.
    pub fn request_object(&self, object: &Value) {
        let Some(record) = &self.record else { return };
        record.with(|e| e.set_request(object));
    }

    /// The body as it came: patches, options. Formats other than JSON and YAML come decoded, by [`Trail::request_object`].
    pub fn request_body(&self, headers: &HeaderMap, body: &[u8]) {
        let Some(record) = &self.record else { return };
        if body.is_empty() || body.len() > MAX_BODY {
            return;
        }
        record.with(|e| {
            if e.verdict.level < Level::Request {
                return;
            }
            let media = headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
            let yaml = || std::str::from_utf8(body).ok().and_then(|text| serde_saphyr::from_str::<Value>(text).ok());
            let value = serde_json::from_slice(body).ok().or_else(|| if media.contains("yaml") { yaml() } else { None });
            if let Some(value) = value {
                e.request = Some(e.cleaned(value));
            }
        });
    }

    /// Whether [`Trail::response_body`] keeps anything.
    pub fn wants_response(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.with(|e| e.verdict.level >= Level::RequestResponse) == Some(true))
    }

    /// The object of the answer, still as JSON. A list that would be spliced while it is sent is put together for this.
    pub fn response_body(&self, body: &mut Body) {
        let (Some(record), true) = (&self.record, self.wants_response()) else { return };
        let Some(bytes) = body.whole().filter(|b| b.len() <= MAX_BODY) else { return };
        record.with(|e| {
            if let Ok(value) = serde_json::from_slice(&bytes) {
                e.response = Some(e.cleaned(value));
            }
        });
    }

    /// The answer is a failure.
    pub fn failed(&self, status: &Status) {
        let Some(record) = &self.record else { return };
        record.with(|e| {
            e.status = serde_json::from_slice(&status.to_json()).ok().map(|mut s: Value| {
                if let Some(map) = s.as_object_mut() {
                    map.remove("kind");
                    map.remove("apiVersion");
                }
                s
            })
        });
    }

    /// The request panicked.
    pub async fn panicked(&self, status: &Status) {
        let Some(record) = &self.record else { return };
        self.failed(status);
        let _ = record.emit(Stage::Panic).await;
        record.finished.store(true, Ordering::Relaxed);
    }

    /// The answer is about to go out. A long-running one is complete only when its stream ends.
    pub async fn answered(&self, mut response: Response<Body>, long_running: bool, outcome: &Mutex<Outcome>) -> Response<Body> {
        if long_running {
            *response.body_mut() = match std::mem::take(response.body_mut()) {
                Body::Stream(stream) => Body::Stream(self.held_by(stream)),
                Body::Passage(stream) => Body::Passage(self.held_by(stream)),
                whole => whole,
            };
        }
        let Some(record) = &self.record else { return response };
        if record.finished.load(Ordering::Relaxed) || record.event.lock().is_none() {
            return response;
        }
        let code = response.status().as_u16();
        let annotations = outcome.lock().annotations.clone();
        record.with(|e| {
            e.status.get_or_insert_with(|| json!({ "metadata": {}, "code": code }));
            e.annotations.extend(annotations);
        });
        if long_running {
            let _ = record.emit(Stage::ResponseStarted).await;
            // Of an upgraded connection, whoever carries its bytes holds the record.
            if code == 101 || matches!(response.body(), Body::Stream(_) | Body::Passage(_)) {
                return response;
            }
        }
        let _ = record.emit(Stage::ResponseComplete).await;
        record.finished.store(true, Ordering::Relaxed);
        response
    }

    fn held_by<T: 'static>(&self, stream: BoxStream<'static, T>) -> BoxStream<'static, T> {
        let held = self.clone();
        let watched = stream.map(move |frame| {
            let _ = &held;
            frame
        });
        watched.boxed()
    }
}

impl std::fmt::Debug for Trail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trail({})", self.record.is_some())
    }
}
