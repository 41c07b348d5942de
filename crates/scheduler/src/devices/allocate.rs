//! Devices for the claims of a pod on one node: a search that goes back where it fails (structured parameters).
//!
//! Requests are served in order; for each the first alternative and the first devices that satisfy class, selectors,
//! taints, counters and constraints. Pure: the answer is what would be written.

use super::capacity::{self, Amounts};
use super::{Amount, Claim, Constraint, Counters, Device, DeviceKey, Devices, PoolKey, Reach, Request, Reservation, Taken, consume};
use crate::node::Node;
use ferrokube_api::ObjectKey;
use ferrokube_api::quantity::Quantity;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};

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
    /// What it takes of a device that is shared.
    part: Option<Amounts>,
}

struct Search<'a> {
    known: &'a Devices,
    claims: &'a [(ObjectKey, &'a Claim)],
    devices: Vec<&'a Device>,
    left: HashMap<PoolKey, Counters>,
    used: BTreeSet<&'a DeviceKey>,
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
    let (devices, left) = known.at(node);
    let mut search = Search { known, claims, devices, left, used: BTreeSet::new(), picks: Vec::new(), steps: 0, wrong: None };
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
        let key = &self.claims[claim].0;
        let of_class = class.selectors.iter().enumerate().map(|(at, s)| (format!("class {}: selector #{at}", request.class), s));
        let own = request.selectors.iter().enumerate().map(|(at, s)| (format!("claim {key}: selector #{at}"), s));
        let all: Vec<_> = of_class.chain(own).collect();
        let mut matching = Vec::new();
        for device in &self.devices {
            self.steps += 1;
            let mut holds = true;
            for (place, selector) in &all {
                match selector.matches(device) {
                    Ok(true) => {}
                    Ok(false) => holds = false,
                    Err(why) => {
                        self.wrong.get_or_insert_with(|| why.told(place, device));
                        return false;
                    }
                }
                if !holds {
                    break;
                }
            }
            if holds {
                matching.push(*device);
            }
        }
        match request.amount {
            Amount::Exactly(count) => self.pick(claim, at, request, &matching, 0, count),
            // All or nothing, and at least one.
            Amount::All => !matching.is_empty() && self.pick_all(claim, at, request, &matching),
        }
    }

    /// Picks `count` devices from those at `from` and later, then serves the rest.
    fn pick(&mut self, claim: usize, at: usize, request: &'a Request, matching: &[&'a Device], from: usize, count: usize) -> bool {
        if count == 0 {
            return self.serve(claim, at + 1);
        }
        for next in from..matching.len() {
            self.steps += 1;
            if self.steps > MOST_STEPS {
                return false;
            }
            if self.take(claim, request, matching[next]) {
                if self.pick(claim, at, request, matching, next + 1, count - 1) {
                    return true;
                }
                self.give_back();
            }
        }
        false
    }

    fn pick_all(&mut self, claim: usize, at: usize, request: &'a Request, matching: &[&'a Device]) -> bool {
        let before = self.picks.len();
        if matching.iter().all(|device| self.take(claim, request, device)) && self.serve(claim, at + 1) {
            return true;
        }
        while self.picks.len() > before {
            self.give_back();
        }
        false
    }

    /// Takes a device, or a part of it, if it is free, tolerated, and agrees with what is taken already.
    fn take(&mut self, claim: usize, request: &'a Request, device: &'a Device) -> bool {
        let repels = |t: &&crate::class::Taint| t.effect != crate::class::Effect::PreferNoSchedule;
        let tolerated = device.taints.iter().filter(repels).all(|t| request.tolerations.iter().any(|x| x.tolerates(t)));
        let free = request.admin || !self.used.contains(&device.key) && !self.known.is_taken(&device.key);
        let own = || self.picks.iter().filter(|p| p.claim == claim);
        let again = !device.shared && own().any(|p| p.device.key == device.key);
        if !tolerated || !free || again || own().count() >= MOST_RESULTS {
            return false;
        }
        let asked = capacity::amounts(&device.key.0, &request.capacity);
        let Some(part) = capacity::share(&device.capacity, &asked, |name| self.in_use(device, name)) else { return false };
        let pick = Pick { claim, request, device, part: device.shared.then_some(part) };
        if !self.counters_allow(&pick) || !self.constraints_allow(&pick) {
            return false;
        }
        if self.is_counted(&pick) {
            self.count(device, 1);
        }
        if !request.admin && !device.shared {
            self.used.insert(&device.key);
        }
        self.picks.push(pick);
        true
    }

    fn give_back(&mut self) {
        let Some(pick) = self.picks.pop() else { return };
        if self.is_counted(&pick) {
            self.count(pick.device, -1);
        }
        if !pick.request.admin && !pick.device.shared {
            self.used.remove(&pick.device.key);
        }
    }

    /// What claims and the picks so far have of a device's capacity.
    fn in_use(&self, device: &Device, name: &str) -> Quantity {
        let known = self.known.parts(&device.key).and_then(|parts| parts.get(name)).copied();
        let picked = self.picks.iter().filter(|p| p.device.key == device.key).filter_map(|p| p.part.as_ref()?.get(name).copied());
        known.into_iter().chain(picked).sum()
    }

    /// Whether it is this pick that takes the device's counters: of a shared device, only the first part does.
    fn is_counted(&self, pick: &Pick<'_>) -> bool {
        let device = &pick.device.key;
        let shared = || self.known.parts(device).is_some() || self.picks.iter().any(|p| !p.request.admin && p.device.key == *device);
        !pick.request.admin && !(pick.device.shared && shared())
    }

    fn count(&mut self, device: &Device, times: i64) {
        let pool = (device.key.0.clone(), device.key.1.clone());
        if let (false, Some(left)) = (device.consumes.is_empty(), self.left.get_mut(&pool)) {
            consume(left, &device.consumes, times);
        }
    }

    fn counters_allow(&self, pick: &Pick<'_>) -> bool {
        if pick.device.consumes.is_empty() || !self.is_counted(pick) {
            return true;
        }
        let left = self.left.get(&(pick.device.key.0.clone(), pick.device.key.1.clone()));
        let enough = |set: &str, name: &str, amount: i64| left.and_then(|l| l.get(set)?.get(name)).is_some_and(|v| *v >= amount);
        pick.device.consumes.iter().all(|(set, counters)| counters.iter().all(|(name, amount)| enough(set, name, *amount)))
    }

    fn constraints_allow(&self, pick: &Pick<'_>) -> bool {
        let (_, claim) = &self.claims[pick.claim];
        claim.constraints.iter().filter(|c| concerns(c, pick.request)).all(|constraint| {
            let Some(value) = pick.device.attributes.get(&constraint.attribute) else { return false };
            let others = self.picks.iter().filter(|p| p.claim == pick.claim && concerns(constraint, p.request));
            let equal = |p: &Pick<'_>| p.device.attributes.get(&constraint.attribute) == Some(value);
            others.map(|p| equal(p)).all(|equal| equal != constraint.distinct)
        })
    }
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
    if picks.iter().any(|p| p.device.binds_to_node || matches!(p.device.reach, Reach::Node(_))) {
        let field = json!({"key": "metadata.name", "operator": "In", "values": [node.name]});
        return Some(json!({"nodeSelectorTerms": [{"matchFields": [field]}]}));
    }
    // What each device asks for must hold, so the terms that hold here are joined.
    let (mut expressions, mut fields): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for pick in picks {
        let Reach::Nodes(terms, raw) = &pick.device.reach else { continue };
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
