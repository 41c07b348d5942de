//! Dynamic resources: which devices there are, which claims there are, and what is taken.
//!
//! Allocation itself is in [`allocate`], pure over what is known here. Like volumes, an allocation that has been decided
//! and is not yet seen in its claim is kept beside ("assumed").

pub mod allocate;
mod binding;
pub mod capacity;
pub mod extended;
mod pools;
pub mod selector;
mod views;

use crate::class::{Effect, NodeTerm, Taint, Toleration};
use crate::node::Node;
use crate::pod::node_terms;
use binding::Awaited;
pub use binding::Readiness;
use capacity::{Amounts, Capacity};
use ferrokube_api::quantity::Quantity;
use ferrokube_api::{Object, ObjectKey};
use pools::Slice;
pub use pools::{Pool, PoolKey, Pools};
use selector::{Selector, Selectors};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use views::*;

/// The claim stays while it is allocated.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// So many pods can share a claim.
pub const MOST_CONSUMERS: usize = 256;

/// Driver, pool and name of a device.
pub type DeviceKey = (Box<str>, Box<str>, Box<str>);

/// From where devices can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One node.
    Node(Box<str>),
    /// Nodes that match.
    Nodes(Vec<NodeTerm>, Value),
    /// All.
    All,
}

impl Reach {
    fn of(name: Option<Box<str>>, selector: Option<(Vec<NodeTerm>, Value)>, all: bool) -> Option<Reach> {
        match (name.filter(|n| !n.is_empty()), selector, all) {
            (Some(name), _, _) => Some(Reach::Node(name)),
            (None, Some((terms, raw)), _) => Some(Reach::Nodes(terms, raw)),
            (None, None, true) => Some(Reach::All),
            (None, None, false) => None,
        }
    }

    /// Whether a node is among them.
    pub fn reaches(&self, node: &Node) -> bool {
        match self {
            Reach::Node(name) => *name == node.name,
            Reach::Nodes(terms, _) => terms.iter().any(|t| t.matches(node)),
            Reach::All => true,
        }
    }
}

/// Amounts by counter, by set of counters.
pub type Counters = BTreeMap<Box<str>, BTreeMap<Box<str>, i64>>;

/// A device.
#[derive(Clone, Debug)]
pub struct Device {
    /// Who and which it is.
    pub key: DeviceKey,
    /// From where it can be used.
    pub reach: Arc<Reach>,
    /// Attributes by qualified name (`domain/name`), as written.
    pub attributes: BTreeMap<Box<str>, Value>,
    /// Capacity by qualified name.
    pub capacity: BTreeMap<Box<str>, Capacity>,
    /// Several allocations may have it, each a part of its capacity.
    pub shared: bool,
    /// Whoever has it is bound to the node for which it was allocated.
    pub binds_to_node: bool,
    /// Conditions that its driver sets before a pod may be bound, and those that say that it must not.
    pub conditions: (Vec<Box<str>>, Vec<Box<str>>),
    /// What it takes of the counters of its pool.
    pub consumes: Counters,
    /// Taints that repel.
    pub taints: Vec<Taint>,
}

/// A device class.
#[derive(Clone, Debug, Default)]
pub struct DeviceClass {
    /// Its devices: all of these hold.
    pub selectors: Vec<Selector>,
    /// Configuration that goes into allocations.
    pub config: Vec<Value>,
}

/// How many devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Exactly(usize),
    /// All that match; none may be taken.
    All,
}

/// Devices that are asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// `name`, or `name/sub` of one among several.
    pub name: Box<str>,
    /// Device class.
    pub class: Box<str>,
    /// All of these hold.
    pub selectors: Vec<Selector>,
    /// How many.
    pub amount: Amount,
    /// Also devices that are taken, and without taking them.
    pub admin: bool,
    /// Tolerations of device taints.
    pub tolerations: Vec<Toleration>,
    tolerations_raw: Vec<Value>,
    /// What it asks of the capacity of each device, by name as written.
    capacity: BTreeMap<Box<str>, String>,
    /// Its place among the alternatives, if there are any.
    pub alternative: Option<usize>,
}

/// What must hold between devices.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// Of these requests; empty: of all.
    pub requests: Vec<Box<str>>,
    /// Qualified name of an attribute.
    pub attribute: Box<str>,
    /// They differ in it; otherwise they agree.
    pub distinct: bool,
}

/// A device that a claim takes: all of it, or these amounts of its capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which.
    pub device: DeviceKey,
    /// Of a device that several allocations share.
    pub part: Option<Amounts>,
}

/// Devices that a claim has.
#[derive(Clone, Debug)]
pub struct Allocation {
    /// Those that are taken by it.
    pub devices: Vec<Taken>,
    /// From where they can be used; `None`: from everywhere.
    pub nodes: Option<Vec<NodeTerm>>,
    /// What must hold before its pods are bound.
    awaited: Awaited,
}

/// A claim.
#[derive(Clone, Debug)]
pub struct Claim {
    /// UID.
    pub uid: Arc<str>,
    /// UID of the object that controls it.
    pub owner: Option<Box<str>>,
    /// It is being deleted.
    pub deleting: bool,
    /// For each request the alternatives, in order of preference.
    pub requests: Vec<Vec<Request>>,
    /// What must hold between its devices.
    pub constraints: Vec<Constraint>,
    /// What it has.
    pub allocation: Option<Allocation>,
    /// UIDs of the pods that may use it.
    pub consumers: Vec<Box<str>>,
    /// The scheduler made it for a pod that asks for devices as amounts.
    special: bool,
    config: Vec<Value>,
    reserved_for: Vec<Value>,
    finalizers: Vec<String>,
    revision: u64,
}

/// What must be written about a claim before its pod can be bound.
#[derive(Clone, Debug)]
pub struct Reservation {
    /// The claim.
    pub claim: ObjectKey,
    /// Its revision: if it has changed since, the decision does not hold.
    pub revision: u64,
    /// Finalizers with the one that keeps an allocated claim, if it is new.
    pub finalizers: Option<Vec<String>>,
    /// The new allocation, if there is none yet.
    pub allocation: Option<Value>,
    /// All consumers, the pod included.
    pub reserved_for: Vec<Value>,
    /// The claim is to be made first, from this, and the pod told which it is.
    pub made_from: Option<Box<Made>>,
    /// UID of the pod.
    pod: Box<str>,
    taken: Vec<Taken>,
    /// The pod must wait for its devices to be made ready.
    pub waits: bool,
}

/// A claim that is to be made for a pod.
#[derive(Clone, Debug)]
pub struct Made {
    /// The object.
    pub object: Value,
    /// Name of the pod.
    pub pod: Box<str>,
    /// Which container has the devices of which request.
    pub mappings: Vec<Value>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    pools: Pools,
    classes: HashMap<Box<str>, DeviceClass>,
    /// Expressions of classes and claims.
    selectors: Selectors,
    claims: HashMap<ObjectKey, Claim>,
    assumed: HashMap<ObjectKey, Reservation>,
    /// Classes that stand for extended resources.
    backing: extended::Backing,
    /// Claims that were made for pods that ask for devices as amounts, by the UID of the pod.
    special: HashMap<Box<str>, ObjectKey>,
}

impl Devices {
    /// A claim.
    pub fn claim(&self, key: &ObjectKey) -> Option<&Claim> {
        self.claims.get(key)
    }

    /// A class.
    pub fn class(&self, name: &str) -> Option<&DeviceClass> {
        self.classes.get(name)
    }

    /// Whether a decision about the claim is under way.
    pub fn is_assumed(&self, key: &ObjectKey) -> bool {
        self.assumed.contains_key(key)
    }

    /// The pools of devices.
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Counts on reservations before they are seen.
    pub fn assume(&mut self, reservations: &[Reservation]) {
        for reservation in reservations {
            reservation.taken.iter().for_each(|t| self.pools.take(t));
            self.assumed.insert(reservation.claim.clone(), reservation.clone());
        }
    }

    /// No longer counts on reservations.
    pub fn forget(&mut self, reservations: &[Reservation]) {
        for reservation in reservations {
            if let Some(known) = self.assumed.remove(&reservation.claim) {
                known.taken.iter().for_each(|d| self.pools.release(d));
            }
        }
    }
}

/// Takes amounts off counters, or gives them back (-1).
fn consume(left: &mut Counters, amounts: &Counters, times: i64) {
    for (set, counters) in amounts {
        for (name, amount) in counters {
            if let Some(value) = left.get_mut(set).and_then(|s| s.get_mut(name)) {
                *value -= amount * times;
            }
        }
    }
}

fn counters(sets: Vec<CounterSet>) -> Counters {
    let value = |v: CounterView| Quantity::parse(&v.value).map_or(0, |q| q.value());
    let set = |s: CounterSet| (s.name, s.counters.into_iter().map(|(name, v)| (name, value(v))).collect());
    sets.into_iter().map(set).collect()
}

/// The name of an attribute or capacity with its domain, which is the driver's unless it says another.
fn qualified(driver: &str, name: &str) -> Box<str> {
    if name.contains('/') { name.into() } else { format!("{driver}/{name}").into() }
}

/// What is told.
impl Devices {
    /// A slice is as it is now, or gone.
    pub fn set_slice(&mut self, name: &str, object: Option<&Object>) -> Result<(), serde_json::Error> {
        self.pools.forget(name);
        let Some(object) = object else { return Ok(()) };
        let raw: Value = serde_json::from_slice(&object.json())?;
        let SliceView { spec } = serde_json::from_slice(&object.json())?;
        let selector = |view: Option<crate::pod::NodeSelectorView>, raw: &Value| view.map(|v| (node_terms(v), raw["nodeSelector"].clone()));
        let node = spec.node_name.clone().filter(|n| !n.is_empty());
        let whole = Reach::of(spec.node_name, selector(spec.node_selector, &raw["spec"]), spec.all_nodes).map(|r| self.pools.shared(r));
        let mut devices = Vec::new();
        for (at, view) in spec.devices.into_iter().enumerate() {
            let own = selector(view.node_selector, &raw["spec"]["devices"][at]);
            let reach = match spec.per_device_node_selection {
                true => Reach::of(view.node_name, own, view.all_nodes).map(|r| self.pools.shared(r)),
                false => whole.clone(),
            };
            // A device that nobody can reach is none.
            let Some(reach) = reach else { continue };
            let driver = &*spec.driver;
            let attributes: BTreeMap<Box<str>, Value> = view.attributes.into_iter().map(|(k, v)| (qualified(driver, &k), v)).collect();
            let taint = |t: TaintView| Some(Taint { effect: Effect::parse(&t.effect)?, key: t.key, value: t.value });
            devices.push(Arc::new(Device {
                key: (driver.into(), spec.pool.name.clone(), view.name),
                reach,
                attributes,
                capacity: capacity::capacities(driver, view.capacity),
                shared: view.allow_multiple_allocations,
                binds_to_node: view.binds_to_node,
                conditions: (view.binding_conditions, view.binding_failure_conditions),
                consumes: counters(view.consumes_counters),
                taints: view.taints.into_iter().filter_map(taint).collect(),
            }));
        }
        let slice = Slice {
            pool: (spec.driver, spec.pool.name),
            node,
            generation: spec.pool.generation,
            of: spec.pool.resource_slice_count,
            devices,
            counters: counters(spec.shared_counters),
        };
        self.pools.set(name, slice);
        Ok(())
    }

    /// A class is as it is now, or gone.
    pub fn set_class(&mut self, name: &str, object: Option<&Object>) -> Result<(), serde_json::Error> {
        self.backing.forget(name);
        let Some(object) = object else {
            self.classes.remove(name);
            return Ok(());
        };
        let ClassView { metadata, spec } = serde_json::from_slice(&object.json())?;
        if let Some(resource) = &spec.extended_resource_name {
            self.backing.add(resource, &metadata.creation_timestamp.unwrap_or_default(), name);
        }
        self.classes.insert(name.into(), DeviceClass { selectors: selectors(&mut self.selectors, spec.selectors), config: spec.config });
        Ok(())
    }

    /// A claim is as it is now, or gone. Says whether others can have its devices now.
    pub fn set_claim(&mut self, key: &ObjectKey, object: Option<&Object>) -> Result<bool, serde_json::Error> {
        let mut had = false;
        if let Some(old) = self.claims.remove(key) {
            had = old.allocation.is_some();
            // Counted anew below.
            old.allocation.iter().flat_map(|a| &a.devices).for_each(|d| self.pools.release(d));
            if let Some(owner) = old.owner.filter(|_| old.special) {
                self.special.remove(&owner);
            }
        }
        let Some(object) = object else {
            if let Some(known) = self.assumed.remove(key) {
                known.taken.iter().for_each(|d| self.pools.release(d));
            }
            return Ok(true);
        };
        let ClaimView { metadata, spec, status } = serde_json::from_slice(&object.json())?;
        let statuses = status.devices;
        let allocation = status.allocation.map(|a| Allocation {
            awaited: Awaited::of(&a, &statuses),
            devices: a.devices.results.into_iter().filter(|r| !r.admin_access).map(taken).collect(),
            nodes: a.node_selector.map(node_terms),
        });
        allocation.iter().flat_map(|a| &a.devices).for_each(|t| self.pools.take(t));
        let consumer = |r: &Value| r["uid"].as_str().map(Box::from);
        let claim = Claim {
            uid: object.uid.clone(),
            owner: object.controller().map(|o| o.uid.into()),
            deleting: metadata.deletion_timestamp.is_some(),
            requests: spec.devices.requests.into_iter().map(|r| alternatives(&mut self.selectors, r)).collect(),
            constraints: spec.devices.constraints.into_iter().filter_map(constraint).collect(),
            allocation,
            consumers: status.reserved_for.iter().filter_map(consumer).collect(),
            special: metadata.annotations.get(extended::ANNOTATION).is_some_and(|v| v == "true"),
            config: spec.devices.config,
            reserved_for: status.reserved_for,
            finalizers: metadata.finalizers,
            revision: object.revision,
        };
        // What was decided has come true.
        let seen = |r: &Reservation| (r.allocation.is_none() || claim.allocation.is_some()) && claim.consumers.contains(&r.pod);
        let owner = claim.owner.as_ref().filter(|_| claim.special);
        let counted_on = owner.map_or_else(|| key.clone(), |pod| extended::key(&key.namespace, pod));
        if let Some(known) = self.assumed.get(&counted_on).filter(|r| seen(r)).cloned() {
            self.assumed.remove(&counted_on);
            known.taken.iter().for_each(|d| self.pools.release(d));
        }
        if let Some(owner) = owner {
            self.special.insert(owner.clone(), key.clone());
        }
        let freed = had && claim.allocation.is_none();
        self.claims.insert(key.clone(), claim);
        Ok(freed)
    }
}

fn selectors(known: &mut Selectors, views: Vec<SelectorView>) -> Vec<Selector> {
    views.into_iter().filter_map(|v| v.cel).map(|c| known.compile(&c.expression)).collect()
}

fn taken(result: ResultView) -> Taken {
    let part = result.share_id.map(|_| capacity::amounts(&result.driver, &result.consumed_capacity));
    Taken { device: (result.driver, result.pool, result.device), part }
}

fn alternatives(known: &mut Selectors, view: RequestView) -> Vec<Request> {
    let name = view.name;
    let sub =
        |(at, sub): (usize, ExactView)| Request { alternative: Some(at), ..request(known, format!("{name}/{}", sub.name).into(), sub) };
    match view.exactly {
        Some(exact) => vec![request(known, name, exact)],
        None => view.first_available.into_iter().enumerate().map(sub).collect(),
    }
}

fn request(known: &mut Selectors, name: Box<str>, view: ExactView) -> Request {
    let toleration = |raw: &Value| {
        let text = |key: &str| Box::from(raw[key].as_str().unwrap_or_default());
        let (key, value) = (text("key"), text("value"));
        Toleration { key, value, exists: raw["operator"] == "Exists", effect: Effect::parse(&text("effect")) }
    };
    Request {
        name,
        class: view.device_class_name,
        selectors: selectors(known, view.selectors),
        amount: match view.allocation_mode.as_deref() {
            Some("All") => Amount::All,
            _ => Amount::Exactly(view.count.unwrap_or(1)),
        },
        admin: view.admin_access,
        tolerations: view.tolerations.iter().map(toleration).collect(),
        tolerations_raw: view.tolerations,
        capacity: view.capacity.unwrap_or_default().requests,
        alternative: None,
    }
}

fn constraint(view: ConstraintView) -> Option<Constraint> {
    let distinct = view.match_attribute.is_none();
    let attribute = view.match_attribute.or(view.distinct_attribute)?;
    Some(Constraint { requests: view.requests, attribute, distinct })
}

impl Request {
    /// Any one device of a class.
    fn of(name: &str, class: &str) -> Self {
        Request {
            name: name.into(),
            class: class.into(),
            selectors: Vec::new(),
            amount: Amount::Exactly(1),
            admin: false,
            tolerations: Vec::new(),
            tolerations_raw: Vec::new(),
            capacity: BTreeMap::new(),
            alternative: None,
        }
    }
}

impl Claim {
    /// What is written when a pod is to use the claim; `found`: the devices that are allocated for it.
    pub(crate) fn reservation(&self, key: &ObjectKey, pod: (&str, &str), found: Option<(Value, Vec<Taken>, bool)>) -> Reservation {
        let mut reserved_for = self.reserved_for.clone();
        if !self.consumers.iter().any(|uid| **uid == *pod.1) {
            reserved_for.push(json!({"resource": "pods", "name": pod.0, "uid": pod.1}));
        }
        let protected = self.finalizers.iter().any(|f| f == FINALIZER);
        let finalizers = (found.is_some() && !protected).then(|| {
            let mut all: BTreeSet<String> = self.finalizers.iter().cloned().collect();
            all.insert(FINALIZER.to_owned());
            all.into_iter().collect()
        });
        let waits = self.allocation.as_ref().is_some_and(|a| !a.awaited.is_nothing());
        let (allocation, taken, waits) = match found {
            Some((value, taken, waits)) => (Some(value), taken, waits),
            None => (None, Vec::new(), waits),
        };
        Reservation {
            claim: key.clone(),
            revision: self.revision,
            finalizers,
            allocation,
            reserved_for,
            made_from: None,
            pod: pod.1.into(),
            taken,
            waits,
        }
    }

    /// A claim that does not exist yet.
    fn asking(requests: Vec<Vec<Request>>) -> Self {
        Claim {
            uid: "".into(),
            owner: None,
            deleting: false,
            requests,
            constraints: Vec::new(),
            allocation: None,
            consumers: Vec::new(),
            special: true,
            config: Vec::new(),
            reserved_for: Vec::new(),
            finalizers: vec![FINALIZER.to_owned()],
            revision: 0,
        }
    }

    /// Whether its devices are ready for its pods; a claim without devices is not.
    pub fn readiness(&self, name: &str) -> Readiness {
        self.allocation.as_ref().map_or(Readiness::Pending, |a| a.awaited.readiness(name))
    }

    /// Whether its allocation has waited for its devices for too long, or in vain.
    pub fn is_given_up(&self, longest: std::time::Duration, now: jiff::Timestamp) -> bool {
        self.allocation.as_ref().is_some_and(|a| a.awaited.is_given_up(longest, now))
    }

    /// Whether its devices must be made ready before its pods are bound.
    pub fn is_awaited(&self) -> bool {
        self.allocation.as_ref().is_some_and(|a| !a.awaited.is_nothing())
    }

    /// What is written to take its devices back, if nobody but this pod has them.
    pub fn released(&self, key: &ObjectKey, pod: &str) -> Option<Release> {
        let nobody_else = self.consumers.iter().all(|uid| **uid == *pod);
        nobody_else.then(|| Release { claim: key.clone(), revision: self.revision, delete: self.special })
    }
}

/// Devices of a claim that are to be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The claim.
    pub claim: ObjectKey,
    /// Its revision: if it has changed since, the decision does not hold.
    pub revision: u64,
    /// It was made for this pod alone: it goes as a whole.
    pub delete: bool,
}
