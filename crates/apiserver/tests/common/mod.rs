//! A real server on a store of its own, called in the process.
#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "each test uses a part")]

pub mod dial;
pub mod hook;
pub mod late;
pub mod pki;

use bytes::Bytes;
use ferrokube_apiserver::{ApiServer, Body, Config, Running, StartError, UserInfo};
use ferrokube_store::embedded::{Embedded, Options};
use futures_util::StreamExt;
use http_body_util::BodyStream;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

pub struct Cluster {
    pub running: Running,
    pub pki: pki::Pki,
    pub store: Arc<Embedded>,
    folder: tempfile::TempDir,
}

pub fn admin() -> UserInfo {
    UserInfo::component("kubernetes-admin", &["system:masters"])
}

pub struct Reply {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub json: Value,
    pub text: String,
}

impl Reply {
    pub fn message(&self) -> &str {
        self.json["message"].as_str().unwrap_or_default()
    }

    pub fn version(&self) -> String {
        self.json["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
    }
}

fn open(folder: &std::path::Path) -> Arc<Embedded> {
    Arc::new(Embedded::open(folder, Options { fsync: false, ..Options::default() }).unwrap())
}

impl Cluster {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_pki(|config, _| change(config)).await
    }

    pub async fn with_pki(change: impl FnOnce(&mut Config, &pki::Pki)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = pki::Pki::make().unwrap();
        let store = open(folder.path());
        let mut config = pki.config(Arc::new(late::LateStore(store.clone())));
        change(&mut config, &pki);
        let running = ApiServer::start(config).await.unwrap();
        let cluster = Cluster { running, pki, store, folder };
        cluster.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await;
        cluster
    }

    /// Stops the server and starts another one on the same store.
    pub async fn restart(self) -> Self {
        self.restart_with(|_| {}).await.unwrap()
    }

    /// The same with another configuration; the error of a server that does not start.
    pub async fn restart_with(self, change: impl FnOnce(&mut Config)) -> Result<Self, StartError> {
        let Cluster { running, pki, store, folder } = self;
        running.stop().await;
        store.close();
        drop(store);
        let store = open(folder.path());
        let mut config = pki.config(Arc::new(late::LateStore(store.clone())));
        change(&mut config);
        let running = ApiServer::start(config).await?;
        Ok(Cluster { running, pki, store, folder })
    }

    /// Whether the bytes stand anywhere in the store's files.
    pub fn on_disk(&self, bytes: &str) -> bool {
        let files = std::fs::read_dir(self.folder.path()).unwrap().map(|f| f.unwrap().path()).filter(|p| p.is_file());
        let holds = |p: std::path::PathBuf| std::fs::read(p).unwrap().windows(bytes.len()).any(|w| w == bytes.as_bytes());
        files.map(holds).fold(false, |any, one| any | one)
    }

    /// The bytes of a key as the store has them.
    pub async fn stored(&self, key: &str) -> Vec<u8> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        ferrokube_store::Store::get(&*self.store, key).await.unwrap().expect("the key exists").value.to_vec()
    }

    pub async fn send(&self, user: UserInfo, method: &str, uri: &str, media: &str, accept: &str, body: Vec<u8>) -> http::Response<Body> {
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", media)
            .header("accept", accept)
            .header("user-agent", "test/1");
        // A request is a large future, and a test makes many of them: they are not to stand in its own.
        Box::pin(self.running.server.call(user, request.body(Bytes::from(body)).unwrap())).await
    }

    pub async fn ask(&self, method: &str, uri: &str, media: &str, body: Vec<u8>) -> Reply {
        reply(self.send(admin(), method, uri, media, "application/json", body).await).await
    }

    pub async fn get(&self, uri: &str) -> Reply {
        self.ask("GET", uri, "application/json", Vec::new()).await
    }

    pub async fn post(&self, uri: &str, body: &Value) -> Reply {
        self.ask("POST", uri, "application/json", body.to_string().into_bytes()).await
    }

    pub async fn put(&self, uri: &str, body: &Value) -> Reply {
        self.ask("PUT", uri, "application/json", body.to_string().into_bytes()).await
    }

    pub async fn delete(&self, uri: &str, options: &Value) -> Reply {
        let body = if options.is_null() { Vec::new() } else { options.to_string().into_bytes() };
        self.ask("DELETE", uri, "application/json", body).await
    }

    pub async fn patch(&self, uri: &str, flavour: &str, body: &Value) -> Reply {
        let media = if flavour == "apply" { "application/apply-patch+yaml".to_owned() } else { format!("application/{flavour}+json") };
        self.ask("PATCH", uri, &media, body.to_string().into_bytes()).await
    }

    pub async fn config_map(&self, name: &str, data: &Value) -> Reply {
        self.post(MAPS, &json!({"metadata": {"name": name}, "data": data})).await
    }

    pub async fn watch(&self, uri: &str) -> Frames {
        let response = self.send(admin(), "GET", uri, "application/json", "application/json", Vec::new()).await;
        assert_eq!(response.status(), 200, "{uri}");
        Frames::new(BodyStream::new(response.into_body()))
    }
}

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub async fn reply(response: http::Response<Body>) -> Reply {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Reply { code: parts.status.as_u16(), headers: parts.headers, json: serde_json::from_slice(&bytes).unwrap_or_default(), text }
}

/// The frames of a watch.
pub struct Frames {
    body: BodyStream<Body>,
    rest: Vec<u8>,
}

impl Frames {
    pub fn new(body: BodyStream<Body>) -> Self {
        Frames { body, rest: Vec::new() }
    }

    /// The next event, `None` at the end of the stream. Panics when nothing comes for a minute.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(60), self.body.next()).await.expect("an event in time")?;
            self.rest.extend_from_slice(frame.unwrap().data_ref().unwrap());
        }
    }

    /// Type and name of the next event.
    pub async fn told(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        (event["type"].as_str().unwrap().to_owned(), event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    }
}

pub fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

pub fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}})
}
