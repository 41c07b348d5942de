//! Tells the others of the cluster in which version this server writes the objects of each built-in resource, and which versions it
//! can read (StorageVersionAPI, alpha and off by default): what a migration of stored objects waits for.
//!
//! Only who has a Lease may say something here: what servers without one have said is removed by a controller. Nothing is written
//! that stands there already. Until it stands there, nobody but the server itself may write objects of the resource here.
//!
//! Sources: `apiserver/pkg/storageversion`, `apiserver/pkg/endpoints/filters/storageversion.go`, the hook `built-in-resources-storage-version-updater` of `kube-aggregator`.

use crate::ApiServer;
use crate::attributes::UserInfo;
use crate::identity::overtaken;
use crate::local::LOOPBACK_USER;
use crate::objects::{Loopback, Objects, Target};
use crate::registry::{Entry, Table};
use crate::request::RequestInfo;
use ferrokube_api::features::{API_SERVER_IDENTITY, Features, STORAGE_VERSION_API};
use ferrokube_api::kinds::storage_version::{self, RESOURCE};
use ferrokube_api::{Reason, Status};
use futures_util::future::join_all;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Group and plural of those whose objects these are.
    resources: Vec<(String, String)>,
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
            all[same].resources.push((group.to_owned(), resource.to_owned()));
            continue;
        }
        seen.insert(prefix, all.len());
        let encoding = match &rows[0].kind.stored_as {
            Some((group, version)) if group.is_empty() => version.to_string(),
            Some((group, version)) => format!("{group}/{version}"),
            None => versions[0].clone(),
        };
        let name = format!("{}.{resource}", if group.is_empty() { "core" } else { group });
        let resources = vec![(group.to_owned(), resource.to_owned())];
        all.push(Said { name, encoding, decodable: versions.clone(), served: versions, resources });
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

/// What the server has to say, and of which resources it has not said it yet.
#[derive(Debug)]
pub(crate) struct StorageVersions {
    all: Vec<Said>,
    /// With what kept it from that last.
    unsaid: Mutex<BTreeMap<(String, String), Option<Status>>>,
    over: AtomicBool,
}

impl StorageVersions {
    /// Of a server with these features and rows; `None` when it has nothing to say.
    pub fn of(features: &Features, table: &Table) -> Option<Self> {
        if !features.have(&[STORAGE_VERSION_API, API_SERVER_IDENTITY]) {
            return None;
        }
        let (group, version, resource) = RESOURCE;
        if table.get(group, version, resource).is_none() {
            tracing::warn!("no storage versions are registered: {group}/{version} is not switched on");
            return None;
        }
        let all = all(table);
        let unsaid = all.iter().flat_map(|said| said.resources.iter().cloned()).map(|resource| (resource, None)).collect();
        Some(StorageVersions { all, unsaid: Mutex::new(unsaid), over: AtomicBool::default() })
    }

    /// Whether all has been said once.
    pub fn are_said(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn note(&self, said: &Said, result: &Result<(), Status>) {
        if self.are_said() {
            return;
        }
        let mut unsaid = self.unsaid.lock();
        for resource in &said.resources {
            match result {
                Ok(()) => _ = unsaid.remove(resource),
                Err(why) => _ = unsaid.insert(resource.clone(), Some(why.clone())),
            }
        }
        self.over.store(unsaid.is_empty(), Ordering::Release);
    }

    /// Refuses to write what the others do not know yet how to read.
    pub fn check(&self, info: &RequestInfo, user: &UserInfo) -> Result<(), Status> {
        if self.are_said() || !info.resource_request || matches!(info.verb.as_str(), "get" | "list" | "watch") || user.name == LOOPBACK_USER
        {
            return Ok(());
        }
        let is = |group: &str, resource: &str| info.group == group && info.resource == resource;
        // What is to be said, and by whom, must be written first.
        if is(RESOURCE.0, RESOURCE.2) || is("coordination.k8s.io", "leases") && info.namespace == "kube-system" {
            return Ok(());
        }
        let unsaid = self.unsaid.lock();
        let Some(last) = unsaid.get(&(info.group.clone(), info.resource.clone())) else { return Ok(()) };
        let resource = if info.group.is_empty() { info.resource.clone() } else { format!("{}.{}", info.resource, info.group) };
        let last = last.as_ref().map_or("<nil>", |status| &status.message);
        let message = format!("wait for storage version registration to complete for resource: {resource}, last seen error: {last}");
        Err(Status::failure(503, Reason::ServiceUnavailable, message))
    }
}

/// Says it for ever, from when the server has its Lease on.
pub(crate) async fn keep(server: Arc<ApiServer>, own: Arc<dyn Loopback>, id: String, mut held: watch::Receiver<bool>) {
    let Some(versions) = &server.storage_versions else { return };
    // An error means that the server stops.
    let _ = held.wait_for(|held| *held).await;
    loop {
        let said = versions.all.iter().map(async |said| {
            let result = say(&*server.caches, &*own, said, &id).await;
            versions.note(said, &result);
            result.inspect_err(|error| tracing::warn!(name = said.name, %error, "a storage version is not registered")).is_ok()
        });
        let all_said = join_all(said).await.into_iter().all(|said| said);
        tokio::time::sleep(if all_said { PERIOD } else { RETRY }).await;
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
            resources: Vec::new(),
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

    #[test]
    fn nobody_else_writes_what_is_not_said_yet() {
        let features = "StorageVersionAPI=true".parse().expect("can be switched");
        let on = "internal.apiserver.k8s.io/v1alpha1=true".parse().expect("can be switched");
        let registry = Registry::serving(ferrokube_api::kinds::served(&features, &on));
        let versions = StorageVersions::of(&features, &registry.table()).expect("there is something to say");
        let anybody = UserInfo::component("anybody", &[]);
        let ask = |verb: &str, path: &str| {
            let request = http::Request::builder().method(verb).uri(path).body(()).expect("a request");
            let info = RequestInfo::of(request.method(), request.uri().path(), &crate::request::Query::parse(None));
            versions.check(&info, &anybody).map_err(|status| status.message)
        };
        let why = |resource: &str, last: &str| {
            Err(format!("wait for storage version registration to complete for resource: {resource}, last seen error: {last}"))
        };
        let (pods, widgets) = ("/api/v1/namespaces/default/pods", "/apis/example.com/v1/widgets");
        assert_eq!(ask("POST", pods), why("pods", "<nil>"));
        assert_eq!(ask("DELETE", "/apis/events.k8s.io/v1/namespaces/default/events/e"), why("events.events.k8s.io", "<nil>"));
        let leases = |namespace: &str| format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        assert_eq!(ask("POST", &leases("default")), why("leases.coordination.k8s.io", "<nil>"));
        for (verb, path) in [
            ("GET", pods),
            ("POST", widgets),
            ("POST", "/apis/authentication.k8s.io/v1/tokenreviews"),
            ("POST", &leases("kube-system")),
            ("POST", "/apis/internal.apiserver.k8s.io/v1alpha1/storageversions"),
        ] {
            assert_eq!(ask(verb, path), Ok(()), "{verb} {path}");
        }
        let info = RequestInfo::of(&http::Method::POST, pods, &crate::request::Query::parse(None));
        assert!(versions.check(&info, &crate::local::loopback_user()).is_ok(), "the server itself");

        let of = |name: &str| versions.all.iter().find(|said| said.name == name).expect("there");
        versions.note(of("core.pods"), &Err(Status::internal("no disk")));
        assert_eq!(ask("POST", pods), why("pods", &Status::internal("no disk").message));
        versions.note(of("core.pods"), &Ok(()));
        assert_eq!(ask("POST", pods), Ok(()));
        assert!(!versions.are_said());
        versions.all.iter().for_each(|said| versions.note(said, &Ok(())));
        assert!(versions.are_said());
        assert_eq!(ask("POST", &leases("default")), Ok(()));
        assert!(StorageVersions::of(&Features::default(), &registry.table()).is_none());
    }
}
