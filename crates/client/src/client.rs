//! Verbs of the API, typed by [`Resource`] or dynamic by [`Target`].

use crate::{Error, Resource, Result, Transport};
use bytes::Bytes;
use ferrokube_api::{Change, Object, Selection, Status};
use futures_util::stream::BoxStream;
use http::{Method, Request, Response, header};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// What a dynamic request is about: an object, a collection or a subresource of any kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Target {
    /// Group; empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural.
    pub resource: String,
    /// Empty: cluster scope or all namespaces.
    pub namespace: String,
    /// Empty: the collection.
    pub name: String,
    /// Empty: the object itself.
    pub subresource: String,
}

impl Target {
    /// Of a typed kind.
    pub fn of<R: Resource>(namespace: &str, name: &str) -> Self {
        Target {
            group: R::GROUP.into(),
            version: R::VERSION.into(),
            resource: R::RESOURCE.into(),
            namespace: if R::NAMESPACED { namespace.into() } else { String::new() },
            name: name.into(),
            subresource: String::new(),
        }
    }

    /// The subresource of it.
    pub fn sub(mut self, subresource: &str) -> Self {
        self.subresource = subresource.into();
        self
    }

    /// The path of the request.
    pub fn path(&self) -> String {
        let mut path =
            if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) };
        if !self.namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(&self.namespace);
        }
        for part in [&self.resource, &self.name, &self.subresource] {
            if !part.is_empty() {
                path.push('/');
                path.push_str(part);
            }
        }
        path
    }
}

/// Options of a list.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// `labelSelector`.
    pub labels: String,
    /// `fieldSelector`.
    pub fields: String,
}

/// Options of a delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds of grace; the kind's own when absent.
    pub grace_period_seconds: Option<i64>,
    /// Only when the object has this UID.
    pub uid: Option<String>,
    /// Only when the object is at this resourceVersion.
    pub resource_version: Option<String>,
    /// `Orphan`, `Background`, `Foreground`.
    pub propagation: Option<&'static str>,
}

impl DeleteOptions {
    /// Only the object with this UID.
    pub fn of_uid(uid: &str) -> Self {
        DeleteOptions { uid: Some(uid.to_owned()), ..Self::default() }
    }

    fn body(&self) -> Value {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(seconds) = self.grace_period_seconds {
            body["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(uid) = &self.uid {
            body["preconditions"]["uid"] = uid.as_str().into();
        }
        if let Some(version) = &self.resource_version {
            body["preconditions"]["resourceVersion"] = version.as_str().into();
        }
        if let Some(policy) = self.propagation {
            body["propagationPolicy"] = policy.into();
        }
        body
    }
}

/// A patch and its kind.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7396.
    Merge(Value),
    /// Kubernetes strategic merge.
    Strategic(Value),
    /// Server-side apply with `force=true` as this field manager.
    Apply(&'static str, Value),
}

const JSON: &str = "application/json";

/// How often a request is repeated because the server asks for it.
const MOST_RETRIES: usize = 10;

/// Requests under one identity. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    agent: Arc<str>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.agent)
    }
}

impl Client {
    /// A client over a transport. `agent` is the User-Agent, from which the server derives the field manager.
    pub fn new(transport: Arc<dyn Transport>, agent: &str) -> Self {
        Client { transport, agent: agent.into() }
    }

    /// Sends a raw request. A server that asks to come again later (`Retry-After`, as it does when its queues are full) is
    /// asked again, as often as client-go asks.
    pub async fn send(&self, method: Method, path_and_query: &str, content_type: Option<&str>, body: Bytes) -> Result<Response<Bytes>> {
        self.send_for(JSON, method, path_and_query, content_type, body).await
    }

    async fn send_for(
        &self,
        accept: &str,
        method: Method,
        path_and_query: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<Response<Bytes>> {
        let mut tries = 0;
        loop {
            let request = self.raw(accept, method.clone(), path_and_query, content_type, body.clone())?;
            let response = self.transport.send(request).await?;
            if response.status().is_success() {
                return Ok(response);
            }
            match later(&response).filter(|_| tries < MOST_RETRIES) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(failure(&response)),
            }
            tries += 1;
        }
    }

    fn raw(&self, accept: &str, method: Method, path_and_query: &str, content_type: Option<&str>, body: Bytes) -> Result<Request<Bytes>> {
        let mut request =
            Request::builder().method(method).uri(path_and_query).header(header::ACCEPT, accept).header(header::USER_AGENT, &*self.agent);
        if let Some(kind) = content_type {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        Ok(request.body(body).map_err(crate::TransportError::new)?)
    }

    /// Sends a request about a target and reads the answer as JSON.
    pub async fn request(&self, method: Method, target: &Target, query: &str, body: Option<&Value>) -> Result<Value> {
        let (kind, bytes) = match body {
            Some(body) => (Some("application/json"), Bytes::from(body.to_string())),
            None => (None, Bytes::new()),
        };
        let response = self.send(method, &with_query(target.path(), query), kind, bytes).await?;
        serde_json::from_slice(response.body()).map_err(|source| Error::Decode { what: "JSON", source })
    }

    /// One object.
    pub async fn get<R: Resource>(&self, namespace: &str, name: &str) -> Result<R> {
        let response = self.send(Method::GET, &Target::of::<R>(namespace, name).path(), None, Bytes::new()).await?;
        decoded(&response)
    }

    /// One object as a shared encoded object.
    pub async fn get_object(&self, target: &Target) -> Result<Arc<Object>> {
        let response = self.send(Method::GET, &target.path(), None, Bytes::new()).await?;
        let object = Object::from_json(response.into_body());
        object.map(Arc::new).map_err(|e| crate::TransportError::new(e).into())
    }

    /// Objects of a kind; all namespaces when `namespace` is empty.
    pub async fn list<R: Resource>(&self, namespace: &str, options: &ListOptions) -> Result<Vec<R>> {
        #[derive(serde::Deserialize)]
        struct List<'a> {
            #[serde(borrow)]
            items: Vec<&'a serde_json::value::RawValue>,
        }
        let query = selector_query(&options.labels, &options.fields);
        let path = with_query(Target::of::<R>(namespace, "").path(), &query);
        let response = self.send(Method::GET, &path, None, Bytes::new()).await?;
        let decode = |source| Error::Decode { what: R::KIND, source };
        let list: List = serde_json::from_slice(response.body()).map_err(decode)?;
        list.items.iter().map(|item| R::decode(item.get().as_bytes()).map_err(decode)).collect()
    }

    /// A list without more of its objects than their metadata, as JSON bytes. A server that cannot leave the rest out sends it too.
    pub async fn list_metadata(&self, target: &Target, query: &str) -> Result<Bytes> {
        const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        let path = with_query(target.path(), query);
        Ok(self.send_for(METADATA, Method::GET, &path, None, Bytes::new()).await?.into_body())
    }

    /// Creates; the object's own namespace says where.
    pub async fn create<R: Resource>(&self, object: &R) -> Result<R> {
        let namespace = object.meta().namespace.as_deref().unwrap_or_default();
        let target = Target::of::<R>(namespace, "");
        let response = self.send(Method::POST, &target.path(), Some("application/json"), object.encode().into()).await?;
        decoded(&response)
    }

    /// Replaces; fails with a conflict when the object carries a stale resourceVersion.
    pub async fn update<R: Resource>(&self, object: &R) -> Result<R> {
        self.put(object, "").await
    }

    /// Replaces the status.
    pub async fn update_status<R: Resource>(&self, object: &R) -> Result<R> {
        self.put(object, "status").await
    }

    async fn put<R: Resource>(&self, object: &R, subresource: &str) -> Result<R> {
        let meta = object.meta();
        let target = Target::of::<R>(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        let path = target.sub(subresource).path();
        let response = self.send(Method::PUT, &path, Some("application/json"), object.encode().into()).await?;
        decoded(&response)
    }

    /// Patches an object or, with a target of a subresource, a part of it; the answer as JSON bytes.
    pub async fn patch_target(&self, target: &Target, patch: &Patch) -> Result<Bytes> {
        let (kind, query, body) = match patch {
            Patch::Json(v) => ("application/json-patch+json", String::new(), v),
            Patch::Merge(v) => ("application/merge-patch+json", String::new(), v),
            Patch::Strategic(v) => ("application/strategic-merge-patch+json", String::new(), v),
            Patch::Apply(manager, v) => ("application/apply-patch+yaml", format!("fieldManager={manager}&force=true"), v),
        };
        let path = with_query(target.path(), &query);
        Ok(self.send(Method::PATCH, &path, Some(kind), Bytes::from(body.to_string())).await?.into_body())
    }

    /// Patches an object.
    pub async fn patch<R: Resource>(&self, namespace: &str, name: &str, patch: &Patch) -> Result<R> {
        let body = self.patch_target(&Target::of::<R>(namespace, name), patch).await?;
        R::decode(&body).map_err(|source| Error::Decode { what: R::KIND, source })
    }

    /// Patches the status of an object.
    pub async fn patch_status<R: Resource>(&self, namespace: &str, name: &str, patch: &Patch) -> Result<R> {
        let body = self.patch_target(&Target::of::<R>(namespace, name).sub("status"), patch).await?;
        R::decode(&body).map_err(|source| Error::Decode { what: R::KIND, source })
    }

    /// Deletes an object.
    pub async fn delete<R: Resource>(&self, namespace: &str, name: &str, options: &DeleteOptions) -> Result<()> {
        self.delete_target(&Target::of::<R>(namespace, name), options).await
    }

    /// Deletes an object of any kind.
    pub async fn delete_target(&self, target: &Target, options: &DeleteOptions) -> Result<()> {
        let body = Bytes::from(options.body().to_string());
        self.send(Method::DELETE, &target.path(), Some("application/json"), body).await.map(drop)
    }

    /// Everything that happens to the selected objects; see [`Transport::subscribe`].
    pub fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change> {
        self.transport.subscribe(selection)
    }
}

/// When the server wants to be asked again: it was too busy, or broken for a moment, and says so. Nothing was done then.
fn later(response: &Response<Bytes>) -> Option<Duration> {
    let status = response.status();
    if status != http::StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
        return None;
    }
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn decoded<R: Resource>(response: &Response<Bytes>) -> Result<R> {
    R::decode(response.body()).map_err(|source| Error::Decode { what: R::KIND, source })
}

/// The server's `Status`, or one made from the code when the body is something else (a proxy's page).
pub(crate) fn failure(response: &Response<Bytes>) -> Error {
    let code = response.status().as_u16();
    let status = serde_json::from_slice::<Status>(response.body()).ok().filter(|s| s.code != 0);
    status.unwrap_or_else(|| unreadable_failure(code, response.body())).into()
}

fn unreadable_failure(code: u16, body: &[u8]) -> Status {
    use ferrokube_api::Reason;
    let reason = match code {
        // In client-go's words: a path that nothing serves is answered in plain text.
        404 => return Status::no_such_path(),
        401 => Reason::Unauthorized,
        403 => Reason::Forbidden,
        429 => Reason::TooManyRequests,
        503 => Reason::ServiceUnavailable,
        504 => Reason::Timeout,
        _ => Reason::InternalError,
    };
    let text = String::from_utf8_lossy(&body[..body.len().min(256)]).into_owned();
    Status::failure(code, reason, format!("the server answered {code}: {text}"))
}

fn with_query(path: String, query: &str) -> String {
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

/// `labelSelector=..&fieldSelector=..`, percent-encoded.
pub(crate) fn selector_query(labels: &str, fields: &str) -> String {
    let pairs = [("labelSelector", labels), ("fieldSelector", fields)];
    let parts = pairs.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}={}", percent_encoded(v)));
    parts.collect::<Vec<_>>().join("&")
}

/// Percent-encodes all but unreserved characters.
pub fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
