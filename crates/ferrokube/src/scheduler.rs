//! `ferrokube scheduler`: the scheduler alone, beside any API server, elected among its like.

use crate::component::{Component, ConnectionFlags, ServingFlags, check_times, identity, lead};
use crate::flags::duration;
use anyhow::{Context, Result};
use ferrokube_scheduler::config::{Configuration, LeaderElection};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAME: &str = "kube-scheduler";

/// What it is told.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// A KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    connection: ConnectionFlags,
    #[command(flatten)]
    election: Election,
    /// How long a pod waits for something to change before it is tried all the same
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    pod_max_in_unschedulable_pods_duration: Duration,
    #[command(flatten)]
    serving: ServingFlags<10259>,
}

/// Flags that say something else than the configuration about the election.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Leader election, instead of what the configuration says")]
struct Election {
    /// Wait to be elected
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    leader_elect: Option<bool>,
    /// How long a lease lasts unrenewed
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    leader_elect_lease_duration: Option<Duration>,
    /// How long the holder tries to renew before it stops working
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    leader_elect_renew_deadline: Option<Duration>,
    /// Time between tries
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    leader_elect_retry_period: Option<Duration>,
    /// Kind of the lock
    #[arg(long, value_name = "KIND", default_value = "leases", value_parser = ["leases"])]
    leader_elect_resource_lock: String,
    /// Name of the lease
    #[arg(long, value_name = "NAME")]
    leader_elect_resource_name: Option<String>,
    /// Namespace of the lease
    #[arg(long, value_name = "NAMESPACE")]
    leader_elect_resource_namespace: Option<String>,
}

impl Election {
    fn over(&self, rules: &mut LeaderElection) -> Result<()> {
        fn put<T: Clone>(given: Option<&T>, place: &mut T) {
            given.into_iter().for_each(|given| place.clone_from(given));
        }
        put(self.leader_elect.as_ref(), &mut rules.elect);
        put(self.leader_elect_lease_duration.as_ref(), &mut rules.lease_duration);
        put(self.leader_elect_renew_deadline.as_ref(), &mut rules.renew_deadline);
        put(self.leader_elect_retry_period.as_ref(), &mut rules.retry_period);
        put(self.leader_elect_resource_name.as_ref(), &mut rules.name);
        put(self.leader_elect_resource_namespace.as_ref(), &mut rules.namespace);
        check_times(rules.lease_duration, rules.renew_deadline, rules.retry_period)
    }
}

/// What a configuration file says, or the defaults.
pub fn configuration(path: Option<&Path>) -> Result<Configuration> {
    path.map_or_else(|| Ok(Configuration::default()), |path| Ok(read(path)?.0))
}

/// A configuration file, and the kubeconfig that it names: where the API server is is not for the scheduler to know.
fn read(path: &Path) -> Result<(Configuration, Option<PathBuf>)> {
    let what = || format!("the scheduler's configuration {}", path.display());
    let text = std::fs::read_to_string(path).with_context(what)?;
    let file: Value = serde_saphyr::from_str(&text).with_context(what)?;
    let kubeconfig = file["clientConnection"]["kubeconfig"].as_str().filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok((Configuration::read(file).with_context(what)?, kubeconfig))
}

/// Runs until told to stop, or until another is elected.
pub async fn run(options: Options) -> Result<()> {
    let (mut configuration, kubeconfig) = options.config.as_deref().map(read).transpose()?.unwrap_or_default();
    // As upstream, the file counts more than the flag.
    let connection = options.connection.with_kubeconfig(kubeconfig);
    configuration.longest_wait = options.pod_max_in_unschedulable_pods_duration;
    options.election.over(&mut configuration.leader_election)?;
    let rules = &configuration.leader_election;
    let election = rules.elect.then(|| ferrokube_client::leader::Election {
        namespace: rules.namespace.clone(),
        name: rules.name.clone(),
        identity: identity(),
        lease_duration: rules.lease_duration,
        renew_deadline: rules.renew_deadline,
        retry_period: rules.retry_period,
    });
    let component = Component { pod_resources: true, ..connection.component(NAME, shown(&configuration))? };
    options.serving.serve(&component, crate::cli::flags()).await?;
    let metrics = ferrokube_scheduler::metrics::Metrics::new(component.metrics.clone());
    // The election is ours, not the engine's: it has no identity to be elected by.
    let config = ferrokube_scheduler::Config { configuration, seed: None, metrics, identity: None };
    lead(&component, election.as_ref(), || ferrokube_scheduler::run(component.client.clone(), config)).await
}

/// `/configz`: what of the configuration has a meaning here.
fn shown(configuration: &Configuration) -> Value {
    let rules = &configuration.leader_election;
    let seconds = |d: Duration| format!("{}s", d.as_secs_f64());
    let profiles: Vec<_> = configuration.profiles.iter().map(|p| json!({"schedulerName": p.name})).collect();
    json!({"kubescheduler.config.k8s.io": {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {
            "leaderElect": rules.elect, "leaseDuration": seconds(rules.lease_duration),
            "renewDeadline": seconds(rules.renew_deadline), "retryPeriod": seconds(rules.retry_period),
            "resourceLock": "leases", "resourceName": rules.name, "resourceNamespace": rules.namespace,
        },
        "profiles": profiles,
    }})
}
