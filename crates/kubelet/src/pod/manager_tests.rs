//! The manager beside a runtime that never answers: whom it takes, and of whom it says that it is gone.

use super::*;
use crate::{cgroups, config, node, probes, runtime, static_pods, volumes};
use bytes::Bytes;
use ferrokube_client::events::Recorder;
use ferrokube_client::{Caches, Client, Transport, TransportError};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, pending};
use serde_json::json;
use std::path::Path;

/// An API in which nothing happens.
struct Silent;

impl Transport for Silent {
    fn send(&self, _: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Bytes>, TransportError>> {
        Box::pin(async { Err(TransportError::new("nobody answers")) })
    }

    fn subscribe(&self, _: Selection) -> BoxStream<'static, Change> {
        Box::pin(pending())
    }
}

fn manager(root: &Path) -> Manager {
    manager_of(root, watch::channel(Vec::new()).1)
}

fn manager_of(root: &Path, files: watch::Receiver<Pods>) -> Manager {
    let config = crate::config::Config {
        root: root.to_owned(),
        pod_logs: root.join("logs"),
        runtime_endpoint: format!("unix://{}/none.sock", root.display()),
        max_pods: 1,
        ..config::tests::config()
    };
    let client = Client::new(Arc::new(Silent), "test");
    let caches = Caches::new(client.clone());
    let shared = Shared {
        own: caches.of(),
        services: caches.of(),
        pressure: parking_lot::Mutex::default(),
        load: node::load::Load::default(),
        probed: probes::Counters::default(),
        recorder: Recorder::new(client.clone(), "kubelet", "n1"),
        cgroups: cgroups::Cgroups::new(&config.cgroup_root),
        volumes: volumes::Volumes::new(&config, client.clone()),
        capacity: node::Capacity::of_this_machine(),
        runtime_name: String::new(),
        pods: parking_lot::Mutex::default(),
        mirrors: Default::default(),
        cri: runtime::Cri::connect(&config.runtime_endpoint, config.runtime_timeout).unwrap(),
        client,
        config,
    };
    Manager::new(Arc::new(shared), files)
}

fn pod(name: &str, born: &str) -> Arc<Object> {
    let value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "creationTimestamp": born},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Pending"},
    });
    Arc::new(Object::from_json(value.to_string().into()).unwrap())
}

async fn listing(manager: &mut Manager, objects: &[Arc<Object>]) {
    let all = objects.iter().cloned().map(Change::Set);
    for change in [Change::Restart].into_iter().chain(all).chain([Change::Synced(1)]) {
        manager.change(change).await;
    }
}

#[tokio::test]
async fn a_pod_that_took_the_place_of_another_while_nothing_was_heard_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let mut manager = manager(root.path());
    listing(&mut manager, &[pod("old", "2026-01-01T00:00:00Z")]).await;
    listing(&mut manager, &[pod("new", "2026-01-01T00:01:00Z")]).await;
    assert!(manager.refused.is_empty(), "{:?}", manager.refused);
    assert!(manager.node.has("uid-new") && !manager.node.has("uid-old"));
}

#[tokio::test]
async fn of_those_that_do_not_fit_together_the_oldest_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let mut manager = manager(root.path());
    listing(&mut manager, &[pod("a", "2026-01-01T00:01:00Z"), pod("b", "2026-01-01T00:00:00Z")]).await;
    assert_eq!(manager.refused, HashSet::from(["uid-a".to_owned()]));
}

#[tokio::test]
async fn a_pod_that_cannot_be_read_is_not_gone() {
    let root = tempfile::tempdir().unwrap();
    let mut manager = manager(root.path());
    let known = pod("p", "2026-01-01T00:00:00Z");
    listing(&mut manager, std::slice::from_ref(&known)).await;
    let odd = known.json().as_ref().to_vec();
    let odd = String::from_utf8(odd).unwrap().replace("\"containers\":[", "\"containers\":7,\"x\":[");
    listing(&mut manager, &[Arc::new(Object::from_json(odd.into()).unwrap())]).await;
    assert!(manager.node.has("uid-p"));
}

fn changed(object: &Object, pointer: &str, value: serde_json::Value) -> Arc<Object> {
    let mut changed: serde_json::Value = serde_json::from_slice(&object.json()).unwrap();
    *changed.pointer_mut(pointer).unwrap() = value;
    Arc::new(Object::from_json(changed.to_string().into()).unwrap())
}

#[tokio::test]
async fn a_critical_pod_comes_when_the_one_that_goes_for_it_is_over_and_nobody_else_takes_its_room() {
    let root = tempfile::tempdir().unwrap();
    let mut manager = manager(root.path());
    let old = pod("old", "2026-01-01T00:00:00Z");
    listing(&mut manager, std::slice::from_ref(&old)).await;
    let critical = pod("critical", "2026-01-01T00:01:00Z");
    let critical = changed(&critical, "/spec", json!({"priority": 2_000_000_000, "containers": [{"name": "c", "image": "i"}]}));
    for coming in [critical, pod("late", "2026-01-01T00:02:00Z")] {
        manager.change(Change::Set(coming)).await;
        manager.let_in();
    }
    assert_eq!(manager.refused, HashSet::from(["uid-late".to_owned()]));
    assert!(!manager.workers.contains_key("uid-critical"), "beside the one that goes");
    manager.change(Change::Set(changed(&old, "/status/phase", json!("Failed")))).await;
    manager.let_in();
    assert!(manager.workers.contains_key("uid-critical") && manager.held.is_empty());
}

#[tokio::test]
async fn a_static_pod_runs_before_the_api_is_heard_of_and_its_copy_there_is_no_pod_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let text = b"{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: c, image: i}]}}";
    let web = static_pods::manifest::read(text, Path::new("/web.yaml"), "n1", jiff::Timestamp::UNIX_EPOCH).unwrap();
    let uid = web.metadata.uid.clone().unwrap();
    let (files, watched) = watch::channel(vec![Arc::new(web.clone())]);
    let mut manager = manager_of(root.path(), watched);
    manager.follow_files().await;
    assert_eq!(manager.workers.keys().collect::<Vec<_>>(), [&uid]);
    let copy = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-n1", "namespace": "default", "uid": "copy", "annotations": {static_pods::MIRROR: uid}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Pending"},
    });
    let copy = Arc::new(Object::from_json(copy.to_string().into()).unwrap());
    listing(&mut manager, std::slice::from_ref(&copy)).await;
    assert_eq!((manager.workers.len(), manager.node.mirrors.uid_for(&web).as_deref()), (1, Some("copy")));
    manager.change(Change::Gone(copy)).await;
    listing(&mut manager, &[]).await;
    assert!(manager.node.has(&uid) && !manager.workers[&uid].inbox.is_closed(), "it does not go with its copy");
    assert_eq!(manager.node.mirrors.uid_for(&web), None);
    drop(files);
}

#[test]
fn a_pod_that_only_the_runtime_remembers_has_the_grace_that_it_was_made_with() {
    let graces = [(Some(1), 1), (None, 30)]
        .map(|(grace, wanted)| (ops::grace_of(&remembered(PodIdentity { grace, ..PodIdentity::default() })), wanted));
    assert!(graces.iter().all(|(is, wanted)| is == wanted), "{graces:?}");
}
