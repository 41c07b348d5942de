//! VolumeBinding: claims are bound, and their volumes can be reached from the node.
//!
//! Claims of classes that wait for the first consumer are not bound from here yet: such a pod waits, and says so in the
//! words of a cluster without a matching volume.

use super::{Failure, Plugin, Seat};
use crate::class::{Class, NodeTerm};
use crate::state::State;

const UNBOUND: &str = "pod has unbound immediate PersistentVolumeClaims";
const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
const MISSING_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const ELSEWHERE: &str = "node(s) didn't match PersistentVolume's node affinity";

/// The volumes of a pod's claims.
#[derive(Clone, Debug, Default)]
pub struct Bound<'s> {
    affinities: Vec<&'s [NodeTerm]>,
    missing: bool,
    waiting: bool,
}

impl<'s> Bound<'s> {
    /// Looks the claims up.
    pub fn of(state: &'s State, class: &Class) -> Result<Self, Failure> {
        let mut bound = Bound::default();
        let hopeless = |reason: String| Err(Failure::unresolvable(Plugin::VolumeBinding, reason));
        let mut unbound = false;
        for name in &class.claims {
            let Some(claim) = state.storage.claim(&class.namespace, name) else {
                return hopeless(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            if claim.lost {
                let volume = claim.volume.as_deref().unwrap_or_default();
                return hopeless(format!("persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""));
            }
            if claim.deleting {
                return hopeless(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            match &claim.volume {
                None if state.storage.waits(claim.class.as_deref()) => bound.waiting = true,
                None => unbound = true,
                Some(volume) => match state.storage.volume(volume) {
                    None => bound.missing = true,
                    Some(Some(terms)) => bound.affinities.push(terms),
                    Some(None) => {}
                },
            }
        }
        if unbound { hopeless(UNBOUND.to_owned()) } else { Ok(bound) }
    }
}

/// Bound volumes exist and allow the node.
pub fn filter(seat: &Seat<'_>) -> Option<Failure> {
    let bound = &seat.pre.volumes;
    let reason = if bound.missing {
        MISSING_VOLUME
    } else if bound.affinities.iter().any(|terms| !terms.iter().any(|t| t.matches(seat.node))) {
        ELSEWHERE
    } else if bound.waiting {
        NO_VOLUME
    } else {
        return None;
    };
    Some(Failure::unresolvable(Plugin::VolumeBinding, reason))
}
