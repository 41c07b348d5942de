//! Devices for the claims of a pod on one node: a search that goes back where it fails (structured parameters).
//!
//! Requests are served in order; for each the first alternative and the first devices that satisfy class, selectors,
//! taints, counters and constraints. Pure: the answer is what would be written. Devices are looked at when it is their turn, and pools of
//! which nothing is left not at all: a node has its answer after a few of them.

use super::capacity::{self, Amounts};
use super::pools::{Choice, suffices};
use super::{Amount, Claim, Constraint, Counters, Device, DeviceClass, Devices, Pool, Reach, Request, Reservation, Taken, consume};
use crate::node::Node;
use ferrokube_api::ObjectKey;
use ferrokube_api::quantity::Quantity;
use serde_json::{Value, json};
use smallvec::SmallVec;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A search that takes more steps than this is given up, and the node with it.
const MOST_STEPS: usize = 100_000;
/// So many devices a claim can have (`AllocationResultsMaxSize`).
const MOST_RESULTS: usize = 32;
/// The first of several alternatives scores so much, the next one less (`FirstAvailableDeviceRequestMaxSize`).
const FIRST_ALTERNATIVE: usize = 8;

/// Why there are no devices on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoDevices {
    /// Too few that would do.
    Short,
    /// The search was given up.
    TooLong,
    /// What is asked for makes no sense, wherever.
    Wrong(String),
}

/// One device for one request of one claim.
#[derive(Clone)]
struct Pick<'a> {
    claim: usize,
    request: &'a Request,
    device: &'a Device,
    spot: Spot<'a>,
    /// What it takes of a device that is shared.
    part: Option<Amounts>,
}

/// Where a device is: its pool, the number of it, and its place there.
#[derive(Clone, Copy)]
struct Spot<'a> {
    pool: &'a Pool,
    number: usize,
    at: usize,
}

impl<'a> Spot<'a> {
    fn device(&self) -> &'a Device {
        &self.pool.devices()[self.at]
    }

    fn id(&self) -> (usize, usize) {
        (self.number, self.at)
    }
}

/// A request of a claim that is being served.
#[derive(Clone, Copy)]
struct Served<'a> {
    claim: usize,
    /// Its place in the claim.
    at: usize,
    request: &'a Request,
    class: &'a DeviceClass,
}

/// What the selectors of a request say about the devices of a pool: those of the class first.
type Opinions = SmallVec<[Arc<[Choice]>; 2]>;

struct Search<'a> {
    known: &'a Devices,
    claims: &'a [(ObjectKey, &'a Claim)],
    node: &'a Node,
    /// The numbers of the pools, in order.
    pools: Vec<usize>,
    /// Whether places can be reached from the node.
    reaches: HashMap<*const Reach, bool>,
    /// What is left of the counters of pools that picks take from.
    left: HashMap<usize, Counters>,
    used: BTreeSet<(usize, usize)>,
    picks: Vec<Pick<'a>>,
    steps: usize,
    wrong: Option<String>,
}

/// Devices that were found for claims on a node.
pub struct Found<'a> {
    known: &'a Devices,
    claims: &'a [(ObjectKey, &'a Claim)],
    node: &'a Node,
    picks: Vec<Pick<'a>>,
}

/// Finds devices for claims that have none.
pub fn allocate<'a>(known: &'a Devices, claims: &'a [(ObjectKey, &'a Claim)], node: &'a Node) -> Result<Found<'a>, NoDevices> {
    let mut search = Search {
        known,
        claims,
        node,
        pools: known.pools().for_node(node).collect(),
        reaches: HashMap::new(),
        left: HashMap::new(),
        used: BTreeSet::new(),
        picks: Vec::new(),
        steps: 0,
        wrong: None,
    };
    if !search.serve(0, 0) {
        let short = if search.steps > MOST_STEPS { NoDevices::TooLong } else { NoDevices::Short };
        return Err(search.wrong.map_or(short, NoDevices::Wrong));
    }
    Ok(Found { known, claims, node, picks: search.picks })
}

impl Found<'_> {
    /// What is to be written for each claim, for a pod (name and UID).
    pub fn reservations(&self, pod: (&str, &str)) -> Vec<Reservation> {
        let reservation = |(at, (key, claim)): (usize, &(ObjectKey, &Claim))| {
            let picks: Vec<&Pick<'_>> = self.picks.iter().filter(|p| p.claim == at).collect();
            let taken = |p: &&Pick<'_>| Taken { device: p.device.key.clone(), part: p.part.clone() };
            let taken = picks.iter().filter(|p| !p.request.admin).map(taken).collect();
            let waits = picks.iter().any(|p| !p.device.conditions.0.is_empty());
            claim.reservation(key, pod, Some((written(self.known, claim, &picks, self.node), taken, waits)))
        };
        self.claims.iter().enumerate().map(reservation).collect()
    }

    /// More for alternatives that are preferred.
    pub fn score(&self) -> i64 {
        let mut seen: BTreeSet<(usize, &str)> = BTreeSet::new();
        let chosen = self.picks.iter().filter(|p| seen.insert((p.claim, &p.request.name)));
        chosen.filter_map(|p| p.request.alternative).map(|at| FIRST_ALTERNATIVE.saturating_sub(at) as i64).sum()
    }
}

impl<'a> Search<'a> {
    /// Serves the requests from this one on; picks stay only when all are served.
    fn serve(&mut self, claim: usize, request: usize) -> bool {
        let Some((_, current)) = self.claims.get(claim) else { return true };
        let current: &'a Claim = current;
        let Some(alternatives) = current.requests.get(request) else { return self.serve(claim + 1, 0) };
        alternatives.iter().any(|alternative| self.alternative(claim, request, alternative))
    }

    fn alternative(&mut self, claim: usize, at: usize, request: &'a Request) -> bool {
        let Some(class) = self.known.class(&request.class) else {
            self.wrong.get_or_insert_with(|| format!("request {}: device class {} does not exist", request.name, request.class));
            return false;
        };
        let served = Served { claim, at, request, class };
        match request.amount {
            Amount::Exactly(count) => self.pick(served, (0, 0), count),
            Amount::All => self.pick_all(served),
        }
    }

    /// Picks `count` devices from a place on (that of the pool, and of the device in it), then serves the rest.
    fn pick(&mut self, served: Served<'a>, from: (usize, usize), count: usize) -> bool {
        if count == 0 {
            return self.serve(served.claim, served.at + 1);
        }
        let (first_pool, mut first) = from;
        for place in first_pool..self.pools.len() {
            let number = self.pools[place];
            let pool = self.known.pools().get(number);
            if !self.is_passed_over(pool, served) {
                let opinions = opinions(pool, served);
                for at in first..pool.devices().len() {
                    self.steps += 1;
                    if self.steps > MOST_STEPS {
                        return false;
                    }
                    let spot = Spot { pool, number, at };
                    match self.is_chosen(served, &opinions, &spot) {
                        Some(false) => continue,
                        Some(true) => {}
                        None => return false,
                    }
                    if self.take(served.claim, served.request, spot) {
                        if self.pick(served, (place, at + 1), count - 1) {
                            return true;
                        }
                        self.give_back();
                    }
                }
            }
            first = 0;
        }
        false
    }

    /// All or nothing, and at least one.
    fn pick_all(&mut self, served: Served<'a>) -> bool {
        let mut all = Vec::new();
        for number in self.pools.clone() {
            let pool = self.known.pools().get(number);
            let opinions = opinions(pool, served);
            for at in 0..pool.devices().len() {
                self.steps += 1;
                let spot = Spot { pool, number, at };
                match self.is_chosen(served, &opinions, &spot) {
                    Some(true) => all.push(spot),
                    Some(false) => {}
                    None => return false,
                }
            }
        }
        let before = self.picks.len();
        let taken = all.iter().all(|spot| self.take(served.claim, served.request, *spot));
        if !all.is_empty() && taken && self.serve(served.claim, served.at + 1) {
            return true;
        }
        while self.picks.len() > before {
            self.give_back();
        }
        false
    }

    /// Whether no device of a pool can be taken, as seen from afar: none is left, or all differ from what was picked where they must not.
    fn is_passed_over(&self, pool: &Pool, Served { claim, request, .. }: Served<'_>) -> bool {
        let constraints = &self.claims[claim].1.constraints;
        let differs = |constraint: &&Constraint| {
            let Some(common) = pool.common(&constraint.attribute) else { return false };
            let mut others = self.picks.iter().filter(|p| p.claim == claim && concerns(constraint, p.request));
            others.any(|p| p.device.attributes.get(&constraint.attribute) != Some(common))
        };
        (pool.is_exhausted() && !request.admin) || constraints.iter().filter(|c| !c.distinct && concerns(c, request)).any(|c| differs(&c))
    }

    /// Whether a device can be used from the node and all selectors choose it; `None`: one of them is wrong.
    fn is_chosen(&mut self, served: Served<'a>, opinions: &Opinions, spot: &Spot<'a>) -> Option<bool> {
        let (node, reach) = (self.node, &spot.device().reach);
        if !*self.reaches.entry(Arc::as_ptr(reach)).or_insert_with(|| reach.reaches(node)) {
            return Some(false);
        }
        for (at, opinion) in opinions.iter().enumerate() {
            match &opinion[spot.at] {
                Ok(true) => {}
                Ok(false) => return Some(false),
                Err(why) => {
                    let of_class = served.class.selectors.len();
                    let place = match at.checked_sub(of_class) {
                        Some(own) => format!("claim {}: selector #{own}", self.claims[served.claim].0),
                        None => format!("class {}: selector #{at}", served.request.class),
                    };
                    self.wrong.get_or_insert_with(|| why.told(&place, spot.device()));
                    return None;
                }
            }
        }
        Some(true)
    }

    /// Takes a device, or a part of it, if it is free, tolerated, and agrees with what is taken already.
    fn take(&mut self, claim: usize, request: &'a Request, spot: Spot<'a>) -> bool {
        let device = spot.device();
        // The constraints first: most devices are of another kind than those that were picked.
        if !self.constraints_allow(claim, request, device) {
            return false;
        }
        let repels = |t: &&crate::class::Taint| t.effect != crate::class::Effect::PreferNoSchedule;
        let tolerated = device.taints.iter().filter(repels).all(|t| request.tolerations.iter().any(|x| x.tolerates(t)));
        let free = request.admin || !self.used.contains(&spot.id()) && !spot.pool.is_taken(spot.at);
        let own = || self.picks.iter().filter(|p| p.claim == claim);
        let again = !device.shared && own().any(|p| p.spot.id() == spot.id());
        if !tolerated || !free || again || own().count() >= MOST_RESULTS {
            return false;
        }
        let asked = capacity::amounts(&device.key.0, &request.capacity);
        let Some(part) = capacity::share(&device.capacity, &asked, |name| self.in_use(&spot, name)) else { return false };
        let pick = Pick { claim, request, device, spot, part: device.shared.then_some(part) };
        if !self.counters_allow(&pick) {
            return false;
        }
        if self.is_counted(&pick) {
            self.count(&spot, 1);
        }
        if !request.admin && !device.shared {
            self.used.insert(spot.id());
        }
        self.picks.push(pick);
        true
    }

    fn give_back(&mut self) {
        let Some(pick) = self.picks.pop() else { return };
        if self.is_counted(&pick) {
            self.count(&pick.spot, -1);
        }
        if !pick.request.admin && !pick.device.shared {
            self.used.remove(&pick.spot.id());
        }
    }

    /// What claims and the picks so far have of a device's capacity.
    fn in_use(&self, spot: &Spot<'_>, name: &str) -> Quantity {
        let known = spot.pool.parts(spot.at).and_then(|parts| parts.get(name)).copied();
        let picked = self.picks.iter().filter(|p| p.spot.id() == spot.id()).filter_map(|p| p.part.as_ref()?.get(name).copied());
        known.into_iter().chain(picked).sum()
    }

    /// Whether it is this pick that takes the device's counters: of a shared device, only the first part does.
    fn is_counted(&self, pick: &Pick<'_>) -> bool {
        let spot = &pick.spot;
        let shared = || spot.pool.parts(spot.at).is_some() || self.picks.iter().any(|p| !p.request.admin && p.spot.id() == spot.id());
        !pick.request.admin && !(pick.device.shared && shared())
    }

    fn count(&mut self, spot: &Spot<'_>, times: i64) {
        let consumes = &spot.device().consumes;
        if !consumes.is_empty() {
            consume(self.left.entry(spot.number).or_insert_with(|| spot.pool.left().clone()), consumes, times);
        }
    }

    fn counters_allow(&self, pick: &Pick<'_>) -> bool {
        let left = self.left.get(&pick.spot.number).unwrap_or_else(|| pick.spot.pool.left());
        !self.is_counted(pick) || suffices(left, &pick.device.consumes)
    }

    fn constraints_allow(&self, claim: usize, request: &Request, device: &Device) -> bool {
        let constraints = &self.claims[claim].1.constraints;
        constraints.iter().filter(|c| concerns(c, request)).all(|constraint| {
            let Some(value) = device.attributes.get(&constraint.attribute) else { return false };
            let mut others = self.picks.iter().filter(|p| p.claim == claim && concerns(constraint, p.request));
            others.all(|p| (p.device.attributes.get(&constraint.attribute) == Some(value)) != constraint.distinct)
        })
    }
}

fn opinions(pool: &Pool, Served { class, request, .. }: Served<'_>) -> Opinions {
    class.selectors.iter().chain(&request.selectors).map(|selector| pool.choices(selector)).collect()
}

/// Whether a constraint is about a request: it names it, or the request that it is an alternative of, or none at all.
fn concerns(constraint: &Constraint, request: &Request) -> bool {
    let parent = request.name.split_once('/').map(|(parent, _)| parent);
    constraint.requests.is_empty() || constraint.requests.iter().any(|r| **r == *request.name || parent == Some(r))
}

/// The allocation as the claim's status shows it.
fn written(known: &Devices, claim: &Claim, picks: &[&Pick<'_>], node: &Node) -> Value {
    let mut results = Vec::new();
    for pick in picks {
        let (driver, pool, device) = &pick.device.key;
        let mut result = json!({"request": pick.request.name, "driver": driver, "pool": pool, "device": device});
        if pick.request.admin {
            result["adminAccess"] = true.into();
        }
        if !pick.request.tolerations_raw.is_empty() {
            result["tolerations"] = pick.request.tolerations_raw.clone().into();
        }
        if let Some(part) = &pick.part {
            result["shareID"] = share_id().into();
            let name = |qualified: &Box<str>| pick.device.capacity.get(qualified).map_or(qualified, |c| &c.name).to_string();
            let amounts: serde_json::Map<String, Value> = part.iter().map(|(n, amount)| (name(n), amount.to_string().into())).collect();
            if !amounts.is_empty() {
                result["consumedCapacity"] = amounts.into();
            }
        }
        let (ready, failed) = &pick.device.conditions;
        for (key, names) in [("bindingConditions", ready), ("bindingFailureConditions", failed)] {
            if !names.is_empty() {
                result[key] = json!(names);
            }
        }
        results.push(result);
    }
    let mut config: Vec<Value> = Vec::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for request in picks.iter().map(|p| p.request).filter(|r| seen.insert(&r.name)) {
        for of_class in known.class(&request.class).into_iter().flat_map(|c| &c.config) {
            let mut entry = of_class.clone();
            entry["source"] = "FromClass".into();
            entry["requests"] = json!([request.name]);
            config.push(entry);
        }
    }
    for of_claim in &claim.config {
        let mut entry = of_claim.clone();
        entry["source"] = "FromClaim".into();
        config.push(entry);
    }
    let mut devices = json!({"results": results});
    if !config.is_empty() {
        devices["config"] = config.into();
    }
    let mut allocation = json!({"devices": devices});
    if let Some(selector) = node_selector(picks, node) {
        allocation["nodeSelector"] = selector;
    }
    allocation
}

/// The name of one part of a shared device: a random UID.
fn share_id() -> String {
    let bits = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// From where all the devices can be used; `None`: from everywhere.
fn node_selector(picks: &[&Pick<'_>], node: &Node) -> Option<Value> {
    if picks.iter().any(|p| p.device.binds_to_node || matches!(*p.device.reach, Reach::Node(_))) {
        let field = json!({"key": "metadata.name", "operator": "In", "values": [node.name]});
        return Some(json!({"nodeSelectorTerms": [{"matchFields": [field]}]}));
    }
    // What each device asks for must hold, so the terms that hold here are joined.
    let (mut expressions, mut fields): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for pick in picks {
        let Reach::Nodes(terms, raw) = &*pick.device.reach else { continue };
        let at = terms.iter().position(|t| t.matches(node)).unwrap_or(0);
        let term = &raw["nodeSelectorTerms"][at];
        for (list, key) in [(&mut expressions, "matchExpressions"), (&mut fields, "matchFields")] {
            for requirement in term[key].as_array().into_iter().flatten().filter(|r| !list.contains(r)).cloned().collect::<Vec<_>>() {
                list.push(requirement);
            }
        }
    }
    if expressions.is_empty() && fields.is_empty() {
        return None;
    }
    let mut term = json!({});
    for (list, key) in [(expressions, "matchExpressions"), (fields, "matchFields")] {
        if !list.is_empty() {
            term[key] = list.into();
        }
    }
    Some(json!({"nodeSelectorTerms": [term]}))
}
