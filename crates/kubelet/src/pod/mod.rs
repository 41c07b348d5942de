//! The life of a pod on this node.
//!
//! One task ([`worker`]) owns each pod. It learns of changes through a closed set of [`Input`]s, asks the pure [`plan`]
//! what to do, runs the steps ([`ops`]) beside itself, and writes the [`status`]. Nothing else touches a pod.
#![allow(missing_docs, reason = "inputs and steps are documented as a whole; their fields are called what they are")]

pub mod admission;
pub mod allocation;
mod amounts;
pub mod backoff;
mod lives;
pub mod manager;
pub mod ops;
pub mod plan;
mod preempt;
mod report;
pub mod resize;
pub mod spec;
pub mod status;
pub mod worker;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use std::sync::Arc;

/// What can happen to a pod, from the worker's point of view.
#[derive(Clone, Debug)]
pub enum Input {
    /// The API has this pod now; its resources are those that it was promised. A resize may wait for its grant.
    Spec { pod: Arc<Pod>, pending: Option<allocation::Pending> },
    /// The API has the pod no more.
    Gone,
    /// The copy of a static pod in the API is another one, or gone.
    Copy,
    /// Something of the pod changed in the runtime.
    Runtime,
    /// A probe of a container instance came to a verdict.
    Probe { container_id: String, kind: ProbeKind, healthy: bool },
    /// The pod must go, with this verdict: (reason, message), and seconds of grace.
    Evict { reason: String, message: String, grace: i64 },
}

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Has it come up?
    Startup,
    /// May it get traffic?
    Readiness,
    /// Must it be restarted?
    Liveness,
}

impl ProbeKind {
    /// The word in events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        }
    }
}

/// `name_namespace(uid)`, as the kubelet names pods in messages.
pub fn title(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
}

/// A container as events name it: the pod with a field path.
pub fn container_reference(pod: &Pod, container: &str) -> ObjectReference {
    let mut reference = ferrokube_client::events::reference(pod);
    let spec = pod.spec.as_ref();
    let is_init = spec.is_some_and(|s| s.init_containers.iter().flatten().any(|c| c.name == container));
    let is_ephemeral = spec.is_some_and(|s| s.ephemeral_containers.iter().flatten().any(|c| c.name == container));
    let list = match (is_init, is_ephemeral) {
        (true, _) => "initContainers",
        (_, true) => "ephemeralContainers",
        _ => "containers",
    };
    reference.field_path = Some(format!("spec.{list}{{{container}}}"));
    reference
}
