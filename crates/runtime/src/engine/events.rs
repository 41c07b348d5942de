//! What GetContainerEvents tells: every change of a sandbox or container, with the pod as it was right then.

use std::sync::Arc;

use ferrokube_cri::v1::{ContainerEventResponse, ContainerEventType};
use tokio::sync::broadcast;

use super::Engine;
use super::model::{Sandbox, now};

/// A subscriber that falls this many events behind has to list again.
const CAPACITY: usize = 1024;

/// Subscribers.
#[derive(Debug)]
pub struct Events(broadcast::Sender<ContainerEventResponse>);

impl Events {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }
}

impl Engine {
    /// All events from now on. A receiver that lags must end its stream, so that its client lists again.
    pub fn subscribe(&self) -> broadcast::Receiver<ContainerEventResponse> {
        self.events.0.subscribe()
    }

    /// Tells subscribers of a change. `id` is the container's, or the sandbox's for an event of the sandbox itself.
    pub(super) fn announce(&self, sandbox: &Arc<Sandbox>, id: &str, kind: ContainerEventType) {
        if self.events.0.receiver_count() == 0 {
            return;
        }
        let statuses = self.containers_of(&sandbox.id).iter().map(|container| self.container_status(container)).collect();
        // Nobody listening any more is fine.
        let _ = self.events.0.send(ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: now(),
            pod_sandbox_status: Some(self.sandbox_status(sandbox)),
            containers_statuses: statuses,
        });
    }
}
