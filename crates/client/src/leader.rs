//! Leader election by a Lease (client-go's `leaderelection` with a `LeaseLock`).
//!
//! The holder renews; the others watch for the lease to run out by their own clock, from the moment they saw it change.
//! A holder that cannot renew within the deadline stops leading before anyone else may start.

use crate::{Client, Error, Optional, Result};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use std::time::Duration;
use tokio::time::Instant;

/// Which lease, who we are, and the three times of client-go.
#[derive(Clone, Debug)]
pub struct Election {
    /// Namespace of the lease.
    pub namespace: String,
    /// Name of the lease.
    pub name: String,
    /// Our identity, unique among candidates.
    pub identity: String,
    /// How long a lease lasts unrenewed (15 s).
    pub lease_duration: Duration,
    /// How long the holder tries to renew before it gives up leading (10 s).
    pub renew_deadline: Duration,
    /// Time between tries (2 s).
    pub retry_period: Duration,
}

struct Observed {
    resource_version: String,
    at: Instant,
}

impl Election {
    /// With the defaults of 1.36.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Election {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    /// Waits to lead, then runs `work` for as long as the lease is held. Returns when the lease is lost (work is dropped)
    /// or when the work ends (the lease is then released).
    pub async fn lead<W: Future<Output = ()>>(&self, client: &Client, work: impl FnOnce() -> W) {
        self.lead_until(client, work, std::future::pending()).await;
    }

    /// As [`Election::lead`], but also returns when `stop` resolves; a lease held then is given back, so that the next
    /// candidate takes it at its next try instead of waiting for it to run out.
    pub async fn lead_until<W: Future<Output = ()>>(&self, client: &Client, work: impl FnOnce() -> W, stop: impl Future<Output = ()>) {
        let mut observed = None;
        let mut stop = std::pin::pin!(stop);
        tokio::select! {
            () = self.acquire(client, &mut observed) => {}
            () = &mut stop => return,
        }
        tracing::info!(lease = self.name, identity = self.identity, "became leader");
        // The futures are dropped before the handler runs: the work has ended when the lease is released.
        tokio::select! {
            () = work() => self.release(client).await,
            () = &mut stop => self.release(client).await,
            () = self.hold(client, &mut observed) => tracing::warn!(lease = self.name, "leader election lost"),
        }
    }

    async fn acquire(&self, client: &Client, observed: &mut Option<Observed>) {
        while !self.try_hold(client, observed).await.unwrap_or(false) {
            tokio::time::sleep(self.retry_period).await;
        }
    }

    /// Renews until it has not succeeded for the deadline, or somebody else holds the lease.
    async fn hold(&self, client: &Client, observed: &mut Option<Observed>) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.retry_period).await;
            let attempt = tokio::time::timeout_at(renewed + self.renew_deadline, self.try_hold(client, observed)).await;
            match attempt {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(e)) if renewed.elapsed() < self.renew_deadline => tracing::warn!(lease = self.name, "lease not renewed: {e}"),
                _ => return,
            }
        }
    }

    async fn try_hold(&self, client: &Client, observed: &mut Option<Observed>) -> Result<bool> {
        let Some(mut lease) = client.get::<Lease>(&self.namespace, &self.name).await.optional()? else {
            return taken(client.create(&self.lease(LeaseSpec::default())).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if holder != self.identity && !holder.is_empty() && !self.expired(&lease, observed) {
            return Ok(false);
        }
        lease.spec = self.lease(spec).spec;
        taken(client.update(&lease).await)
    }

    /// Judged by our own clock only: other machines' clocks may be wrong.
    fn expired(&self, lease: &Lease, observed: &mut Option<Observed>) -> bool {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        match observed {
            Some(seen) if seen.resource_version == version => seen.at.elapsed() >= self.lease_duration,
            _ => {
                *observed = Some(Observed { resource_version: version, at: Instant::now() });
                false
            }
        }
    }

    fn lease(&self, old: LeaseSpec) -> Lease {
        let now = MicroTime(Timestamp::now());
        let same = old.holder_identity.as_deref() == Some(&self.identity);
        let transitions = old.lease_transitions.unwrap_or(0);
        Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), namespace: Some(self.namespace.clone()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                acquire_time: if same { old.acquire_time } else { Some(now.clone()) },
                lease_transitions: Some(if same || old.holder_identity.is_none() { transitions } else { transitions + 1 }),
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(i32::try_from(self.lease_duration.as_secs()).unwrap_or(i32::MAX)),
                renew_time: Some(now),
                ..old
            }),
        }
    }

    /// Lets others take over at once.
    async fn release(&self, client: &Client) {
        let Ok(mut lease) = client.get::<Lease>(&self.namespace, &self.name).await else { return };
        let Some(spec) = lease.spec.as_mut().filter(|s| s.holder_identity.as_deref() == Some(&self.identity)) else { return };
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        if let Err(e) = client.update(&lease).await {
            tracing::debug!(lease = self.name, "lease not released: {e}");
        }
    }
}

/// Losing the write to another candidate is an answer, not an error.
fn taken(written: Result<Lease>) -> Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(e @ Error::Api(_)) if e.is_conflict() || e.is_already_exists() => Ok(false),
        Err(e) => Err(e),
    }
}
