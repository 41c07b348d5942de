//! Devices for the claims of a pod on one node: a search that goes back where it fails (structured parameters).
//!
//! Requests are served in order; for each the first alternative and the first devices that satisfy class, selectors,
//! taints, counters and constraints. Pure: the answer is what would be written.

use super::{Amount, Claim, Constraint, Counters, Device, DeviceKey, Devices, PoolKey, Reach, Request, Reservation, consume};
use crate::node::Node;
use ferrokube_api::ObjectKey;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};

/// A search that takes more steps than this is given up, and the node with it.
const MOST_STEPS: usize = 100_000;

/// Why there are no devices on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoDevices {
    /// Too few that would do.
    Short,
    /// What is asked for makes no sense, wherever.
    Wrong(String),
}

/// One device for one request of one claim.
#[derive(Clone, Copy)]
struct Pick<'a> {
    claim: usize,
    request: &'a Request,
    device: &'a Device,
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

/// Finds devices for claims that have none; what is to be written for each, for a pod (name and UID) on a node.
pub fn allocate(known: &Devices, claims: &[(ObjectKey, &Claim)], node: &Node, pod: (&str, &str)) -> Result<Vec<Reservation>, NoDevices> {
    let (devices, left) = known.at(node);
    let mut search = Search { known, claims, devices, left, used: BTreeSet::new(), picks: Vec::new(), steps: 0, wrong: None };
    if !search.serve(0, 0) {
        return Err(search.wrong.map_or(NoDevices::Short, NoDevices::Wrong));
    }
    let reservation = |(at, (key, claim)): (usize, &(ObjectKey, &Claim))| {
        let picks: Vec<&Pick<'_>> = search.picks.iter().filter(|p| p.claim == at).collect();
        let taken = picks.iter().filter(|p| !p.request.admin).map(|p| p.device.key.clone()).collect();
        claim.reservation(key, pod, Some((written(known, claim, &picks, node), taken)))
    };
    Ok(claims.iter().enumerate().map(reservation).collect())
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
        let all = class.selectors.iter().chain(&request.selectors);
        let mut matching = Vec::new();
        for device in &self.devices {
            self.steps += 1;
            let mut holds = true;
            for selector in all.clone() {
                match selector.matches(device) {
                    Ok(true) => {}
                    Ok(false) => holds = false,
                    Err(why) => {
                        self.wrong.get_or_insert_with(|| format!("request {}: {why}", request.name));
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

    /// Takes a device, if it is free, tolerated, and agrees with what is taken already.
    fn take(&mut self, claim: usize, request: &'a Request, device: &'a Device) -> bool {
        let repels = |t: &&crate::class::Taint| t.effect != crate::class::Effect::PreferNoSchedule;
        let tolerated = device.taints.iter().filter(repels).all(|t| request.tolerations.iter().any(|x| x.tolerates(t)));
        let free = request.admin || !self.used.contains(&device.key) && !self.known.is_taken(&device.key);
        let again = self.picks.iter().any(|p| p.claim == claim && p.device.key == device.key);
        let pick = Pick { claim, request, device };
        if !tolerated || !free || again || !self.counters_allow(pick) || !self.constraints_allow(pick) {
            return false;
        }
        if !request.admin {
            self.used.insert(&device.key);
            self.count(device, 1);
        }
        self.picks.push(pick);
        true
    }

    fn give_back(&mut self) {
        if let Some(pick) = self.picks.pop().filter(|p| !p.request.admin) {
            self.used.remove(&pick.device.key);
            self.count(pick.device, -1);
        }
    }

    fn count(&mut self, device: &Device, times: i64) {
        let pool = (device.key.0.clone(), device.key.1.clone());
        if let (false, Some(left)) = (device.consumes.is_empty(), self.left.get_mut(&pool)) {
            consume(left, &device.consumes, times);
        }
    }

    fn counters_allow(&self, pick: Pick<'_>) -> bool {
        if pick.request.admin || pick.device.consumes.is_empty() {
            return true;
        }
        let left = self.left.get(&(pick.device.key.0.clone(), pick.device.key.1.clone()));
        let enough = |set: &str, name: &str, amount: i64| left.and_then(|l| l.get(set)?.get(name)).is_some_and(|v| *v >= amount);
        pick.device.consumes.iter().all(|(set, counters)| counters.iter().all(|(name, amount)| enough(set, name, *amount)))
    }

    fn constraints_allow(&self, pick: Pick<'_>) -> bool {
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

/// From where all the devices can be used; `None`: from everywhere.
fn node_selector(picks: &[&Pick<'_>], node: &Node) -> Option<Value> {
    if picks.iter().any(|p| matches!(p.device.reach, Reach::Node(_))) {
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
