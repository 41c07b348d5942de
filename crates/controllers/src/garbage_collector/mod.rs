//! Garbage collection: dependents go with their owners, or before them, or are let go.
//!
//! Reads every resource that can be listed, watched and deleted, custom ones included; deletes dependents whose owners
//! are all gone, removes references to owners that are gone, and ends foreground and orphaning deletions. Nothing is
//! deleted on the word of a cache: that an owner is absent is asked of the API server first.
//! Source: `pkg/controller/garbagecollector`.

mod collect;
mod graph;
mod unseen;

use crate::Context;
use crate::discovery::{self, ApiResource, Undiscovered};
use collect::Collector;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::metrics::{Desc, Kind};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Object, Selection};
use graph::Graph;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Work at once (`--concurrent-gc-syncs`).
const WORKERS: usize = 20;
/// Looking again when a group could not be discovered or a definition is not served yet; later each time that it was in vain.
const AGAIN: Duration = Duration::from_secs(1);
/// Looking again while some groups are served elsewhere: their servers may have got other resources without a word.
const RESYNC: Duration = Duration::from_secs(30);

/// A deletion that orphans or that waits for dependents is not ended on what is known while some resource has not been listed
/// at all: dependents that nobody has seen yet would be taken for none. A resource that cannot be listed for so long (its
/// conversion is broken, its server is away) holds nobody up any more.
const UNLISTED: Duration = Duration::from_secs(600);

/// One resource that is watched.
#[derive(Clone)]
struct Monitor {
    cache: Cache<()>,
    since: Instant,
}

/// What is watched, by resource.
#[derive(Clone, Default)]
struct Monitors {
    caches: Arc<RwLock<HashMap<Arc<ApiResource>, Monitor>>>,
    /// Since when there is a group of this server of which not even the resources are known.
    undiscovered: Arc<Mutex<Option<Instant>>>,
    /// Namespaces of the UIDs that the caches show.
    uids: Arc<RwLock<HashMap<Arc<str>, Arc<str>>>>,
}

impl Monitors {
    /// The cache of a kind in any version, and its resource.
    fn of_kind(&self, group: &str, kind: &str) -> Option<(Arc<ApiResource>, Cache<()>)> {
        let caches = self.caches.read();
        caches.iter().find(|(r, _)| r.group == group && r.kind == kind).map(|(r, m)| (r.clone(), m.cache.clone()))
    }

    /// Notes whether every group is known.
    fn set_discovered(&self, all: bool) {
        let mut undiscovered = self.undiscovered.lock();
        *undiscovered = if all { None } else { Some(undiscovered.unwrap_or_else(Instant::now)) };
    }

    /// Whether all dependents are known, as far as they can be.
    fn are_listed(&self) -> bool {
        let discovered = self.undiscovered.lock().is_none_or(|since| since.elapsed() > UNLISTED);
        discovered && self.caches.read().values().all(|m| m.cache.is_synced() || m.since.elapsed() > UNLISTED)
    }
}

static SYNC_ERRORS: Desc = Desc {
    name: "garbagecollector_controller_resources_sync_error_total",
    help: "[ALPHA] Number of garbage collector resources sync errors",
    kind: Kind::Counter,
    labels: &[],
};

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<Arc<str>> = context.queue("garbage_collector_attempt_to_delete");
    let graph: Arc<Mutex<Graph>> = Arc::default();
    let monitors = Monitors::default();
    let changed = Arc::new(Notify::new());
    let sources = Arc::new(Sources::watch(&context, &changed));
    let collector = Collector { context: context.clone(), graph: graph.clone(), monitors: monitors.clone(), sources: sources.clone() };
    let work = async {
        // Until everything was listed once, an owner may only seem to be unknown.
        let complete = loop {
            match refresh(&context, &monitors, &graph, &queue, &sources).await {
                Ok(complete) => break complete,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        };
        let reconcile = |uid: Arc<str>| collector.reconcile(uid);
        let workers = controller::run::<_, Error, _, _>("garbage-collector", queue.clone(), WORKERS, reconcile);
        tokio::join!(workers, follow(&context, &monitors, &graph, &queue, &sources, &changed, complete));
    };
    work.await;
}

/// What says when discovery changes.
struct Sources {
    definitions: Cache<()>,
    services: Cache<()>,
}

impl Sources {
    fn watch(context: &Context, changed: &Arc<Notify>) -> Self {
        let select = |group: &str, resource: &str| Selection {
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            ..Selection::default()
        };
        let definitions = context.caches.dynamic(select("apiextensions.k8s.io", "customresourcedefinitions"));
        let services = context.caches.dynamic(select("apiregistration.k8s.io", "apiservices"));
        let notify = changed.clone();
        definitions.on_change(move |_| notify.notify_one());
        let notify = changed.clone();
        services.on_change(move |d| {
            if d.old.is_some_and(|o| is_elsewhere(o)) || d.new.is_some_and(|o| is_elsewhere(o)) {
                notify.notify_one();
            }
        });
        Sources { definitions, services }
    }

    /// Whether another server serves a group.
    fn are_elsewhere(&self, group: &str) -> bool {
        let leads = |o: &Object| o.decode::<Value>().is_ok_and(|o| o["spec"]["group"] == group && o["spec"]["service"].is_object());
        self.services.objects().iter().any(|o| leads(o))
    }

    async fn synced(&self) {
        tokio::join!(self.definitions.synced(), self.services.synced());
    }
}

/// Whether an APIService leads to another server.
fn is_elsewhere(api_service: &Object) -> bool {
    api_service.decode::<Value>().is_ok_and(|o| o["spec"]["service"].is_object())
}

async fn follow(
    context: &Context,
    monitors: &Monitors,
    graph: &Arc<Mutex<Graph>>,
    queue: &Queue<Arc<str>>,
    sources: &Sources,
    changed: &Notify,
    mut complete: bool,
) {
    let mut pause = AGAIN;
    loop {
        let elsewhere = sources.services.objects().iter().any(|o| is_elsewhere(o));
        let wait = if complete { RESYNC } else { pause };
        let told = if complete && !elsewhere {
            changed.notified().await;
            true
        } else {
            tokio::time::timeout(wait, changed.notified()).await.is_ok()
        };
        pause = if complete || told { AGAIN } else { (pause * 2).min(RESYNC) };
        complete = refresh(context, monitors, graph, queue, sources).await.unwrap_or(false);
    }
}

/// Watches what is served now and no longer what is not; whether discovery told everything.
async fn refresh(
    context: &Context,
    monitors: &Monitors,
    graph: &Arc<Mutex<Graph>>,
    queue: &Queue<Arc<str>>,
    sources: &Sources,
) -> Result<bool, Error> {
    sources.synced().await;
    let (served, failed) = discovery::collectable(&context.client).await.inspect_err(|_| context.metrics.count(&SYNC_ERRORS, &[]))?;
    if !failed.is_empty() {
        context.metrics.count(&SYNC_ERRORS, &[]);
    }
    let served: HashSet<Arc<ApiResource>> = served.into_iter().map(Arc::new).collect();
    let known: Vec<Arc<ApiResource>> = monitors.caches.read().keys().cloned().collect();
    // What is watched goes on being watched while its group does not answer.
    let of_group = |f: &Undiscovered, r: &ApiResource| f.group == r.group;
    for gone in known.iter().filter(|r| !served.contains(*r) && !failed.iter().any(|f| of_group(f, r))) {
        tracing::debug!(resource = gone.qualified(), "no longer collected");
        monitors.caches.write().remove(gone);
        graph.lock().forget(gone);
    }
    let mut fresh = Vec::new();
    for resource in served.iter().filter(|r| !known.contains(r)) {
        let selection = Selection {
            group: resource.group.clone(),
            version: resource.version.clone(),
            resource: resource.resource.clone(),
            ..Selection::default()
        };
        let cache = context.caches.dynamic(selection);
        monitors.caches.write().insert(resource.clone(), Monitor { cache: cache.clone(), since: Instant::now() });
        observe(resource.clone(), &cache, monitors, graph.clone(), queue.clone());
        fresh.push(cache);
    }
    // A server that is away holds nobody up, as upstream. This one itself says the same when it has too much to do: what it serves is
    // asked for again. Only now, when all that is known is among the monitors, does nothing seem to be missing.
    let is_away = |f: &Undiscovered| f.is_away() && sources.are_elsewhere(&f.group);
    monitors.set_discovered(failed.iter().all(|f| known.iter().any(|r| of_group(f, r)) || is_away(f)));
    for cache in &fresh {
        // A definition may vanish before its objects were ever listed.
        drop(tokio::time::timeout(Duration::from_secs(30), cache.synced()).await);
    }
    if !fresh.is_empty() {
        // Owners of these kinds may have gone before anybody watched.
        // The graph is locked before the UIDs, as everywhere.
        let known = |node: &graph::Node, uid: &str| monitors.uids.read().get(uid).is_some_and(|n| n.is_empty() || *n == node.key.namespace);
        let lost = graph.lock().lost(known);
        lost.into_iter().for_each(|uid| queue.add(uid));
    }
    Ok(failed.is_empty() && sources.definitions.objects().iter().all(|d| is_served(d, &served)))
}

/// Whether an established definition is in discovery.
fn is_served(definition: &Object, served: &HashSet<Arc<ApiResource>>) -> bool {
    let Ok(value) = definition.decode::<Value>() else { return true };
    let established =
        value["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True");
    let (group, plural) = (&value["spec"]["group"], &value["spec"]["names"]["plural"]);
    !established
        || value["metadata"]["deletionTimestamp"].is_string()
        || served.iter().any(|r| *group == *r.group && *plural == *r.resource)
}

fn observe(resource: Arc<ApiResource>, cache: &Cache<()>, monitors: &Monitors, graph: Arc<Mutex<Graph>>, queue: Queue<Arc<str>>) {
    let uids = monitors.uids.clone();
    cache.on_change(move |delta| {
        let mut look = Vec::new();
        if let Some(old) = delta.old.filter(|o| delta.new.is_none_or(|n| n.uid != o.uid)) {
            uids.write().remove(&old.uid);
            look.extend(graph.lock().remove(&old.uid));
        }
        if let Some(new) = delta.new {
            if delta.old.is_none_or(|o| o.uid != new.uid) {
                uids.write().insert(new.uid.clone(), new.key.namespace.clone());
            }
            // An owner in another namespace is none.
            let known = |uid: &str| uids.read().get(uid).is_some_and(|n| n.is_empty() || *n == new.key.namespace);
            look.extend(graph.lock().set(&new.uid, graph::node(&resource, new), known));
        }
        look.into_iter().for_each(|uid| queue.add(uid));
    });
}

/// Nothing to wait for.
const DONE: Result<Next, Error> = Ok(Next::Wait);
