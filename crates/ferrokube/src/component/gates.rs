//! `--feature-gates` of a component: the last word on each gate, and the metric that shows them all.

use ferrokube_api::features::{self, Features};
use ferrokube_client::metrics::{Desc, Kind, Metrics};

static ENABLED: Desc = Desc {
    name: "kubernetes_feature_enabled",
    help: "[BETA] This metric records the data about the stage and enablement of a k8s feature.",
    kind: Kind::Gauge,
    labels: &["name", "stage"],
};

/// What a flag says that may be given several times.
pub fn of(given: &[Features]) -> Features {
    given.iter().fold(Features::default(), Features::and)
}

/// Shows which features there are.
pub fn show(metrics: &Metrics, features: &Features) {
    for gate in features::all() {
        metrics.series(&ENABLED, &[gate.name, &gate.shown_stage()]).set(f64::from(u8::from(features.has(gate.name))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gate_is_shown_with_its_stage() {
        let (metrics, mut out) = (Metrics::default(), String::new());
        show(&metrics, &of(&["StorageVersionMigrator=true".parse().expect("can be switched")]));
        metrics.write(&mut out);
        assert!(out.contains("kubernetes_feature_enabled{name=\"GangScheduling\",stage=\"ALPHA\"} 0\n"), "{out}");
        assert!(out.contains("kubernetes_feature_enabled{name=\"JobManagedBy\",stage=\"\"} 1\n"), "{out}");
        assert!(out.contains("kubernetes_feature_enabled{name=\"StorageVersionMigrator\",stage=\"BETA\"} 1\n"), "{out}");
    }
}
