//! The tasks of aggregation: one that follows APIServices and CRDs, and one for each remote server that looks after it.

use super::availability::{self, Condition};
use super::backend::Backend;
use super::registration::{self, Action};
use super::spec::Spec;
use super::{GROUP, RESOURCE, Remote, State, swagger, view};
use crate::ApiServer;
use crate::crd;
use crate::local::OwnClient;
use crate::objects::{Loopback, Objects, Target};
use ferrokube_api::Reason;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A server is asked again after this, whatever happened.
const RESYNC: Duration = Duration::from_secs(30);
/// A server that failed is asked again sooner: doubled up to the resync.
const RETRY: Duration = Duration::from_secs(1);
/// A document is asked for so often before the server counts as failing.
const ATTEMPTS: usize = 5;

/// Starts following.
pub(crate) fn start(server: &Arc<ApiServer>) -> JoinHandle<()> {
    let server = server.clone();
    tokio::spawn(async move { Follower { server, workers: BTreeMap::new(), definitions: HashMap::new() }.run().await })
}

/// A remote server's task, ended with it.
struct Worker {
    remote: Arc<Remote>,
    task: JoinHandle<()>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Follower {
    server: Arc<ApiServer>,
    workers: BTreeMap<String, Worker>,
    /// What each CRD serves, at a revision: CRDs are large, and most of the time one of them changed.
    definitions: HashMap<String, (u64, BTreeSet<(String, String)>)>,
}

impl Follower {
    async fn run(mut self) {
        let caches = self.server.caches.clone();
        let objects: &dyn Objects = &*caches;
        let mut identity = self.server.aggregator.identity.subscribe();
        loop {
            let seen = (objects.revision(GROUP, RESOURCE), objects.revision(crd::GROUP, crd::RESOURCE));
            let registered = decoded(objects);
            self.keep_workers(&registered);
            self.keep_registered(objects, &registered).await;
            for (name, api_service) in &registered {
                if Spec::of(api_service).is_none() {
                    tell(&self.server, name, &Condition::local()).await;
                }
            }
            tokio::select! {
                () = objects.changed(GROUP, RESOURCE, seen.0) => {}
                () = objects.changed(crd::GROUP, crd::RESOURCE, seen.1) => {}
                // They are reached in another way.
                _ = identity.changed() => self.workers.clear(),
            }
        }
    }

    /// One task for each APIService with a service, made anew when what it says changes.
    fn keep_workers(&mut self, registered: &BTreeMap<String, Value>) {
        let wanted: BTreeMap<&String, Spec> = registered.iter().filter_map(|(name, o)| Some((name, Spec::of(o)?))).collect();
        let before = self.workers.len();
        self.workers.retain(|name, worker| wanted.get(name).is_some_and(|spec| *spec == worker.remote.spec));
        let mut changed = self.workers.len() != before;
        for (name, spec) in wanted {
            if !self.workers.contains_key(name) {
                let backend = Backend::new(&spec, self.server.aggregator.identity.borrow().as_deref());
                let remote = Arc::new(Remote { spec, backend, state: Mutex::default() });
                let task = tokio::spawn(look_after(self.server.clone(), name.clone(), remote.clone()));
                self.workers.insert(name.clone(), Worker { remote, task });
                changed = true;
            }
        }
        if changed {
            self.server.aggregator.set(self.workers.values().map(|w| w.remote.clone()).collect());
        }
    }

    /// Registers what CRDs serve.
    async fn keep_registered(&mut self, objects: &dyn Objects, registered: &BTreeMap<String, Value>) {
        let definitions = objects.list(crd::GROUP, crd::RESOURCE, "");
        self.definitions.retain(|name, _| definitions.iter().any(|o| *o.key.name == **name));
        for object in &definitions {
            let name = object.key.name.to_string();
            if self.definitions.get(&name).is_none_or(|(revision, _)| *revision != object.revision)
                && let Ok(definition) = object.decode::<Value>()
            {
                self.definitions.insert(name, (object.revision, registration::served(&definition)));
            }
        }
        let wanted = self.definitions.values().flat_map(|(_, served)| served.iter().cloned()).collect();
        let own = OwnClient(self.server.clone());
        for action in registration::plan(&wanted, registered) {
            let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let done = match action {
                Action::Create(object) => own.create(target(&name(&object), ""), object).await.map(drop),
                Action::Update(object) => own.update(target(&name(&object), ""), object).await.map(drop),
                Action::Delete(name) => own.delete(target(&name, "")).await,
            };
            // Another server of the same cluster may have been faster; a change of either kind brings another try.
            if let Err(error) = done.or_else(|e| if e.is(Reason::AlreadyExists) || e.is(Reason::NotFound) { Ok(()) } else { Err(e) }) {
                tracing::warn!(%error, "the APIService of a custom group is not up to date");
            }
        }
    }
}

fn decoded(objects: &dyn Objects) -> BTreeMap<String, Value> {
    let all = objects.list(GROUP, RESOURCE, "");
    all.iter().filter_map(|o| Some((o.key.name.to_string(), o.decode().ok()?))).collect()
}

fn target(name: &str, subresource: &str) -> Target {
    Target {
        group: GROUP.into(),
        version: "v1".into(),
        resource: RESOURCE.into(),
        subresource: subresource.into(),
        name: name.into(),
        ..Target::default()
    }
}

/// Writes the condition of an APIService, when it says something new.
async fn tell(server: &Arc<ApiServer>, name: &str, condition: &Condition) {
    let objects: &dyn Objects = &*server.caches;
    for _ in 0..3 {
        let Some(Ok(mut object)) = objects.get(GROUP, RESOURCE, "", name).map(|o| o.decode::<Value>()) else { return };
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let was_available = availability::is_available(&object);
        if !condition.put(&mut object, &now) {
            return;
        }
        match OwnClient(server.clone()).update(target(name, "status"), object).await {
            Ok(_) => {
                if was_available && !condition.available {
                    server.aggregator.count_loss(name, condition.reason);
                }
                return;
            }
            Err(error) if error.is(Reason::Conflict) => objects.catch_up(GROUP, RESOURCE).await,
            Err(error) => return tracing::debug!(name, %error, "the condition of an APIService is not written"),
        }
    }
}

/// What decides where the server is: changes of these are a reason to ask it again.
fn circumstances(objects: &dyn Objects, spec: &Spec) -> Vec<u64> {
    let service = objects.get("", "services", &spec.namespace, &spec.service);
    let slices = objects.list("discovery.k8s.io", "endpointslices", &spec.namespace);
    let ours = slices.iter().filter(|s| s.label("kubernetes.io/service-name") == Some(&spec.service));
    service.iter().chain(ours).map(|o| o.revision).collect()
}

/// Asks a remote server whether it is there and what it has, for as long as it is registered.
async fn look_after(server: Arc<ApiServer>, name: String, remote: Arc<Remote>) {
    let caches = server.caches.clone();
    let objects: &dyn Objects = &*caches;
    let mut pause = RETRY;
    loop {
        let seen = (objects.revision("", "services"), objects.revision("discovery.k8s.io", "endpointslices"));
        let found_at = circumstances(objects, &remote.spec);
        let condition = look(&server, objects, &remote).await;
        tell(&server, &name, &condition).await;
        pause = if condition.available { RETRY } else { (pause * 2).min(RESYNC) };
        let again = Instant::now() + if condition.available { RESYNC } else { pause };
        let mut seen = seen;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(again) => break,
                () = objects.changed("", "services", seen.0) => {}
                () = objects.changed("discovery.k8s.io", "endpointslices", seen.1) => {}
            }
            seen = (objects.revision("", "services"), objects.revision("discovery.k8s.io", "endpointslices"));
            if circumstances(objects, &remote.spec) != found_at {
                pause = RETRY;
                break;
            }
        }
    }
}

/// One look: the condition, and what discovery shows from now on.
async fn look(server: &Arc<ApiServer>, objects: &dyn Objects, remote: &Remote) -> Condition {
    let before = remote.state();
    let places = availability::places(objects, &remote.spec);
    remote.backend.moved(places.as_deref().unwrap_or_default());
    let (condition, state) = match places {
        Err(condition) => (condition, State { available: false, ..before.clone() }),
        Ok(places) => match ask(remote, &places).await {
            Err(why) => (Condition::failed("FailedDiscoveryCheck", why), State { available: false, ..before.clone() }),
            Ok(list) => {
                let resources = Some(Arc::new(view::resources(&list, &remote.spec.group, &remote.spec.version)));
                let openapi = description(remote, &places).await;
                // The hash in the address of the new description speaks for the old one too.
                let described = match &before.described {
                    Some(known) if openapi.is_some() && openapi == before.openapi => Some(known.clone()),
                    _ => swagger::ask(remote, places[0].clone()).await,
                };
                (Condition::passed(), State { available: true, resources, openapi, described })
            }
        },
    };
    let told = state.described != before.described;
    if told {
        let reason = if before.described.is_none() { "add" } else { "update" };
        server.aggregator.count_description(remote.to_string(), reason);
    }
    let changed = state.available != before.available || state.resources != before.resources || state.openapi != before.openapi || told;
    *remote.state.lock() = state;
    if changed {
        server.aggregator.changed();
    }
    condition
}

/// The server's resources: any of its endpoints may answer.
async fn ask(remote: &Remote, places: &[(String, u16)]) -> Result<Value, String> {
    let mut why = String::new();
    for attempt in 0..ATTEMPTS {
        let place = places[attempt % places.len()].clone();
        match remote.backend.get(place, &remote.spec.path()).await {
            Ok(list) => return Ok(list),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// Where the server's description of the group and version is, if it has one.
async fn description(remote: &Remote, places: &[(String, u16)]) -> Option<String> {
    let index = remote.backend.get(places[0].clone(), "/openapi/v3").await.ok()?;
    let own = format!("apis/{}/{}", remote.spec.group, remote.spec.version);
    index["paths"][own]["serverRelativeURL"].as_str().map(str::to_owned)
}
