//! An API server reduced to what a scheduler sees of one: objects in memory, no admission, no disk, no network, and nobody else at
//! work. What others would do where the workloads need it (the claims of a pod that names a template) is done at once.
//!
//! The scheduler is the real one, with its queue and its writes; what it costs is what is measured.

use crate::connect::Call;
use crate::hollow::Seen;
use anyhow::Context;
use bytes::Bytes;
use ferrokube_api::patch::{json_patch, merge_patch, strategic_merge};
use ferrokube_api::schema::Schema;
use ferrokube_api::{Change, Object, Selection, Status};
use ferrokube_client::{Transport, TransportError};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{self, BoxStream, StreamExt};
use http::{Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc;

/// Resource, namespace, name.
type Key = (Box<str>, Box<str>, Box<str>);
type Answer = Result<Value, Status>;

struct Kept {
    value: Value,
    object: Arc<Object>,
}

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<Key, Kept>,
    watchers: HashMap<Box<str>, Vec<mpsc::UnboundedSender<Change>>>,
}

/// See the module.
pub(super) struct World {
    state: Mutex<State>,
    seen: mpsc::UnboundedSender<Seen>,
}

/// What a path is about.
struct Place<'a> {
    resource: &'a str,
    namespace: &'a str,
    name: &'a str,
    subresource: &'a str,
}

impl<'a> Place<'a> {
    fn of(path: &'a str) -> Option<Place<'a>> {
        let mut parts = path.strip_prefix('/')?.split('/').peekable();
        // api/VERSION or apis/GROUP/VERSION
        let skip = if parts.next()? == "api" { 1 } else { 2 };
        let mut parts = parts.skip(skip).peekable();
        let first = parts.next()?;
        let (namespace, resource) = match (first, parts.peek().is_some()) {
            ("namespaces", true) => {
                let namespace = parts.next()?;
                match parts.next() {
                    Some(resource) => (namespace, resource),
                    None => return Some(Place { resource: first, namespace: "", name: namespace, subresource: "" }),
                }
            }
            _ => ("", first),
        };
        let (name, subresource) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        Some(Place { resource, namespace, name, subresource })
    }

    fn key(&self) -> Key {
        (self.resource.into(), self.namespace.into(), self.name.into())
    }
}

impl World {
    /// An empty one; it says what becomes of pods.
    pub fn new(seen: mpsc::UnboundedSender<Seen>) -> World {
        World { state: Mutex::default(), seen }
    }

    /// A request of the bench.
    pub fn call(&self, call: &Call) -> (StatusCode, Bytes) {
        let answer = self.answer(&call.method, &call.path, call.content_type, &call.body);
        let code = match &answer {
            Ok(_) => StatusCode::OK,
            Err(status) => StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        let body = answer.unwrap_or_else(|status| serde_json::to_value(&status).unwrap_or_default());
        (code, body.to_string().into())
    }

    fn answer(&self, method: &Method, path: &str, kind: &str, body: &[u8]) -> Answer {
        let path = path.split('?').next().unwrap_or_default();
        let place = Place::of(path).ok_or_else(Status::no_such_path)?;
        let body: Value = match body {
            [] => Value::Null,
            bytes => serde_json::from_slice(bytes).map_err(|e| Status::bad_request(e.to_string()))?,
        };
        // Events are written, and nobody reads them.
        if place.resource == "events" {
            return Ok(body);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (method.as_str(), place.subresource) {
            ("POST", "binding") => self.bind(&mut state, &place, &body),
            ("POST", _) => self.create(&mut state, &place, body),
            ("PATCH", _) => self.patch(&mut state, &place, kind, body),
            ("DELETE", _) => self.delete(&mut state, &place, &body),
            ("GET", _) => Ok(state.find(&place)?.value.clone()),
            _ => Err(Status::bad_request(format!("{method} is not done here"))),
        }
    }

    fn create(&self, state: &mut State, place: &Place<'_>, mut value: Value) -> Answer {
        let serial = state.revision + 1;
        let meta = &mut value["metadata"];
        if let (None, Some(prefix)) = (meta["name"].as_str(), meta["generateName"].as_str()) {
            meta["name"] = format!("{prefix}{serial}").into();
        }
        meta["uid"] = serial.to_string().into();
        meta["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        if !place.namespace.is_empty() {
            meta["namespace"] = place.namespace.into();
        }
        let name = meta["name"].as_str().unwrap_or_default().to_owned();
        let key = Place { name: &name, ..*place }.key();
        if state.objects.contains_key(&key) {
            return Err(Status::already_exists("", place.resource, &name));
        }
        if place.resource == "pods" {
            make_claims(state, place.namespace, &mut value);
            if value["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
                self.tell(place.namespace, &name, false);
            }
        }
        state.put(key, value)
    }

    fn bind(&self, state: &mut State, place: &Place<'_>, binding: &Value) -> Answer {
        let mut value = state.find(place)?.value.clone();
        if binding["metadata"]["uid"] != value["metadata"]["uid"] || !value["spec"]["nodeName"].is_null() {
            return Err(Status::conflict("", place.resource, place.name, "it is another pod, or bound already"));
        }
        value["spec"]["nodeName"] = binding["target"]["name"].clone();
        state.put(place.key(), value)?;
        self.tell(place.namespace, place.name, true);
        Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }

    fn patch(&self, state: &mut State, place: &Place<'_>, kind: &str, patch: Value) -> Answer {
        let mut value = state.find(place)?.value.clone();
        for field in ["resourceVersion", "uid"] {
            let wanted = &patch["metadata"][field];
            if !wanted.is_null() && *wanted != value["metadata"][field] {
                return Err(Status::conflict("", place.resource, place.name, "the object has been modified"));
            }
        }
        let tries = patch["status"]["conditions"].as_array().is_some_and(|c| c.iter().any(|c| c["type"] == "PodScheduled"));
        match kind {
            "application/json-patch+json" => json_patch(&mut value, &patch)?,
            "application/strategic-merge-patch+json" => strategic_merge(&mut value, patch, &schema(place.resource)?)?,
            _ => merge_patch(&mut value, &patch)?,
        }
        if tries {
            self.tell(place.namespace, place.name, false);
        }
        state.put(place.key(), value)
    }

    fn delete(&self, state: &mut State, place: &Place<'_>, options: &Value) -> Answer {
        let kept = state.find(place)?;
        let uid = &options["preconditions"]["uid"];
        if !uid.is_null() && *uid != kept.value["metadata"]["uid"] {
            return Err(Status::conflict("", place.resource, place.name, "it is another one"));
        }
        if kept.value["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()) && place.resource == "pods" {
            let mut value = kept.value.clone();
            value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            return state.put(place.key(), value);
        }
        let made = kept.value["status"]["resourceClaimStatuses"].clone();
        state.remove(&place.key());
        for claim in made.as_array().into_iter().flatten() {
            let name = claim["resourceClaimName"].as_str().unwrap_or_default();
            state.remove(&("resourceclaims".into(), place.namespace.into(), name.into()));
        }
        Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }

    fn tell(&self, namespace: &str, name: &str, on_node: bool) {
        // The receiver goes when enough is seen.
        let _ = self.seen.send(Seen { namespace: namespace.into(), name: name.into(), at: Instant::now(), on_node });
    }
}

/// Of the kinds that a scheduler patches strategically.
fn schema(resource: &str) -> Result<Schema, Status> {
    let name = match resource {
        "pods" => "io.k8s.api.core.v1.Pod",
        "resourceclaims" => "io.k8s.api.resource.v1.ResourceClaim",
        other => return Err(Status::bad_request(format!("{other} are not patched strategically here"))),
    };
    Schema::builtin(name).ok_or_else(Status::no_such_path)
}

/// The claims of a pod that names templates, as the resource claim controller makes them.
fn make_claims(state: &mut State, namespace: &str, pod: &mut Value) {
    let mut statuses = Vec::new();
    for claim in pod["spec"]["resourceClaims"].as_array().into_iter().flatten() {
        let Some(template) = claim["resourceClaimTemplateName"].as_str() else { continue };
        let key = ("resourceclaimtemplates".into(), namespace.into(), template.into());
        let Some(spec) = state.objects.get(&key).map(|kept| kept.value["spec"]["spec"].clone()) else { continue };
        let (of, pod_name) = (claim["name"].as_str().unwrap_or_default(), pod["metadata"]["name"].as_str().unwrap_or_default());
        let name = format!("{pod_name}-{of}-{}", state.revision);
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": pod_name, "uid": pod["metadata"]["uid"], "controller": true});
        let value = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"name": name, "namespace": namespace, "uid": format!("claim-{}", state.revision), "ownerReferences": [owner],
                "annotations": {"resource.kubernetes.io/pod-claim-name": of}},
            "spec": spec,
        });
        statuses.push(json!({"name": of, "resourceClaimName": name}));
        // What is made of objects of ours can be read.
        let _ = state.put(("resourceclaims".into(), namespace.into(), name.into()), value);
    }
    if !statuses.is_empty() {
        pod["status"]["resourceClaimStatuses"] = statuses.into();
    }
}

impl State {
    fn find(&self, place: &Place<'_>) -> Result<&Kept, Status> {
        self.objects.get(&place.key()).ok_or_else(|| Status::not_found("", place.resource, place.name))
    }

    /// Keeps an object and tells who watches.
    fn put(&mut self, key: Key, mut value: Value) -> Answer {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Object::from_json(value.to_string().into()).map_err(|e| Status::bad_request(e.to_string()))?;
        let object = Arc::new(object);
        self.tell(&key.0, &Change::Set(object.clone()));
        self.objects.insert(key, Kept { value: value.clone(), object });
        Ok(value)
    }

    fn remove(&mut self, key: &Key) {
        self.revision += 1;
        if let Some(kept) = self.objects.remove(key) {
            self.tell(&key.0, &Change::Gone(kept.object));
        }
    }

    fn tell(&mut self, resource: &str, change: &Change) {
        if let Some(watchers) = self.watchers.get_mut(resource) {
            watchers.retain(|watcher| watcher.send(change.clone()).is_ok());
        }
    }
}

/// The scheduler's way to it.
pub(super) struct Way(pub Arc<World>);

impl Transport for Way {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        let (parts, body) = request.into_parts();
        let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let answer = self.0.answer(&parts.method, parts.uri.path(), kind, &body);
        let (code, value) = match answer {
            Ok(value) => (200, value),
            Err(status) => (status.code, serde_json::to_value(&status).unwrap_or_default()),
        };
        let response = Response::builder().status(code).body(Bytes::from(value.to_string())).map_err(TransportError::new);
        ready(response).boxed()
    }

    fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, receiver) = mpsc::unbounded_channel();
        let resource: Box<str> = selection.resource.as_str().into();
        let listed = state.objects.iter().filter(|(key, _)| key.0 == resource).map(|(_, kept)| Change::Set(kept.object.clone()));
        let first: Vec<Change> = [Change::Restart].into_iter().chain(listed).chain([Change::Synced(state.revision)]).collect();
        state.watchers.entry(resource).or_default().push(sender);
        let changes = stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|change| (change, receiver)) });
        stream::iter(first).chain(changes).boxed()
    }
}

/// Runs the scheduler over a world until dropped.
pub(super) async fn schedule(world: Arc<World>, configuration: Option<&str>) -> anyhow::Result<()> {
    let client = ferrokube_client::Client::new(Arc::new(Way(world)), "kube-scheduler");
    let mut config = ferrokube_scheduler::Config::default();
    if let Some(text) = configuration {
        let file: Value = serde_saphyr::from_str(text)?;
        config.configuration = ferrokube_scheduler::config::Configuration::read(file).context("the scheduler's configuration")?;
    }
    ferrokube_scheduler::run(client, config).await;
    Ok(())
}
