//! The feature gates of Kubernetes 1.36, and which of them are switched on.
//!
//! What 1.36 has on by default is part of the program, and most of what it has off is not there: such a gate may only be set to
//! what it is anyway, so that nobody believes to have what he has not. The gates in [`SWITCHABLE`] can really be switched; who
//! asks whether one is on asks [`Features`], and nothing else decides it.

use std::collections::BTreeMap;
use std::str::FromStr;

/// Name, stage, default and whether it is locked, of every gate of 1.36.
const TABLE: &str = include_str!("../data/feature_gates.tsv");

/// Objects are moved to the storage version of now: the API `storagemigration.k8s.io` and its controller.
pub const STORAGE_VERSION_MIGRATOR: &str = "StorageVersionMigrator";

/// Each API server has a Lease that says that it lives.
pub const API_SERVER_IDENTITY: &str = "APIServerIdentity";

/// Each API server says which versions it stores; it needs [`API_SERVER_IDENTITY`] too.
pub const STORAGE_VERSION_API: &str = "StorageVersionAPI";

/// The gates that can be switched.
const SWITCHABLE: &[&str] = &[API_SERVER_IDENTITY, STORAGE_VERSION_API, STORAGE_VERSION_MIGRATOR];

/// A gate as 1.36 has it.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// Its name.
    pub name: &'static str,
    /// `Alpha`, `Beta`, `GA` or `Deprecated`.
    pub stage: &'static str,
    /// Whether it is on by default.
    pub on: bool,
    locked: bool,
}

impl Gate {
    /// The stage as metrics show it.
    pub fn shown_stage(&self) -> String {
        if self.stage == "GA" { String::new() } else { self.stage.to_ascii_uppercase() }
    }

    fn can_be_switched(&self) -> bool {
        SWITCHABLE.contains(&self.name)
    }
}

/// Every gate, in the order of names.
pub fn all() -> impl Iterator<Item = Gate> {
    TABLE.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        let (name, stage) = (fields.next()?, fields.next()?);
        let (on, locked) = (fields.next()? == "True", fields.next()? == "True");
        Some(Gate { name, stage, on, locked })
    })
}

/// Which gates are switched otherwise than by default. The default: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features(BTreeMap<&'static str, bool>);

impl Features {
    /// Whether a feature is there.
    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).copied().unwrap_or_else(|| all().any(|gate| gate.name == name && gate.on))
    }

    /// Whether all of these are there.
    pub fn have(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.has(name))
    }

    /// With what a flag that was given again says besides; the later word counts.
    pub fn and(mut self, later: &Features) -> Self {
        self.0.extend(&later.0);
        self
    }

    fn set(&mut self, name: &str, wanted: bool) -> Result<(), String> {
        let stage = match name {
            "AllAlpha" => Some("Alpha"),
            "AllBeta" => Some("Beta"),
            _ => None,
        };
        let meant = || all().filter(|g| stage.map_or(g.name == name, |stage| g.stage == stage));
        if meant().next().is_none() {
            return Err(format!("unrecognized feature gate: {name}"));
        }
        if let Some(other) = meant().find(|g| g.on != wanted && !g.can_be_switched()) {
            if other.locked && stage.is_none() {
                return Err(format!("cannot set feature gate {name} to {wanted}, feature is locked to {}", other.on));
            }
            let is = if other.on { "is always on" } else { "is not there" };
            return Err(format!("cannot set feature gate {name} to {wanted}: in ferrokube {} {is}", other.name));
        }
        for gate in meant().filter(Gate::can_be_switched) {
            let said = self.0.entry(gate.name).or_insert(wanted);
            // What is said of a gate by its name counts more than what is said of its stage.
            if stage.is_none() {
                *said = wanted;
            }
        }
        Ok(())
    }
}

/// As it was said, in the order of names.
impl std::fmt::Display for Features {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(name, on)| format!("{name}={on}")).collect();
        f.write_str(&all.join(","))
    }
}

/// `Name=true,Other=false`.
impl FromStr for Features {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut features = Features::default();
        for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| format!("missing bool value for {pair}"))?;
            let value = value.trim();
            let wanted = go_bool(value)
                .ok_or_else(|| format!("invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"))?;
            // Upstream's flag may say of which component a gate is; there is none but this one.
            let name = name.trim();
            features.set(name.strip_prefix("kube:").unwrap_or(name), wanted)?;
        }
        Ok(features)
    }
}

/// What `strconv.ParseBool` takes.
pub(crate) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Features, String> {
        text.parse()
    }

    #[test]
    fn gates_may_say_what_is_so() {
        for fine in ["", "NodeDeclaredFeatures=true", "kube:JobManagedBy=true", "DRADeviceTaints=true, GenericWorkload=false"] {
            assert_eq!(parse(fine), Ok(Features::default()), "{fine}");
        }
        for (text, why) in [
            ("NoSuchThing=true", "unrecognized feature gate: NoSuchThing"),
            ("JobManagedBy", "missing bool value for JobManagedBy"),
            ("JobManagedBy=yes", "invalid value of JobManagedBy=yes, err: strconv.ParseBool: parsing \"yes\": invalid syntax"),
            ("JobManagedBy=false", "cannot set feature gate JobManagedBy to false, feature is locked to true"),
            ("GangScheduling=true", "cannot set feature gate GangScheduling to true: in ferrokube GangScheduling is not there"),
            ("DRADeviceTaints=false", "cannot set feature gate DRADeviceTaints to false: in ferrokube DRADeviceTaints is always on"),
        ] {
            assert_eq!(parse(text).unwrap_err(), why);
        }
        assert!(parse("AllAlpha=true").is_err() && parse("AllBeta=true").is_err());
    }

    #[test]
    fn some_gates_can_be_switched_and_the_later_word_counts() {
        assert!(!Features::default().has(STORAGE_VERSION_MIGRATOR), "off as in 1.36");
        assert!(Features::default().has(API_SERVER_IDENTITY), "on as in 1.36");
        assert!(!parse("APIServerIdentity=false").expect("can be switched").has(API_SERVER_IDENTITY));
        let stage = |said: &str| parse(said).expect("can be switched").has(STORAGE_VERSION_API);
        assert!(
            !stage("AllAlpha=false") && stage("AllAlpha=false,StorageVersionAPI=true") && stage("StorageVersionAPI=true,AllAlpha=false")
        );
        let on = parse("StorageVersionMigrator=true").expect("can be switched");
        assert!(on.has(STORAGE_VERSION_MIGRATOR));
        let off = parse("StorageVersionMigrator=true,StorageVersionMigrator=false").expect("can be switched");
        assert!(!off.has(STORAGE_VERSION_MIGRATOR));
        assert!(!on.clone().and(&off).has(STORAGE_VERSION_MIGRATOR) && off.and(&on).has(STORAGE_VERSION_MIGRATOR));
    }

    #[test]
    fn what_can_be_switched_is_known_and_not_locked() {
        for name in SWITCHABLE {
            assert!(all().any(|g| g.name == *name && !g.locked), "{name}");
        }
        assert!(Features::default().has("JobManagedBy") && !Features::default().has("GangScheduling"));
    }
}
