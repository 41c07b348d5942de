//! A subscription over requests: a list, and a watch from there on.
//!
//! Whoever holds the stream never sees that a connection broke or that history was lost: after that comes a new
//! [`Change::Restart`] with all that there is. Objects are told as they come; what is gone is told with its last state.
//! Objects that came a while ago are packed ([`ferrokube_api::packer`]), as the API server does with its own: by then whoever follows
//! the stream has read them, and a process that follows all Pods of a large cluster shall not keep each as plain text.

use crate::transport::{Transport, TransportError};
use bytes::{Bytes, BytesMut};
use ferrokube_api::packer::Packer;
use ferrokube_api::{Change, Object, Reason, Selection, Status};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use http::{Request, Response, header};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

const RETRY: [Duration; 5] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(10)];

/// So many of the latest objects stay plain.
const RECENT: usize = 512;

/// The body of an answer that has no end.
pub type Opened = BoxStream<'static, Result<Bytes, TransportError>>;

/// A transport that can hand over an answer while it comes.
pub trait Open: Transport {
    /// Sends one request; its body follows, without a time limit.
    fn open(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Opened>, TransportError>>;
}

/// Everything that happens to the selected objects, see [`Transport::subscribe`].
pub fn changes<T: Open>(transport: T, selection: Selection) -> BoxStream<'static, Change> {
    let (changes, inbox) = tokio::sync::mpsc::channel(1024);
    let watcher = Watcher { transport, selection, changes, recent: VecDeque::new(), packer: Packer::default() };
    tokio::spawn(watcher.run());
    Box::pin(futures_util::stream::unfold(inbox, |mut inbox| async move { inbox.recv().await.map(|c| (c, inbox)) }))
}

/// Lists, then watches from there, for ever; the reflector of client-go.
struct Watcher<T> {
    transport: T,
    selection: Selection,
    changes: tokio::sync::mpsc::Sender<Change>,
    /// The latest objects, oldest first: not packed yet.
    recent: VecDeque<Arc<Object>>,
    packer: Packer,
}

/// Why a watch ended.
enum End {
    /// History is lost: list again.
    Relist,
    /// The server closed it or the connection broke: go on from the last revision.
    Resume,
    /// Nobody listens any more.
    Abandoned,
}

impl<T: Open> Watcher<T> {
    async fn run(mut self) {
        let mut failures = 0;
        let mut position: Option<String> = None;
        while !self.changes.is_closed() {
            let step = match position.clone() {
                None => self.list().await.map(|revision| (Some(revision), End::Resume)),
                Some(from) => self.watch(from).await,
            };
            match step {
                Ok((_, End::Abandoned)) => return,
                Ok((_, End::Relist)) => position = None,
                Ok((at, End::Resume)) => {
                    position = at;
                    failures = 0;
                    continue;
                }
                Err(e) => {
                    tracing::debug!(resource = self.selection.resource, "watch: {e:#}");
                    // A server that has too much to do is not asked for even more.
                    if e.status().is_some_and(|status| status.code != 429) {
                        position = None;
                    }
                }
            }
            tokio::time::sleep(RETRY[failures.min(RETRY.len() - 1)]).await;
            failures += 1;
        }
    }

    fn path(&self, more: &str) -> String {
        let target = crate::Target {
            group: self.selection.group.clone(),
            version: self.selection.version.clone(),
            resource: self.selection.resource.clone(),
            namespace: self.selection.namespace.clone(),
            ..crate::Target::default()
        };
        let selectors = crate::client::selector_query(&self.selection.labels, &self.selection.fields);
        let separator = if selectors.is_empty() || more.is_empty() { "" } else { "&" };
        format!("{}?{selectors}{separator}{more}", target.path())
    }

    fn request(&self, path: &str) -> Result<Request<Bytes>, TransportError> {
        let request = Request::get(path).header(header::ACCEPT, "application/json").header(header::USER_AGENT, "ferrokube");
        request.body(Bytes::new()).map_err(TransportError::new)
    }

    async fn list(&mut self) -> crate::Result<String> {
        let mut revision = String::new();
        let mut token = String::new();
        self.emit(Change::Restart).await;
        loop {
            let more = format!(
                "limit=500{}",
                if token.is_empty() { String::new() } else { format!("&continue={}", crate::client::percent_encoded(&token)) }
            );
            let response = self.transport.send(self.request(&self.path(&more))?).await?;
            if !response.status().is_success() {
                return Err(crate::client::failure(&response));
            }
            let list: ListPage =
                serde_json::from_slice(response.body()).map_err(|source| crate::Error::Decode { what: "a list", source })?;
            let (api_version, kind) = (list.api_version, list.kind.strip_suffix("List").unwrap_or(&list.kind).to_owned());
            for item in list.items {
                let json = with_type(item.get(), &api_version, &kind);
                self.set(json).await?;
            }
            revision = list.metadata.resource_version.unwrap_or(revision);
            token = list.metadata.next.unwrap_or_default();
            if token.is_empty() {
                break;
            }
        }
        self.emit(Change::Synced(revision.parse().unwrap_or(0))).await;
        Ok(revision)
    }

    async fn set(&mut self, json: Bytes) -> crate::Result<u64> {
        let before = self.recent.back();
        let object = Arc::new(Object::from_json_like(json, before.map(|o| &**o)).map_err(TransportError::new)?);
        let revision = object.revision;
        self.emit(Change::Set(object.clone())).await;
        self.recent.push_back(object);
        if self.recent.len() > RECENT
            && let Some(object) = self.recent.pop_front()
        {
            self.packer.pack(&object, None);
        }
        Ok(revision)
    }

    async fn emit(&self, change: Change) {
        // A closed channel is noticed by the loop.
        let _ = self.changes.send(change).await;
    }

    async fn watch(&mut self, mut from: String) -> crate::Result<(Option<String>, End)> {
        let path = self.path(&format!("watch=true&allowWatchBookmarks=true&timeoutSeconds=600&resourceVersion={from}"));
        let (parts, mut frames) = self.transport.open(self.request(&path)?).await?.into_parts();
        if !parts.status.is_success() {
            let body: BytesMut = frames.try_collect().await?;
            let error = crate::client::failure(&Response::from_parts(parts, body.freeze()));
            return match error.status() {
                Some(s) if s.code == 410 => Ok((None, End::Relist)),
                _ => Err(error),
            };
        }
        let mut buffer = BytesMut::new();
        while let Some(frame) = frames.next().await {
            let Ok(frame) = frame else { break };
            buffer.extend_from_slice(&frame);
            while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                let line = buffer.split_to(end + 1).freeze();
                if let Some(end) = self.event(&line, &mut from).await? {
                    return Ok((Some(from), end));
                }
            }
            if self.changes.is_closed() {
                return Ok((None, End::Abandoned));
            }
        }
        Ok((Some(from), End::Resume))
    }

    async fn event(&mut self, line: &Bytes, from: &mut String) -> crate::Result<Option<End>> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let unreadable = |source| crate::Error::Decode { what: "a watch event", source };
        let event: WatchEvent = serde_json::from_slice(line).map_err(unreadable)?;
        let json = line.slice_ref(event.object.get().as_bytes());
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => *from = self.set(Bytes::copy_from_slice(&json)).await?.to_string(),
            "DELETED" => {
                let object = Object::from_json(Bytes::copy_from_slice(&json)).map_err(TransportError::new)?;
                *from = object.revision.to_string();
                self.emit(Change::Gone(Arc::new(object))).await;
            }
            "BOOKMARK" => {
                let mark: Bookmark = serde_json::from_slice(&json).map_err(unreadable)?;
                *from = mark.metadata.resource_version.unwrap_or_else(|| from.clone());
            }
            _ => {
                let status: Status = serde_json::from_slice(&json).map_err(unreadable)?;
                let lost = status.code == 410 || status.is(Reason::Expired) || status.is(Reason::Gone);
                return if lost { Ok(Some(End::Relist)) } else { Err(status.into()) };
            }
        }
        Ok(None)
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListPage<'a> {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Vec<&'a serde_json::value::RawValue>,
}

#[derive(serde::Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(serde::Deserialize)]
struct WatchEvent<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

#[derive(serde::Deserialize)]
struct Bookmark {
    metadata: ListMeta,
}

/// Items of a list carry no kind and apiVersion of their own; objects at rest do.
fn with_type(item: &str, api_version: &str, kind: &str) -> Bytes {
    #[derive(serde::Deserialize)]
    struct Typed {
        kind: Option<String>,
    }
    let typed = serde_json::from_str::<Typed>(item).is_ok_and(|t| t.kind.is_some_and(|k| !k.is_empty()));
    let body = item.trim_start().strip_prefix('{').filter(|_| !typed);
    match body {
        Some(rest) => Bytes::from(format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",{rest}")),
        None => Bytes::copy_from_slice(item.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A server that lists what it has and then says nothing more.
    #[derive(Default)]
    struct Quiet {
        items: Vec<serde_json::Value>,
        /// What it answers the first watch with, if not with silence.
        refusal: u16,
        lists: Arc<AtomicUsize>,
        watches: Arc<AtomicUsize>,
    }

    impl Transport for Quiet {
        fn send(&self, _: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
            let list =
                serde_json::json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": self.items});
            self.lists.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move { Ok(Response::new(list.to_string().into())) })
        }

        fn subscribe(&self, _: Selection) -> BoxStream<'static, Change> {
            Box::pin(futures_util::stream::pending())
        }
    }

    impl Open for Quiet {
        fn open(&self, _: Request<Bytes>) -> BoxFuture<'_, Result<Response<Opened>, TransportError>> {
            let refused = self.refusal > 0 && self.watches.fetch_add(1, Ordering::SeqCst) == 0;
            let mut response =
                Response::new(if refused { futures_util::stream::empty().boxed() } else { futures_util::stream::pending().boxed() });
            if refused {
                *response.status_mut() = http::StatusCode::from_u16(self.refusal).expect("a code");
            }
            Box::pin(async { Ok(response) })
        }
    }

    #[tokio::test]
    async fn objects_that_many_have_followed_are_packed_and_read_the_same() {
        let text = "some settings that all of them have; ".repeat(20);
        let item = |n: usize| serde_json::json!({"metadata": {"name": format!("o{n:04}"), "namespace": "n"}, "data": {"a": text}});
        let items: Vec<_> = (0..RECENT + 100).map(item).collect();
        let listed = changes(Quiet { items, ..Quiet::default() }, Selection::default())
            .take_while(|change| std::future::ready(!matches!(change, Change::Synced(_))));
        let objects: Vec<_> =
            listed.filter_map(|change| async { if let Change::Set(object) = change { Some(object) } else { None } }).collect().await;
        assert_eq!(objects.len(), RECENT + 100);
        let packed = objects.iter().take_while(|o| o.json.template().is_some()).count();
        assert_eq!(packed, 100);
        assert!(Arc::ptr_eq(&objects[0].key.namespace, &objects[1].key.namespace));
        for (n, object) in objects.iter().enumerate() {
            let read: serde_json::Value = object.decode().expect("an object");
            assert_eq!((&read["metadata"]["name"], &read["data"]["a"]), (&format!("o{n:04}").into(), &text.as_str().into()));
            assert_eq!((&read["kind"], &read["apiVersion"]), (&"ConfigMap".into(), &"v1".into()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_refused_for_too_many_requests_is_asked_for_again_without_a_new_list() {
        for (refusal, lists) in [(429, 1), (403, 2)] {
            let server = Quiet { refusal, ..Quiet::default() };
            let (listed, watched) = (server.lists.clone(), server.watches.clone());
            let mut changes = changes(server, Selection::default());
            let quiet = tokio::time::timeout(Duration::from_secs(60), async { while changes.next().await.is_some() {} });
            assert!(quiet.await.is_err(), "it goes on");
            assert_eq!((listed.load(Ordering::SeqCst), watched.load(Ordering::SeqCst)), (lists, 2), "{refusal}");
        }
    }
}
