//! The lives of a pod: a container that exits in the way of a rule with the action `RestartAllContainers` ends the present
//! one, and everything begins again in the same sandbox, init containers included. Pure.
//!
//! Every instance carries the number of its life as an annotation, so that no clock decides which life it belongs to, and
//! a kubelet that has restarted knows it again. Source: KEP-5532.

use super::spec::{After, ContainerSpec};
use crate::runtime::{Container, Observed, annotations};
use ferrokube_cri::v1::ContainerState;

/// The life that an instance was made for.
pub fn of(instance: &Container) -> u32 {
    instance.annotation(annotations::LIFE).parse().unwrap_or(0)
}

/// The life that counts now: one more than that of an instance that ended it.
pub fn present(specs: &[ContainerSpec], observed: &Observed) -> u32 {
    let ends = |c: &Container| {
        let spec = specs.iter().find(|s| s.name == c.name);
        c.state() == ContainerState::ContainerExited && spec.is_some_and(|s| s.after(c.status.exit_code) == After::RestartAll)
    };
    observed.containers.iter().map(|c| of(c) + u32::from(ends(c))).max().unwrap_or(0)
}

/// Whether instances of an earlier life still run: nothing of the next one begins before they are dead.
pub fn ending(specs: &[ContainerSpec], observed: &Observed) -> bool {
    let present = present(specs, observed);
    observed.containers.iter().any(|c| c.running() && of(c) < present)
}
