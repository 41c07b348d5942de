//! `ferrokube scheduler`: the scheduler alone, beside any API server, elected among its like.

use crate::component::{Component, ConnectionFlags, ServingFlags, identity, lead};
use anyhow::{Context, Result};
use ferrokube_client::leader::Election;
use ferrokube_client::metrics::Metrics;
use ferrokube_scheduler::config::Configuration;
use serde_json::json;
use std::path::{Path, PathBuf};

const NAME: &str = "kube-scheduler";

/// What it is told.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// A KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    connection: ConnectionFlags,
    /// Wait to be elected, instead of what the configuration says
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    leader_elect: Option<bool>,
    #[command(flatten)]
    serving: ServingFlags<10259>,
}

/// What a configuration file says, or the defaults.
pub fn configuration(path: Option<&Path>) -> Result<Configuration> {
    let Some(path) = path else { return Ok(Configuration::default()) };
    let what = || format!("the scheduler's configuration {}", path.display());
    let text = std::fs::read_to_string(path).with_context(what)?;
    let file = serde_saphyr::from_str(&text).with_context(what)?;
    Configuration::read(file).with_context(what)
}

/// Runs until told to stop, or until another is elected.
pub async fn run(options: Options) -> Result<()> {
    let configuration = configuration(options.config.as_deref())?;
    let rules = &configuration.leader_election;
    let election = options.leader_elect.unwrap_or(rules.elect).then(|| Election {
        namespace: rules.namespace.clone(),
        name: rules.name.clone(),
        identity: identity(),
        lease_duration: rules.lease_duration,
        renew_deadline: rules.renew_deadline,
        retry_period: rules.retry_period,
    });
    let component = Component {
        name: NAME,
        client: options.connection.client(NAME)?,
        metrics: Metrics::default(),
        configuration: shown(&configuration, options.leader_elect),
    };
    options.serving.serve(&component, crate::cli::flags()).await?;
    let metrics = ferrokube_scheduler::metrics::Metrics::new(component.metrics.clone());
    // The election is ours, not the engine's: it has no identity to be elected by.
    let config = ferrokube_scheduler::Config { configuration, seed: None, metrics, identity: None };
    lead(&component, election.as_ref(), || ferrokube_scheduler::run(component.client.clone(), config)).await
}

/// `/configz`: what of the configuration has a meaning here.
fn shown(configuration: &Configuration, elect: Option<bool>) -> serde_json::Value {
    let rules = &configuration.leader_election;
    let seconds = |d: std::time::Duration| format!("{}s", d.as_secs_f64());
    let profiles: Vec<_> = configuration.profiles.iter().map(|p| json!({"schedulerName": p.name})).collect();
    json!({"kubescheduler.config.k8s.io": {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {
            "leaderElect": elect.unwrap_or(rules.elect), "leaseDuration": seconds(rules.lease_duration),
            "renewDeadline": seconds(rules.renew_deadline), "retryPeriod": seconds(rules.retry_period),
            "resourceLock": "leases", "resourceName": rules.name, "resourceNamespace": rules.namespace,
        },
        "profiles": profiles,
    }})
}
