//! Claims, volumes and storage classes, as far as they say where a pod can be.

use crate::class::NodeTerm;
use crate::pod::{NodeSelectorView, node_terms};
use ferrokube_api::{Object, ObjectKey};
use serde::Deserialize;
use std::collections::HashMap;

/// A persistent volume claim.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// The volume it is bound to.
    pub volume: Option<Box<str>>,
    /// Its storage class.
    pub class: Option<Box<str>>,
    /// Its volume is gone.
    pub lost: bool,
    /// It is being deleted.
    pub deleting: bool,
}

/// What is known of storage.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    claims: HashMap<ObjectKey, Claim>,
    /// Node affinity by volume; `None` for everywhere.
    volumes: HashMap<Box<str>, Option<Vec<NodeTerm>>>,
    /// Whether the class waits for the first consumer.
    classes: HashMap<Box<str>, bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct ClaimView {
    metadata: Meta,
    #[serde(default)]
    spec: ClaimSpec,
    #[serde(default)]
    status: ClaimStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct ClaimSpec {
    #[serde(default)]
    volume_name: Option<Box<str>>,
    #[serde(default)]
    storage_class_name: Option<Box<str>>,
}

#[derive(Deserialize, Default)]
struct ClaimStatus {
    #[serde(default)]
    phase: Option<String>,
}

#[derive(Deserialize)]
struct VolumeView {
    spec: VolumeSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeSpec {
    #[serde(default)]
    node_affinity: Option<VolumeAffinity>,
}

#[derive(Deserialize)]
struct VolumeAffinity {
    #[serde(default)]
    required: Option<NodeSelectorView>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClassView {
    #[serde(default)]
    volume_binding_mode: Option<String>,
}

impl Storage {
    /// A claim.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Claim> {
        self.claims.get(&ObjectKey::new(namespace, name))
    }

    /// A volume's node affinity; the outer `None`: there is no such volume.
    pub fn volume(&self, name: &str) -> Option<&Option<Vec<NodeTerm>>> {
        self.volumes.get(name)
    }

    /// Whether claims of a class are bound only once a pod is placed.
    pub fn waits(&self, class: Option<&str>) -> bool {
        class.and_then(|c| self.classes.get(c)).copied().unwrap_or(false)
    }

    /// A claim is as it is now, or gone.
    pub fn set_claim(&mut self, key: &ObjectKey, object: Option<&Object>) -> Result<(), serde_json::Error> {
        let Some(object) = object else {
            self.claims.remove(key);
            return Ok(());
        };
        let view: ClaimView = object.view()?;
        let bound = view.status.phase.as_deref() == Some("Bound");
        let claim = Claim {
            volume: view.spec.volume_name.filter(|v| !v.is_empty()).filter(|_| bound || view.status.phase.as_deref() == Some("Lost")),
            class: view.spec.storage_class_name,
            lost: view.status.phase.as_deref() == Some("Lost"),
            deleting: view.metadata.deletion_timestamp.is_some(),
        };
        self.claims.insert(key.clone(), claim);
        Ok(())
    }

    /// A volume is as it is now, or gone.
    pub fn set_volume(&mut self, name: &str, object: Option<&Object>) -> Result<(), serde_json::Error> {
        let Some(object) = object else {
            self.volumes.remove(name);
            return Ok(());
        };
        let view: VolumeView = object.view()?;
        self.volumes.insert(name.into(), view.spec.node_affinity.and_then(|a| a.required).map(node_terms));
        Ok(())
    }

    /// A storage class is as it is now, or gone.
    pub fn set_class(&mut self, name: &str, object: Option<&Object>) -> Result<(), serde_json::Error> {
        let Some(object) = object else {
            self.classes.remove(name);
            return Ok(());
        };
        let view: ClassView = object.view()?;
        self.classes.insert(name.into(), view.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
        Ok(())
    }
}
