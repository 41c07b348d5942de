//! Custom resources: a CRD adds rows to the table of kinds at run time, and from there on there is no difference.
//!
//! One task follows the CRDs: it takes new ones into service (cache first, then the table, then the conditions that
//! clients wait for), keeps the table current, and empties what a deleted CRD leaves. Names are accepted in key order,
//! so that every server comes to the same table.

mod cleanup;
mod conditions;
mod conversion;
mod formats;
mod renewal;
mod rows;
pub mod rules;
mod schema;
mod structural;

pub use cleanup::hold;
pub use conversion::{Converter, selected};

use crate::ApiServer;
use crate::cache::{Interest, KindCache};
use crate::local::OwnClient;
use crate::objects::{Loopback, Target};
use crate::registry::{Entry, hash_of};
use crate::server::metrics::Times;
use ferrokube_api::Object;
use ferrokube_api::field::Errors;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinHandle;

/// Group of CRDs.
pub const GROUP: &str = "apiextensions.k8s.io";
/// Resource of CRDs.
pub const RESOURCE: &str = "customresourcedefinitions";
/// Holds a deleted CRD until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Checks a custom object against the schema and the rules of its version, and a CRD against what its schemas must be like.
/// `old` is the object that is replaced: what was wrong in it before and is unchanged may stay.
pub fn validate(entry: &Entry, object: &Value, old: Option<&Value>, times: &Times, errors: &mut Errors) {
    if entry.is(GROUP, RESOURCE) {
        return structural::check(object, old, errors);
    }
    let Some(custom) = &entry.custom else { return };
    let before = errors.len();
    schema::validate(custom, object, old, errors);
    // Rules may rely on what the schema promises.
    if let Some(rules) = custom.rules.as_ref().filter(|_| errors.len() == before) {
        let start = Instant::now();
        rules::validate(rules, object, old, errors);
        times.cel_evaluation.record(String::new(), start.elapsed());
    }
}

/// A CRD in service.
#[derive(Debug)]
struct Served {
    /// Revision and the rows made from it.
    revision: u64,
    entries: Vec<Arc<Entry>>,
    prefix: String,
    /// The versions and the conversion: by these its stored objects are read and shown to whoever watches.
    read_by: [Value; 2],
    group: String,
    /// Those of `spec.names` that were accepted.
    names: Value,
}

/// What is in service, by name of the CRD.
#[derive(Default)]
struct Follower {
    served: BTreeMap<String, Served>,
    /// By name: the revision whose status was looked at, and the names beside which.
    told: HashMap<String, (u64, u64)>,
}

fn cache(server: &ApiServer) -> Option<Arc<KindCache>> {
    server.caches.get(GROUP, RESOURCE)
}

/// Takes the CRDs that exist into service and follows changes from then on.
pub async fn start(server: &Arc<ApiServer>) -> Vec<JoinHandle<()>> {
    let Some(definitions) = cache(server) else { return Vec::new() };
    let (snapshot, watch) = definitions.watch_with_objects(Arc::new(Interest::all()), server.caches.applied());
    let mut follower = Follower::default();
    follower.settle(server, &snapshot.objects).await;
    let server = server.clone();
    vec![tokio::spawn(async move {
        let mut watch = watch;
        // What was left undone before a restart is seen again.
        follower.tell(&server, &definitions.list("")).await;
        loop {
            match watch.next().await {
                Some(_) => while watch.ready().is_some() {},
                None => watch = definitions.watch_with_objects(Arc::new(Interest::all()), server.caches.applied()).1,
            }
            let all = definitions.list("");
            follower.settle(&server, &all).await;
            follower.tell(&server, &all).await;
        }
    })]
}

impl Follower {
    /// Brings caches and table in line with the CRDs.
    async fn settle(&mut self, server: &Arc<ApiServer>, all: &[Arc<Object>]) {
        let mut changed = false;
        let gone: Vec<String> = self.served.keys().filter(|name| !all.iter().any(|o| *o.key.name == ***name)).cloned().collect();
        for name in gone {
            if let Some(served) = self.served.remove(&name) {
                changed = true;
                self.publish(server);
                server.feed.remove(&served.prefix).await;
            }
        }
        for object in all {
            let known = self.served.get(&*object.key.name).is_some_and(|s| s.revision == object.revision);
            if !known {
                changed |= self.take(server, object).await;
            }
        }
        if changed {
            self.publish(server);
        }
    }

    /// Makes the rows of a CRD and the cache of its objects. False when nothing changed.
    async fn take(&mut self, server: &Arc<ApiServer>, object: &Arc<Object>) -> bool {
        let Ok(definition) = object.decode::<Value>() else { return false };
        let name = object.key.name.to_string();
        let group = group_of(&definition).to_owned();
        let (names, conflict) = conditions::names(&definition, &self.others(&group, &name));
        // What clients have come to rely on is not taken from them: later names that conflict leave it served under the earlier ones.
        if conflict.is_some() && !conditions::is_established(&definition) {
            return self.served.remove(&name).is_some();
        }
        let entries = match rows::entries(&definition, &names, &server.metrics.times) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(crd = name, %error, "a CRD cannot be served");
                return self.served.remove(&name).is_some();
            }
        };
        let (prefix, storage) = rows::place(&definition);
        let spec = &definition["spec"];
        let read_by = [spec["versions"].clone(), spec["conversion"].clone()];
        let stored = entries.iter().find(|e| e.kind.version == *storage).map(|e| e.kind.clone());
        let row = stored.or_else(|| entries.first().map(|e| e.kind.clone()));
        if self.served.get(&name).is_none_or(|before| before.read_by != read_by)
            && let Some(row) = row
            && let Err(error) = server.feed.add(row, renewal::of(&definition)).await
        {
            tracing::error!(crd = name, %error, "the objects of a CRD cannot be read");
            return false;
        }
        for entry in &entries {
            server.caches.share(&entry.kind);
        }
        self.served.insert(name, Served { revision: object.revision, entries, prefix, read_by, group, names });
        true
    }

    /// Names of the CRDs of a group that came before, for conflicts.
    fn others(&self, group: &str, name: &str) -> Vec<&Value> {
        self.served.iter().filter(|(other, s)| *other != name && s.group == group).map(|(_, s)| &s.names).collect()
    }

    fn publish(&self, server: &ApiServer) {
        server.registry.set_custom(self.served.values().flat_map(|s| s.entries.iter().cloned()).collect());
    }

    /// Writes conditions, and cleans up behind deleted CRDs.
    async fn tell(&mut self, server: &Arc<ApiServer>, all: &[Arc<Object>]) {
        self.told.retain(|name, _| all.iter().any(|o| *o.key.name == **name));
        for object in all {
            let name = &*object.key.name;
            let group = name.split_once('.').map_or("", |(_, group)| group);
            let seen = (object.revision, hash_of(self.others(group, name)));
            if self.told.get(name) == Some(&seen) {
                continue;
            }
            let Ok(definition) = object.decode::<Value>() else { continue };
            let wanted = conditions::status(&definition, &self.others(group, name), jiff::Timestamp::now());
            let told = match wanted {
                Some(wanted) => {
                    let target = Target { subresource: "status".into(), ..target(name) };
                    let written = OwnClient(server.clone()).update(target, wanted).await;
                    written
                        .inspect_err(|error| {
                            tracing::debug!(crd = name, %error, "conditions of a CRD are not written; the next change brings another try");
                        })
                        .is_ok()
                }
                None => true,
            };
            if cleanup::is_due(&definition) {
                tokio::spawn(cleanup::run(server.clone(), definition));
            } else if told {
                self.told.insert(name.to_owned(), seen);
            }
        }
    }
}

fn group_of(definition: &Value) -> &str {
    definition["spec"]["group"].as_str().unwrap_or_default()
}

/// A CRD as the target of a write.
fn target(name: &str) -> Target {
    Target { group: GROUP.into(), version: "v1".into(), resource: RESOURCE.into(), name: name.into(), ..Target::default() }
}
