//! `PodSecurityConfiguration` of `pod-security.admission.config.k8s.io/v1`: what namespaces without labels get, and who is exempt.

use super::policy::{Policies, Policy, level, version};
use serde_json::Value;

/// What the configuration says.
#[derive(Debug, Default)]
pub(in crate::admission) struct PodSecuritySettings {
    pub(super) defaults: Policies,
    users: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

impl PodSecuritySettings {
    /// Reads the document.
    pub(in crate::admission) fn read(value: &Value) -> Result<Self, String> {
        let group = value["apiVersion"].as_str().unwrap_or_default();
        if !group.starts_with("pod-security.admission.config.k8s.io/") || value["kind"] != "PodSecurityConfiguration" {
            return Err(format!("expected a PodSecurityConfiguration, got {group}, {}", value["kind"]));
        }
        let defaults = &value["defaults"];
        let policy = |mode: &str, otherwise: Policy| {
            let text = |key: &str| defaults[key].as_str().filter(|t| !t.is_empty());
            let (named, as_of) = (mode.to_owned(), format!("{mode}-version"));
            let level = match text(&named) {
                Some(t) => {
                    level(t).ok_or(format!("defaults.{named}: Invalid value: {t:?}: must be one of privileged, baseline, restricted"))?
                }
                None => otherwise.level,
            };
            let version = match text(&as_of) {
                Some(t) => version(t).ok_or(format!("defaults.{as_of}: Invalid value: {t:?}: must be \"latest\" or \"v1.x\""))?,
                None => otherwise.version,
            };
            Ok::<_, String>(Policy { level, version })
        };
        let none = Policies::default();
        let defaults =
            Policies { enforce: policy("enforce", none.enforce)?, audit: policy("audit", none.audit)?, warn: policy("warn", none.warn)? };
        let texts = |key: &str| -> Vec<String> {
            let list = value["exemptions"][key].as_array().into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Ok(PodSecuritySettings {
            defaults,
            users: texts("usernames"),
            namespaces: texts("namespaces"),
            runtime_classes: texts("runtimeClasses"),
        })
    }

    /// By what a request is exempt, if it is.
    pub(super) fn exempts(&self, namespace: &str, user: &str, runtime_class: Option<&str>) -> Option<&'static str> {
        let listed = |list: &[String], what: &str| !what.is_empty() && list.iter().any(|l| l == what);
        if listed(&self.namespaces, namespace) {
            Some("namespace")
        } else if listed(&self.users, user) {
            Some("user")
        } else if listed(&self.runtime_classes, runtime_class.unwrap_or_default()) {
            Some("runtimeClass")
        } else {
            None
        }
    }
}
