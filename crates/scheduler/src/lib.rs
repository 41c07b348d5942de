//! Pod placement: pure over a snapshot, with a thin loop around it.
//!
//! It knows the API through its client and nothing else. [`plan::Planner`] decides over a [`state::State`] that one task
//! owns; [`engine::Engine`] is that task; [`queue::Queue`] says who is next; [`preempt`] says who must go. Nothing here
//! waits for a write before it decides again.

pub mod class;
pub mod config;
pub mod devices;
pub mod diagnosis;
pub mod disks;
pub mod engine;
pub mod evaluations;
pub mod extender;
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
use ferrokube_client::leader::Election;
use futures_util::future::BoxFuture;
use metrics::Metrics;

/// Settings of the scheduler.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Profiles, back-off and the rest of a KubeSchedulerConfiguration.
    pub configuration: Configuration,
    /// Makes ties fall the same way every time.
    pub seed: Option<u64>,
    /// What is counted.
    pub metrics: Metrics,
    /// The name of this scheduler in elections; `None`: it is the only one.
    pub identity: Option<String>,
}

/// Schedules pods until dropped, or until `stop`. Where there is an election it waits for its turn first, gives the lease
/// back when it stops, and returns when it loses the lease.
pub async fn run_until(client: Client, config: Config, stop: impl Future<Output = ()>) {
    let rules = &config.configuration.leader_election;
    let Some(identity) = config.identity.clone().filter(|_| rules.elect) else {
        tokio::select! {
            () = engine::Engine::new(client, config).run() => return,
            () = stop => return,
        }
    };
    let election = Election {
        namespace: rules.namespace.clone(),
        name: rules.name.clone(),
        identity,
        lease_duration: rules.lease_duration,
        renew_deadline: rules.renew_deadline,
        retry_period: rules.retry_period,
    };
    let work = || engine::Engine::new(client.clone(), config.clone()).run();
    election.lead_until(&client, work, stop).await;
}

/// As [`run_until`], until dropped or the subscriptions end; a lease that is lost is fought for again.
pub fn run(client: Client, config: Config) -> BoxFuture<'static, ()> {
    // Boxed here: an `async fn` would be compiled again in every program that awaits it.
    Box::pin(run_again(client, config))
}

async fn run_again(client: Client, config: Config) {
    let elected = config.identity.is_some() && config.configuration.leader_election.elect;
    loop {
        run_until(client.clone(), config.clone(), std::future::pending()).await;
        if !elected {
            return;
        }
        // An API server that is going ends subscriptions at once, again and again; others must get their turn.
        tokio::time::sleep(config.configuration.leader_election.retry_period).await;
    }
}
