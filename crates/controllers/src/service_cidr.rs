//! ServiceCIDRs: says whether a range of service addresses is in use, and keeps it while it is.
//!
//! Reads ServiceCIDRs and IPAddresses; owns the finalizer `networking.k8s.io/service-cidr-finalizer` and condition `Ready`.
//! Source: `pkg/controller/servicecidrs`.

use crate::Context;
use crate::node_ipam::Cidr;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Named, ObjectKey, Optional};
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use std::time::Duration;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Allocators of other API servers may hand out an address of a range before they see that it goes (`deletionGracePeriod`).
const GRACE: i64 = 10;
/// Retries of one key.
const TRIES: u32 = 15;

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue("servicecidrs").giving_up_after(TRIES);
    let (ranges, addresses): (Cache<ServiceCIDR>, Cache<IPAddress>) = (context.caches.of(), context.caches.of());
    let (add, known) = (queue.clone(), ranges.clone());
    ranges.on_change(move |d| {
        // Another range may take over the addresses of one that goes.
        known.objects().iter().for_each(|o| add.add(o.key.clone()));
        add.add(d.key().clone());
    });
    let (add, known) = (queue.clone(), ranges.clone());
    addresses.on_change(move |d| {
        if d.new.is_none() {
            known.objects().iter().for_each(|o| add.add(o.key.clone()));
        }
    });
    tokio::join!(ranges.synced(), addresses.synced());
    let reconcile = |key: ObjectKey| {
        let (context, ranges, addresses) = (&context, &ranges, &addresses);
        async move {
            let Some(range) = ranges.read("", &key.name)? else { return Ok(Next::Wait) };
            let used: Vec<Cidr> = addresses.objects().iter().filter_map(|o| Some(Cidr::of(o.key.name.parse().ok()?))).collect();
            apply(context, plan(&range, &ranges.list(), &used, Timestamp::now())).await
        }
    };
    controller::run::<_, Error, _, _>("service-cidr", queue, 5, reconcile).await;
}

/// What to do about a range.
#[derive(Debug, PartialEq)]
enum Action {
    Nothing,
    /// It may go, but not yet.
    Later(Duration),
    Update(Box<ServiceCIDR>),
    Status(Box<ServiceCIDR>),
}

async fn apply(context: &Context, action: Action) -> Result<Next, Error> {
    match action {
        Action::Nothing => {}
        Action::Later(delay) => return Ok(Next::After(delay)),
        Action::Update(range) => drop(context.client.update(&*range).await.optional()?),
        Action::Status(range) => drop(context.client.update_status(&*range).await.optional()?),
    }
    Ok(Next::Wait)
}

fn cidrs(range: &ServiceCIDR) -> Vec<Cidr> {
    range.spec.iter().flat_map(|s| s.cidrs.iter().flatten()).filter_map(|c| Cidr::parse(c)).collect()
}

fn plan(range: &ServiceCIDR, all: &[ServiceCIDR], used: &[Cidr], now: Timestamp) -> Action {
    let held = range.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let Some(deleted) = &range.metadata.deletion_timestamp else {
        if !held {
            let mut changed = range.clone();
            changed.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
            return Action::Update(Box::new(changed));
        }
        return ready(range, "True", "", "Kubernetes Service CIDR is ready", now);
    };
    if !held {
        return Action::Nothing;
    }
    let others: Vec<Cidr> =
        all.iter().filter(|o| o.name() != range.name() && o.metadata.deletion_timestamp.is_none()).flat_map(cidrs).collect();
    let ours = cidrs(range);
    let orphaned = |ip: &&Cidr| ours.iter().any(|c| c.contains(**ip)) && !others.iter().any(|c| c.contains(**ip));
    if used.iter().any(|ip| orphaned(&ip)) {
        let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        return ready(range, "False", "Terminating", message, now);
    }
    let left = deleted.0.as_second() + GRACE - now.as_second();
    if left > 0 {
        return Action::Later(Duration::from_secs(left.unsigned_abs()));
    }
    let mut changed = range.clone();
    changed.metadata.finalizers.get_or_insert_default().retain(|f| f != FINALIZER);
    Action::Update(Box::new(changed))
}

fn ready(range: &ServiceCIDR, status: &str, reason: &str, message: &str, now: Timestamp) -> Action {
    let mut changed = range.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    let old = conditions.iter().find(|c| c.type_ == "Ready");
    if old.is_some_and(|c| c.status == status && c.reason == reason) {
        return Action::Nothing;
    }
    let condition = Condition {
        type_: "Ready".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: old.filter(|c| c.status == status).map_or(Time(now), |c| c.last_transition_time.clone()),
        observed_generation: None,
    };
    conditions.retain(|c| c.type_ != "Ready");
    conditions.push(condition);
    Action::Status(Box::new(changed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range(name: &str, cidr: &str, deleted: Option<&str>, held: bool) -> ServiceCIDR {
        let finalizers: &[&str] = if held { &[FINALIZER] } else { &[] };
        serde_json::from_value(
            json!({"metadata": {"name": name, "deletionTimestamp": deleted, "finalizers": finalizers}, "spec": {"cidrs": [cidr]}}),
        )
        .unwrap()
    }

    #[test]
    fn a_range_is_held_and_ready_and_goes_only_when_its_addresses_are_in_another() {
        let now: Timestamp = "2026-01-01T00:00:30Z".parse().unwrap();
        let ip = [Cidr::of("10.1.0.5".parse().unwrap())];
        let fresh = range("a", "10.1.0.0/24", None, false);
        let Action::Update(held) = plan(&fresh, &[], &ip, now) else { panic!("no finalizer") };
        let Action::Status(ready) = plan(&held, &[], &ip, now) else { panic!("no condition") };
        assert_eq!(plan(&ready, &[], &ip, now), Action::Nothing);
        let going = range("a", "10.1.0.0/24", Some("2026-01-01T00:00:00Z"), true);
        let Action::Status(kept) = plan(&going, &[], &ip, now) else { panic!("addresses were forgotten") };
        assert_eq!(kept.status.unwrap().conditions.unwrap()[0].reason, "Terminating");
        let larger = range("b", "10.0.0.0/8", None, true);
        assert!(matches!(plan(&going, &[larger], &ip, now), Action::Update(_)), "another range has them");
        assert!(matches!(plan(&going, &[], &[], now), Action::Update(_)));
        let just = range("a", "10.1.0.0/24", Some("2026-01-01T00:00:25Z"), true);
        assert_eq!(plan(&just, &[], &[], now), Action::Later(Duration::from_secs(5)));
    }
}
