//! Follows the shims: one task per sandbox waits for what its shim pushes. Nothing is polled.

use std::sync::Arc;

use super::Engine;
use super::model::{Container, Sandbox, Status, load_json};
use crate::shim::client::{ShimConnection, ShimError, unexpected};
use crate::shim::protocol::{ContainerState, Event, Exit, Reply, Request};

/// Asks a shim for its events from now on. What it says first is how things stand.
pub(super) async fn subscribe(connection: &mut ShimConnection) -> Result<Vec<ContainerState>, ShimError> {
    match connection.call(&Request::Subscribe, &[]).await? {
        (Reply::State { containers }, _) => Ok(containers),
        (other, _) => Err(unexpected(&other)),
    }
}

impl Engine {
    /// Takes over what a shim says of its containers.
    pub(super) fn catch_up(self: &Arc<Self>, states: Vec<ContainerState>) {
        for state in states {
            self.container_started(&state.id, state.pid, state.started_at);
            if let Some(exit) = state.exit {
                self.container_ended(&state.id, exit);
            }
        }
    }

    /// Follows a sandbox's shim, by a connection that is subscribed, until the shim ends or this server does.
    pub(super) fn follow(self: &Arc<Self>, sandbox: Arc<Sandbox>, connection: ShimConnection) {
        let engine = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = engine.stop.cancelled() => {}
                error = engine.listen(connection) => {
                    tracing::debug!(sandbox = sandbox.id, "the shim's events have ended: {error}");
                    engine.shim_died(&sandbox).await;
                }
            }
        });
    }

    async fn listen(self: &Arc<Self>, mut connection: ShimConnection) -> std::io::Error {
        loop {
            match connection.receive().await {
                Ok(Event::Started { id, pid, started_at }) => self.container_started(&id, pid, started_at),
                Ok(Event::Exited { id, exit }) => self.container_ended(&id, exit),
                Err(error) => return error,
            }
        }
    }
}

/// What is known of a container whose shim is gone.
pub(super) fn status_without_shim(container: &Container, sandbox_ready: bool) -> Status {
    match load_json::<Exit>(&container.exit_path()) {
        Ok(exit) => Status::Exited(exit),
        Err(_) if sandbox_ready => Status::Created,
        // It was made in a sandbox that is no more; whether it ever ran nobody knows.
        Err(_) => Status::Exited(Exit {
            exit_code: 255,
            started_at: 0,
            finished_at: super::model::now(),
            reason: "Unknown".to_owned(),
            message: String::new(),
        }),
    }
}
