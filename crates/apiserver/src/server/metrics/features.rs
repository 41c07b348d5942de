//! `kubernetes_feature_enabled`: which of Kubernetes' features this server has. Nothing is switched here; what the table says is on
//! is part of the program.

use super::head;
use std::fmt::Write;

const TABLE: &str = include_str!("../../../data/features.tsv");
/// On by default upstream, and not here.
const MISSING: [&str; 3] =
    ["APIServerTracing", "StructuredAuthenticationConfigurationEgressSelector", "UnknownVersionInteroperabilityProxy"];

/// Name, stage, and whether it is on.
fn features() -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut columns = line.split('\t');
        let (name, stage, on) = (columns.next()?, columns.next()?, columns.next()?);
        Some((name, stage, on == "1" && !MISSING.contains(&name)))
    })
}

/// In the text format.
pub fn write(out: &mut String) {
    const NAME: &str = "kubernetes_feature_enabled";
    head(out, NAME, "gauge", "[BETA] This metric records the data about the stage and enablement of a k8s feature.");
    for (name, stage, on) in features() {
        let _ = writeln!(out, "{NAME}{{name=\"{name}\",stage=\"{stage}\"}} {}", u8::from(on));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_feature_and_what_is_missing_is_off() {
        assert_eq!(features().count(), TABLE.lines().count() - 1);
        let find = |wanted: &str| features().find(|(name, ..)| *name == wanted);
        assert_eq!(find("WatchList"), Some(("WatchList", "BETA", true)));
        assert_eq!(find("MutatingAdmissionPolicy"), Some(("MutatingAdmissionPolicy", "", true)));
        assert_eq!(find("CBORServingAndStorage"), Some(("CBORServingAndStorage", "ALPHA", false)));
        MISSING.iter().for_each(|name| assert!(matches!(find(name), Some((.., false))), "{name}"));
    }
}
