//! Pod placement: pure over a snapshot, with a thin loop around it.
//!
//! It knows the API through its client and nothing else. [`plan::Planner`] decides over a [`state::State`] that one task
//! owns; [`engine::Engine`] is that task; [`queue::Queue`] says who is next; [`preempt`] says who must go. Nothing here
//! waits for a write before it decides again.

pub mod class;
pub mod diagnosis;
pub mod engine;
pub mod feeds;
pub mod node;
pub mod owners;
pub mod plan;
pub mod plugins;
pub mod pod;
pub mod preempt;
pub mod queue;
pub mod resources;
pub mod state;
pub mod storage;
pub mod topology;
pub mod writes;

use ferrokube_client::Client;

/// Settings of the scheduler.
#[derive(Clone, Debug)]
pub struct Config {
    /// `spec.schedulerName` of the pods that are ours.
    pub scheduler_name: String,
    /// Makes ties fall the same way every time.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Config { scheduler_name: "default-scheduler".to_owned(), seed: None }
    }
}

/// Schedules pods until dropped.
pub async fn run(client: Client, config: Config) {
    engine::Engine::new(client, config).run().await;
}
