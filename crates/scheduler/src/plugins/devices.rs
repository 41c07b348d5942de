//! DynamicResources: the devices that the pod's claims have can be used from the node, and those that they lack are free
//! there.

use super::{Failure, Plugin, Seat};
use crate::class::NodeTerm;
use crate::devices::allocate::{NoDevices, allocate};
use crate::devices::extended::{self, Ask, Special};
use crate::devices::{Claim, Devices, MOST_CONSUMERS, Made, Release, Reservation};
use crate::node::{Node, NodeId, PodId};
use crate::profile::Profile;
use crate::state::State;
use ferrokube_api::ObjectKey;
use jiff::Timestamp;
use std::borrow::Cow;
use std::sync::{Mutex, OnceLock, PoisonError};

const ELSEWHERE: &str = "resourceclaim not available on the node";
const SHORT: &str = "cannot allocate all claims";
const TOO_LONG: &str = "timed out trying to allocate devices";
const FULL: &str = "resourceclaim in use";
const LEFT_OVER: &str = "the resourceclaim of an earlier attempt is in the way";
const UNDER_WAY: &str = "resourceclaim is in the process of being allocated";

/// The claims of a pod.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'s> {
    lacking: Vec<(ObjectKey, &'s Claim)>,
    having: Vec<(ObjectKey, &'s Claim)>,
    namespace: &'s str,
    pod: (&'s str, &'s str),
    /// An allocation waited in vain for its devices: it is good for no node.
    in_vain: bool,
    /// Amounts of which some may be devices.
    amounts: Option<(&'s Devices, &'s [Ask])>,
    /// The claim for them on nodes that offer none of it themselves: most nodes are alike in this.
    everywhere: OnceLock<Option<(Special, Claim)>>,
    /// Whether there are devices, for nodes that can use the same.
    answers: Answers,
}

/// What was found for one of the nodes that are alike.
#[derive(Debug, Default)]
struct Answers(Mutex<Vec<(u64, Option<NoDevices>)>>);

impl Clone for Answers {
    fn clone(&self) -> Self {
        // They are found again when they are asked for.
        Answers::default()
    }
}

impl Answers {
    fn of(&self, alike: Option<u64>, find: impl FnOnce() -> Option<NoDevices>) -> Option<NoDevices> {
        let Some(alike) = alike else { return find() };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, answer)) = known.iter().find(|(of, _)| *of == alike) {
            return answer.clone();
        }
        let answer = find();
        known.push((alike, answer.clone()));
        answer
    }
}

impl<'s> Wanted<'s> {
    /// Looks the claims up.
    pub fn of(state: &'s State, profile: &Profile, id: PodId) -> Result<Self, Failure> {
        let pod = state.pod(id);
        let mut wanted = Wanted { namespace: &pod.key.namespace, pod: (&pod.key.name, &pod.uid), ..Wanted::default() };
        if !profile.filters(Plugin::DynamicResources) {
            return Ok(wanted);
        }
        let asks = &state.class_of(id).asks;
        if state.devices.back(asks) {
            if state.devices.made_for(&pod.uid).is_some() {
                return Err(Failure::unresolvable(Plugin::DynamicResources, LEFT_OVER.to_owned()));
            }
            wanted.amounts = Some((&state.devices, asks));
        }
        let hopeless = |reason: String| Err(Failure::unresolvable(Plugin::DynamicResources, reason));
        for found in claims_of(state, id) {
            let (key, claim) = match found {
                Ok(found) => found,
                Err(why) => return hopeless(why),
            };
            let mine = claim.consumers.iter().any(|uid| **uid == *pod.uid);
            if claim.allocation.is_some() && !mine && claim.consumers.len() >= MOST_CONSUMERS {
                return hopeless(FULL.to_owned());
            }
            if state.devices.is_assumed(&key) && !mine {
                return hopeless(UNDER_WAY.to_owned());
            }
            wanted.in_vain |= claim.is_given_up(profile.device_timeout, Timestamp::now());
            let list = if claim.allocation.is_some() { &mut wanted.having } else { &mut wanted.lacking };
            list.push((key, claim));
        }
        Ok(wanted)
    }

    fn places(&self) -> impl Iterator<Item = &'s Vec<NodeTerm>> {
        self.having.iter().filter_map(|(_, claim)| claim.allocation.as_ref()?.nodes.as_ref())
    }

    /// Whether some of the pod's amounts may be devices.
    pub fn is_special(&self) -> bool {
        self.amounts.is_some()
    }

    /// Whether a resource comes from devices on a node, not from the node itself.
    pub fn come_from_devices(&self, resource: &str, node: &Node) -> bool {
        self.amounts.is_some_and(|(devices, asks)| asks.iter().any(|a| *a.resource == *resource) && devices.serve(resource, node))
    }

    /// The claim for them on a node.
    fn special(&self, node: &Node) -> Option<Cow<'_, (Special, Claim)>> {
        let (devices, asks) = self.amounts?;
        let make = || {
            let special = devices.special(asks, node)?;
            let claim = special.claim();
            Some((special, claim))
        };
        let own = |ask: &Ask| devices.class_for(&ask.resource).is_some() && !devices.serve(&ask.resource, node);
        match asks.iter().any(own) {
            true => make().map(Cow::Owned),
            false => self.everywhere.get_or_init(make).as_ref().map(Cow::Borrowed),
        }
    }

    /// Whether many nodes may be out of question for these claims.
    pub fn restricts_nodes(&self) -> bool {
        self.in_vain || self.is_special() || self.places().next().is_some()
    }

    /// Whether some node may serve the claims in a better way than others.
    pub fn has_preferences(&self) -> bool {
        self.lacking.iter().any(|(_, claim)| claim.requests.iter().flatten().any(|r| r.alternative.is_some()))
    }
}

/// The claims that a pod names, or what is wrong with them, in the words of the plugin.
fn claims_of(state: &State, id: PodId) -> impl Iterator<Item = Result<(ObjectKey, &Claim), String>> {
    let pod = state.pod(id);
    let (namespace, name) = (&pod.key.namespace, &pod.key.name);
    pod.devices.iter().map(move |named| {
        let Some(claim_name) = &named.claim else { return Err(format!("pod \"{namespace}/{name}\": ResourceClaim not created yet")) };
        let key = ObjectKey::new(namespace, claim_name);
        let Some(claim) = state.devices.claim(&key) else {
            return Err(format!("could not find ResourceClaim \"{namespace}/{claim_name}\""));
        };
        if named.from_template && claim.owner.as_deref() != Some(&*pod.uid) {
            let whose = format!("was not created for pod {namespace}/{name} (pod is not owner)");
            return Err(format!("ResourceClaim {namespace}/{claim_name} {whose}"));
        }
        if claim.deleting {
            return Err(format!("resourceclaim \"{claim_name}\" is being deleted"));
        }
        Ok((key, claim))
    })
}

/// Whether a pod need not be tried before its claims are there (PreEnqueue).
pub fn is_held(state: &State, profile: &Profile, id: PodId) -> bool {
    profile.filters(Plugin::DynamicResources) && claims_of(state, id).any(|found| found.is_err())
}

/// Whether a change of a claim may help a pod that claims have kept from every node: it is one of its own, or others may now have the
/// devices (`isSchedulableAfterClaimChange`).
pub fn claim_helps(state: &State, id: PodId, claim: &ObjectKey, freed: bool) -> bool {
    let pod = state.pod(id);
    let own = |name: &str| pod.key.namespace == claim.namespace && *name == *claim.name;
    let made = || state.devices.made_for(&pod.uid).is_some_and(|(key, _)| key == claim);
    freed || pod.devices.iter().any(|named| named.claim.as_deref().is_some_and(own)) || made()
}

/// What has no devices yet, the claim that is not made yet last.
fn all_lacking<'a>(wanted: &'a Wanted<'_>, special: Option<&'a (Special, Claim)>) -> Vec<(ObjectKey, &'a Claim)> {
    let mut all: Vec<(ObjectKey, &Claim)> = wanted.lacking.iter().map(|(key, claim)| (key.clone(), *claim)).collect();
    all.extend(special.map(|(_, claim)| (extended::key(wanted.namespace, wanted.pod.1), claim)));
    all
}

/// See the module.
pub fn filter(seat: &Seat<'_>, wanted: &Wanted<'_>) -> Option<Failure> {
    let no = |reason: String| Some(Failure::unresolvable(Plugin::DynamicResources, reason));
    let special = wanted.special(seat.node);
    let lacking = all_lacking(wanted, special.as_deref());
    if !lacking.is_empty() {
        let devices = &seat.state.devices;
        // Where amounts come from devices, a node that offers some of them itself is asked for less than others are.
        let same = wanted.amounts.is_none() || matches!(special, Some(Cow::Borrowed(_)));
        let alike = devices.pools().alike(seat.node).filter(|_| same);
        match wanted.answers.of(alike, || allocate(devices, &lacking, seat.node).err()) {
            None => {}
            Some(NoDevices::Short) => return no(SHORT.to_owned()),
            Some(NoDevices::TooLong) => return no(TOO_LONG.to_owned()),
            Some(NoDevices::Wrong(why)) => return no(why),
        }
    }
    let elsewhere = wanted.places().any(|terms| !terms.iter().any(|t| t.matches(seat.node)));
    if elsewhere || wanted.in_vain { no(ELSEWHERE.to_owned()) } else { None }
}

/// More for a node that serves the claims with what is preferred; before normalisation.
pub fn score(state: &State, wanted: &Wanted<'_>, node: NodeId) -> i64 {
    allocate(&state.devices, &wanted.lacking, state.node(node)).map_or(0, |found| found.score())
}

/// What must be written about a pod's claims on the node it is placed on.
pub fn reservations(state: &State, profile: &Profile, id: PodId, node: NodeId) -> Vec<Reservation> {
    let Some(wanted) = Wanted::of(state, profile, id).ok().filter(|w| w.is_special() || !state.pod(id).devices.is_empty()) else {
        return Vec::new();
    };
    let special = wanted.special(state.node(node));
    let lacking = all_lacking(&wanted, special.as_deref());
    let found = allocate(&state.devices, &lacking, state.node(node));
    let mut all = found.map_or(Vec::new(), |found| found.reservations(wanted.pod));
    if let (Some((special, _)), Some(last)) = (special.as_deref(), all.last_mut()) {
        let object = special.object(wanted.namespace, wanted.pod);
        last.made_from = Some(Box::new(Made { object, pod: wanted.pod.0.into(), mappings: special.mappings().to_vec() }));
    }
    let others = wanted.having.iter().filter(|(_, claim)| !claim.consumers.iter().any(|uid| **uid == *wanted.pod.1));
    all.extend(others.map(|(key, claim)| claim.reservation(key, wanted.pod, None)));
    all
}

/// The claims that a pod has a reservation of already and whose devices must be made ready for it.
pub fn awaited(state: &State, profile: &Profile, id: PodId) -> Vec<ObjectKey> {
    let Ok(wanted) = Wanted::of(state, profile, id) else { return Vec::new() };
    wanted.having.iter().filter(|(_, claim)| claim.is_awaited()).map(|(key, _)| key.clone()).collect()
}

/// What can be done for a pod with claims that fits nowhere (PostFilter).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Help {
    /// The devices of this claim are taken back: they are good for some other node at best.
    Release(Release),
    /// Nothing, in the words of the plugin.
    None(&'static str),
}

/// Looks for an allocation that keeps a pod from nodes and that nobody else uses.
pub fn help(state: &State, profile: &Profile, id: PodId) -> Help {
    if let Some((key, claim)) = state.devices.made_for(&state.pod(id).uid) {
        return claim.released(key, &state.pod(id).uid).map_or(Help::None("still not schedulable"), Help::Release);
    }
    if state.pod(id).devices.is_empty() {
        return Help::None("no new claims to deallocate");
    }
    let Ok(wanted) = Wanted::of(state, profile, id) else { return Help::None("still not schedulable") };
    let nowhere = |terms: &Vec<NodeTerm>| state.order().iter().any(|n| !terms.iter().any(|t| t.matches(state.node(*n))));
    let in_the_way = |claim: &Claim| {
        let places = claim.allocation.as_ref().and_then(|a| a.nodes.as_ref());
        places.is_some_and(nowhere) || claim.is_given_up(profile.device_timeout, Timestamp::now())
    };
    let mut candidates = wanted.having.iter().filter(|(_, claim)| in_the_way(claim));
    match candidates.find_map(|(key, claim)| claim.released(key, wanted.pod.1)) {
        Some(release) => Help::Release(release),
        None => Help::None("still not schedulable"),
    }
}
