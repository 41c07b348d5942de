//! Which plugins run, and how they are told to: `--enable-admission-plugins`, `--disable-admission-plugins` and the documents
//! of `--admission-control-config-file`.
//!
//! Everything is read and checked once at start; a plugin finds its part of [`Settings`] ready to use.

use super::PLUGINS;
use super::image_policy::ImagePolicy;
use super::pod_security::PodSecuritySettings;
use ferrokube_api::quota::Scope;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Plugins that run beside the table: they wait for others or keep books.
const BESIDE: &[(&str, bool)] = &[
    ("NamespaceAutoProvision", false),
    ("ImagePolicyWebhook", false),
    ("MutatingAdmissionPolicy", true),
    ("MutatingAdmissionWebhook", true),
    ("ValidatingAdmissionPolicy", true),
    ("ValidatingAdmissionWebhook", true),
    ("ResourceQuota", true),
];
/// Plugins whose names are known and that have nothing to run: those of alpha features.
const EMPTY: &[&str] = &["PodGroupProtection", "PodGroupWorkloadExists", "JobValidation", "ClusterTrustBundleAttest"];

/// Seconds that pods stay on a node that is not ready or does not answer.
pub const TOLERATION: i64 = 300;

/// What a server is told about admission.
#[derive(Clone, Debug, Default)]
pub struct AdmissionConfig {
    /// `--enable-admission-plugins`: besides those that are on by default.
    pub enable: Vec<String>,
    /// `--disable-admission-plugins`.
    pub disable: Vec<String>,
    /// Configuration of plugins by name, from `--admission-control-config-file`.
    pub plugins: BTreeMap<String, Value>,
    /// Where relative file names in configurations start.
    pub folder: PathBuf,
    /// `--default-not-ready-toleration-seconds`, when it is not [`TOLERATION`].
    pub not_ready_seconds: Option<i64>,
    /// `--default-unreachable-toleration-seconds`, likewise.
    pub unreachable_seconds: Option<i64>,
}

/// Why a configuration of admission cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum AdmissionConfigError {
    #[error("unable to read admission control configuration from {path:?} [{source}]")]
    Read { path: String, source: std::io::Error },
    #[error("{path:?} is not an AdmissionConfiguration: {why}")]
    Document { path: String, why: String },
    #[error("{flag} plugin {name:?} is unknown")]
    Unknown { flag: &'static str, name: String },
    #[error("{0:?} in enable-admission-plugins and disable-admission-plugins overlapped")]
    Overlap(String),
    #[error("configuration of admission plugin {plugin}: {why}")]
    Plugin { plugin: String, why: String },
}

/// `AdmissionConfiguration` of `apiserver.config.k8s.io/v1`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default)]
    plugins: Vec<PluginConfiguration>,
}

#[derive(Deserialize)]
struct PluginConfiguration {
    name: String,
    #[serde(default)]
    path: String,
    configuration: Option<Value>,
}

impl AdmissionConfig {
    /// Reads the file of `--admission-control-config-file` and those it names, whose paths are relative to its own folder.
    ///
    /// # Errors
    /// When a file cannot be read or is something else.
    pub fn read(mut self, file: &Path) -> Result<Self, AdmissionConfigError> {
        let wrong = |why: String| AdmissionConfigError::Document { path: file.display().to_string(), why };
        let document: Document = serde_saphyr::from_str(&text_of(file)?).map_err(|e| wrong(e.to_string()))?;
        if !document.api_version.starts_with("apiserver.config.k8s.io/") || document.kind != "AdmissionConfiguration" {
            return Err(wrong(format!("it is {}, {}", document.api_version, document.kind)));
        }
        let folder = file.parent().unwrap_or(Path::new(""));
        self.folder = folder.to_owned();
        for plugin in document.plugins {
            let configuration = match plugin.configuration {
                Some(configuration) => configuration,
                None if plugin.path.is_empty() => Value::Null,
                None => {
                    let path = folder.join(&plugin.path);
                    serde_saphyr::from_str(&text_of(&path)?).map_err(|e| wrong(format!("{}: {e}", path.display())))?
                }
            };
            self.plugins.insert(plugin.name, configuration);
        }
        Ok(self)
    }

    fn is_known(name: &str) -> bool {
        PLUGINS.iter().any(|p| p.name == name) || BESIDE.iter().any(|(n, _)| *n == name) || EMPTY.contains(&name)
    }

    /// Whether a plugin runs that does (or does not) by default.
    pub(super) fn runs(&self, name: &str, by_default: bool) -> bool {
        let named = |list: &[String]| list.iter().any(|n| n == name);
        (by_default || named(&self.enable)) && !named(&self.disable)
    }

    /// Checks everything.
    pub(super) fn settings(&self) -> Result<Settings, AdmissionConfigError> {
        for (flag, list) in [("enable-admission-plugins", &self.enable), ("disable-admission-plugins", &self.disable)] {
            if let Some(name) = list.iter().find(|n| !Self::is_known(n)) {
                return Err(AdmissionConfigError::Unknown { flag, name: name.clone() });
            }
        }
        if let Some(both) = self.enable.iter().find(|n| self.disable.contains(n)) {
            return Err(AdmissionConfigError::Overlap(both.clone()));
        }
        let runs = |name: &str| self.runs(name, BESIDE.iter().any(|(n, on)| *n == name && *on));
        Ok(Settings {
            auto_provision: runs("NamespaceAutoProvision"),
            mutating_webhooks: runs("MutatingAdmissionWebhook"),
            validating_webhooks: runs("ValidatingAdmissionWebhook"),
            mutating_policies: runs("MutatingAdmissionPolicy"),
            validating_policies: runs("ValidatingAdmissionPolicy"),
            quota: runs("ResourceQuota"),
            not_ready_seconds: self.not_ready_seconds.unwrap_or(TOLERATION),
            unreachable_seconds: self.unreachable_seconds.unwrap_or(TOLERATION),
            pod_security: self.of("PodSecurity", PodSecuritySettings::read)?,
            limited: self.of("ResourceQuota", limited_resources)?,
            node_selectors: self.of("PodNodeSelector", node_selectors)?,
            tolerations: self.of("PodTolerationRestriction", TolerationLists::read)?,
            event_limits: self.of("EventRateLimit", super::event_rate::limits)?,
            image_policy: if runs("ImagePolicyWebhook") {
                self.of("ImagePolicyWebhook", |v| ImagePolicy::read(v, &self.folder).map(Some))?
            } else {
                None
            },
        })
    }

    fn of<T: Default>(&self, plugin: &str, read: impl Fn(&Value) -> Result<T, String>) -> Result<T, AdmissionConfigError> {
        match self.plugins.get(plugin).filter(|v| !v.is_null()) {
            None => Ok(T::default()),
            Some(value) => read(value).map_err(|why| AdmissionConfigError::Plugin { plugin: plugin.to_owned(), why }),
        }
    }
}

fn text_of(path: &Path) -> Result<String, AdmissionConfigError> {
    std::fs::read_to_string(path).map_err(|source| AdmissionConfigError::Read { path: path.display().to_string(), source })
}

/// What plugins are told, ready to use.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) auto_provision: bool,
    pub(super) mutating_webhooks: bool,
    pub(super) validating_webhooks: bool,
    pub(super) mutating_policies: bool,
    pub(super) validating_policies: bool,
    pub(super) quota: bool,
    pub(super) not_ready_seconds: i64,
    pub(super) unreachable_seconds: i64,
    pub(super) pod_security: PodSecuritySettings,
    pub(super) limited: Vec<LimitedResource>,
    pub(super) node_selectors: BTreeMap<String, String>,
    pub(super) tolerations: TolerationLists,
    pub(super) event_limits: Vec<super::event_rate::Limit>,
    pub(super) image_policy: Option<ImagePolicy>,
}

/// A resource that may be used only as far as a quota says so.
#[derive(Debug)]
pub(super) struct LimitedResource {
    group: String,
    resource: String,
    /// Quota resources, by any part of their name.
    pub(super) contains: Vec<String>,
    /// Scopes that a quota must have when the object is in them.
    pub(super) scopes: Vec<Scope>,
}

impl LimitedResource {
    pub(super) fn is_about(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// `limitedResources` of a `ResourceQuotaConfiguration`.
fn limited_resources(value: &Value) -> Result<Vec<LimitedResource>, String> {
    let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    let read = |v: &Value| {
        let resource = text(v, "resource");
        if resource.is_empty() {
            return Err("limitedResources: resource: Required value".to_owned());
        }
        let scopes = super::list(v, "matchScopes").map(Scope::from_term).collect();
        Ok(LimitedResource { group: text(v, "apiGroup"), resource, contains: texts(&v["matchContains"]), scopes })
    };
    super::list(value, "limitedResources").map(read).collect()
}

/// `podNodeSelectorPluginConfig`: the cluster's default under `clusterDefaultNodeSelector`, selectors of namespaces beside it.
fn node_selectors(value: &Value) -> Result<BTreeMap<String, String>, String> {
    let empty = Map::new();
    let entries = value["podNodeSelectorPluginConfig"].as_object().unwrap_or(&empty);
    let text = |(key, v): (&String, &Value)| match v.as_str() {
        Some(selector) => Ok((key.clone(), selector.to_owned())),
        None => Err(format!("podNodeSelectorPluginConfig.{key} is not a text")),
    };
    entries.iter().map(text).collect()
}

/// The cluster's own lists of PodTolerationRestriction.
#[derive(Debug, Default)]
pub(super) struct TolerationLists {
    pub(super) default: Vec<Value>,
    pub(super) whitelist: Vec<Value>,
}

impl TolerationLists {
    fn read(value: &Value) -> Result<Self, String> {
        let list = |key: &str| value[key].as_array().cloned().unwrap_or_default();
        Ok(TolerationLists { default: list("default"), whitelist: list("whitelist") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn plugins_that_do_not_exist_or_contradict_are_refused() {
        let told = |enable: &[&str], disable: &[&str]| {
            let config = AdmissionConfig { enable: names(enable), disable: names(disable), ..AdmissionConfig::default() };
            config.settings().err().map(|e| e.to_string())
        };
        assert_eq!(told(&["AlwaysPullImages"], &["PodSecurity"]), None);
        assert_eq!(told(&["Nonsense"], &[]).as_deref(), Some("enable-admission-plugins plugin \"Nonsense\" is unknown"));
        let both = told(&["EventRateLimit"], &["EventRateLimit"]);
        assert_eq!(both.as_deref(), Some("\"EventRateLimit\" in enable-admission-plugins and disable-admission-plugins overlapped"));
    }

    #[test]
    fn every_plugin_of_1_36_is_known() {
        const ALL: &[&str] = &[
            "AlwaysAdmit",
            "NamespaceAutoProvision",
            "NamespaceLifecycle",
            "NamespaceExists",
            "LimitPodHardAntiAffinityTopology",
            "LimitRanger",
            "ServiceAccount",
            "NodeRestriction",
            "TaintNodesByCondition",
            "AlwaysPullImages",
            "ImagePolicyWebhook",
            "PodSecurity",
            "PodNodeSelector",
            "Priority",
            "DefaultTolerationSeconds",
            "PodTolerationRestriction",
            "EventRateLimit",
            "ExtendedResourceToleration",
            "DefaultStorageClass",
            "StorageObjectInUseProtection",
            "PodGroupProtection",
            "OwnerReferencesPermissionEnforcement",
            "PersistentVolumeClaimResize",
            "RuntimeClass",
            "CertificateApproval",
            "CertificateSigning",
            "ClusterTrustBundleAttest",
            "CertificateSubjectRestriction",
            "DefaultIngressClass",
            "DenyServiceExternalIPs",
            "PodTopologyLabels",
            "PodGroupWorkloadExists",
            "NodeDeclaredFeatureValidator",
            "JobValidation",
            "PodResizeValidator",
            "MutatingAdmissionPolicy",
            "MutatingAdmissionWebhook",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionWebhook",
            "ResourceQuota",
            "AlwaysDeny",
        ];
        let unknown: Vec<_> = ALL.iter().filter(|n| !AdmissionConfig::is_known(n)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn files_name_files_beside_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let main = folder.path().join("admission.yaml");
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: EventRateLimit\n  path: events.yaml\n- name: PodNodeSelector\n  configuration: {podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: a=b}}\n";
        std::fs::write(&main, text).expect("written");
        let limits = "kind: Configuration\nlimits: [{type: Namespace, qps: 5, burst: 10}]\n";
        std::fs::write(folder.path().join("events.yaml"), limits).expect("written");
        let config = AdmissionConfig::default().read(&main).expect("read");
        assert_eq!(config.plugins["EventRateLimit"]["limits"][0]["burst"], json!(10));
        assert_eq!(config.settings().expect("fine").node_selectors["clusterDefaultNodeSelector"], "a=b");
        assert!(AdmissionConfig::default().read(&folder.path().join("absent")).is_err());
    }
}
