//! `--feature-gates`: a command line may say what is so anyway.
//!
//! What 1.36 has on by default is there and what it has off is not: nothing can be switched. A gate that is set to what it
//! is here is taken, anything else is refused, so that nobody believes to have what he has not.

use ferrokube_client::metrics::{Desc, Kind, Metrics};

/// Name, stage, default and whether it is locked, of every gate of 1.36.
const ALL: &str = include_str!("feature_gates.tsv");

static ENABLED: Desc = Desc {
    name: "kubernetes_feature_enabled",
    help: "[BETA] This metric records the data about the stage and enablement of a k8s feature.",
    kind: Kind::Gauge,
    labels: &["name", "stage"],
};

struct Gate {
    name: &'static str,
    stage: &'static str,
    on: bool,
    locked: bool,
}

fn all() -> impl Iterator<Item = Gate> {
    ALL.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        let (name, stage) = (fields.next()?, fields.next()?);
        let (on, locked) = (fields.next()? == "True", fields.next()? == "True");
        Some(Gate { name, stage, on, locked })
    })
}

/// Shows which features there are.
pub fn show(metrics: &Metrics) {
    for gate in all() {
        let stage = if gate.stage == "GA" { String::new() } else { gate.stage.to_ascii_uppercase() };
        metrics.series(&ENABLED, &[gate.name, &stage]).set(f64::from(u8::from(gate.on)));
    }
}

/// Takes `Name=true,Other=false`, if it is so.
pub fn check(text: &str) -> Result<String, String> {
    for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("missing bool value for {pair}"))?;
        let wanted = go_bool(value.trim()).ok_or_else(|| {
            let value = value.trim();
            format!("invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax")
        })?;
        one(name.trim(), wanted)?;
    }
    Ok(text.to_owned())
}

fn one(name: &str, wanted: bool) -> Result<(), String> {
    let stage = match name {
        "AllAlpha" => Some("Alpha"),
        "AllBeta" => Some("Beta"),
        _ => None,
    };
    let mut found = all().filter(|g| stage.map_or(g.name == name, |stage| g.stage == stage)).peekable();
    if found.peek().is_none() {
        return Err(format!("unrecognized feature gate: {name}"));
    }
    let Some(other) = found.find(|g| g.on != wanted) else { return Ok(()) };
    if other.locked && stage.is_none() {
        return Err(format!("cannot set feature gate {name} to {wanted}, feature is locked to {}", other.on));
    }
    let is = if other.on { "is always on" } else { "is not there" };
    Err(format!("cannot set feature gate {name} to {wanted}: in ferrokube {} {is}", other.name))
}

/// What `strconv.ParseBool` takes.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_may_say_what_is_so_and_nothing_else() {
        for fine in ["", "NodeDeclaredFeatures=true", "DRADeviceTaints=true, GenericWorkload=false", "AllAlpha=false"] {
            assert!(check(fine).is_ok(), "{fine}");
        }
        for (text, why) in [
            ("NoSuchThing=true", "unrecognized feature gate: NoSuchThing"),
            ("JobManagedBy", "missing bool value for JobManagedBy"),
            ("JobManagedBy=yes", "invalid value of JobManagedBy=yes, err: strconv.ParseBool: parsing \"yes\": invalid syntax"),
            ("JobManagedBy=false", "cannot set feature gate JobManagedBy to false, feature is locked to true"),
            ("GangScheduling=true", "cannot set feature gate GangScheduling to true: in ferrokube GangScheduling is not there"),
            ("DRADeviceTaints=false", "cannot set feature gate DRADeviceTaints to false: in ferrokube DRADeviceTaints is always on"),
        ] {
            assert_eq!(check(text).unwrap_err(), why);
        }
        assert!(check("AllAlpha=true").is_err() && check("AllBeta=true").is_err());
    }

    #[test]
    fn every_gate_is_shown_with_its_stage() {
        let (metrics, mut out) = (Metrics::default(), String::new());
        show(&metrics);
        metrics.write(&mut out);
        assert!(out.contains("kubernetes_feature_enabled{name=\"GangScheduling\",stage=\"ALPHA\"} 0\n"), "{out}");
        assert!(out.contains("kubernetes_feature_enabled{name=\"JobManagedBy\",stage=\"\"} 1\n"), "{out}");
    }
}
