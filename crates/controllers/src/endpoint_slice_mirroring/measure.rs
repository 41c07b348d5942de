//! What the controller counts (`endpoint_slice_mirroring_controller_*`).

use super::Change;
use ferrokube_client::ObjectKey;
use ferrokube_client::metrics::{Desc, Kind, Metrics};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// 2, 4, 8, ... fifteen times.
const PER_SYNC: &[f64] = &[2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0];
/// 1 ms doubling.
const SECONDS: &[f64] = &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

macro_rules! desc {
    ($name:ident $metric:literal $help:literal $kind:expr, $labels:expr) => {
        static $name: Desc =
            Desc { name: concat!("endpoint_slice_mirroring_controller_", $metric), help: $help, kind: $kind, labels: $labels };
    };
}

desc!(ADDED "endpoints_added_per_sync" "[ALPHA] Number of endpoints added on each Endpoints sync" Kind::Histogram(PER_SYNC), &[]);
desc!(UPDATED "endpoints_updated_per_sync" "[ALPHA] Number of endpoints updated on each Endpoints sync" Kind::Histogram(PER_SYNC), &[]);
desc!(REMOVED "endpoints_removed_per_sync" "[ALPHA] Number of endpoints removed on each Endpoints sync" Kind::Histogram(PER_SYNC), &[]);
desc!(SKIPPED "addresses_skipped_per_sync" "[ALPHA] Number of addresses skipped on each Endpoints sync due to being invalid or exceeding MaxEndpointsPerSubset" Kind::Histogram(PER_SYNC), &[]);
desc!(SYNCED_IN "endpoints_sync_duration" "[ALPHA] Duration of syncEndpoints() in seconds" Kind::Histogram(SECONDS), &[]);
desc!(ENDPOINTS "endpoints_desired" "[ALPHA] Number of endpoints desired" Kind::Gauge, &[]);
desc!(SLICES "num_endpoint_slices" "[ALPHA] Number of EndpointSlices" Kind::Gauge, &[]);
desc!(IDEAL "desired_endpoint_slices" "[ALPHA] Number of EndpointSlices that would exist with perfect endpoint allocation" Kind::Gauge, &[]);
desc!(CHANGES "changes" "[ALPHA] Number of EndpointSlice changes" Kind::Counter, &["operation"]);

pub(super) struct Measures {
    metrics: Metrics,
    /// Endpoints and slices of each that is mirrored.
    shares: Mutex<HashMap<ObjectKey, [usize; 2]>>,
}

impl Measures {
    pub fn new(metrics: Metrics) -> Self {
        Measures { metrics, shares: Mutex::default() }
    }

    /// A change was made.
    pub fn changed(&self, change: &Change) {
        let operation = match change {
            Change::Create(_) => "create",
            Change::Update(_) => "update",
            Change::Delete(_) => "delete",
        };
        self.metrics.count(&CHANGES, &[operation]);
    }

    /// Endpoints were looked at.
    pub fn synced(&self, took: Duration) {
        self.metrics.series(&SYNCED_IN, &[]).observe(took.as_secs_f64());
    }

    /// What was planned: the slices that there are, those that there should be, and how many addresses are left out.
    pub fn planned(&self, key: &ObjectKey, own: &[EndpointSlice], wanted: &[EndpointSlice], skipped: usize) {
        let per_sync = |desc, number: usize| self.metrics.series(desc, &[]).observe(as_float(number));
        let [added, updated, removed] = differences(own, wanted);
        if !(own.is_empty() && wanted.is_empty()) {
            per_sync(&ADDED, added);
            per_sync(&UPDATED, updated);
            per_sync(&REMOVED, removed);
            per_sync(&SKIPPED, skipped);
        }
        let share = [all(wanted).count(), wanted.len()];
        let mut shares = self.shares.lock();
        let before = if wanted.is_empty() { shares.remove(key) } else { shares.insert(key.clone(), share) }.unwrap_or_default();
        let by = |at: usize| as_float(share[at]) - as_float(before[at]);
        self.metrics.series(&ENDPOINTS, &[]).add(by(0));
        // A plan leaves no slice too many.
        self.metrics.series(&SLICES, &[]).add(by(1));
        self.metrics.series(&IDEAL, &[]).add(by(1));
    }
}

#[allow(clippy::cast_precision_loss, reason = "numbers of endpoints and slices")]
fn as_float(number: usize) -> f64 {
    number as f64
}

fn all(slices: &[EndpointSlice]) -> impl Iterator<Item = &Endpoint> {
    slices.iter().flat_map(|s| s.endpoints.iter().flatten())
}

/// How many endpoints come, change, and go.
fn differences(own: &[EndpointSlice], wanted: &[EndpointSlice]) -> [usize; 3] {
    let by_address = |slices| all(slices).map(|e| (e.addresses.first(), e)).collect::<BTreeMap<_, _>>();
    let (before, after) = (by_address(own), by_address(wanted));
    let added = after.keys().filter(|a| !before.contains_key(*a)).count();
    let updated = after.iter().filter(|(a, e)| before.get(*a).is_some_and(|b| b != *e)).count();
    let removed = before.keys().filter(|a| !after.contains_key(*a)).count();
    [added, updated, removed]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn endpoints_are_counted_as_they_come_change_and_go() {
        let slice = |endpoints: &[(&str, bool)]| -> Vec<EndpointSlice> {
            let endpoints: Vec<_> = endpoints.iter().map(|(a, ready)| json!({"addresses": [a], "conditions": {"ready": ready}})).collect();
            vec![serde_json::from_value(json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints})).unwrap()]
        };
        let (before, after) =
            (slice(&[("1", true), ("2", true), ("3", true)]), slice(&[("2", true), ("3", false), ("4", true), ("5", true)]));
        assert_eq!(differences(&before, &after), [2, 1, 1]);
        let (metrics, key) = (Metrics::default(), ObjectKey::new("a", "db"));
        let measures = Measures::new(metrics.clone());
        measures.planned(&key, &[], &before, 0);
        measures.planned(&key, &before, &after, 0);
        assert_eq!((metrics.series(&ENDPOINTS, &[]).value(), metrics.series(&SLICES, &[]).value()), (4.0, 1.0));
        measures.planned(&key, &after, &[], 0);
        assert_eq!((metrics.series(&ENDPOINTS, &[]).value(), metrics.series(&REMOVED, &[]).value()), (0.0, 5.0));
    }
}
