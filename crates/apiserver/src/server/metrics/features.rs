//! `kubernetes_feature_enabled`: which of Kubernetes' features this server has.

use super::head;
use ferrokube_api::features::{Features, all};
use std::fmt::Write;

/// On by default upstream, and not here.
const MISSING: [&str; 3] =
    ["APIServerTracing", "StructuredAuthenticationConfigurationEgressSelector", "UnknownVersionInteroperabilityProxy"];

fn is_on(features: &Features, name: &str) -> bool {
    features.has(name) && !MISSING.contains(&name)
}

/// In the text format.
pub fn write(out: &mut String, features: &Features) {
    const NAME: &str = "kubernetes_feature_enabled";
    head(out, NAME, "gauge", "[BETA] This metric records the data about the stage and enablement of a k8s feature.");
    for gate in all() {
        let on = u8::from(is_on(features, gate.name));
        let _ = writeln!(out, "{NAME}{{name=\"{}\",stage=\"{}\"}} {on}", gate.name, gate.shown_stage());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_off_and_what_was_switched_on_is_on() {
        let features: Features = "StorageVersionMigrator=true".parse().expect("can be switched");
        let mut text = String::new();
        write(&mut text, &features);
        for line in [
            "kubernetes_feature_enabled{name=\"WatchList\",stage=\"BETA\"} 1\n",
            "kubernetes_feature_enabled{name=\"MutatingAdmissionPolicy\",stage=\"\"} 1\n",
            "kubernetes_feature_enabled{name=\"CBORServingAndStorage\",stage=\"ALPHA\"} 0\n",
            "kubernetes_feature_enabled{name=\"StorageVersionMigrator\",stage=\"BETA\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}");
        }
        MISSING.iter().for_each(|name| assert!(Features::default().has(name) && !is_on(&features, name), "{name}"));
    }
}
