//! Who this API server is to the others of its cluster: the Lease `apiserver-<hash of the host's name>` in `kube-system` says that it
//! lives and where the others would reach it (APIServerIdentity). A server that starts again on its host goes on with its Lease; those
//! of servers that are gone are removed an hour after their last word, by any server.
//!
//! Nothing may wait for this: neither the start nor a request.
//!
//! Sources: `pkg/controlplane/apiserver/server.go`, `pkg/controlplane/controller/apiserverleasegc`, and the lease controller of
//! `component-helpers`.

use crate::objects::{Loopback, Objects, Target};
use ferrokube_api::time::{format_micro_time, parse_time};
use ferrokube_api::{Object, Reason, Status};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const GROUP: &str = "coordination.k8s.io";
const RESOURCE: &str = "leases";
const NAMESPACE: &str = "kube-system";
/// Label of such a Lease, and its value.
const IDENTITY: &str = "apiserver.kubernetes.io/identity";
const COMPONENT: &str = "kube-apiserver";
const HOSTNAME: &str = "kubernetes.io/hostname";
const ADDRESS: &str = "kubernetes.io/peer-advertise-address";
/// How long a server counts as alive after its last word, in seconds.
const DURATION: i64 = 3600;
const RENEWAL: Duration = Duration::from_secs(10);
/// The part of [`RENEWAL`] by which servers that started together drift apart.
const JITTER: f64 = 0.04;
const COLLECTION: Duration = Duration::from_secs(3600);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(7);
/// How often a write is tried at once when somebody else wrote first.
const ATTEMPTS: usize = 5;

/// What tells this server from the others.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Name of the Lease.
    pub id: String,
    hostname: String,
    address: SocketAddr,
}

impl Identity {
    /// Of the server on this host. Two servers on one host are one to the others, as upstream.
    pub fn new(hostname: &str, address: SocketAddr) -> Self {
        let mut hash = Sha256::new();
        for part in [hostname, COMPONENT] {
            hash.update(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            hash.update(part);
        }
        let id = format!("apiserver-{}", base32(&hash.finalize()[..16]));
        Identity { id, hostname: hostname.to_owned(), address }
    }

    fn target(&self) -> Target {
        target(&self.id)
    }

    /// The Lease as it is to be, made from the one that is there.
    fn renewed(&self, stored: Option<Value>, now: Timestamp) -> Value {
        let mut lease = stored.unwrap_or_else(|| {
            let holder = format!("{}_{}", self.id, uuid::Uuid::new_v4());
            json!({ "metadata": { "name": self.id, "namespace": NAMESPACE }, "spec": { "holderIdentity": holder } })
        });
        lease["metadata"]["labels"][IDENTITY] = json!(COMPONENT);
        lease["metadata"]["labels"][HOSTNAME] = json!(self.hostname);
        lease["metadata"]["annotations"][ADDRESS] = json!(self.address.to_string());
        lease["spec"]["leaseDurationSeconds"] = json!(DURATION);
        lease["spec"]["renewTime"] = json!(format_micro_time(now));
        lease
    }
}

/// In lower case and without padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let groups = bytes.chunks(5).map(|five| {
        let bits = five.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte)) << (8 * (5 - five.len()));
        let letters = (five.len() * 8).div_ceil(5);
        (0..letters).map(move |n| ALPHABET[(bits >> (35 - 5 * n) & 31) as usize] as char).collect::<String>()
    });
    groups.collect()
}

fn target(name: &str) -> Target {
    Target {
        group: GROUP.to_owned(),
        version: "v1".to_owned(),
        resource: RESOURCE.to_owned(),
        namespace: NAMESPACE.to_owned(),
        name: name.to_owned(),
        ..Target::default()
    }
}

/// Says for ever that this server lives, and removes what others have left behind. `held` is told when it has its Lease.
pub(crate) async fn keep(objects: Arc<dyn Objects>, own: Arc<dyn Loopback>, identity: Identity, held: watch::Sender<bool>) {
    let holding = hold(&*objects, &*own, &identity, &held);
    let collecting = async {
        let mut tick = tokio::time::interval(COLLECTION);
        loop {
            tick.tick().await;
            collect(&*objects, &*own, &identity.id, Timestamp::now).await;
        }
    };
    // Apart from each other: who is not allowed to write its own Lease may still remove others.
    tokio::join!(holding, collecting);
}

/// Never returns.
async fn hold(objects: &dyn Objects, own: &dyn Loopback, identity: &Identity, held: &watch::Sender<bool>) {
    let (mut written, mut retry) = (None, FIRST_RETRY);
    loop {
        match renew(objects, own, identity, written.take()).await {
            Ok(lease) => {
                (written, retry) = (Some(lease), FIRST_RETRY);
                held.send_replace(true);
                tokio::time::sleep(RENEWAL.mul_f64(1.0 + JITTER * rand::random::<f64>())).await;
            }
            Err(error) => {
                tracing::warn!(lease = identity.id, %error, "the Lease of this server is not renewed; the next attempt is in {retry:?}");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(LAST_RETRY);
            }
        }
    }
}

/// Writes the Lease. `written` is what was written last; nobody else writes there as a rule, so nothing needs to be read.
async fn renew(objects: &dyn Objects, own: &dyn Loopback, identity: &Identity, mut written: Option<Value>) -> Result<Value, Status> {
    let mut attempts = 1;
    loop {
        let stored = match written.take() {
            Some(lease) => Some(lease),
            None => {
                objects.catch_up(GROUP, RESOURCE).await;
                objects.get(GROUP, RESOURCE, NAMESPACE, &identity.id).map(|lease| lease.decode()).transpose().map_err(Status::internal)?
            }
        };
        let exists = stored.is_some();
        let lease = identity.renewed(stored, Timestamp::now());
        let wrote = if exists { own.update(identity.target(), lease).await } else { own.create(identity.target(), lease).await };
        match wrote {
            Err(status) if overtaken(&status) && attempts < ATTEMPTS => attempts += 1,
            done => return done,
        }
    }
}

/// Somebody else wrote or removed it meanwhile: what is there now must be read.
pub(crate) fn overtaken(status: &Status) -> bool {
    [Reason::Conflict, Reason::AlreadyExists, Reason::NotFound].into_iter().any(|reason| status.is(reason))
}

/// Removes Leases of servers that have not spoken for as long as they said. `own_id` is never among them: it is about to be renewed.
async fn collect(objects: &dyn Objects, own: &dyn Loopback, own_id: &str, now: impl Fn() -> Timestamp) {
    let dead = |lease: &Object| lease.label(IDENTITY) == Some(COMPONENT) && *lease.key.name != *own_id && expired(lease, now());
    let suspects = objects.list(GROUP, RESOURCE, NAMESPACE).into_iter().filter(|lease| dead(lease)).collect::<Vec<_>>();
    if suspects.is_empty() {
        return;
    }
    objects.catch_up(GROUP, RESOURCE).await;
    for name in suspects.iter().map(|lease| &*lease.key.name) {
        if !objects.get(GROUP, RESOURCE, NAMESPACE, name).is_some_and(|lease| dead(&lease)) {
            continue;
        }
        match own.delete(target(name)).await {
            Ok(()) => tracing::info!(lease = name, "the Lease of an API server that is gone is removed"),
            // Another server was faster.
            Err(status) if status.is(Reason::NotFound) => {}
            Err(error) => tracing::warn!(lease = name, %error, "the Lease of an API server that is gone is not removed"),
        }
    }
}

/// One that does not say when it ends is no Lease of a server, and ends at once.
fn expired(lease: &Object, now: Timestamp) -> bool {
    let Ok(lease) = lease.decode::<Value>() else { return true };
    let renewed = lease["spec"]["renewTime"].as_str().and_then(parse_time);
    let until = renewed.zip(lease["spec"]["leaseDurationSeconds"].as_i64());
    until.is_none_or(|(renewed, seconds)| renewed.saturating_add(SignedDuration::from_secs(seconds)).is_ok_and(|end| end < now))
}

#[cfg(test)]
mod tests;
