//! Pod placement: pure over a snapshot, with a thin loop around it.
//!
//! It knows the API through its client and nothing else.

use ferrokube_client::Client;

/// Settings of the scheduler.
#[derive(Clone, Debug)]
pub struct Config {
    /// `spec.schedulerName` of the pods that are ours.
    pub scheduler_name: String,
}

impl Default for Config {
    fn default() -> Self {
        Config { scheduler_name: "default-scheduler".to_owned() }
    }
}

/// Schedules pods until dropped.
pub async fn run(client: Client, config: Config) {
    tracing::error!(?client, scheduler = config.scheduler_name, "placement is not there yet: pods stay Pending");
    std::future::pending().await
}
