//! Tells the others of the cluster in which version this server writes the objects of each built-in resource, and which versions it
//! can read (StorageVersionAPI, alpha and off by default): what a migration of stored objects waits for.
//!
//! Only who has a Lease may say something here: what servers without one have said is removed by a controller. Nothing is written
//! that stands there already.
//!
//! Sources: `apiserver/pkg/storageversion`, the hook `built-in-resources-storage-version-updater` of `kube-aggregator`.

use crate::ApiServer;
use crate::identity::overtaken;
use crate::objects::{Loopback, Objects, Target};
use crate::registry::{Entry, Table};
use ferrokube_api::Status;
use ferrokube_api::kinds::storage_version::{self, RESOURCE};
use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// How often it is looked at whether all still stands there.
const PERIOD: Duration = Duration::from_secs(600);
/// What could not be written is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// How often a write is tried at once when somebody else wrote first.
const ATTEMPTS: usize = 5;

/// What there is to say of one resource.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    /// `apps.deployments`; `core.pods`.
    name: String,
    encoding: String,
    decodable: Vec<String>,
    served: Vec<String>,
}

/// Of every built-in resource that is stored. Resources of several groups that are the same objects count as that of the first group.
fn all(table: &Table) -> Vec<Said> {
    let mut stored: BTreeMap<(&str, &str), Vec<&Entry>> = BTreeMap::new();
    for entry in table.entries().iter().filter(|e| e.custom.is_none() && e.kind.storage_prefix.is_some()) {
        stored.entry((&entry.kind.group, &entry.kind.resource)).or_default().push(entry);
    }
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut all: Vec<Said> = Vec::new();
    for ((group, resource), rows) in stored {
        let versions: Vec<String> = rows.iter().map(|row| row.kind.api_version()).collect();
        let prefix = rows[0].kind.storage_prefix.as_deref().unwrap_or_default();
        if let Some(&same) = seen.get(prefix) {
            all[same].decodable.extend(versions);
            continue;
        }
        seen.insert(prefix, all.len());
        let encoding = match &rows[0].kind.stored_as {
            Some((group, version)) if group.is_empty() => version.to_string(),
            Some((group, version)) => format!("{group}/{version}"),
            None => versions[0].clone(),
        };
        let group = if group.is_empty() { "core" } else { group };
        all.push(Said { name: format!("{group}.{resource}"), encoding, decodable: versions.clone(), served: versions });
    }
    all
}

impl Said {
    /// As it stands among what the servers say.
    fn by(&self, id: &str) -> Value {
        json!({
            "apiServerID": id, "encodingVersion": self.encoding, "decodableVersions": self.decodable, "servedVersions": self.served,
        })
    }
}

fn target(name: &str, subresource: &str) -> Target {
    let (group, version, resource) = RESOURCE;
    Target {
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        name: name.to_owned(),
        ..Target::default()
    }
}

/// Whether there is a place to say it.
pub(crate) fn is_served(server: &ApiServer) -> bool {
    let (group, version, resource) = RESOURCE;
    server.registry.table().get(group, version, resource).is_some()
}

/// Says it for ever, from when the server has its Lease on. The server is not healthy before all was said once.
pub(crate) async fn keep(server: Arc<ApiServer>, own: Arc<dyn Loopback>, id: String, mut held: watch::Receiver<bool>) {
    if !is_served(&server) {
        tracing::warn!("no storage versions are registered: {}/{} is not switched on", RESOURCE.0, RESOURCE.1);
        return;
    }
    // An error means that the server stops.
    let _ = held.wait_for(|held| *held).await;
    let all = all(&server.registry.table());
    loop {
        let said = join_all(all.iter().map(|said| say(&*server.caches, &*own, said, &id))).await;
        let failed = all.iter().zip(said).filter_map(|(said, result)| Some((said, result.err()?)));
        let failed =
            failed.inspect(|(said, error)| tracing::warn!(name = said.name, %error, "a storage version is not registered")).count();
        if failed == 0 {
            server.health.storage_versions.store(true, Ordering::Relaxed);
        }
        tokio::time::sleep(if failed == 0 { PERIOD } else { RETRY }).await;
    }
}

/// Writes what there is to say of one resource, if it does not stand there.
async fn say(objects: &dyn Objects, own: &dyn Loopback, said: &Said, id: &str) -> Result<(), Status> {
    let (group, version, resource) = RESOURCE;
    let mut attempts = 1;
    loop {
        let stored = objects.get(group, resource, "", &said.name).map(|o| o.decode::<Value>()).transpose().map_err(Status::internal)?;
        let wrote = match stored {
            Some(stored) => write(own, said, id, stored).await,
            None => {
                let kind = json!({ "kind": "StorageVersion", "apiVersion": format!("{group}/{version}"), "metadata": { "name": said.name }, "spec": {} });
                match own.create(target(&said.name, ""), kind).await {
                    Ok(made) => write(own, said, id, made).await,
                    Err(status) => Err(status),
                }
            }
        };
        match wrote {
            Err(status) if overtaken(&status) && attempts < ATTEMPTS => attempts += 1,
            done => return done,
        }
        objects.catch_up(group, resource).await;
    }
}

async fn write(own: &dyn Loopback, said: &Said, id: &str, stored: Value) -> Result<(), Status> {
    let mut new = stored.clone();
    storage_version::say(&mut new, &said.by(id), Timestamp::now());
    if new["status"] != stored["status"] {
        own.update(target(&said.name, "status"), new).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::testing::Map;
    use crate::registry::Registry;
    use ferrokube_api::kinds::builtin;

    #[test]
    fn each_stored_resource_is_spoken_of_once_with_all_its_versions() {
        let all = all(&Registry::serving(builtin().iter()).table());
        let of = |name: &str| all.iter().find(|said| said.name == name);
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let pods = of("core.pods").expect("stored");
        assert_eq!((pods.encoding.as_str(), &pods.decodable, &pods.served), ("v1", &texts(&["v1"]), &texts(&["v1"])));
        let scalers = of("autoscaling.horizontalpodautoscalers").expect("stored");
        assert_eq!((scalers.encoding.as_str(), &scalers.served), ("autoscaling/v2", &texts(&["autoscaling/v2", "autoscaling/v1"])));
        let events = of("core.events").expect("stored");
        assert_eq!((&events.decodable, &events.served), (&texts(&["v1", "events.k8s.io/v1"]), &texts(&["v1"])));
        assert!(of("events.k8s.io.events").is_none() && of("authentication.k8s.io.tokenreviews").is_none());
        assert!(all.iter().all(|said| said.decodable.contains(&said.encoding)), "{all:?}");
    }

    #[tokio::test]
    async fn what_stands_there_already_is_not_written_again() {
        let map = Map::default();
        let said = Said {
            name: "apps.deployments".into(),
            encoding: "apps/v1".into(),
            decodable: vec!["apps/v1".into()],
            served: vec!["apps/v1".into()],
        };
        say(&map, &map, &said, "apiserver-1").await.expect("said");
        let writes = map.writes.read().len();
        assert_eq!(writes, 2, "the object, and its status");
        say(&map, &map, &said, "apiserver-1").await.expect("said");
        assert_eq!(map.writes.read().len(), writes);
        say(&map, &map, &said, "apiserver-2").await.expect("said");
        let (group, _, resource) = RESOURCE;
        let stored: Value = map.get(group, resource, "", "apps.deployments").expect("there").decode().expect("json");
        assert_eq!(storage_version::servers(&stored).collect::<Vec<_>>(), ["apiserver-1", "apiserver-2"]);
        assert_eq!(stored["status"]["commonEncodingVersion"], "apps/v1");
    }
}
