//! Conditions that drivers set on devices before pods that have them may be bound (device binding conditions).

use super::views::{AllocationView, ConditionView, DeviceStatusView};
use jiff::Timestamp;
use std::time::Duration;

/// How far devices are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Nothing is missing.
    Ready,
    /// A driver has not said so yet.
    Pending,
    /// A driver says that it will not be, in words.
    Failed(String),
}

/// What the devices of an allocation wait for, and what has come of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Awaited {
    since: Option<Timestamp>,
    /// Some device has conditions.
    any: bool,
    pending: bool,
    /// Reason and message of the first that failed.
    failed: Option<(String, String)>,
}

impl Awaited {
    /// Reads what drivers said about the devices of an allocation.
    pub(super) fn of(allocation: &AllocationView, statuses: &[DeviceStatusView]) -> Self {
        let mut awaited = Awaited { since: allocation.allocation_timestamp, ..Awaited::default() };
        for result in allocation.devices.results.iter().filter(|r| !r.binding_conditions.is_empty()) {
            awaited.any = true;
            let same = |s: &&DeviceStatusView| s.driver == result.driver && s.pool == result.pool && s.device == result.device;
            let conditions = statuses.iter().find(same).map_or(&[][..], |s| &s.conditions);
            let holds = |name: &str| conditions.iter().find(|c| *c.kind == *name && &*c.status == "True");
            let failed = result.binding_failure_conditions.iter().find_map(|name| holds(name));
            let words = |c: &ConditionView| (c.reason.clone(), c.message.clone());
            awaited.failed = awaited.failed.take().or_else(|| failed.map(words));
            awaited.pending |= !result.binding_conditions.iter().all(|name| holds(name).is_some());
        }
        awaited
    }

    pub(super) fn is_nothing(&self) -> bool {
        !self.any
    }

    pub(super) fn readiness(&self, claim: &str) -> Readiness {
        match &self.failed {
            Some((reason, message)) => Readiness::Failed(format!("claim {claim} binding failed: reason={reason}, message={message:?}")),
            None if self.pending => Readiness::Pending,
            None => Readiness::Ready,
        }
    }

    pub(super) fn is_given_up(&self, longest: Duration, now: Timestamp) -> bool {
        let late = || self.since.is_some_and(|since| since + longest < now);
        self.failed.is_some() || self.pending && late()
    }
}
