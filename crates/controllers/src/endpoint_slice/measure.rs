//! What the controller counts (`endpoint_slice_controller_*`).

use super::Plan;
use super::hints::Wish;
use ferrokube_client::ObjectKey;
use ferrokube_client::metrics::{Desc, Kind, Metrics};
use k8s_openapi::api::core::v1::Service;
use parking_lot::Mutex;
use std::collections::HashMap;

/// 2, 4, 8, ... fifteen times.
const PER_SYNC: &[f64] = &[2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0];
const DEFAULT_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

macro_rules! desc {
    ($name:ident $metric:literal $help:literal $kind:expr, $labels:expr) => {
        static $name: Desc = Desc { name: concat!("endpoint_slice_controller_", $metric), help: $help, kind: $kind, labels: $labels };
    };
}

desc!(ADDED "endpoints_added_per_sync" "[BETA] Number of endpoints added on each Service sync" Kind::Histogram(PER_SYNC), &[]);
desc!(REMOVED "endpoints_removed_per_sync" "[BETA] Number of endpoints removed on each Service sync" Kind::Histogram(PER_SYNC), &[]);
desc!(ENDPOINTS "endpoints_desired" "[BETA] Number of endpoints desired" Kind::Gauge, &[]);
desc!(SLICES "num_endpoint_slices" "[BETA] Number of EndpointSlices" Kind::Gauge, &[]);
desc!(IDEAL "desired_endpoint_slices" "[BETA] Number of EndpointSlices that would exist with perfect endpoint allocation" Kind::Gauge, &[]);
desc!(CHANGES "changes" "[ALPHA] Number of EndpointSlice changes" Kind::Counter, &["operation"]);
desc!(CHANGED "endpointslices_changed_per_sync" "[ALPHA] Number of EndpointSlices changed on each Service sync" Kind::Histogram(DEFAULT_BUCKETS), &["topology", "traffic_distribution"]);
desc!(SYNCS "syncs" "[ALPHA] Number of EndpointSlice syncs" Kind::Counter, &["result"]);
desc!(BY_DISTRIBUTION "services_count_by_traffic_distribution" "[BETA] Number of Services using some specific trafficDistribution" Kind::Gauge, &["traffic_distribution"]);

/// What a service contributes to the gauges.
#[derive(Clone, Debug, Default)]
struct Share {
    endpoints: f64,
    slices: f64,
    ideal: f64,
    distribution: String,
}

pub(super) struct Measures {
    metrics: Metrics,
    services: Mutex<HashMap<ObjectKey, Share>>,
}

impl Measures {
    pub fn new(metrics: Metrics) -> Self {
        Measures { metrics, services: Mutex::default() }
    }

    /// A change was made: `create`, `update` or `delete`.
    pub fn changed(&self, operation: &str) {
        self.metrics.count(&CHANGES, &[operation]);
    }

    /// A service was looked at.
    pub fn synced(&self, ok: bool) {
        self.metrics.count(&SYNCS, &[if ok { "success" } else { "error" }]);
    }

    /// What was planned for a service.
    pub fn planned(&self, key: &ObjectKey, service: &Service, plan: &Plan) {
        let asked = service.spec.as_ref().and_then(|s| s.traffic_distribution.clone()).unwrap_or_default();
        let wish = Wish::of(service);
        let distribution = if matches!(wish, Wish::SameZone | Wish::SameNode) { asked } else { String::new() };
        let topology = if wish == Wish::Shares { "Auto" } else { "Disabled" };
        #[allow(clippy::cast_precision_loss, reason = "numbers of endpoints and slices")]
        let number = |n: usize| n as f64;
        self.metrics.series(&ADDED, &[]).observe(number(plan.added));
        self.metrics.series(&REMOVED, &[]).observe(number(plan.removed));
        self.metrics.series(&CHANGED, &[topology, &distribution]).observe(number(plan.changes.len()));
        let share = Share { endpoints: number(plan.endpoints), slices: number(plan.slices), ideal: number(plan.ideal), distribution };
        self.account(key, Some(share));
    }

    /// A service is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.account(key, None);
    }

    fn account(&self, key: &ObjectKey, share: Option<Share>) {
        let now = share.clone();
        let before = {
            let mut services = self.services.lock();
            match share {
                Some(share) => services.insert(key.clone(), share),
                None => services.remove(key),
            }
        };
        for (share, sign) in [(before, -1.0), (now, 1.0)] {
            let Some(share) = share else { continue };
            self.metrics.series(&ENDPOINTS, &[]).add(sign * share.endpoints);
            self.metrics.series(&SLICES, &[]).add(sign * share.slices);
            self.metrics.series(&IDEAL, &[]).add(sign * share.ideal);
            if !share.distribution.is_empty() {
                self.metrics.series(&BY_DISTRIBUTION, &[&share.distribution]).add(sign);
            }
        }
    }
}
