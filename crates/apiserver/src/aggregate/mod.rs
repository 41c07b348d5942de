//! Aggregation: groups and versions that another server serves, behind an APIService that names a Service
//! (`apiregistration.k8s.io`, kube-aggregator).
//!
//! A request for such a group and version is authenticated and authorized here like any other and then passed on, with this
//! server's front-proxy certificate and the user in `X-Remote-*` headers. Discovery and OpenAPI show both servers' groups as one.
//! Without such APIServices a request costs one look at an empty table.
//!
//! | part | does |
//! |---|---|
//! | `spec` | what an APIService says |
//! | `availability` | where its service is, whether it answers, the `Available` condition |
//! | `backend` | TLS and requests of our own to it |
//! | `proxy` | requests of clients, passed on |
//! | `registration` | APIServices of built-in and custom groups, kept in step |
//! | `swagger` | its part of `/openapi/v2` |
//! | `follow` | the tasks |

mod availability;
mod backend;
mod follow;
mod proxy;
mod registration;
mod spec;
mod swagger;
mod view;

pub use view::group_versions;

use crate::objects::Objects;
use crate::request::RequestInfo;
use crate::server::Tls;
use crate::server::metrics::head;
use crate::server::tls::TlsError;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;
use spec::Spec;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use tokio::sync::watch;

pub(crate) use follow::start;

/// Group of APIServices.
pub(crate) const GROUP: &str = "apiregistration.k8s.io";
/// Resource of APIServices.
pub(crate) const RESOURCE: &str = "apiservices";

/// What is known of a remote server.
#[derive(Clone, Debug, Default)]
struct State {
    available: bool,
    /// Its resources, as the aggregated discovery shows them; kept when it goes away.
    resources: Option<Arc<Value>>,
    /// `serverRelativeURL` of its description.
    openapi: Option<String>,
    /// Its part of `/openapi/v2`.
    described: Option<Arc<Value>>,
}

/// A group and version that another server serves.
#[derive(Debug)]
pub struct Remote {
    spec: Spec,
    backend: backend::Backend,
    state: Mutex<State>,
}

impl Remote {
    fn state(&self) -> State {
        self.state.lock().clone()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Remotes {
    all: Vec<Arc<Remote>>,
    /// Changes whenever discovery does.
    generation: u64,
}

impl Remotes {
    /// Counts the changes that discovery shows.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a group and version is among them.
    pub fn serve(&self, group: &str, version: &str) -> bool {
        self.get(group, version).is_some()
    }

    fn get(&self, group: &str, version: &str) -> Option<&Arc<Remote>> {
        self.all.iter().find(|r| r.spec.version == version && r.spec.group == group)
    }
}

/// The part of the server that knows other servers.
#[derive(Debug)]
pub struct Aggregator {
    remotes: ArcSwap<Remotes>,
    identity: watch::Sender<Option<Arc<backend::Identity>>>,
    /// How often an APIService became unavailable, by name and reason.
    lost: Mutex<BTreeMap<(String, &'static str), u64>>,
    /// How often `/openapi/v2` was put together anew, by name and reason.
    described: Mutex<BTreeMap<(String, &'static str), u64>>,
}

impl Aggregator {
    /// With the front-proxy client certificate (`--proxy-client-cert-file`), if there is one.
    pub fn new(proxy_client: Option<&Tls>) -> Result<Self, TlsError> {
        let identity = watch::Sender::new(proxy_client.map(backend::Identity::new).transpose()?.map(Arc::new));
        Ok(Aggregator { remotes: ArcSwap::default(), identity, lost: Mutex::default(), described: Mutex::default() })
    }

    /// Every server behind an APIService sees another certificate.
    pub(crate) fn set_identity(&self, proxy_client: &Tls) -> Result<(), TlsError> {
        self.identity.send_replace(Some(Arc::new(backend::Identity::new(proxy_client)?)));
        Ok(())
    }

    /// kube-aggregator's metrics about APIServices, in the text format.
    pub(crate) fn metrics(&self, objects: &dyn Objects, out: &mut String) {
        let name = "aggregator_unavailable_apiservice";
        let help = "[ALPHA] Gauge of APIServices which are marked as unavailable broken down by APIService name.";
        head(out, name, "gauge", help);
        for object in objects.list(GROUP, RESOURCE, "") {
            let Ok(api_service) = object.decode::<Value>() else { continue };
            let away = u8::from(!availability::is_available(&api_service));
            let _ = writeln!(out, "{name}{{name={:?}}} {away}", &*object.key.name);
        }
        let name = "aggregator_unavailable_apiservice_total";
        let help = "[ALPHA] Counter of APIServices which are marked as unavailable broken down by APIService name and reason.";
        head(out, name, "counter", help);
        for ((api_service, reason), count) in &*self.lost.lock() {
            let _ = writeln!(out, "{name}{{name={api_service:?},reason=\"{reason}\"}} {count}");
        }
        let name = "aggregator_openapi_v2_regeneration_count";
        let help = "[ALPHA] Counter of OpenAPI v2 spec regeneration count broken down by causing APIService name and reason.";
        head(out, name, "counter", help);
        for ((api_service, reason), count) in &*self.described.lock() {
            let _ = writeln!(out, "{name}{{apiservice={api_service:?},reason=\"{reason}\"}} {count}");
        }
    }

    /// An APIService has become unavailable.
    fn count_loss(&self, name: &str, reason: &'static str) {
        *self.lost.lock().entry((name.to_owned(), reason)).or_default() += 1;
    }

    /// What an APIService adds to `/openapi/v2` is new.
    fn count_description(&self, name: String, reason: &'static str) {
        *self.described.lock().entry((name, reason)).or_default() += 1;
    }

    /// What is served elsewhere now.
    pub fn remotes(&self) -> Arc<Remotes> {
        self.remotes.load_full()
    }

    /// The server that a request is for, when it is not this one.
    pub fn serving(&self, info: &RequestInfo) -> Option<Arc<Remote>> {
        let remotes = self.remotes.load();
        if remotes.all.is_empty() {
            return None;
        }
        if info.resource_request {
            return remotes.get(&info.group, &info.version).cloned();
        }
        // `/apis/<group>/<version>` is its discovery, and its description is its own as well.
        let path = info.path.strip_prefix("/openapi/v3/apis/").or_else(|| info.path.strip_prefix("/apis/"))?;
        let (group, version) = path.trim_end_matches('/').split_once('/')?;
        remotes.get(group, version).cloned()
    }

    /// Swaps in another set.
    fn set(&self, all: Vec<Arc<Remote>>) {
        let generation = self.remotes.load().generation + 1;
        self.remotes.store(Arc::new(Remotes { all, generation }));
    }

    /// What a remote server shows has changed.
    fn changed(&self) {
        self.remotes.rcu(|remotes| Remotes { all: remotes.all.clone(), generation: remotes.generation + 1 });
    }
}
