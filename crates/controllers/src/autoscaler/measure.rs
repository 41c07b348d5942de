//! What the controller counts (`horizontal_pod_autoscaler_controller_*`).

use ferrokube_client::metrics::{Desc, Metrics};
use ferrokube_client::{Cache, Named};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use std::sync::Arc;
use std::time::Duration;

const BOUNDS: &[f64] = &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

static RECONCILED: Desc = Desc::counter(
    "horizontal_pod_autoscaler_controller_reconciliations_total",
    "[BETA] Number of reconciliations of HPA controller. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label.",
    &["action", "error"],
);
static RECONCILED_IN: Desc = Desc::histogram(
    "horizontal_pod_autoscaler_controller_reconciliation_duration_seconds",
    "[BETA] The time(seconds) that the HPA controller takes to reconcile once. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label.",
    BOUNDS,
    &["action", "error"],
);
static COMPUTED: Desc = Desc::counter(
    "horizontal_pod_autoscaler_controller_metric_computation_total",
    "[BETA] Number of metric computations. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. The label 'metric_type' corresponds to HPA.spec.metrics[*].type",
    &["action", "error", "metric_type"],
);
static COMPUTED_IN: Desc = Desc::histogram(
    "horizontal_pod_autoscaler_controller_metric_computation_duration_seconds",
    "[BETA] The time(seconds) that the HPA controller takes to calculate one metric. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. The label 'error' should be either 'spec', 'internal', or 'none'. The label 'metric_type' corresponds to HPA.spec.metrics[*].type",
    BOUNDS,
    &["action", "error", "metric_type"],
);

static AUTOSCALERS: Desc = Desc::gauge(
    "horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers",
    "[ALPHA] Current number of controlled HPA objects.",
    &[],
);
static DESIRED: Desc = Desc::gauge(
    "horizontal_pod_autoscaler_controller_desired_replicas",
    "[ALPHA] Current desired replica count for HPA objects.",
    &["hpa_name", "namespace"],
);

/// Shows how many autoscalers there are and what size each has found right, for as long as the controller runs.
pub(super) fn measure(metrics: &Metrics, autoscalers: &Cache<HorizontalPodAutoscaler>, running: &Arc<()>) {
    let (into, autoscalers, running) = (metrics.clone(), autoscalers.clone(), Arc::downgrade(running));
    metrics.on_collect(move || {
        let all = autoscalers.list();
        into.replace(&AUTOSCALERS, [(Vec::new(), f64::from(u32::try_from(all.len()).unwrap_or(u32::MAX)))]);
        into.replace(&DESIRED, all.iter().filter_map(desired));
        running.strong_count() > 0
    });
}

/// The size that an autoscaler has found right, once it has.
fn desired(hpa: &HorizontalPodAutoscaler) -> Option<(Vec<String>, f64)> {
    let status = hpa.status.as_ref()?;
    Some((vec![hpa.name().to_owned(), hpa.namespace().to_owned()], f64::from(status.desired_replicas)))
}

/// Whose fault it is that something could not be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The autoscaler asks for something impossible.
    Spec,
    /// A request failed.
    Internal,
}

fn word(fault: Option<Fault>) -> &'static str {
    match fault {
        None => "none",
        Some(Fault::Spec) => "spec",
        Some(Fault::Internal) => "internal",
    }
}

fn action(from: i32, to: i32) -> &'static str {
    match to.cmp(&from) {
        std::cmp::Ordering::Less => "scale_down",
        std::cmp::Ordering::Equal => "none",
        std::cmp::Ordering::Greater => "scale_up",
    }
}

/// An autoscaler was looked at: the size before and after, and what went wrong first.
pub(super) fn reconciled(metrics: &Metrics, (from, to): (i32, i32), fault: Option<Fault>, took: Duration) {
    let labels = [action(from, to), word(fault)];
    metrics.count(&RECONCILED, &labels);
    metrics.series(&RECONCILED_IN, &labels).observe(took.as_secs_f64());
}

/// A metric was looked at: the size now, and the one it asks for.
pub(super) fn computed(metrics: &Metrics, kind: &str, (from, to): (i32, i32), fault: Option<Fault>, took: Duration) {
    let labels = [action(from, to), word(fault), kind];
    metrics.count(&COMPUTED, &labels);
    metrics.series(&COMPUTED_IN, &labels).observe(took.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_autoscaler_shows_the_size_it_has_found_right() {
        let hpa = |status| {
            serde_json::from_value(json!({"metadata": {"name": "h", "namespace": "n"}, "spec": {"maxReplicas": 9,
            "scaleTargetRef": {"kind": "Deployment", "name": "d"}}, "status": status}))
        };
        assert_eq!(desired(&hpa(json!(null)).unwrap()), None);
        let found = desired(&hpa(json!({"currentReplicas": 2, "desiredReplicas": 3})).unwrap());
        assert_eq!(found, Some((vec!["h".to_owned(), "n".to_owned()], 3.0)));
    }
}
