//! ResourceQuota: a namespace uses no more than it may, also when many requests come at once.
//!
//! What is used is counted from the caches, what is about to be used stands in a ledger between the check and the moment
//! the cache shows the stored object. Both are read under one lock, so two requests can never both take the last
//! pod. The ledger is this process's own: several API servers over one store may together overshoot by what they have
//! in flight at the same instant. Source: `plugin/resourcequota`, `quota/v1/evaluator`.

use super::config::LimitedResource;
use super::{Context, Operation};
use crate::objects::Objects;
use ferrokube_api::Status;
use ferrokube_api::quantity::Quantity;
use ferrokube_api::quota::{self, Amounts};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// What a request is about to use, from its check until the cache counts it.
struct Pending {
    id: u64,
    kind: (String, String),
    name: String,
    /// Revision of the object that the request replaces; 0 for a create.
    replaces: u64,
    object: Arc<Value>,
    old: Option<Arc<Value>>,
    /// What the object uses, and what it uses more than before.
    all: Amounts,
    delta: Amounts,
    /// The revision the write got, once it is acknowledged.
    stored: Option<u64>,
}

impl Pending {
    fn of(c: &Context<'_>, object: &Value) -> Pending {
        let now = Timestamp::now();
        let mut all = quota::usage(c.group, c.resource, object, now);
        all.retain(|_, amount| *amount > Quantity::ZERO);
        let mut delta = all.clone();
        if let Some(old) = c.review.old {
            for (name, amount) in quota::usage(c.group, c.resource, old, now) {
                *delta.entry(name).or_default() -= amount;
            }
        }
        delta.retain(|_, amount| *amount > Quantity::ZERO);
        let kept = |object: &Value| Arc::new(quota::relevant(c.group, c.resource, object.clone()));
        Pending {
            id: 0,
            kind: (c.group.to_owned(), c.resource.to_owned()),
            name: object["metadata"]["name"].as_str().unwrap_or(c.name).to_owned(),
            replaces: c.review.old.map_or(0, revision),
            object: kept(object),
            old: c.review.old.map(kept),
            all,
            delta,
            stored: None,
        }
    }

    /// What the quota is charged: all of what comes under it by the change.
    fn charge(&self, c: &Context<'_>, quota: &Quota) -> Option<&Amounts> {
        let covers = |object: &Arc<Value>| quota::covers(&quota.spec, c.group, c.resource, object);
        let enters = || self.old.as_ref().is_some_and(|old| !covers(old));
        covers(&self.object).then(|| if enters() { &self.all } else { &self.delta })
    }
}

/// The relevant parts of decoded objects, by uid, with the revision they were decoded from.
type Decoded = HashMap<Arc<str>, (u64, Arc<Value>)>;

/// One namespace's requests under way.
#[derive(Default)]
struct State {
    next: u64,
    pending: Vec<Pending>,
    /// By group and resource: what the objects use is counted at each request, but decoded once.
    decoded: HashMap<(String, String), Decoded>,
}

/// Requests between check and cache, by namespace: namespaces do not wait for each other.
#[derive(Default)]
pub(super) struct Ledger {
    namespaces: Mutex<HashMap<String, Arc<Mutex<State>>>>,
}

impl Ledger {
    fn of(&self, namespace: &str) -> Arc<Mutex<State>> {
        self.namespaces.lock().entry(namespace.to_owned()).or_default().clone()
    }
}

/// What a request is about to use of its quotas.
#[derive(Default)]
pub struct Reservation {
    held: Option<(Arc<Mutex<State>>, u64)>,
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reservation({})", self.held.is_some())
    }
}

impl Reservation {
    /// The object was stored at this revision: the reservation ends when the cache shows it.
    pub fn commit(mut self, revision: u64) {
        if let Some((state, id)) = self.held.take() {
            let mut state = state.lock();
            state.pending.iter_mut().filter(|p| p.id == id).for_each(|p| p.stored = Some(revision));
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some((state, id)) = self.held.take() {
            state.lock().pending.retain(|p| p.id != id);
        }
    }
}

/// A quota of the namespace.
struct Quota {
    name: String,
    spec: Value,
    hard: Amounts,
}

fn quotas(c: &Context<'_>) -> Vec<Quota> {
    let objects = c.objects.list("", "resourcequotas", c.namespace).into_iter();
    let read = |o: Arc<ferrokube_api::Object>| {
        let spec = o.decode::<Value>().ok()?["spec"].take();
        Some(Quota { name: o.key.name.to_string(), hard: quota::amounts(&spec["hard"]), spec })
    };
    objects.filter_map(read).collect()
}

/// Checks the request against every quota of its namespace, and reserves what it is about to use.
pub(super) fn reserve(
    ledger: &Ledger,
    c: &Context<'_>,
    object: Option<&Value>,
    limited: &[LimitedResource],
) -> Result<Reservation, Status> {
    let relevant = match c.operation {
        Operation::Create => c.subresource.is_empty(),
        Operation::Update => quota::update_may_use_more(c.group, c.resource, c.subresource),
        _ => false,
    };
    let Some(object) = object.filter(|_| relevant && !c.namespace.is_empty()) else { return Ok(Reservation::default()) };
    let quotas = quotas(c);
    if quotas.is_empty() && limited.is_empty() {
        return Ok(Reservation::default());
    }
    let covering: Vec<&Quota> = quotas.iter().filter(|q| quota::covers(&q.spec, c.group, c.resource, object)).collect();
    for quota in &covering {
        if let Some(missing) = quota::unspecified(c.group, c.resource, object, &quota.hard) {
            return Err(c.forbidden(Some(object), format!("failed quota: {}: must specify {missing}", quota.name)));
        }
    }
    let pending = Pending::of(c, object);
    let charges: Vec<(&Quota, &Amounts)> = covering.iter().filter_map(|q| Some((*q, pending.charge(c, q)?))).collect();
    if pending.delta.is_empty() && charges.iter().all(|(_, charge)| charge.is_empty()) {
        return Ok(Reservation::default());
    }
    covered(c, object, &quotas, limited, &pending.all)?;
    let shared = ledger.of(c.namespace);
    let mut state = shared.lock();
    state.prune(c.objects);
    let mut charged = false;
    for (quota, charge) in charges {
        charged |= check(&mut state, c, object, quota, charge)?;
    }
    if !charged || c.dry_run {
        return Ok(Reservation::default());
    }
    let id = state.next;
    state.next += 1;
    state.pending.push(Pending { id, ..pending });
    drop(state);
    Ok(Reservation { held: Some((shared, id)) })
}

/// What the configuration limits may be used only as far as some quota says so (`limitedResources`).
fn covered(c: &Context<'_>, object: &Value, quotas: &[Quota], limited: &[LimitedResource], used: &Amounts) -> Result<(), Status> {
    let covers = |q: &&Quota| quota::covers(&q.spec, c.group, c.resource, object);
    let names_it = |l: &&LimitedResource| l.is_about(c.group, c.resource);
    let is_limited = |name: &str| limited.iter().filter(names_it).any(|l| l.contains.iter().any(|part| name.contains(part.as_str())));
    let consumed = used.keys().map(String::as_str).filter(|name| is_limited(name));
    let without: Vec<&str> = consumed.filter(|name| !quotas.iter().filter(covers).any(|q| q.hard.contains_key(*name))).collect();
    if !without.is_empty() {
        return Err(c.forbidden(Some(object), format!("insufficient quota to consume: {}", without.join(","))));
    }
    let scopes = limited.iter().flat_map(|l| &l.scopes).filter(|s| s.holds(c.group, c.resource, object));
    let named = |s: &&quota::Scope| {
        let mut own = quotas.iter().flat_map(|q| quota::Scope::of(&q.spec));
        own.any(|own| own.name == s.name && own.holds(c.group, c.resource, object))
    };
    let open: Vec<&quota::Scope> = scopes.filter(|s| !named(s)).collect();
    if open.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = open.iter().map(|s| format!("{{{} {} [{}]}}", s.name, s.operator, s.values.join(" "))).collect();
    // Upstream's error here is no refusal of the API, so it goes out as it is.
    Err(Status::untyped(format!("insufficient quota to match these scopes: [{}]", shown.join(" "))))
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// `a=1,b=2Gi`.
fn shown(amounts: &Amounts, only: &[&String]) -> String {
    amounts.iter().filter(|(k, _)| only.contains(k)).map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

/// Whether the quota charges for the request; 403 when it does not allow it.
fn check(state: &mut State, c: &Context<'_>, object: &Value, quota: &Quota, delta: &Amounts) -> Result<bool, Status> {
    let mut requested: Amounts = delta.clone();
    requested.retain(|name, _| quota.hard.contains_key(name));
    if requested.is_empty() {
        return Ok(false);
    }
    let used = state.used(c, quota, &requested);
    let over = |name: &&String| {
        let total = used.get(*name).copied().unwrap_or_default() + requested[*name];
        total > quota.hard[*name]
    };
    let exceeded: Vec<&String> = requested.keys().filter(over).collect();
    if exceeded.is_empty() {
        return Ok(true);
    }
    let mut in_use = used;
    exceeded.iter().for_each(|name| {
        let format = quota.hard[*name].format();
        let amount = in_use.entry((*name).clone()).or_insert(Quantity::ZERO);
        if amount.is_zero() {
            *amount = amount.with_format(format);
        }
    });
    let why = format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        quota.name,
        shown(&requested, &exceeded),
        shown(&in_use, &exceeded),
        shown(&quota.hard, &exceeded)
    );
    Err(c.forbidden(Some(object), why))
}

impl State {
    /// Forgets what the caches count by now.
    fn prune(&mut self, objects: &dyn Objects) {
        self.pending.retain(|p| p.stored.is_none_or(|stored| objects.revision(&p.kind.0, &p.kind.1) < stored));
    }

    /// What the namespace uses of the resources in question, by the objects of the request's kind that the quota covers.
    fn used(&mut self, c: &Context<'_>, quota: &Quota, wanted: &Amounts) -> Amounts {
        let (mut total, time) = (Amounts::new(), Timestamp::now());
        let mut count = |amounts: Amounts| {
            for (name, amount) in amounts.into_iter().filter(|(name, _)| wanted.contains_key(name)) {
                *total.entry(name).or_default() += amount;
            }
        };
        let cached = c.objects.list(c.group, c.resource, c.namespace);
        let seen: HashMap<&str, u64> = cached.iter().map(|o| (&*o.key.name, o.revision)).collect();
        let kind = (c.group.to_owned(), c.resource.to_owned());
        let mut before = self.decoded.remove(&kind).unwrap_or_default();
        let mut now = Decoded::with_capacity(cached.len());
        for object in &cached {
            let known = before.remove(&object.uid).filter(|(revision, _)| *revision == object.revision).map(|(_, v)| v);
            let fresh = || object.decode().ok().map(|value| Arc::new(quota::relevant(c.group, c.resource, value)));
            let Some(value) = known.or_else(fresh) else { continue };
            now.insert(object.uid.clone(), (object.revision, value.clone()));
            if quota::covers(&quota.spec, c.group, c.resource, &value) {
                count(quota::usage(c.group, c.resource, &value, time));
            }
        }
        for pending in self.pending.iter().filter(|p| p.kind == kind) {
            let counted = seen.get(pending.name.as_str()).is_some_and(|revision| *revision > pending.replaces);
            if let Some(charge) = pending.charge(c, quota).filter(|_| !counted) {
                count(charge.clone());
            }
        }
        self.decoded.insert(kind, now);
        total
    }
}
