//! The file: `apiserver.config.k8s.io/v1 EncryptionConfiguration`, read and checked.
//!
//! Source of the rules: `apiserver/pkg/apis/apiserver/validation/validation_encryption.go`.

use super::EncryptionError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::HashSet;
use std::time::Duration;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Configuration {
    api_version: String,
    kind: String,
    #[serde(default)]
    pub resources: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    #[serde(default)]
    pub resources: Vec<String>,
    #[serde(default)]
    pub providers: Vec<Provider>,
}

/// Exactly one is set.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Provider {
    pub identity: Option<Identity>,
    pub aesgcm: Option<Keys>,
    pub aescbc: Option<Keys>,
    pub secretbox: Option<Keys>,
    pub kms: Option<Kms>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    #[serde(default)]
    pub keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    secret: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.name)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Kms {
    api_version: Option<String>,
    pub name: String,
    pub endpoint: String,
    #[serde(default, rename = "cachesize")]
    cache_size: Option<i64>,
    #[serde(default)]
    timeout: Option<String>,
}

impl Kms {
    pub fn timeout(&self) -> Duration {
        let said = self.timeout.as_deref().and_then(crate::request::query::parse_duration);
        said.unwrap_or(Duration::from_secs(3))
    }
}

impl Key {
    /// The key's bytes, of one of the lengths allowed.
    pub fn bytes(&self, lengths: &[usize]) -> Result<Vec<u8>, String> {
        let bytes = STANDARD.decode(&self.secret).map_err(|_| format!("secret of key {:?} must be base64 encoded", self.name))?;
        if lengths.contains(&bytes.len()) {
            return Ok(bytes);
        }
        Err(format!("secret of key {:?} has {} bytes; expected are {lengths:?}", self.name, bytes.len()))
    }
}

impl Configuration {
    pub fn parse(text: &str) -> Result<Self, EncryptionError> {
        let read: Self = serde_saphyr::from_str(text).map_err(|e| EncryptionError::Config(e.to_string()))?;
        read.check().map_err(EncryptionError::Config)?;
        Ok(read)
    }

    fn check(&self) -> Result<(), String> {
        if self.kind != "EncryptionConfiguration" || self.api_version != "apiserver.config.k8s.io/v1" {
            return Err(format!(
                "{}, Kind={} is not apiserver.config.k8s.io/v1, Kind=EncryptionConfiguration",
                self.api_version, self.kind
            ));
        }
        if self.resources.is_empty() {
            return Err("resources: Required value: encryption provider configuration must have at least one resource".to_owned());
        }
        let mut names = HashSet::new();
        for (at, entry) in self.resources.iter().enumerate() {
            let fail = |why: String| format!("resources[{at}].{why}");
            if entry.resources.is_empty() || entry.providers.is_empty() {
                return Err(fail("resources and providers: Required value".to_owned()));
            }
            entry.resources.iter().try_for_each(|r| check_resource(r)).map_err(fail)?;
            check_overlap(&entry.resources).map_err(fail)?;
            for provider in &entry.providers {
                provider.check(&mut names).map_err(fail)?;
            }
        }
        Ok(())
    }
}

fn check_resource(resource: &str) -> Result<(), String> {
    let (name, group) = resource.split_once('.').unwrap_or((resource, ""));
    let refuse = |why: &str| Err(format!("resources: Invalid value: {resource:?}: {why}"));
    match (name, group) {
        _ if resource.to_lowercase() != resource => refuse("resource name should be lowercase"),
        ("*", "") if resource == "*" => refuse("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"),
        ("*", "extensions") | (_, "extensions") => refuse("'extensions' group has been removed and cannot be used for encryption"),
        ("*", "*") => Ok(()),
        (_, "*") => refuse("group '*' is only allowed for all resources: *.*"),
        ("events", "events.k8s.io") => refuse("'events' objects are encrypted using the 'events' group"),
        ("serviceipallocations" | "servicenodeportallocations", "") => refuse("is not a REST API resource"),
        (name, _) if name != "*" && name.contains('*') => refuse("resource name can only be wholly a wildcard"),
        _ => Ok(()),
    }
}

fn check_overlap(resources: &[String]) -> Result<(), String> {
    let all: HashSet<&str> = resources.iter().map(String::as_str).collect();
    if all.len() != resources.len() {
        return Err("resources: Invalid value: duplicate resource".to_owned());
    }
    if all.contains("*.*") && all.len() > 1 {
        return Err("resources: Invalid value: using overlapping resources such as 'secrets' and '*.*' in the same resource list is not allowed as they will be masked".to_owned());
    }
    for resource in resources {
        let group = resource.split_once('.').map_or("", |(_, g)| g);
        let whole = format!("*.{group}");
        if *resource != whole && all.contains(whole.as_str()) {
            return Err(format!("resources: Invalid value: {resource:?} is masked by {whole:?} in the same list"));
        }
    }
    Ok(())
}

impl Provider {
    fn check(&self, names: &mut HashSet<String>) -> Result<(), String> {
        let set = [self.identity.is_some(), self.aesgcm.is_some(), self.aescbc.is_some(), self.secretbox.is_some(), self.kms.is_some()];
        match set.iter().filter(|s| **s).count() {
            0 => return Err("providers: Required value: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity".to_owned()),
            1 => {}
            _ => return Err("providers: Invalid value: more than one provider specified in a single element, should split into different list elements".to_owned()),
        }
        for keys in [&self.aesgcm, &self.aescbc, &self.secretbox].into_iter().flatten() {
            let mut seen = HashSet::new();
            if keys.keys.is_empty() {
                return Err("providers.keys: Required value: at least one key is required".to_owned());
            }
            for key in &keys.keys {
                if key.name.is_empty() || key.name.contains(':') || !seen.insert(&key.name) {
                    return Err(format!(
                        "providers.keys.name: Invalid value: {:?}: a name is required, without ':', and only once",
                        key.name
                    ));
                }
            }
        }
        match &self.kms {
            Some(kms) => kms.check(names),
            None => Ok(()),
        }
    }
}

impl Kms {
    fn check(&self, names: &mut HashSet<String>) -> Result<(), String> {
        match self.api_version.as_deref() {
            Some("v2") => {}
            None | Some("v1") => {
                return Err(
                    "providers.kms.apiVersion: Invalid value: \"v1\": KMSv1 is deprecated and disabled by default in Kubernetes; use v2"
                        .to_owned(),
                );
            }
            Some(other) => return Err(format!("providers.kms.apiVersion: Invalid value: {other:?}: unsupported apiVersion, must be v2")),
        }
        if self.cache_size.is_some() {
            return Err("providers.kms.cachesize: Invalid value: cachesize is not supported in v2".to_owned());
        }
        if self.name.is_empty() || self.name.contains(':') {
            return Err(format!("providers.kms.name: Invalid value: {:?}: a name is required, without ':'", self.name));
        }
        if !names.insert(self.name.clone()) {
            return Err(format!("providers.kms.name: Invalid value: {:?}: provider name must be unique", self.name));
        }
        if !self.endpoint.starts_with("unix:///") {
            return Err(format!("providers.kms.endpoint: Invalid value: {:?}: unsupported scheme, only unix:///path is", self.endpoint));
        }
        match self.timeout.as_deref().map(crate::request::query::parse_duration) {
            Some(None) => Err("providers.kms.timeout: Invalid value: not a duration".to_owned()),
            Some(Some(zero)) if zero.is_zero() => Err("providers.kms.timeout: Invalid value: should be a positive value".to_owned()),
            _ => Ok(()),
        }
    }
}
