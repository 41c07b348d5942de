//! Encryption at rest, seen from both sides: what clients read, and what stands on the disk.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::Cluster;
use ferrokube_apiserver::ConfigFile;
use ferrokube_kms::v2::key_management_service_server::{KeyManagementService, KeyManagementServiceServer};
use ferrokube_kms::v2::{DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, EncryptedObject, StatusRequest, StatusResponse};
use prost::Message;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const KEY: &str = "/registry/secrets/default/s";
const PLAIN: &str = "correct-horse-battery";

fn configure(path: &Path, providers: &str) {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers: [{providers}]\n"
    );
    // As editors do it: the file is replaced, not written in place.
    let draft = path.with_extension("new");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, path).unwrap();
}

fn key(name: &str) -> String {
    format!("{{name: {name}, secret: {}}}", STANDARD.encode([name.as_bytes()[0]; 32]))
}

fn source(path: &Path) -> Option<ConfigFile> {
    Some(ConfigFile { path: path.to_owned(), reload: Some(Duration::from_millis(20)) })
}

async fn make_secret(cluster: &Cluster) {
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": PLAIN}});
    assert_eq!(cluster.post(SECRETS, &secret).await.code, 201);
}

async fn rewrite(cluster: &Cluster) {
    let read = cluster.get(&format!("{SECRETS}/s")).await.json;
    assert_eq!(cluster.put(&format!("{SECRETS}/s"), &read).await.code, 200);
}

#[tokio::test]
async fn no_byte_of_a_secret_stands_on_the_disk_and_keys_are_rotated_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("enc.yaml");
    configure(&path, &format!("{{aesgcm: {{keys: [{}]}}}}, {{identity: {{}}}}", key("old")));
    let cluster = Cluster::with(|config| config.encryption = source(&path)).await;
    make_secret(&cluster).await;
    cluster.config_map("open", &json!({"k": "readable-by-all"})).await;
    let encoded = STANDARD.encode(PLAIN);
    assert!(!cluster.on_disk(PLAIN) && !cluster.on_disk(&encoded), "the secret is not on the disk");
    assert!(cluster.on_disk("readable-by-all"), "the check itself finds what is there");
    assert!(cluster.stored(KEY).await.starts_with(b"k8s:enc:aesgcm:v1:old:"));
    assert_eq!(cluster.get(&format!("{SECRETS}/s")).await.json["data"]["password"], encoded);
    let (_, name) = cluster.watch(&format!("{SECRETS}?watch=1")).await.told().await;
    assert_eq!(name, "s", "the watch cache has it in the clear");

    let before = cluster.stored(KEY).await;
    rewrite(&cluster).await;
    assert_eq!(cluster.stored(KEY).await, before, "an update that changes nothing writes nothing");

    configure(&path, &format!("{{aesgcm: {{keys: [{}, {}]}}}}", key("new"), key("old")));
    tokio::time::timeout(Duration::from_secs(60), async {
        while !cluster.stored(KEY).await.starts_with(b"k8s:enc:aesgcm:v1:new:") {
            rewrite(&cluster).await;
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the new key writes as soon as the file was seen");

    configure(&path, &format!("{{aesgcm: {{keys: [{}]}}}}", key("new")));
    let cluster = cluster.restart_with(|config| config.encryption = source(&path)).await.unwrap();
    assert_eq!(cluster.get(&format!("{SECRETS}/s")).await.json["data"]["password"], encoded, "the old key is not needed any more");
}

#[tokio::test]
async fn a_server_that_cannot_read_its_secrets_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("enc.yaml");
    configure(&path, &format!("{{secretbox: {{keys: [{}]}}}}", key("box")));
    // Secrets of nobody exist before: a cluster that was encrypted from the start.
    let cluster = Cluster::with(|config| config.encryption = source(&path)).await;
    make_secret(&cluster).await;
    let error = cluster.restart_with(|_| {}).await.err().expect("it must not start").to_string();
    assert!(error.contains(KEY) && error.contains("encrypted"), "{error}");
}

/// A plug-in whose key is one byte; it is rotated by counting up.
#[derive(Clone, Default)]
struct Plugin {
    key: Arc<AtomicUsize>,
    decrypted: Arc<AtomicUsize>,
}

fn masked(bytes: &[u8], id: &str) -> Vec<u8> {
    let mask = id.as_bytes().last().copied().unwrap_or_default();
    bytes.iter().map(|b| b ^ mask).collect()
}

#[tonic::async_trait]
impl KeyManagementService for Plugin {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let key_id = format!("key-{}", self.key.load(Ordering::SeqCst));
        Ok(Response::new(StatusResponse { version: "v2".into(), healthz: "ok".into(), key_id }))
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let key_id = format!("key-{}", self.key.load(Ordering::SeqCst));
        let annotations = [("mask.example.com".to_owned(), b"xor".to_vec())].into();
        Ok(Response::new(EncryptResponse { ciphertext: masked(&request.into_inner().plaintext, &key_id), key_id, annotations }))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let request = request.into_inner();
        if !request.annotations.contains_key("mask.example.com") {
            return Err(Status::invalid_argument("whose is this?"));
        }
        self.decrypted.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(DecryptResponse { plaintext: masked(&request.ciphertext, &request.key_id) }))
    }
}

fn envelope(stored: &[u8]) -> EncryptedObject {
    EncryptedObject::decode(stored.strip_prefix(b"k8s:enc:kms:v2:vault:".as_slice()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_kms_plugin_keeps_the_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (path, socket) = (folder.path().join("enc.yaml"), folder.path().join("kms.sock"));
    let plugin = Plugin::default();
    let listener = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let serving = tonic::transport::Server::builder().add_service(KeyManagementServiceServer::new(plugin.clone()));
    tokio::spawn(serving.serve_with_incoming(listener));
    configure(&path, &format!("{{kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}'}}}}", socket.display()));
    let cluster = Cluster::with(|config| config.encryption = source(&path)).await;
    make_secret(&cluster).await;
    assert!(!cluster.on_disk(PLAIN) && !cluster.on_disk(&STANDARD.encode(PLAIN)));
    let sealed = envelope(&cluster.stored(KEY).await);
    assert_eq!((sealed.key_id.as_str(), sealed.encrypted_dek_source_type), ("key-0", 1));
    assert!(cluster.get("/readyz?verbose").await.text.contains("[+]kms-providers ok"));

    plugin.key.store(1, Ordering::SeqCst);
    let cluster = cluster.restart_with(|config| config.encryption = source(&path)).await.unwrap();
    assert_eq!(cluster.get(&format!("{SECRETS}/s")).await.json["data"]["password"], STANDARD.encode(PLAIN));
    let asked = plugin.decrypted.load(Ordering::SeqCst);
    assert_eq!(asked, 1, "one seed, however many values it encrypted");
    rewrite(&cluster).await;
    assert_eq!(envelope(&cluster.stored(KEY).await).key_id, "key-1", "written again under the key of now");
}

#[tokio::test]
async fn what_was_stored_in_the_clear_is_encrypted_when_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("enc.yaml");
    std::fs::write(&path, ferrokube_apiserver::encryption::fresh_configuration()).unwrap();
    let cluster = Cluster::start().await;
    make_secret(&cluster).await;
    assert!(cluster.on_disk(&STANDARD.encode(PLAIN)));
    let change = |config: &mut ferrokube_apiserver::Config| {
        config.encryption = source(&path);
        config.encryption_rewrite = true;
    };
    let cluster = cluster.restart_with(change).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), async {
        while !cluster.stored(KEY).await.starts_with(b"k8s:enc:secretbox:v1:key1:") {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it is written anew without being asked for");
    assert_eq!(cluster.get(&format!("{SECRETS}/s")).await.json["data"]["password"], STANDARD.encode(PLAIN));
}
