//! Every few minutes, and at start: every Service has the claims on its addresses, and no claim outlives its Service. What
//! cannot be put right is told in an event of the Service.
//!
//! Source: `pkg/registry/core/service/ipallocator/controller`.

use super::addresses::{self, Owner};
use super::addresses_of;
use crate::ApiServer;
use crate::local::OwnClient;
use crate::objects::{Loopback, Objects, Target};
use ferrokube_api::Reason;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// As in the Go server: `--service-cluster-ip-range` repair.
const EVERY: Duration = Duration::from_secs(180);
/// A claim this young may belong to a Service that is just being written.
const YOUNG: Duration = Duration::from_secs(60);

/// What is to be done to a claim.
#[derive(Debug, PartialEq)]
enum Step {
    /// A Service lacks the claim on its address.
    Claim(IpAddr, String, String),
    /// The claim belongs to no Service.
    Free(IpAddr),
    /// Two Services have the address.
    Twice(IpAddr, String, String),
}

/// Whose an address is by its claim.
fn claimed_for(claim: &Value) -> (String, String) {
    let parent = &claim["spec"]["parentRef"];
    let text = |key: &str| parent[key].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

/// Compares Services and claims.
fn plan(services: &[Value], claims: &[Value], now: jiff::Timestamp) -> Vec<Step> {
    let text = |v: &Value, key: &str| v["metadata"][key].as_str().unwrap_or_default().to_owned();
    let by_address: HashMap<String, &Value> = claims.iter().map(|c| (text(c, "name"), c)).collect();
    let mut steps = Vec::new();
    let mut users: HashMap<IpAddr, (String, String)> = HashMap::new();
    for service in services {
        let owner = (text(service, "namespace"), text(service, "name"));
        for ip in addresses_of(service) {
            if users.contains_key(&ip) {
                steps.push(Step::Twice(ip, owner.0.clone(), owner.1.clone()));
                continue;
            }
            users.insert(ip, owner.clone());
            if !by_address.contains_key(&ip.to_string()) {
                steps.push(Step::Claim(ip, owner.0.clone(), owner.1.clone()));
            }
        }
    }
    for claim in claims.iter().filter(|c| c["spec"]["parentRef"]["resource"] == "services") {
        let Ok(ip) = text(claim, "name").parse::<IpAddr>() else { continue };
        let born = text(claim, "creationTimestamp").parse::<jiff::Timestamp>().unwrap_or(now);
        let is_young = now.duration_since(born).unsigned_abs() < YOUNG;
        if !is_young && users.get(&ip) != Some(&claimed_for(claim)) {
            steps.push(Step::Free(ip));
        }
    }
    steps
}

/// Runs until the server stops.
pub async fn run(server: Arc<ApiServer>) {
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = server.stopping.cancelled() => return,
        }
        once(&server).await;
    }
}

async fn once(server: &Arc<ApiServer>) {
    // A feed that lost its place shows Services of long ago, and takes over one kind after the other: a claim could be seen
    // without its Service. As of now, what one cache shows and the other does not is young.
    if let Err(error) = server.caches.consistent().await {
        return tracing::debug!(%error, "service addresses are not compared: the store cannot be asked");
    }
    let objects: &dyn Objects = &*server.caches;
    let decoded =
        |group: &str, resource: &str| -> Vec<Value> { objects.list(group, resource, "").iter().filter_map(|o| o.decode().ok()).collect() };
    let services = decoded("", "services");
    let own = OwnClient(server.clone());
    for step in plan(&services, &decoded(addresses::GROUP, "ipaddresses"), jiff::Timestamp::now()) {
        let done = match &step {
            Step::Claim(ip, namespace, name) => {
                let claim = addresses::claim(*ip, Owner { namespace, name });
                own.create(addresses::target(*ip), claim).await.map(|_| ())
            }
            Step::Free(ip) => own.delete(addresses::target(*ip)).await,
            Step::Twice(ip, namespace, name) => {
                let note = format!("Cluster IP [{}]:{ip} was assigned to multiple services; please recreate", super::cidr::family(*ip));
                own.create(event_target(namespace), event(namespace, name, "ClusterIPAlreadyAllocated", &note)).await.map(|_| ())
            }
        };
        match done {
            Err(status) if !status.is(Reason::AlreadyExists) && status.code != 404 => {
                tracing::warn!(?step, %status, "a service address could not be repaired");
            }
            _ => tracing::debug!(?step, "a service address was repaired"),
        }
    }
}

fn event_target(namespace: &str) -> Target {
    Target { version: "v1".into(), resource: "events".into(), namespace: namespace.into(), ..Target::default() }
}

fn event(namespace: &str, name: &str, reason: &str, note: &str) -> Value {
    let now = ferrokube_api::time::format_time(jiff::Timestamp::now());
    json!({
        "kind": "Event", "apiVersion": "v1", "metadata": {"generateName": format!("{name}."), "namespace": namespace},
        "involvedObject": {"kind": "Service", "apiVersion": "v1", "namespace": namespace, "name": name},
        "type": "Warning", "reason": reason, "message": note, "count": 1, "firstTimestamp": now, "lastTimestamp": now,
        "source": {"component": "ipallocator-repair-controller"}, "reportingComponent": "ipallocator-repair-controller",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_and_services_are_brought_together() {
        let now: jiff::Timestamp = "2026-06-01T12:00:00Z".parse().expect("a time");
        let service =
            |name: &str, ip: &str| json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"clusterIP": ip, "clusterIPs": [ip]}});
        let claim = |ip: &str, service: &str, born: &str| {
            json!({"metadata": {"name": ip, "creationTimestamp": born},
                "spec": {"parentRef": {"resource": "services", "namespace": "ns", "name": service}}})
        };
        let (old, young) = ("2026-06-01T11:00:00Z", "2026-06-01T11:59:50Z");
        let services = [service("a", "10.0.0.1"), service("b", "10.0.0.2"), service("c", "10.0.0.2"), service("h", "None")];
        let claims = [claim("10.0.0.1", "a", old), claim("10.0.0.8", "gone", old), claim("10.0.0.9", "coming", young)];
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(
            plan(&services, &claims, now),
            [
                Step::Claim(ip("10.0.0.2"), "ns".into(), "b".into()),
                Step::Twice(ip("10.0.0.2"), "ns".into(), "c".into()),
                Step::Free(ip("10.0.0.8")),
            ]
        );
    }
}
