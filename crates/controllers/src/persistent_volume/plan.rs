//! What a claim and a volume need next. Pure.
//!
//! Source: `syncClaim` and `syncVolume` of `pkg/controller/volume/persistentvolume/pv_controller.go`.

use super::matching::{annotation, best, claim_class, has_annotation, is_bound_to, names_class, same_mode, satisfies};
use super::migration;
use ferrokube_client::Named;
use ferrokube_client::events::EventType;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

/// The binding of the claim is complete.
pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The controller, not a user, chose the other side.
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The provisioner that made the volume.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The node for which a delayed claim is to be provisioned, set by the scheduler.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Provisioners that were part of Kubernetes; 1.36 has none left.
const IN_TREE: &str = "kubernetes.io/";

/// An event about the object in question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub kind: EventType,
    pub reason: &'static str,
    pub message: String,
}

fn warning(reason: &'static str, message: impl Into<String>) -> Note {
    Note { kind: EventType::Warning, reason, message: message.into() }
}

fn normal(reason: &'static str, message: impl Into<String>) -> Note {
    Note { kind: EventType::Normal, reason, message: message.into() }
}

/// What is known around a claim.
#[derive(Default)]
pub(super) struct ClaimView {
    /// The volume that the claim names, if it exists.
    pub named: Option<PersistentVolume>,
    /// Volumes that may be its own: free ones of its class and reserved ones.
    pub candidates: Vec<PersistentVolume>,
    /// The claim's class, if it exists.
    pub class: Option<StorageClass>,
    /// The class of claims that say nothing about theirs.
    pub default_class: Option<String>,
    /// Pods without a node that use the claim.
    pub waiting_pods: Vec<String>,
}

/// What a claim needs next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ClaimStep {
    /// Bind both sides, or complete a binding.
    Bind(Box<PersistentVolume>),
    /// Give it the default class.
    SetClass(String),
    /// Ask this external provisioner for a volume.
    Provision(String),
    /// It waits; people are told why.
    Pending(Option<Note>),
    /// Its class cannot make a volume; nothing else changes.
    Failed(Note),
    /// Its volume is gone or another's.
    Lost(Note),
}

pub(super) fn plan_claim(claim: &PersistentVolumeClaim, view: &ClaimView) -> ClaimStep {
    let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    if has_annotation(&claim.metadata, BIND_COMPLETED) {
        return complete(claim, named, view);
    }
    if named.is_empty() {
        return unbound(claim, view);
    }
    let Some(volume) = &view.named else { return ClaimStep::Pending(None) };
    let bound_elsewhere = volume.spec.as_ref().is_some_and(|s| s.claim_ref.is_some()) && !is_bound_to(volume, claim);
    if bound_elsewhere {
        let message = format!("volume \"{}\" already bound to a different claim.", volume.name());
        return ClaimStep::Pending(Some(warning("FailedBinding", message)));
    }
    if volume.spec.as_ref().is_some_and(|s| s.claim_ref.is_some()) {
        return ClaimStep::Bind(Box::new(volume.clone()));
    }
    match satisfies(volume, claim) {
        Ok(()) => ClaimStep::Bind(Box::new(volume.clone())),
        Err(why) => {
            let message = format!("Cannot bind to requested volume \"{}\": {why}", volume.name());
            ClaimStep::Pending(Some(warning("VolumeMismatch", message)))
        }
    }
}

/// The claim was bound once: it stays so, or is lost.
fn complete(claim: &PersistentVolumeClaim, named: &str, view: &ClaimView) -> ClaimStep {
    if named.is_empty() {
        let message = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return ClaimStep::Lost(warning("ClaimLost", message));
    }
    let Some(volume) = &view.named else {
        return ClaimStep::Lost(warning("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"));
    };
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    if reference.is_none_or(|r| r.uid.as_deref() == Some(claim.uid())) {
        return ClaimStep::Bind(Box::new(volume.clone()));
    }
    ClaimStep::Lost(warning("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"))
}

fn unbound(claim: &PersistentVolumeClaim, view: &ClaimView) -> ClaimStep {
    let delayed = view.class.as_ref().is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    // Of a delayed claim with a node the scheduler has decided that a volume is to be made there: no other will do.
    if let Some(volume) = best(claim, &view.candidates, delayed) {
        return ClaimStep::Bind(Box::new(volume.clone()));
    }
    if !names_class(claim)
        && let Some(class) = &view.default_class
    {
        return ClaimStep::SetClass(class.clone());
    }
    if delayed && !has_annotation(&claim.metadata, SELECTED_NODE) {
        return ClaimStep::Pending(Some(delay(&view.waiting_pods)));
    }
    match claim_class(claim) {
        "" => {
            let message = "no persistent volumes available for this claim and no storage class is set";
            ClaimStep::Pending(Some(normal("FailedBinding", message)))
        }
        class => provision(class, view.class.as_ref()),
    }
}

fn delay(waiting: &[String]) -> Note {
    match waiting {
        [] => normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        [pod] => normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
        pods => normal("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(","))),
    }
}

fn provision(name: &str, class: Option<&StorageClass>) -> ClaimStep {
    let Some(class) = class else {
        return ClaimStep::Failed(warning("ProvisioningFailed", format!("storageclass.storage.k8s.io \"{name}\" not found")));
    };
    if let Some(driver) = migration::driver_of(&class.provisioner) {
        return ClaimStep::Provision(driver.to_owned());
    }
    if class.provisioner.starts_with(IN_TREE) {
        let message = format!("no volume plugin matched name: {}", class.provisioner);
        return ClaimStep::Failed(warning("ProvisioningFailed", message));
    }
    ClaimStep::Provision(class.provisioner.clone())
}

/// What is told of a volume that cannot be recycled yet. Upstream calls it normal.
pub(super) fn used_by(pods: &[String]) -> Note {
    normal("VolumeFailedRecycle", format!("Volume is used by pods: {}", pods.join(",")))
}

/// What is told to people whose claim waits for an external provisioner.
pub(super) fn waiting_for(provisioner: &str) -> Note {
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If \
         volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    normal("ExternalProvisioning", message)
}

/// What a volume needs next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum VolumeStep {
    /// Only its phase.
    Phase(&'static str),
    /// Its claim has to complete the binding.
    SyncClaim,
    /// Its claim cannot be bound to it; what is said of the volume, and of the claim.
    Mismatch(Note, Note),
    /// Its claim is another's: it is free again.
    Unbind,
    /// Its claim is gone: `Released`, then what its policy says.
    Reclaim(Reclaim),
}

/// How a released volume goes on.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reclaim {
    /// An administrator or its external provisioner does it.
    Elsewhere,
    /// Nothing here can do what the policy asks for.
    Failed(Note),
    /// The same, once no pod uses the volume any more.
    Recycle(Note),
}

/// `claim` is the one of the volume's reference, by name and UID; `None` when it is gone for sure.
pub(super) fn plan_volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumeStep {
    let Some(reference) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return VolumeStep::Phase("Available") };
    if reference.uid.as_deref().unwrap_or_default().is_empty() {
        return VolumeStep::Phase("Available");
    }
    let Some(claim) = claim else { return VolumeStep::Reclaim(reclaim(volume)) };
    match claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default() {
        "" if same_mode(claim, volume) => VolumeStep::SyncClaim,
        "" => {
            let (claim, volume) = (claim.name(), volume.name());
            let of_volume =
                format!("Cannot bind PersistentVolume to requested PersistentVolumeClaim \"{claim}\" due to incompatible volumeMode.");
            let of_claim =
                format!("Cannot bind PersistentVolume \"{volume}\" to requested PersistentVolumeClaim due to incompatible volumeMode.");
            VolumeStep::Mismatch(warning("VolumeMismatch", of_volume), warning("VolumeMismatch", of_claim))
        }
        name if name == volume.name() => VolumeStep::Phase("Bound"),
        _ => {
            let made_for_it = has_annotation(&volume.metadata, PROVISIONED_BY) && policy(volume) == "Delete";
            if made_for_it { VolumeStep::Reclaim(reclaim(volume)) } else { VolumeStep::Unbind }
        }
    }
}

pub(super) fn policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

fn reclaim(volume: &PersistentVolume) -> Reclaim {
    // A driver outside has taken over from the plugin that made it.
    if !annotation(&volume.metadata, migration::MIGRATED_TO).is_empty() {
        return Reclaim::Elsewhere;
    }
    match policy(volume) {
        "Delete" if volume.metadata.deletion_timestamp.is_some() => Reclaim::Elsewhere,
        "Delete" => match annotation(&volume.metadata, PROVISIONED_BY) {
            "" => Reclaim::Failed(warning("VolumeFailedDelete", no_deleter(volume))),
            plugin if plugin.starts_with(IN_TREE) => {
                Reclaim::Failed(warning("VolumeFailedDelete", format!("no volume plugin matched name: {plugin}")))
            }
            _ => Reclaim::Elsewhere,
        },
        "Recycle" => Reclaim::Recycle(warning("VolumeFailedRecycle", "No recycler plugin found for the volume!")),
        _ => Reclaim::Elsewhere,
    }
}

/// Why nothing here can delete a volume that nobody provisioned. Three plugins know their volumes.
fn no_deleter(volume: &PersistentVolume) -> String {
    let spec = volume.spec.clone().unwrap_or_default();
    let why = match spec.host_path {
        Some(host) if !host.path.split_once("/tmp/").is_some_and(|(_, rest)| !rest.is_empty()) => {
            return format!("host_path deleter only supports /tmp/.+ but received provided {}", host.path);
        }
        // Upstream removes directories under /tmp of the machine it runs on. No directory of a machine is ours to remove.
        Some(_) => "no deletable volume plugin matched",
        None if spec.nfs.is_some() || spec.local.is_some() => "no deletable volume plugin matched",
        None => "no volume plugin matched",
    };
    format!("error getting deleter volume plugin for volume \"{}\": {why}", volume.name())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
