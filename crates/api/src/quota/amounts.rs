//! Amounts by resource name, and what a pod needs of them while it runs. Source: `component-helpers/resource`.

use super::list;
use crate::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Reads a resource list; amounts that are none count as zero.
pub fn amounts(map: &Value) -> Amounts {
    map.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), Quantity::from_json(v).unwrap_or_default())).collect()
}

/// Adds amounts to others.
pub fn add(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        *total.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let own = total.entry(name.clone()).or_default();
        *own = (*own).max(*amount);
    }
}

/// Sum of the containers' `field` (`requests` or `limits`), init containers and sidecars counted as they run, without
/// overhead. Pod-level amounts replace the sums of their resources.
pub fn running(pod: &Value, field: &str) -> Amounts {
    let spec = &pod["spec"];
    let of = |c: &Value| amounts(&c["resources"][field]);
    let (mut running, mut sidecars, mut start) = (Amounts::new(), Amounts::new(), Amounts::new());
    list(spec, "containers").for_each(|c| add(&mut running, &of(c)));
    for container in list(spec, "initContainers") {
        let mut now = of(container);
        if container["restartPolicy"] == "Always" {
            add(&mut running, &now);
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        raise(&mut start, &now);
    }
    raise(&mut running, &start);
    running.extend(amounts(&spec["resources"][field]));
    running
}

/// The same with overhead.
fn pod_amounts(pod: &Value, field: &str) -> Amounts {
    let mut running = running(pod, field);
    for (name, amount) in amounts(&pod["spec"]["overhead"]) {
        if field == "requests" {
            *running.entry(name).or_default() += amount;
        } else if let Some(own) = running.get_mut(&name).filter(|own| !own.is_zero()) {
            // Overhead raises the limits that exist; it makes none.
            *own += amount;
        }
    }
    running
}

/// What a pod requests.
pub fn pod_requests(pod: &Value) -> Amounts {
    pod_amounts(pod, "requests")
}

/// What a pod is limited to.
pub fn pod_limits(pod: &Value) -> Amounts {
    pod_amounts(pod, "limits")
}
