//! `--runtime-config`: which versions are served beside those that are on by default.
//!
//! A row that is off by default needs its version, and its feature if it has one. As with features, what is on by default cannot be taken away,
//! and what is not there cannot be asked for.

use super::{Kind, builtin, group_versions, optional};
use crate::features::{Features, go_bool};
use std::str::FromStr;

/// What `--runtime-config` says of the optional rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConfig(Vec<(Asked, bool)>);

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    /// `api/all`, `api/ga`, `api/beta`, `api/alpha`.
    Stage(&'static str),
    /// `group/version`, and a resource of it when there is one more word.
    Version { group: String, version: String, resource: Option<String> },
}

const STAGES: [&str; 4] = ["all", "ga", "beta", "alpha"];

fn stage(version: &str) -> &'static str {
    match version {
        v if v.contains("alpha") => "alpha",
        v if v.contains("beta") => "beta",
        _ => "ga",
    }
}

impl Asked {
    fn parse(key: &str) -> Result<Self, String> {
        let words: Vec<&str> = key.split('/').collect();
        let version = |group: &str, version: &str, resource: Option<&str>| Asked::Version {
            group: group.to_owned(),
            version: version.to_owned(),
            resource: resource.map(str::to_owned),
        };
        match words[..] {
            ["api", name] if STAGES.contains(&name) => Ok(Asked::Stage(STAGES.into_iter().find(|s| *s == name).unwrap_or_default())),
            ["v1"] | ["api", "v1"] => Ok(version("", "v1", None)),
            [group, v] => Ok(version(group, v, None)),
            [group, v, resource] => Ok(version(group, v, Some(resource))),
            _ => Err(format!("runtime-config invalid key {key}")),
        }
    }

    fn means(&self, kind: &Kind) -> bool {
        match self {
            Asked::Stage(name) => *name == "all" || *name == stage(&kind.version),
            Asked::Version { group, version, resource } => {
                kind.group == *group && kind.version == *version && resource.as_ref().is_none_or(|r| kind.resource == *r)
            }
        }
    }

    /// Why this cannot be set to that.
    fn refused(&self, key: &str, wanted: bool) -> Option<String> {
        if !wanted {
            let kept = builtin().iter().find(|k| self.means(k))?;
            return Some(format!("runtime-config {key}=false: in ferrokube {} is always served", kept.api_version()));
        }
        match self {
            // There are versions of every other stage that only 1.36 itself has.
            Asked::Stage("ga") => None,
            Asked::Stage(_) => Some(format!("runtime-config {key}=true: in ferrokube not all that is off by default is there")),
            Asked::Version { group, .. } if !group_versions().any(|gv| gv.group == group) => Some(format!("unknown api groups {group}")),
            Asked::Version { .. } => {
                let known = builtin().iter().chain(optional().iter().map(|o| &o.kind)).any(|k| self.means(k));
                (!known).then(|| format!("runtime-config {key}=true: in ferrokube that is not there"))
            }
        }
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Asked::Stage(name) => write!(f, "api/{name}"),
            Asked::Version { group, version, resource: None } => write!(f, "{group}/{version}"),
            Asked::Version { group, version, resource: Some(resource) } => write!(f, "{group}/{version}/{resource}"),
        }
    }
}

/// As it was said.
impl std::fmt::Display for RuntimeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(asked, on)| format!("{asked}={on}")).collect();
        f.write_str(&all.join(","))
    }
}

impl RuntimeConfig {
    /// With what a flag that was given again says besides; the later word counts.
    pub fn and(mut self, later: &RuntimeConfig) -> Self {
        self.0.extend_from_slice(&later.0);
        self
    }

    /// Whether a row that is off by default is switched on. A narrower word counts more than a wider one, a later more than an earlier.
    fn switches_on(&self, kind: &Kind) -> bool {
        let breadth = |asked: &Asked| match asked {
            Asked::Stage(_) => 0,
            Asked::Version { resource: None, .. } => 1,
            Asked::Version { .. } => 2,
        };
        let said = self.0.iter().filter(|(asked, _)| asked.means(kind));
        said.max_by_key(|(asked, _)| breadth(asked)).is_some_and(|(_, on)| *on)
    }
}

/// `group/version=true,api/alpha=false`; a key alone means true.
impl FromStr for RuntimeConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
            let wanted = if value.is_empty() { Some(true) } else { go_bool(value) };
            let wanted = wanted.ok_or_else(|| format!("runtime-config invalid value {pair}"))?;
            let asked = Asked::parse(key)?;
            if let Some(why) = asked.refused(key, wanted) {
                return Err(why);
            }
            all.push((asked, wanted));
        }
        Ok(RuntimeConfig(all))
    }
}

/// The rows that a server serves, grouped by group and version.
pub fn served(features: &Features, config: &RuntimeConfig) -> impl Iterator<Item = &'static Kind> {
    let wanted = optional().iter().filter(|o| config.switches_on(&o.kind) && features.have(o.feature.as_slice()));
    builtin().iter().chain(wanted.map(|o| &o.kind))
}

/// Rows whose version is switched on in vain, with the feature that is not.
pub fn in_vain(features: &Features, config: &RuntimeConfig) -> impl Iterator<Item = (&'static Kind, &'static str)> {
    let asked = optional().iter().filter(|o| config.switches_on(&o.kind));
    asked.filter_map(|o| Some((&o.kind, o.feature.filter(|feature| !features.has(feature))?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::STORAGE_VERSION_MIGRATOR;
    use crate::kinds::OPTIONAL_GROUP_VERSIONS;

    fn parse(text: &str) -> Result<RuntimeConfig, String> {
        text.parse()
    }

    fn extra(features: &str, config: &str) -> Vec<String> {
        let (features, config) = (features.parse().expect("features"), parse(config).expect("a runtime config"));
        served(&features, &config).skip(builtin().len()).map(|k| format!("{}/{}", k.api_version(), k.resource)).collect()
    }

    #[test]
    fn an_optional_row_needs_its_version_and_its_feature() {
        let (feature, version) = ("StorageVersionMigrator=true", "storagemigration.k8s.io/v1beta1=true");
        let row = ["storagemigration.k8s.io/v1beta1/storageversionmigrations"];
        assert_eq!(extra(feature, version), row);
        assert_eq!(extra(feature, "storagemigration.k8s.io/v1beta1"), row, "a key alone means true");
        assert_eq!(extra(feature, "storagemigration.k8s.io/v1beta1/storageversionmigrations=true"), row);
        assert!(extra(feature, "").is_empty() && extra("", version).is_empty() && extra("", "").is_empty());
        let (features, config) = (Features::default(), parse(version).expect("fine"));
        let free = "internal.apiserver.k8s.io/v1alpha1";
        assert_eq!(extra("", free), [format!("{free}/storageversions")], "one that needs no feature");
        assert_eq!(in_vain(&features, &config).map(|(_, feature)| feature).collect::<Vec<_>>(), [STORAGE_VERSION_MIGRATOR]);
    }

    #[test]
    fn the_narrower_and_then_the_later_word_counts() {
        let feature = "StorageVersionMigrator=true";
        let off = "storagemigration.k8s.io/v1beta1=true,storagemigration.k8s.io/v1beta1=false";
        assert!(extra(feature, off).is_empty());
        let narrow = "storagemigration.k8s.io/v1beta1/storageversionmigrations=true,storagemigration.k8s.io/v1beta1=false";
        assert_eq!(extra(feature, narrow).len(), 1);
        assert_eq!(extra(feature, "storagemigration.k8s.io/v1beta1=true,api/beta=false").len(), 1);
        let both = parse("storagemigration.k8s.io/v1beta1=true")
            .expect("fine")
            .and(&parse("storagemigration.k8s.io/v1beta1=false").expect("fine"));
        assert!(!optional().iter().any(|o| both.switches_on(&o.kind)));
    }

    #[test]
    fn what_is_served_anyway_may_be_said_and_nothing_else() {
        for fine in ["", "api/ga=true", "v1=true", "apps/v1", "api/alpha=false,api/beta=false", "batch/v1/jobs=true"] {
            assert!(parse(fine).is_ok(), "{fine}");
        }
        for (text, why) in [
            ("apps/v1=false", "runtime-config apps/v1=false: in ferrokube apps/v1 is always served"),
            ("api/all=false", "runtime-config api/all=false: in ferrokube v1 is always served"),
            ("api/beta=true", "runtime-config api/beta=true: in ferrokube not all that is off by default is there"),
            ("batch/v2alpha1=true", "runtime-config batch/v2alpha1=true: in ferrokube that is not there"),
            ("example.com/v1=true", "unknown api groups example.com"),
            ("apps/v1=maybe", "runtime-config invalid value apps/v1=maybe"),
            ("a/b/c/d=true", "runtime-config invalid key a/b/c/d"),
        ] {
            assert_eq!(parse(text).unwrap_err(), why);
        }
    }

    #[test]
    fn optional_versions_have_their_place_in_discovery() {
        for row in optional() {
            assert!(OPTIONAL_GROUP_VERSIONS.iter().any(|gv| row.kind.group == gv.group && row.kind.version == gv.version));
        }
        let priorities: Vec<u32> = group_versions().map(|gv| gv.group_priority).collect();
        assert!(priorities.is_sorted_by(|a, b| a >= b), "{priorities:?}");
    }
}
