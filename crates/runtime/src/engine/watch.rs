//! Follows the shims: one task per sandbox waits for what its shim pushes. Nothing is polled.

use std::sync::Arc;

use super::Engine;
use super::model::{Container, Sandbox, Status, load_json};
use crate::shim::client::{ShimConnection, ShimError, unexpected};
use crate::shim::protocol::{Event, Exit, Reply, Request};

impl Engine {
    /// Follows a sandbox's shim until it ends, or this server does.
    pub(super) fn follow(self: &Arc<Self>, sandbox: Arc<Sandbox>, connection: ShimConnection) {
        let engine = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = engine.stop.cancelled() => {}
                result = engine.listen(&sandbox, connection) => {
                    if let Err(error) = result {
                        tracing::debug!(sandbox = sandbox.id, "the shim's events have ended: {error}");
                    }
                    engine.shim_died(&sandbox).await;
                }
            }
        });
    }

    async fn listen(self: &Arc<Self>, sandbox: &Arc<Sandbox>, mut connection: ShimConnection) -> Result<(), ShimError> {
        match connection.call(&Request::Subscribe, &[]).await? {
            (Reply::State { containers }, _) => {
                for state in containers {
                    self.container_started(&state.id, state.pid, state.started_at);
                    if let Some(exit) = state.exit {
                        self.container_ended(&state.id, exit);
                    }
                }
            }
            (other, _) => return Err(unexpected(&other)),
        }
        loop {
            match connection.receive().await? {
                Event::Started { id, pid, started_at } => self.container_started(&id, pid, started_at),
                Event::Exited { id, exit } => self.container_ended(&id, exit),
            }
            debug_assert!(!sandbox.id.is_empty());
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
