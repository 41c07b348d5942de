//! What API servers that are gone have said of the versions they store is removed, and with the last word the StorageVersion.
//!
//! Reads the Leases by which API servers say that they live, and StorageVersions; writes the status of StorageVersions and deletes
//! them. A server is gone when its Lease is: the API servers delete each other's an hour after the last word. It must never remove what
//! a server with a Lease has said: caches only tell what is worth a look. Runs only with the features StorageVersionAPI and
//! APIServerIdentity. Source: `pkg/controller/storageversiongc`.

use crate::Context;
use ferrokube_api::kinds::storage_version::{self, RESOURCE};
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Client, DeleteOptions, Error, Optional, Selection, Target};
use http::Method;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

const NAME: &str = "storage_version_garbage_collector_storageversions";
const NAMESPACE: &str = "kube-system";
const IDENTITY: &str = "apiserver.kubernetes.io/identity";
const COMPONENT: &str = "kube-apiserver";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<Arc<str>> = context.queue(NAME);
    let leases = context.caches.dynamic(Selection { labels: format!("{IDENTITY}={COMPONENT}"), ..selection(&lease("")) });
    let versions = context.caches.dynamic(selection(&version("")));
    leases.synced().await;
    let (add, alive) = (queue.clone(), leases.clone());
    versions.on_change(move |delta| {
        let orphan = |object: &Value| storage_version::servers(object).any(|id| alive.object(NAMESPACE, id).is_none());
        if delta.new.and_then(|object| object.decode::<Value>().ok()).is_some_and(|object| orphan(&object)) {
            add.add(delta.key().name.clone());
        }
    });
    let (add, all) = (queue.clone(), versions.clone());
    leases.on_change(move |delta| {
        if delta.new.is_none() {
            speaking_of(&all, &delta.key().name).for_each(|name| add.add(name));
        }
    });
    versions.synced().await;
    let collect = |name: Arc<str>| collect(&context.client, name);
    controller::run::<_, Error, _, _>(NAME, queue, 1, collect).await;
}

fn selection(target: &Target) -> Selection {
    let Target { group, version, resource, namespace, .. } = target.clone();
    Selection { group, version, resource, namespace, ..Selection::default() }
}

fn version(name: &str) -> Target {
    let (group, version, resource) = RESOURCE;
    Target { group: group.into(), version: version.into(), resource: resource.into(), name: name.into(), ..Target::default() }
}

fn lease(name: &str) -> Target {
    Target {
        group: "coordination.k8s.io".into(),
        version: "v1".into(),
        resource: "leases".into(),
        namespace: NAMESPACE.into(),
        name: name.into(),
        ..Target::default()
    }
}

/// Names of the StorageVersions in which a server has said something.
fn speaking_of<'a>(versions: &Cache<()>, id: &'a str) -> impl Iterator<Item = Arc<str>> + use<'a> {
    let says = move |object: &Value| storage_version::servers(object).any(|server| server == id);
    versions.objects().into_iter().filter(move |o| o.decode::<Value>().is_ok_and(|v| says(&v))).map(|o| o.key.name.clone())
}

async fn collect(client: &Client, name: Arc<str>) -> Result<Next, Error> {
    let target = version(&name);
    let Some(object) = client.request(Method::GET, &target, "", None).await.optional()? else { return Ok(Next::Wait) };
    let mut alive = BTreeSet::new();
    for id in storage_version::servers(&object) {
        if lives(client, id).await? {
            alive.insert(id);
        }
    }
    // A conflict is an error: what was planned on is not so any more.
    match plan(&object, &alive, Timestamp::now()) {
        Step::Nothing => {}
        Step::Write(left) => drop(client.request(Method::PUT, &target.sub("status"), "", Some(&left)).await.optional()?),
        Step::Delete => {
            let text = |key: &str| object["metadata"][key].as_str().map(str::to_owned);
            let options = DeleteOptions { uid: text("uid"), resource_version: text("resourceVersion"), ..DeleteOptions::default() };
            client.delete_target(&target, &options).await.optional()?;
        }
    }
    Ok(Next::Wait)
}

/// Whether a server of this id has said that it lives.
async fn lives(client: &Client, id: &str) -> Result<bool, Error> {
    let lease = client.request(Method::GET, &lease(id), "", None).await.optional()?;
    Ok(lease.is_some_and(|lease| lease["metadata"]["labels"][IDENTITY] == COMPONENT))
}

/// What is to be done with a StorageVersion.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    /// Nobody is left who said something.
    Delete,
    /// This is left.
    Write(Value),
}

fn plan(object: &Value, alive: &BTreeSet<&str>, now: Timestamp) -> Step {
    let mut left = object.clone();
    if !storage_version::keep(&mut left, |id| alive.contains(id), now) {
        return Step::Nothing;
    }
    if storage_version::servers(&left).next().is_none() { Step::Delete } else { Step::Write(left) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(servers: &[(&str, &str)]) -> Value {
        let mut object = json!({"metadata": {"name": "apps.deployments"}, "spec": {}, "status": {}});
        for (id, version) in servers {
            let server = json!({"apiServerID": id, "encodingVersion": version, "decodableVersions": [version]});
            storage_version::say(&mut object, &server, Timestamp::UNIX_EPOCH);
        }
        object
    }

    #[test]
    fn only_what_servers_without_a_lease_have_said_is_removed() {
        let (v1, v2) = ("apps/v1", "apps/v2");
        let later: Timestamp = "2026-06-01T12:00:00Z".parse().expect("a time");
        let step = |servers: &[(&str, &str)], alive: &[&str]| plan(&said(servers), &alive.iter().copied().collect(), later);
        assert_eq!(step(&[], &[]), Step::Nothing, "one in which nobody has spoken yet is let alone");
        assert_eq!(step(&[("a", v1), ("b", v1)], &["a", "b", "c"]), Step::Nothing);
        assert_eq!(step(&[("a", v1)], &["b"]), Step::Delete);
        assert_eq!(step(&[("a", v1), ("b", v2)], &[]), Step::Delete);

        let Step::Write(left) = step(&[("a", v1), ("b", v2)], &["b"]) else { panic!("b is left") };
        assert_eq!(left["status"]["storageVersions"], said(&[("b", v2)])["status"]["storageVersions"]);
        assert_eq!(left["status"]["commonEncodingVersion"], v2, "those that are left agree");
        let condition = &left["status"]["conditions"][0];
        assert_eq!((&condition["status"], &condition["lastTransitionTime"]), (&json!("True"), &json!("2026-06-01T12:00:00Z")));

        let Step::Write(left) = step(&[("a", v1), ("b", v1), ("c", v2)], &["a", "c"]) else { panic!("two are left") };
        assert_eq!(left["status"].get("commonEncodingVersion"), None, "and these still do not");
        assert_eq!(left["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
    }
}
