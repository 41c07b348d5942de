//! VolumeRestrictions, NodeVolumeLimits, VolumeBinding and VolumeZone: the pod's claims are bound or can be, and their
//! volumes can be used from the node.

use super::{Failure, Plugin, Reason, Seat};
use crate::class::{NodeTerm, label};
use crate::disks::Disk;
use crate::node::PodId;
use crate::profile::Profile;
use crate::state::{Pod, State};
use crate::storage::{Claim, Step, Unmet};
use ferrokube_api::ObjectKey;
use smallvec::SmallVec;
use std::collections::BTreeSet;

const UNBOUND: &str = "pod has unbound immediate PersistentVolumeClaims";
const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
const NO_SPACE: &str = "node(s) did not have enough free storage";
const MISSING_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const ELSEWHERE: &str = "node(s) didn't match PersistentVolume's node affinity";
const OTHER_ZONE: &str = "node(s) had no available volume zone";
const TOO_MANY: &str = "node(s) exceed max volume count";
const DISK: &str = "node(s) had no available disk";
const EXCLUSIVE: &str = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

/// The volumes of a pod's claims.
#[derive(Clone, Debug, Default)]
pub struct Bound<'s> {
    affinities: Vec<&'s [NodeTerm]>,
    zones: Vec<(&'static str, &'s [Box<str>])>,
    missing: bool,
    waiting: Vec<(ObjectKey, &'s Claim)>,
    /// Driver and identity of each volume.
    csi: Vec<(&'s str, String)>,
    /// Other pods that use a claim which only one pod may use.
    exclusive: Vec<PodId>,
    /// Disks that the pod names itself.
    disks: &'s [Disk],
    /// Pods that are supposed to be gone from the node in question.
    gone: Vec<PodId>,
    /// Pods that are supposed to be there too.
    here: Vec<PodId>,
}

impl<'s> Bound<'s> {
    /// Looks the claims up.
    pub fn of(state: &'s State, profile: &Profile, id: PodId) -> Result<Self, Failure> {
        let (pod, mut bound) = (state.pod(id), Bound::default());
        let hopeless = |reason: String| Err(Failure::unresolvable(Plugin::VolumeBinding, reason));
        let binding = profile.filters(Plugin::VolumeBinding);
        let mut unbound = false;
        if profile.filters(Plugin::VolumeRestrictions) {
            bound.disks = &pod.disks;
        }
        for named in &pod.claims {
            let (namespace, name) = (&pod.key.namespace, &named.name);
            let Some(claim) = state.storage.claim(namespace, name) else {
                return hopeless(match named.ephemeral {
                    true => format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""),
                    false => format!("persistentvolumeclaim \"{name}\" not found"),
                });
            };
            if claim.lost {
                let volume = claim.volume.as_deref().unwrap_or_default();
                return hopeless(format!("persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""));
            }
            if claim.deleting {
                return hopeless(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if named.ephemeral && claim.owner.as_deref() != Some(&*pod.uid) {
                let key = &pod.key;
                return hopeless(format!(
                    "PVC {namespace}/{name} was not created for pod {}/{} (pod is not owner)",
                    key.namespace, key.name
                ));
            }
            let key = ObjectKey::new(namespace, name);
            bound.csi.extend(state.storage.csi_of(&key, claim).filter(|_| profile.filters(Plugin::NodeVolumeLimits)));
            let single = profile.filters(Plugin::VolumeRestrictions) && claim.modes.iter().any(|m| &**m == "ReadWriteOncePod");
            if single {
                bound.exclusive.extend(state.users_of_claim(namespace, name).iter().filter(|user| **user != id));
            }
            match &claim.volume {
                Some(volume) if claim.bound => bound.add_volume(state, profile, volume),
                None if state.storage.waits(claim) => bound.waiting.push((key, claim)),
                _ => unbound = true,
            }
        }
        if !binding {
            bound.waiting.clear();
            bound.missing = false;
        }
        if unbound && binding { hopeless(UNBOUND.to_owned()) } else { Ok(bound) }
    }

    fn add_volume(&mut self, state: &'s State, profile: &Profile, name: &str) {
        let Some(volume) = state.storage.volume(name) else {
            self.missing = true;
            return;
        };
        if profile.filters(Plugin::VolumeBinding) {
            self.affinities.extend(volume.terms.as_deref());
        }
        if profile.filters(Plugin::VolumeZone) {
            self.zones.extend(volume.zones.iter().map(|(key, values)| (*key, values.as_slice())));
        }
    }

    /// Whether many nodes may be out of question for these volumes.
    pub fn restricts_nodes(&self) -> bool {
        self.missing || !self.exclusive.is_empty() || !self.affinities.is_empty() || !self.zones.is_empty() || !self.waiting.is_empty()
    }

    /// As if a pod were gone from the node (or there, with `delta` 1).
    pub fn shift(&mut self, pod: PodId, delta: i64) {
        let at = self.gone.iter().position(|p| *p == pod);
        match (delta < 0, at) {
            (true, _) => self.gone.push(pod),
            (false, Some(at)) => drop(self.gone.swap_remove(at)),
            (false, None) => self.here.push(pod),
        }
    }

    /// Whether claims wait to be bound once the pod is placed.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// Whether a pod uses a claim: what happens to others does not help it.
pub fn uses(state: &State, id: PodId, claim: &ObjectKey) -> bool {
    let pod = state.pod(id);
    pod.key.namespace == claim.namespace && pod.claims.iter().any(|named| *named.name == *claim.name)
}

/// Whether a volume may be what a pod waits for: one of its claims has it already, or takes a volume when the pod is placed. A claim that
/// must be bound first is news itself once it is.
pub fn may_get(state: &State, id: PodId, volume: &str) -> bool {
    let pod = state.pod(id);
    let claims = pod.claims.iter().filter_map(|named| state.storage.claim(&pod.key.namespace, &named.name));
    claims.into_iter().any(|claim| claim.volume.as_deref().map_or_else(|| state.storage.waits(claim), |of| of == volume))
}

/// What must be done about a pod's claims on the node it is placed on.
pub fn steps(state: &State, profile: &Profile, id: PodId, node: u32) -> Vec<Step> {
    if state.pod(id).claims.is_empty() {
        return Vec::new();
    }
    let bound = Bound::of(state, profile, id).ok();
    bound.and_then(|b| state.storage.steps(&b.waiting, state.node(node)).ok()).unwrap_or_default()
}

/// The four plugins, in upstream's order.
pub fn filter(seat: &Seat<'_>, bound: &Bound<'_>) -> Option<Failure> {
    if in_use(seat, bound) {
        return Some(Failure::new(Plugin::VolumeRestrictions, DISK));
    }
    if bound.exclusive.iter().any(|user| !bound.gone.contains(user)) {
        return Some(Failure::new(Plugin::VolumeRestrictions, EXCLUSIVE));
    }
    if too_many(seat, bound) {
        return Some(Failure::new(Plugin::NodeVolumeLimits, TOO_MANY));
    }
    let mut reasons: SmallVec<[Reason; 1]> = SmallVec::new();
    let steps = if bound.waiting.is_empty() { Ok(Vec::new()) } else { seat.state.storage.steps(&bound.waiting, seat.node) };
    if steps == Err(Unmet::Nothing) {
        reasons.push(NO_VOLUME.into());
    }
    if bound.affinities.iter().any(|terms| !terms.iter().any(|t| t.matches(seat.node))) {
        reasons.push(ELSEWHERE.into());
    }
    if steps == Err(Unmet::Space) {
        reasons.push(NO_SPACE.into());
    }
    if bound.missing {
        reasons.push(MISSING_VOLUME.into());
    }
    if !reasons.is_empty() {
        return Some(Failure { plugin: Plugin::VolumeBinding, reasons, unresolvable: true });
    }
    let labelled = bound.zones.iter().any(|(key, _)| label(&seat.node.labels, key).is_some());
    let elsewhere = |(key, values): &(&str, &[Box<str>])| label(&seat.node.labels, key).is_none_or(|v| !values.iter().any(|x| **x == *v));
    // A node without any such label is not in a zone at all.
    (labelled && bound.zones.iter().any(elsewhere)).then(|| Failure::unresolvable(Plugin::VolumeZone, OTHER_ZONE))
}

/// Pods that are there with what is supposed.
fn pods_there<'a>(seat: &'a Seat<'_>, bound: &'a Bound<'_>) -> impl Iterator<Item = &'a Pod> {
    let there = seat.node.pods.iter().filter(|id| !bound.gone.contains(id)).chain(&bound.here);
    there.map(|id| seat.state.pod(*id))
}

/// A pod there has one of the disks that the pod names.
fn in_use(seat: &Seat<'_>, bound: &Bound<'_>) -> bool {
    if bound.disks.is_empty() {
        return false;
    }
    pods_there(seat, bound).flat_map(|pod| &pod.disks).any(|there| bound.disks.iter().any(|own| own.conflicts(there)))
}

/// With the pod, more volumes of a driver would be attached than the node takes.
fn too_many(seat: &Seat<'_>, bound: &Bound<'_>) -> bool {
    let (state, name) = (seat.state, &seat.node.name);
    if !bound.csi.iter().any(|(driver, _)| state.storage.limit(name, driver).is_some()) {
        return false;
    }
    let mut attached: BTreeSet<(&str, String)> = BTreeSet::new();
    for pod in pods_there(seat, bound) {
        for claim in &pod.claims {
            let key = ObjectKey::new(&pod.key.namespace, &claim.name);
            let known = state.storage.claim(&key.namespace, &key.name);
            attached.extend(known.and_then(|c| state.storage.csi_of(&key, c)));
        }
    }
    for volume in state.storage.attached(name).filter_map(|v| state.storage.volume(v)?.csi.as_ref()) {
        attached.insert((&volume.0, volume.1.to_string()));
    }
    let added: BTreeSet<&(&str, String)> = bound.csi.iter().filter(|v| !attached.contains(*v)).collect();
    added.iter().any(|(driver, _)| {
        let count = attached.iter().filter(|(d, _)| d == driver).count() + added.iter().filter(|(d, _)| d == driver).count();
        state.storage.limit(name, driver).is_some_and(|limit| count > limit)
    })
}
