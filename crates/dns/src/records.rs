//! What the API's objects mean for names: few facts per service, decoded once per change.
//!
//! One task owns the writing: caches note keys, it decodes what changed. Answers read under a short lock.

use ferrokube_client::cache::decoded;
use ferrokube_client::k8s_openapi::api::core::v1::{Namespace, Service};
use ferrokube_client::k8s_openapi::api::discovery::v1::EndpointSlice;
use ferrokube_client::{Cache, Caches, Index, Object, ObjectKey};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::Notify;

/// Label of an EndpointSlice that names its service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A named port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name; empty when it has none.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Number.
    pub number: u16,
}

/// An endpoint of a headless service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The first label of its name: the pod's hostname, or its address with dashes.
    pub hostname: String,
    /// Whether the pod asked for that hostname.
    pub named: bool,
    /// Its address.
    pub address: IpAddr,
    /// Its ports, shared by the endpoints of a slice.
    pub ports: Arc<[Port]>,
}

/// How a service's name is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With its cluster addresses.
    Cluster(Vec<IpAddr>),
    /// With its endpoints.
    Headless(Vec<Endpoint>),
    /// With another name.
    External(String),
}

/// What a service means for names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// How its name is answered.
    pub kind: Kind,
    /// Its ports.
    pub ports: Vec<Port>,
}

impl ServiceFacts {
    /// Facts of a service and its slices.
    pub fn new(service: &Service, slices: &[EndpointSlice]) -> Self {
        let spec = service.spec.as_ref();
        let ports = spec
            .and_then(|s| s.ports.as_ref())
            .into_iter()
            .flatten()
            .filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port));
        let kind = if spec.is_some_and(|s| s.type_.as_deref() == Some("ExternalName")) {
            Kind::External(spec.and_then(|s| s.external_name.clone()).unwrap_or_default())
        } else {
            let single = spec.and_then(|s| s.cluster_ip.as_ref());
            let many = spec.and_then(|s| s.cluster_ips.as_ref()).filter(|ips| !ips.is_empty());
            let texts = many.map_or_else(|| single.into_iter().collect(), |ips| ips.iter().collect::<Vec<_>>());
            if texts.iter().any(|t| *t == "None") {
                Kind::Headless(slices.iter().flat_map(endpoints).collect())
            } else {
                Kind::Cluster(texts.iter().filter_map(|t| t.parse().ok()).collect())
            }
        };
        Self { kind, ports: ports.collect() }
    }
}

fn port(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Port> {
    let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
    Some(Port { name: name.unwrap_or_default().to_owned(), protocol, number: u16::try_from(number).ok()? })
}

/// The endpoints a slice publishes: ready ones (a service may ask for all, then the slice calls all ready).
fn endpoints(slice: &EndpointSlice) -> Vec<Endpoint> {
    let ports = slice.ports.iter().flatten();
    let ports: Arc<[Port]> = ports.filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port?)).collect();
    let all = slice.endpoints.iter().flatten();
    let ready = all.filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
    ready
        .flat_map(|e| e.addresses.iter().filter_map(move |a| Some((e, a.parse::<IpAddr>().ok()?))))
        .map(|(e, address)| {
            let named = e.hostname.as_deref().filter(|h| !h.is_empty());
            let hostname = named.map_or_else(|| dashed(address), str::to_owned);
            Endpoint { hostname, named: named.is_some(), address, ports: ports.clone() }
        })
        .collect()
}

/// An address as a label: `10-0-0-1`.
pub fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// Everything the zone answers from.
#[derive(Debug, Default)]
pub struct Records {
    services: HashMap<ObjectKey, Arc<ServiceFacts>>,
    namespaces: HashSet<Arc<str>>,
    /// By address: services with that cluster address, headless services with that endpoint.
    reverse: HashMap<IpAddr, Vec<ObjectKey>>,
}

impl Records {
    /// The facts of a service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<ServiceFacts>> {
        self.services.get(&ObjectKey::new(namespace, name))
    }

    /// Whether a namespace exists.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// Services known by an address.
    pub fn by_address(&self, address: IpAddr) -> impl Iterator<Item = (&ObjectKey, &Arc<ServiceFacts>)> {
        let keys = self.reverse.get(&address).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.services.get(key)?)))
    }

    /// Enters, changes or removes a service.
    pub fn set_service(&mut self, key: ObjectKey, facts: Option<ServiceFacts>) {
        if self.services.get(&key).map(|old| &**old) == facts.as_ref() {
            return;
        }
        if let Some(old) = self.services.remove(&key) {
            for address in addresses(&old) {
                if let Some(keys) = self.reverse.get_mut(&address) {
                    keys.retain(|k| *k != key);
                    if keys.is_empty() {
                        self.reverse.remove(&address);
                    }
                }
            }
        }
        if let Some(facts) = facts {
            for address in addresses(&facts) {
                let keys = self.reverse.entry(address).or_default();
                if !keys.contains(&key) {
                    keys.push(key.clone());
                    keys.sort();
                }
            }
            self.services.insert(key, Arc::new(facts));
        }
    }

    /// Notes whether a namespace exists.
    pub fn set_namespace(&mut self, name: &str, exists: bool) {
        if exists {
            self.namespaces.insert(name.into());
        } else {
            self.namespaces.remove(name);
        }
    }
}

fn addresses(facts: &ServiceFacts) -> Vec<IpAddr> {
    match &facts.kind {
        Kind::Cluster(ips) => ips.clone(),
        Kind::Headless(endpoints) => endpoints.iter().map(|e| e.address).collect(),
        Kind::External(_) => Vec::new(),
    }
}

#[derive(Default)]
struct Dirty {
    services: Mutex<HashSet<ObjectKey>>,
    namespaces: Mutex<BTreeMap<Arc<str>, bool>>,
    wake: Notify,
}

/// Keeps records up to date with the caches.
pub struct Updater {
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    namespaces: Cache<Namespace>,
    slices_of: Arc<Index>,
    dirty: Arc<Dirty>,
    records: Arc<RwLock<Records>>,
}

impl Updater {
    /// Subscribes to what names come from.
    pub fn new(caches: &Caches, records: Arc<RwLock<Records>>) -> Self {
        let services: Cache<Service> = caches.of();
        let slices: Cache<EndpointSlice> = caches.of();
        let namespaces: Cache<Namespace> = caches.of();
        let dirty = Arc::new(Dirty::default());
        let slices_of = slices.index(|o| service_of(o).map(|key| key.to_string()).into_iter().collect());
        let note = dirty.clone();
        services.on_change(move |delta| note.note([delta.key().clone()]));
        let note = dirty.clone();
        slices.on_change(move |delta| {
            note.note([delta.old, delta.new].into_iter().flatten().filter_map(|o| service_of(o)));
        });
        let note = dirty.clone();
        namespaces.on_change(move |delta| {
            note.namespaces.lock().insert(delta.key().name.clone(), delta.new.is_some());
            note.wake.notify_one();
        });
        Self { services, slices, namespaces, slices_of, dirty, records }
    }

    /// Runs until dropped; calls `on_synced` once, when the records are complete for the first time.
    pub async fn run(self, on_synced: impl FnOnce()) {
        self.services.synced().await;
        self.slices.synced().await;
        self.namespaces.synced().await;
        self.update();
        on_synced();
        loop {
            self.dirty.wake.notified().await;
            self.update();
        }
    }

    fn update(&self) {
        let namespaces = std::mem::take(&mut *self.dirty.namespaces.lock());
        let services = std::mem::take(&mut *self.dirty.services.lock());
        let facts: Vec<_> = services.into_iter().map(|key| (self.facts(&key), key)).collect();
        let mut records = self.records.write();
        namespaces.iter().for_each(|(name, exists)| records.set_namespace(name, *exists));
        facts.into_iter().for_each(|(facts, key)| records.set_service(key, facts));
    }

    fn facts(&self, key: &ObjectKey) -> Option<ServiceFacts> {
        let service: Service = self.services.get(&key.namespace, &key.name)?;
        let headless = service.spec.as_ref().is_some_and(|s| s.cluster_ip.as_deref() == Some("None"));
        let slices = if headless { self.slices_of.get(&key.to_string()) } else { Vec::new() };
        let slices: Vec<EndpointSlice> = slices.iter().filter_map(|o| decoded(o)).collect();
        Some(ServiceFacts::new(&service, &slices))
    }
}

impl Dirty {
    fn note(&self, keys: impl IntoIterator<Item = ObjectKey>) {
        self.services.lock().extend(keys);
        self.wake.notify_one();
    }
}

fn service_of(slice: &Object) -> Option<ObjectKey> {
    Some(ObjectKey::new(&slice.key.namespace, slice.label(SERVICE_NAME_LABEL)?))
}
