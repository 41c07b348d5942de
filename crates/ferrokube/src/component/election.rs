//! Election among the instances of a component, and the end of one.
//!
//! A process that has lost its lease must not go on: whatever it has under way would be done by two. It ends, and whoever
//! started it starts it again as a candidate.

use super::Component;
use crate::flags::duration;
use anyhow::{Result, bail, ensure};
use clap::Args;
use ferrokube_client::events::{EventType, Recorder};
use ferrokube_client::k8s_openapi::api::core::v1::ObjectReference;
use ferrokube_client::leader::Election;
use ferrokube_client::metrics::{Desc, Kind, Series};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// The flags of client-go's leader election.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Leader election")]
pub struct ElectionFlags {
    /// Wait to be elected before working
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// How long a lease lasts unrenewed: the time after which another takes over from one that was killed
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "15s")]
    leader_elect_lease_duration: Duration,
    /// How long the holder tries to renew before it stops working
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    leader_elect_renew_deadline: Duration,
    /// Time between tries
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2s")]
    leader_elect_retry_period: Duration,
    /// Kind of the lock
    #[arg(long, value_name = "KIND", default_value = "leases", value_parser = ["leases"])]
    leader_elect_resource_lock: String,
    /// Name of the lease [default: that of the component]
    #[arg(long, value_name = "NAME")]
    leader_elect_resource_name: Option<String>,
    /// Namespace of the lease
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    leader_elect_resource_namespace: String,
}

impl ElectionFlags {
    /// The election of a component; `None` when it is not to be elected.
    pub fn election(&self, component: &str) -> Result<Option<Election>> {
        if !self.leader_elect {
            return Ok(None);
        }
        let (lease, renew, retry) = (self.leader_elect_lease_duration, self.leader_elect_renew_deadline, self.leader_elect_retry_period);
        check_times(lease, renew, retry)?;
        let name = self.leader_elect_resource_name.as_deref().unwrap_or(component);
        Ok(Some(Election {
            lease_duration: lease,
            renew_deadline: renew,
            retry_period: retry,
            ..Election::new(&self.leader_elect_resource_namespace, name, &identity())
        }))
    }

    /// As `/configz` shows it.
    pub fn configuration(&self, component: &str) -> Value {
        let seconds = |d: Duration| format!("{}s", d.as_secs_f64());
        json!({
            "LeaderElect": self.leader_elect,
            "LeaseDuration": seconds(self.leader_elect_lease_duration),
            "RenewDeadline": seconds(self.leader_elect_renew_deadline),
            "RetryPeriod": seconds(self.leader_elect_retry_period),
            "ResourceLock": self.leader_elect_resource_lock,
            "ResourceName": self.leader_elect_resource_name.as_deref().unwrap_or(component),
            "ResourceNamespace": self.leader_elect_resource_namespace,
        })
    }
}

/// Refuses times with which two could lead at once, or nobody for long.
pub fn check_times(lease: Duration, renew: Duration, retry: Duration) -> Result<()> {
    ensure!(lease >= Duration::from_secs(1), "--leader-elect-lease-duration must be at least a second");
    ensure!(lease > renew, "--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline");
    ensure!(!retry.is_zero(), "--leader-elect-retry-period must be greater than zero");
    ensure!(renew > retry.mul_f64(1.2), "--leader-elect-renew-deadline must be greater than 1.2 times --leader-elect-retry-period");
    Ok(())
}

/// Who we are among candidates: the host, and something that no other process has.
pub fn identity() -> String {
    format!("{}_{}", super::hostname(), uuid::Uuid::new_v4())
}

static MASTER: Desc = Desc {
    name: "leader_election_master_status",
    help: "[ALPHA] Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease. Please make sure to group by name.",
    kind: Kind::Gauge,
    labels: &["name"],
};

/// Says that we lead for as long as it is held.
struct Leading {
    status: Series,
    recorder: Recorder,
    lease: ObjectReference,
    identity: String,
}

impl Leading {
    fn new(component: &Component, election: &Election, status: Series) -> Self {
        let lease = ObjectReference {
            api_version: Some("coordination.k8s.io/v1".into()),
            kind: Some("Lease".into()),
            namespace: Some(election.namespace.clone()),
            name: Some(election.name.clone()),
            ..ObjectReference::default()
        };
        let recorder = Recorder::new(component.client.clone(), component.name, "");
        status.set(1.0);
        recorder.event(lease.clone(), EventType::Normal, "LeaderElection", format!("{} became leader", election.identity));
        Leading { status, recorder, lease, identity: election.identity.clone() }
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.status.set(0.0);
        let message = format!("{} stopped leading", self.identity);
        self.recorder.event(self.lease.clone(), EventType::Normal, "LeaderElection", message);
    }
}

/// Does the component's work once it is elected (at once without an election), until a signal ends it. An error when the
/// lease is lost, or the work has ended by itself.
pub async fn lead<W: Future<Output = ()>>(component: &Component, election: Option<&Election>, work: impl FnOnce() -> W) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut stopped = false;
    let stop = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stopped = true;
    };
    let Some(election) = election else {
        tokio::select! {
            () = work() => bail!("{} has ended", component.name),
            () = stop => return Ok(()),
        }
    };
    let status = component.metrics.series(&MASTER, &[&election.name]);
    let work = || async {
        let _leading = Leading::new(component, election, status.clone());
        work().await;
    };
    election.lead_until(&component.client, work, stop).await;
    if stopped { Ok(()) } else { bail!("leaderelection lost") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: ElectionFlags,
    }

    fn election(line: &str) -> Result<Option<Election>> {
        Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace()))?.flags.election("kube-controller-manager")
    }

    #[test]
    fn flags_make_the_election_of_upstream_and_nonsense_is_refused() {
        let usual = election("").expect("defaults are fine").expect("elected");
        assert_eq!((usual.namespace.as_str(), usual.name.as_str()), ("kube-system", "kube-controller-manager"));
        assert_eq!([usual.lease_duration, usual.renew_deadline, usual.retry_period].map(|d| d.as_secs()), [15, 10, 2]);
        assert!(election("--leader-elect=false").expect("fine").is_none() && election("--leader-elect").expect("fine").is_some());
        for line in [
            "--leader-elect-lease-duration=10s",
            "--leader-elect-retry-period=9s",
            "--leader-elect-retry-period=0s",
            "--leader-elect-resource-lock=endpoints",
            "--leader-elect-lease-duration=soon",
        ] {
            assert!(election(line).is_err(), "{line}");
        }
    }
}
