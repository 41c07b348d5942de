//! Entries for callers in the same process: no socket, no TLS, the same pipeline from authorization on.

use crate::ApiServer;
use crate::attributes::{Attributes, UserInfo};
use crate::audit::Trail;
use crate::cache::{EventType, KindCache, Watch};
use crate::objects::{Loopback, Target};
use crate::output::{Body, present};
use crate::pipeline::Sender;
use crate::registry::Entry;
use crate::request::{Query, RequestBody, RequestInfo};
use crate::verbs::options::Selection as Selected;
use bytes::Bytes;
use ferrokube_api::labels::{FieldSelector, Selector};
use ferrokube_api::{Change, Selection, Status};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, Stream};
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A subscription waits so long after a listing that failed, twice as long each time...
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// ...up to this.
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// The identity under which the server writes by itself.
pub const LOOPBACK_USER: &str = "system:apiserver";

/// What the server itself is: the loopback client of the Go server.
pub fn loopback_user() -> UserInfo {
    UserInfo::component(LOOPBACK_USER, &["system:masters"])
}

/// The path of a resource's collection.
fn collection(group: &str, version: &str, namespace: &str, resource: &str) -> String {
    let prefix = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let place = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    format!("{prefix}{place}/{resource}")
}

/// What a subscription reads by. The change of a definition replaces all of it.
struct Row {
    entry: Arc<Entry>,
    cache: Arc<KindCache>,
    selected: Selected,
}

impl Row {
    /// As it is now.
    fn of(server: &ApiServer, selection: &Selection) -> Result<Self, Status> {
        let table = server.registry.table();
        let entry = table.get(&selection.group, &selection.version, &selection.resource).ok_or_else(Status::no_such_path)?.clone();
        let cache = server.caches.of(&entry.kind).ok_or_else(Status::method_not_allowed)?;
        let labels = Selector::parse(&selection.labels).map_err(Status::bad_request)?;
        let fields = FieldSelector::parse(&selection.fields).and_then(|f| f.resolve(&entry.kind)).map_err(Status::bad_request)?;
        // No component selects custom resources by fields of their own, which are looked at after conversion.
        Ok(Self { entry, cache, selected: Selected { labels, fields, ..Selected::default() } })
    }
}

/// A subscription under way.
struct Subscription {
    server: Arc<ApiServer>,
    selection: Selection,
    row: Row,
    watch: Option<Watch>,
    ready: VecDeque<Change>,
    /// How long to wait when the next listing fails.
    pause: Duration,
    /// For audit the watch is complete when this goes.
    _trail: Trail,
}

impl Subscription {
    /// Begins with all that there is. On an error nothing is told: a part of it would pass for all.
    async fn restart(&mut self) -> Result<(), Status> {
        let interest = Arc::new(self.row.selected.clone().interest(&self.selection.namespace, ""));
        // When the store cannot tell its revision, what the cache shows is the best there is.
        let applied = self.server.caches.consistent().await.unwrap_or_else(|_| self.server.caches.applied());
        let (snapshot, watch) = self.row.cache.watch_with_objects(interest, applied);
        let objects = self.server.converted(&self.row.entry, snapshot.objects).await?;
        self.ready.push_back(Change::Restart);
        self.ready.extend(objects.iter().filter_map(|o| present::object(&self.row.entry, o).ok()).map(Change::Set));
        self.ready.push_back(Change::Synced(snapshot.revision));
        self.watch = Some(watch);
        self.pause = FIRST_PAUSE;
        Ok(())
    }

    async fn next(mut self) -> Option<(Change, Self)> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some((change, self));
            }
            let Some(watch) = &mut self.watch else {
                if self.server.stopping.is_cancelled() {
                    return None;
                }
                self.row = Row::of(&self.server, &self.selection).ok()?;
                if let Err(error) = self.restart().await {
                    tracing::warn!(resource = self.selection.resource, %error, "a component of this process cannot follow a resource; the next attempt is in {:?}", self.pause);
                    let stopping = self.server.stopping.clone();
                    // An error means that the time has come.
                    let _ = tokio::time::timeout(self.pause, stopping.cancelled()).await;
                    self.pause = (self.pause * 2).min(LAST_PAUSE);
                }
                continue;
            };
            let event = tokio::select! {
                event = watch.next() => event,
                () = self.server.stopping.cancelled() => return None,
            };
            let Some(event) = event else {
                // Cut off, or the cache was loaded anew or has been replaced by another: begin again.
                self.watch = None;
                continue;
            };
            let interest = watch.interest();
            let Some((kind, object)) = event.project(|o| interest.wants(o)) else { continue };
            if self.row.entry.custom.is_some() {
                // The definition may name another webhook by now.
                self.row = Row::of(&self.server, &self.selection).ok()?;
            }
            let Ok(object) = self.server.converted_event(&self.row.entry, &event, kind, object).await else {
                // Nobody would ever hear of it again: begin again, when it can be converted.
                self.watch = None;
                continue;
            };
            if let Ok(object) = present::object(&self.row.entry, &object) {
                self.ready.push_back(if kind == EventType::Deleted { Change::Gone(object) } else { Change::Set(object) });
            }
        }
    }
}

impl ApiServer {
    /// Sends a request through the pipeline as `user`, from authorization on.
    pub async fn call(self: &Arc<Self>, user: UserInfo, request: Request<Bytes>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        self.handle(parts, RequestBody::Full(body), Sender::Known(user)).await
    }

    /// Whether requests for this group and version are passed on to a server behind an APIService.
    pub fn is_served_elsewhere(&self, group: &str, version: &str) -> bool {
        self.aggregator.remotes().serve(group, version)
    }

    /// Everything that happens to the selected objects, from what exists now on: the very `Arc`s of the watch cache.
    /// Authorized as list and watch. Ends when the server stops or no longer serves the kind in this version; when history was lost
    /// it starts again with [`Change::Restart`].
    pub fn subscribe(
        self: &Arc<Self>,
        user: UserInfo,
        selection: Selection,
    ) -> Result<impl Stream<Item = Change> + Send + 'static, Status> {
        let mut attributes = Attributes {
            user,
            group: selection.group.clone(),
            version: selection.version.clone(),
            resource: selection.resource.clone(),
            namespace: selection.namespace.clone(),
            field_selector: selection.fields.clone(),
            label_selector: selection.labels.clone(),
            ..Attributes::default()
        };
        for verb in ["list", "watch"] {
            attributes.verb = verb.to_owned();
            // Components have their permissions from RBAC; nobody else is asked about them.
            self.authorizer.authorize(&attributes).into_result(&attributes)?;
        }
        let row = Row::of(self, &selection)?;
        let trail = self.follow_subscription(&attributes);
        let subscription =
            Subscription { server: self.clone(), selection, row, watch: None, ready: VecDeque::new(), pause: FIRST_PAUSE, _trail: trail };
        Ok(stream::unfold(subscription, Subscription::next))
    }

    /// The trail of a watch that has no request line of its own.
    fn follow_subscription(&self, attributes: &Attributes) -> Trail {
        let trail = Trail::new(self.audit.as_ref(), &http::HeaderMap::new(), None);
        if !trail.is_active() {
            return trail;
        }
        let a = attributes;
        let path = collection(&a.group, &a.version, &a.namespace, &a.resource);
        let encode = |text: &str| {
            text.bytes().map(|b| if b.is_ascii_alphanumeric() { (b as char).to_string() } else { format!("%{b:02X}") }).collect::<String>()
        };
        let uri = format!("{path}?fieldSelector={}&labelSelector={}&watch=true", encode(&a.field_selector), encode(&a.label_selector));
        if let Ok(request) = Request::get(&uri).body(()) {
            let (parts, ()) = request.into_parts();
            let query = Query::parse(parts.uri.query());
            trail.subscribed(&parts, &RequestInfo::of(&parts.method, parts.uri.path(), &query), &a.user);
        }
        trail
    }

    async fn write(self: &Arc<Self>, method: Method, target: Target, object: Option<Value>) -> Result<Value, Status> {
        let name = if method == Method::POST && target.subresource.is_empty() { "" } else { &target.name };
        let below: String = [name, target.subresource.as_str()].iter().filter(|p| !p.is_empty()).map(|p| format!("/{p}")).collect();
        let path = collection(&target.group, &target.version, &target.namespace, &target.resource);
        let body = object.map(|o| Bytes::from(o.to_string())).unwrap_or_default();
        let request = Request::builder().method(method).uri(format!("{path}{below}")).header(CONTENT_TYPE, "application/json");
        let request =
            request.header("user-agent", "kube-apiserver/ferrokube").body(body).map_err(|e| Status::bad_request(e.to_string()))?;
        let response = self.call(loopback_user(), request).await;
        let ok = response.status().is_success();
        let bytes = response.into_body().collect().await.map_err(Status::internal)?;
        if ok {
            return serde_json::from_slice(&bytes).map_err(Status::internal);
        }
        Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| Status::internal("an answer that is no Status")))
    }
}

/// The pipeline as the server's own client.
#[derive(Clone, Debug)]
pub struct OwnClient(pub Arc<ApiServer>);

impl Loopback for OwnClient {
    fn create(&self, target: Target, object: Value) -> BoxFuture<'_, Result<Value, Status>> {
        Box::pin(self.0.write(Method::POST, target, Some(object)))
    }

    fn update(&self, target: Target, object: Value) -> BoxFuture<'_, Result<Value, Status>> {
        Box::pin(self.0.write(Method::PUT, target, Some(object)))
    }

    fn delete(&self, target: Target) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async move { self.0.write(Method::DELETE, target, None).await.map(|_| ()) })
    }
}

/// The same for parts of the server itself, which must not keep it alive.
#[derive(Clone, Debug)]
pub struct OwnPart(pub std::sync::Weak<ApiServer>);

impl OwnPart {
    fn client(&self) -> Result<OwnClient, Status> {
        self.0.upgrade().map(OwnClient).ok_or_else(|| Status::internal("the server is stopping"))
    }
}

impl Loopback for OwnPart {
    fn create(&self, target: Target, object: Value) -> BoxFuture<'_, Result<Value, Status>> {
        Box::pin(async move { self.client()?.create(target, object).await })
    }

    fn update(&self, target: Target, object: Value) -> BoxFuture<'_, Result<Value, Status>> {
        Box::pin(async move { self.client()?.update(target, object).await })
    }

    fn delete(&self, target: Target) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async move { self.client()?.delete(target).await })
    }
}
