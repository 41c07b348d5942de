//! Levels and versions, and the labels that name them.

use super::PREFIX;
use ferrokube_api::field::{Errors, Path};
use serde_json::json;
use std::fmt;

/// A Pod Security Standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// Minor version that stands for `latest`: no Kubernetes 1.x gets there.
pub(super) const LATEST: u32 = u32::MAX;

/// A level as of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) level: Level,
    /// Minor version of Kubernetes 1.
    pub(super) version: u32,
}

impl Policy {
    /// Whether pods that were fine may no longer be: another version may ask for more than the one before, whatever the level.
    pub(super) fn stricter_than(self, old: Policy) -> bool {
        self.level != Level::Privileged && (self.version != old.version || self.level > old.level)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            LATEST => write!(f, "{level}:latest"),
            minor => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// What a namespace asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policies {
    pub(super) enforce: Policy,
    pub(super) audit: Policy,
    pub(super) warn: Policy,
}

/// Every label that means something here.
pub(super) const LABELS: [&str; 6] = [
    "pod-security.kubernetes.io/enforce",
    "pod-security.kubernetes.io/enforce-version",
    "pod-security.kubernetes.io/audit",
    "pod-security.kubernetes.io/audit-version",
    "pod-security.kubernetes.io/warn",
    "pod-security.kubernetes.io/warn-version",
];

const NONE: Policy = Policy { level: Level::Privileged, version: LATEST };

impl Default for Policies {
    fn default() -> Self {
        Policies { enforce: NONE, audit: NONE, warn: NONE }
    }
}

pub(super) fn level(text: &str) -> Option<Level> {
    match text {
        "privileged" => Some(Level::Privileged),
        "baseline" => Some(Level::Baseline),
        "restricted" => Some(Level::Restricted),
        _ => None,
    }
}

pub(super) fn version(text: &str) -> Option<u32> {
    if text == "latest" {
        return Some(LATEST);
    }
    let minor = text.strip_prefix("v1.")?;
    let plain = minor.bytes().all(|b| b.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
    minor.parse().ok().filter(|_| plain && !minor.is_empty())
}

impl Policies {
    /// From labels, and the defaults of the configuration where there are none. A level that is none counts as restricted where
    /// it is enforced and as privileged elsewhere.
    pub(super) fn of(defaults: &Policies, label: impl Fn(&str) -> Option<String>) -> Self {
        let policy = |mode: &str, default: Policy, broken: Level| {
            let text = label(&format!("{PREFIX}{mode}"));
            let level = text.map_or(default.level, |t| level(&t).unwrap_or(broken));
            let version = label(&format!("{PREFIX}{mode}-version"));
            Policy { level, version: version.map_or(default.version, |t| version_or_latest(&t)) }
        };
        let enforce = policy("enforce", defaults.enforce, Level::Restricted);
        let audit = policy("audit", defaults.audit, Level::Privileged);
        let mut warn = policy("warn", defaults.warn, Level::Privileged);
        // What is enforced on pods is warned about on the workloads that make them.
        if warn.level == Level::Privileged && label(&format!("{PREFIX}warn")).is_none() {
            warn = enforce;
        }
        Policies { enforce, audit, warn }
    }
}

fn version_or_latest(text: &str) -> u32 {
    version(text).unwrap_or(LATEST)
}

/// Labels that are neither level nor version.
pub(super) fn check_labels(label: impl Fn(&str) -> Option<String>) -> Errors {
    let mut errors = Errors::default();
    let path = Path::new("metadata").child("labels");
    for key in LABELS {
        let Some(value) = label(key) else { continue };
        if key.ends_with("-version") {
            if version(&value).is_none() {
                errors.invalid(&path.key(key), &json!(value), "must be \"latest\" or \"v1.x\"");
            }
        } else if level(&value).is_none() {
            errors.invalid(&path.key(key), &json!(value), "must be one of privileged, baseline, restricted");
        }
    }
    errors
}
