//! Which authorizers are asked, and in which order: `--authorization-mode`, or an AuthorizationConfiguration.
//!
//! Source of the rules: `apiserver/pkg/apis/apiserver/validation`.

use super::abac::Policies;
use super::conditions::Conditions;
use super::webhook::{Webhook, WebhookSpec};
use crate::outbound::Remote;
use crate::request::query::parse_duration;
use crate::server::reload::ConfigFile;
use serde::Deserialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// `--authorization-*`.
#[derive(Clone, Debug)]
pub struct AuthzConfig {
    /// `--authorization-mode`.
    pub modes: Vec<String>,
    /// Content of `--authorization-policy-file`, for mode ABAC.
    pub abac_policy: String,
    /// For mode Webhook.
    pub webhook: Option<AuthzWebhookConfig>,
    /// `--authorization-config`, in place of all of the above. May change while the server runs.
    pub file: Option<ConfigFile>,
}

/// `--authorization-webhook-*`.
#[derive(Clone, Debug)]
pub struct AuthzWebhookConfig {
    /// The kubeconfig file that says where.
    pub kubeconfig: PathBuf,
    /// `v1` or `v1beta1`.
    pub version: String,
    /// How long a yes is remembered.
    pub authorized_ttl: Duration,
    /// How long a no is remembered.
    pub unauthorized_ttl: Duration,
}

impl Default for AuthzConfig {
    /// As kubeadm has it: Node, then RBAC.
    fn default() -> Self {
        AuthzConfig { modes: vec!["Node".to_owned(), "RBAC".to_owned()], abac_policy: String::new(), webhook: None, file: None }
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum AuthzConfigError {
    #[error("{0}")]
    Invalid(String),
    #[error("authorization configuration {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("authorization policy file line {line}: {why}")]
    Abac { line: usize, why: String },
    #[error("authorization webhook: {0}")]
    Webhook(#[from] crate::outbound::OutboundError),
}

/// Somebody who is asked.
pub(super) enum Step {
    AlwaysAllow,
    AlwaysDeny,
    Node,
    Rbac,
    Abac(Policies),
    Webhook(Arc<Webhook>),
}

/// Everybody who is asked, in order.
pub(super) struct Chain {
    pub steps: Vec<Step>,
    /// Whether somebody of them is another server.
    pub asks_others: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    api_version: String,
    kind: String,
    #[serde(default)]
    authorizers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    webhook: Option<WebhookEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WebhookEntry {
    #[serde(default, rename = "authorizedTTL")]
    authorized_ttl: Option<String>,
    #[serde(default)]
    cache_authorized_requests: Option<bool>,
    #[serde(default, rename = "unauthorizedTTL")]
    unauthorized_ttl: Option<String>,
    #[serde(default)]
    cache_unauthorized_requests: Option<bool>,
    #[serde(default)]
    timeout: Option<String>,
    #[serde(default)]
    subject_access_review_version: String,
    #[serde(default)]
    failure_policy: String,
    connection_info: Connection,
    #[serde(default)]
    match_conditions: Vec<ConditionEntry>,
    #[serde(default)]
    match_condition_subject_access_review_version: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConditionEntry {
    expression: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Connection {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    kube_config_file: Option<PathBuf>,
}

fn invalid(why: impl Into<String>) -> AuthzConfigError {
    AuthzConfigError::Invalid(why.into())
}

impl Chain {
    pub fn new(config: &AuthzConfig) -> Result<Self, AuthzConfigError> {
        let steps = match &config.file {
            Some(file) => {
                let text = file.read().map_err(|source| AuthzConfigError::Read { path: file.path.clone(), source })?;
                from_file(&text, config, file.path.parent().unwrap_or(Path::new("/")))?
            }
            None => {
                check_modes(&config.modes)?;
                config.modes.iter().map(|mode| plain(mode, config)).collect::<Result<Vec<_>, _>>()?
            }
        };
        let asks_others = steps.iter().any(|s| matches!(s, Step::Webhook(_)));
        Ok(Chain { steps, asks_others })
    }
}

fn check_modes(modes: &[String]) -> Result<(), AuthzConfigError> {
    if modes.is_empty() {
        return Err(invalid("at least one authorization-mode must be passed"));
    }
    let mut seen = HashSet::new();
    match modes.iter().find(|m| !seen.insert(*m)) {
        Some(twice) => Err(invalid(format!("authorization-mode {twice:?} has mode specified more than once"))),
        None => Ok(()),
    }
}

/// The authorizer of a mode, configured by flags.
fn plain(mode: &str, config: &AuthzConfig) -> Result<Step, AuthzConfigError> {
    match mode {
        "AlwaysAllow" => Ok(Step::AlwaysAllow),
        "AlwaysDeny" => Ok(Step::AlwaysDeny),
        "Node" => Ok(Step::Node),
        "RBAC" => Ok(Step::Rbac),
        "ABAC" if config.abac_policy.is_empty() => Err(invalid("authorization-mode ABAC's authorization policy file not passed")),
        "ABAC" => Ok(Step::Abac(Policies::parse(&config.abac_policy)?)),
        "Webhook" => {
            let webhook =
                config.webhook.as_ref().ok_or_else(|| invalid("authorization-mode Webhook's authorization config file not passed"))?;
            check_version(&webhook.version)?;
            let spec = WebhookSpec {
                version: webhook.version.clone(),
                authorized_ttl: webhook.authorized_ttl,
                unauthorized_ttl: webhook.unauthorized_ttl,
                timeout: Duration::from_secs(30),
                deny_on_failure: false,
                conditions: Conditions::default(),
            };
            Ok(Step::Webhook(Arc::new(Webhook::new(Remote::from_kubeconfig_file(&webhook.kubeconfig)?, spec))))
        }
        other => Err(invalid(format!("authorization-mode {other:?} is not a valid mode"))),
    }
}

fn check_version(version: &str) -> Result<(), AuthzConfigError> {
    if matches!(version, "v1" | "v1beta1") { Ok(()) } else { Err(invalid(format!("unsupported SubjectAccessReview version {version:?}"))) }
}

fn from_file(text: &str, config: &AuthzConfig, folder: &Path) -> Result<Vec<Step>, AuthzConfigError> {
    let read: Configuration = serde_saphyr::from_str(text).map_err(|e| invalid(format!("authorization configuration: {e}")))?;
    if read.kind != "AuthorizationConfiguration"
        || !matches!(read.api_version.as_str(), "apiserver.config.k8s.io/v1" | "apiserver.config.k8s.io/v1beta1")
    {
        return Err(invalid(format!(
            "{}, Kind={} is not apiserver.config.k8s.io/v1, Kind=AuthorizationConfiguration",
            read.api_version, read.kind
        )));
    }
    if read.authorizers.is_empty() {
        return Err(invalid("authorizers: Required value: at least one authorization mode must be defined"));
    }
    let (mut types, mut names) = (HashSet::new(), HashSet::new());
    let mut steps = Vec::new();
    for (at, entry) in read.authorizers.into_iter().enumerate() {
        let fail = |why: String| invalid(format!("authorizers[{at}].{why}"));
        if !types.insert(entry.kind.clone()) && entry.kind != "Webhook" {
            return Err(fail(format!("type: Duplicate value: {:?}", entry.kind)));
        }
        if entry.name.is_empty() || !names.insert(entry.name.clone()) {
            return Err(fail(format!("name: Invalid value: {:?}: a name is required, and only once", entry.name)));
        }
        steps.push(match (entry.kind.as_str(), entry.webhook) {
            ("Webhook", Some(webhook)) => Step::Webhook(Arc::new(webhook.read(folder).map_err(|e| fail(format!("webhook.{e}")))?)),
            ("Webhook", None) => return Err(fail("webhook: Required value: required when type=Webhook".to_owned())),
            (_, Some(_)) => return Err(fail("webhook: Invalid value: may only be specified when type=Webhook".to_owned())),
            (mode, None) => plain(mode, config)?,
        });
    }
    Ok(steps)
}

impl WebhookEntry {
    fn read(self, folder: &Path) -> Result<Webhook, AuthzConfigError> {
        if !self.match_conditions.is_empty() && self.match_condition_subject_access_review_version != "v1" {
            return Err(invalid("matchConditionSubjectAccessReviewVersion: Required value: must be v1 when matchConditions are given"));
        }
        let sources: Vec<String> = self.match_conditions.into_iter().map(|c| c.expression).collect();
        let conditions = Conditions::compile(&sources).map_err(|e| invalid(format!("matchConditions{e}")))?;
        check_version(&self.subject_access_review_version)?;
        let time = |name: &str, said: Option<&String>, default: Option<u64>| match (said.map(|t| parse_duration(t)), default) {
            (Some(Some(time)), _) if !time.is_zero() => Ok(time),
            (None, Some(seconds)) => Ok(Duration::from_secs(seconds)),
            _ => Err(invalid(format!("{name}: Invalid value: a duration greater than zero is required"))),
        };
        let timeout = time("timeout", self.timeout.as_ref(), None)?;
        if timeout > Duration::from_secs(30) {
            return Err(invalid("timeout: Invalid value: must be <= 30s"));
        }
        let deny_on_failure = match self.failure_policy.as_str() {
            "NoOpinion" => false,
            "Deny" => true,
            other => {
                return Err(invalid(format!("failurePolicy: Unsupported value: {other:?}: supported values: \"NoOpinion\", \"Deny\"")));
            }
        };
        let remembers = |said: Option<bool>, ttl: Duration| if said.unwrap_or(true) { ttl } else { Duration::ZERO };
        let spec = WebhookSpec {
            version: self.subject_access_review_version,
            authorized_ttl: remembers(self.cache_authorized_requests, time("authorizedTTL", self.authorized_ttl.as_ref(), Some(300))?),
            unauthorized_ttl: remembers(
                self.cache_unauthorized_requests,
                time("unauthorizedTTL", self.unauthorized_ttl.as_ref(), Some(30))?,
            ),
            timeout,
            deny_on_failure,
            conditions,
        };
        let file = match (self.connection_info.kind.as_str(), self.connection_info.kube_config_file) {
            ("KubeConfigFile", Some(file)) => folder.join(file),
            ("KubeConfigFile", None) => return Err(invalid("connectionInfo.kubeConfigFile: Required value")),
            (other, _) => {
                return Err(invalid(format!("connectionInfo.type: Unsupported value: {other:?}: supported values: \"KubeConfigFile\"")));
            }
        };
        Ok(Webhook::new(Remote::from_kubeconfig_file(&file)?, spec))
    }
}
