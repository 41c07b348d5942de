//! DynamicResources: the devices that the pod's claims have can be used from the node, and those that they lack are free
//! there.

use super::{Failure, Plugin, Seat};
use crate::class::NodeTerm;
use crate::devices::allocate::{NoDevices, allocate};
use crate::devices::{Claim, MOST_CONSUMERS, Reservation};
use crate::node::{NodeId, PodId};
use crate::profile::Profile;
use crate::state::State;
use ferrokube_api::ObjectKey;

const ELSEWHERE: &str = "resourceclaim not available on the node";
const SHORT: &str = "cannot allocate all claims";
const FULL: &str = "resourceclaim in use";
const UNDER_WAY: &str = "resourceclaim is in the process of being allocated";

/// The claims of a pod.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'s> {
    lacking: Vec<(ObjectKey, &'s Claim)>,
    having: Vec<(ObjectKey, &'s Claim)>,
    pod: (&'s str, &'s str),
}

impl<'s> Wanted<'s> {
    /// Looks the claims up.
    pub fn of(state: &'s State, profile: &Profile, id: PodId) -> Result<Self, Failure> {
        let pod = state.pod(id);
        let mut wanted = Wanted { pod: (&pod.key.name, &pod.uid), ..Wanted::default() };
        if pod.devices.is_empty() || !profile.filters(Plugin::DynamicResources) {
            return Ok(wanted);
        }
        let hopeless = |reason: String| Err(Failure::unresolvable(Plugin::DynamicResources, reason));
        for named in &pod.devices {
            let (namespace, name) = (&pod.key.namespace, &pod.key.name);
            let Some(claim_name) = &named.claim else {
                return hopeless(format!("pod \"{namespace}/{name}\": ResourceClaim not created yet"));
            };
            let key = ObjectKey::new(namespace, claim_name);
            let Some(claim) = state.devices.claim(&key) else {
                return hopeless(format!("could not find ResourceClaim \"{namespace}/{claim_name}\""));
            };
            if named.from_template && claim.owner.as_ref() != Some(&pod.uid) {
                return hopeless(format!(
                    "ResourceClaim {namespace}/{claim_name} was not created for pod {namespace}/{name} (pod is not owner)"
                ));
            }
            if claim.deleting {
                return hopeless(format!("resourceclaim \"{claim_name}\" is being deleted"));
            }
            let mine = claim.consumers.contains(&pod.uid);
            if claim.allocation.is_some() && !mine && claim.consumers.len() >= MOST_CONSUMERS {
                return hopeless(FULL.to_owned());
            }
            if state.devices.is_assumed(&key) && !mine {
                return hopeless(UNDER_WAY.to_owned());
            }
            let list = if claim.allocation.is_some() { &mut wanted.having } else { &mut wanted.lacking };
            list.push((key, claim));
        }
        Ok(wanted)
    }

    fn places(&self) -> impl Iterator<Item = &'s Vec<NodeTerm>> {
        self.having.iter().filter_map(|(_, claim)| claim.allocation.as_ref()?.nodes.as_ref())
    }

    /// Whether many nodes may be out of question for these claims.
    pub fn restricts_nodes(&self) -> bool {
        self.places().next().is_some()
    }
}

/// See the module.
pub fn filter(seat: &Seat<'_>, wanted: &Wanted<'_>) -> Option<Failure> {
    if wanted.places().any(|terms| !terms.iter().any(|t| t.matches(seat.node))) {
        return Some(Failure::unresolvable(Plugin::DynamicResources, ELSEWHERE));
    }
    if wanted.lacking.is_empty() {
        return None;
    }
    match allocate(&seat.state.devices, &wanted.lacking, seat.node, wanted.pod) {
        Ok(_) => None,
        Err(NoDevices::Short) => Some(Failure::unresolvable(Plugin::DynamicResources, SHORT)),
        Err(NoDevices::Wrong(why)) => Some(Failure::unresolvable(Plugin::DynamicResources, why)),
    }
}

/// What must be written about a pod's claims on the node it is placed on.
pub fn reservations(state: &State, profile: &Profile, id: PodId, node: NodeId) -> Vec<Reservation> {
    let Some(wanted) = Wanted::of(state, profile, id).ok().filter(|_| !state.pod(id).devices.is_empty()) else { return Vec::new() };
    let mut all = allocate(&state.devices, &wanted.lacking, state.node(node), wanted.pod).unwrap_or_default();
    let others = wanted.having.iter().filter(|(_, claim)| !claim.consumers.iter().any(|uid| **uid == *wanted.pod.1));
    all.extend(others.map(|(key, claim)| claim.reservation(key, wanted.pod, None)));
    all
}
