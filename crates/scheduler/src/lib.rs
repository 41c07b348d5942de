//! Pod placement: pure over a snapshot, with a thin loop around it.
//!
//! It knows the API through its client and nothing else. [`plan::Planner`] decides over a [`state::State`] that one task
//! owns; [`engine::Engine`] is that task; [`queue::Queue`] says who is next; [`preempt`] says who must go. Nothing here
//! waits for a write before it decides again.

pub mod class;
pub mod config;
pub mod diagnosis;
pub mod engine;
pub mod feeds;
pub mod hints;
pub mod journal;
pub mod metrics;
pub mod node;
pub mod owners;
pub mod plan;
pub mod plugins;
pub mod pod;
pub mod preempt;
pub mod profile;
pub mod queue;
pub mod ranking;
pub mod resources;
pub mod state;
pub mod storage;
pub mod topology;
pub mod writes;

use config::Configuration;
use ferrokube_client::Client;
use metrics::Metrics;
use std::sync::Arc;

/// Settings of the scheduler.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Profiles, back-off and the rest of a KubeSchedulerConfiguration.
    pub configuration: Configuration,
    /// Makes ties fall the same way every time.
    pub seed: Option<u64>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Schedules pods until dropped.
pub async fn run(client: Client, config: Config) {
    engine::Engine::new(client, config).run().await;
}
