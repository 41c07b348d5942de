//! The audit policy: which requests are written down, and how much of them. The first rule that matches decides.
//!
//! Source: `apiserver/pkg/audit/policy`, `apis/audit/validation`.

use super::{AuditError, Level, Stage};
use crate::attributes::UserInfo;
use crate::request::RequestInfo;
use serde::{Deserialize, Deserializer};

/// `audit.k8s.io/v1 Policy`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde::de::IgnoredAny,
    #[serde(default, deserialize_with = "nullable")]
    rules: Vec<Rule>,
    #[serde(default, deserialize_with = "nullable")]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default, deserialize_with = "nullable")]
    users: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    user_groups: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    verbs: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    resources: Vec<GroupResources>,
    #[serde(default, deserialize_with = "nullable")]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs", deserialize_with = "nullable")]
    urls: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default, deserialize_with = "nullable")]
    resources: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    resource_names: Vec<String>,
}

fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// What the policy says about a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How much.
    pub level: Level,
    /// Bits of the stages that are left out, see [`Stage::bit`].
    pub omitted: u8,
    /// Whether `metadata.managedFields` is left out of objects.
    pub omit_managed_fields: bool,
}

impl Policy {
    /// Reads and checks a policy.
    pub fn parse(text: &str) -> Result<Self, AuditError> {
        let policy: Policy = serde_saphyr::from_str(text).map_err(|e| AuditError::Policy(e.to_string()))?;
        if policy.kind != "Policy" || policy.api_version != "audit.k8s.io/v1" {
            return Err(AuditError::Policy(format!("{}, Kind={} is not audit.k8s.io/v1, Kind=Policy", policy.api_version, policy.kind)));
        }
        if policy.rules.is_empty() {
            return Err(AuditError::Policy("loaded illegal policy with 0 rules".to_owned()));
        }
        for (at, rule) in policy.rules.iter().enumerate() {
            rule.check().map_err(|why| AuditError::Policy(format!("rules[{at}].{why}")))?;
        }
        Ok(policy)
    }

    /// The verdict of the first rule that matches; level None without one.
    pub fn judge(&self, info: &RequestInfo, user: Option<&UserInfo>) -> Verdict {
        let bits = |stages: &[Stage]| stages.iter().fold(0, |all, s| all | s.bit());
        match self.rules.iter().find(|r| r.matches(info, user)) {
            None => Verdict::default(),
            Some(rule) => Verdict {
                level: rule.level,
                omitted: bits(&self.omit_stages) | bits(&rule.omit_stages),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            },
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        if !self.urls.is_empty() && (!self.resources.is_empty() || !self.namespaces.is_empty()) {
            return Err("nonResourceURLs: Invalid value: rules cannot apply to both regular resources and non-resource URLs".to_owned());
        }
        for url in &self.urls {
            if url != "*" && (!url.starts_with('/') || url.trim_end_matches('*').contains('*')) {
                return Err(format!(
                    "nonResourceURLs: Invalid value: {url:?}: non-resource URL rules must begin with a '/' character and hold '*' only at the end"
                ));
            }
        }
        for entry in &self.resources {
            if !entry.resource_names.is_empty() && entry.resources.is_empty() {
                return Err("resources.resourceNames: Invalid value: using resourceNames requires at least one resource".to_owned());
            }
            if entry.group.contains('/') {
                return Err(format!("resources.group: Invalid value: {:?}: a group has no version", entry.group));
            }
        }
        Ok(())
    }

    fn matches(&self, info: &RequestInfo, user: Option<&UserInfo>) -> bool {
        let named = |users: &[String]| users.is_empty() || user.is_some_and(|u| users.contains(&u.name));
        let grouped = |groups: &[String]| groups.is_empty() || user.is_some_and(|u| u.groups.iter().any(|g| groups.contains(g)));
        if !named(&self.users) || !grouped(&self.user_groups) || !(self.verbs.is_empty() || self.verbs.contains(&info.verb)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.resource_request && self.about(info);
        }
        self.urls.is_empty() || (!info.resource_request && self.urls.iter().any(|url| path_matches(&info.path, url)))
    }

    fn about(&self, info: &RequestInfo) -> bool {
        (self.namespaces.is_empty() || self.namespaces.contains(&info.namespace))
            && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(info)))
    }
}

impl GroupResources {
    fn matches(&self, info: &RequestInfo) -> bool {
        let named = || self.resource_names.is_empty() || self.resource_names.contains(&info.name);
        let resource = |wanted: &String| match wanted.split_once('/') {
            None => wanted == "*" || (info.subresource.is_empty() && *wanted == info.resource),
            Some(("*", subresource)) => !info.subresource.is_empty() && subresource == info.subresource,
            Some((resource, "*")) => resource == info.resource,
            Some((resource, subresource)) => resource == info.resource && subresource == info.subresource,
        };
        self.group == info.group && (self.resources.is_empty() || (named() && self.resources.iter().any(resource)))
    }
}

fn path_matches(path: &str, pattern: &str) -> bool {
    pattern == "*" || pattern == path || (pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Query;

    fn info(method: &str, uri: &str) -> RequestInfo {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(p, q)| (p, Some(q)));
        RequestInfo::of(&http::Method::from_bytes(method.as_bytes()).expect("a method"), path, &Query::parse(query))
    }

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: ["watch"]
  resources: [{group: "", resources: ["endpoints", "services/*"]}]
- level: None
  nonResourceURLs: ["/healthz*", "/version"]
- level: RequestResponse
  omitManagedFields: false
  omitStages: [ResponseStarted]
  resources: [{group: "", resources: ["pods"], resourceNames: ["special"]}, {group: apps}]
- level: Metadata
  resources: [{group: "", resources: ["*/status", "secrets"]}]
- level: Request
  userGroups: ["system:authenticated"]
  namespaces: ["kube-system", ""]
"#;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = Policy::parse(POLICY).expect("a policy");
        let proxy = UserInfo::component("system:kube-proxy", &[]);
        let cases = [
            (&proxy, "GET", "/api/v1/endpoints?watch=1", Level::None),
            (&proxy, "GET", "/api/v1/endpoints", Level::Request),
            (&proxy, "GET", "/api/v1/namespaces/a/services/b/status?watch=1", Level::Metadata),
            (&proxy, "GET", "/healthz/ping", Level::None),
            (&proxy, "GET", "/metrics", Level::None),
            (&proxy, "GET", "/api/v1/namespaces/a/pods/special", Level::RequestResponse),
            (&proxy, "GET", "/api/v1/namespaces/a/pods/other", Level::None),
            (&proxy, "GET", "/api/v1/namespaces/a/pods/special/status", Level::Metadata),
            (&proxy, "GET", "/apis/apps/v1/deployments", Level::RequestResponse),
            (&proxy, "GET", "/api/v1/namespaces/a/secrets", Level::Metadata),
            (&proxy, "GET", "/api/v1/namespaces/kube-system/configmaps", Level::Request),
            (&proxy, "GET", "/api/v1/nodes", Level::Request),
            (&proxy, "GET", "/api/v1/namespaces/a/configmaps", Level::None),
        ];
        for (user, method, uri, level) in cases {
            assert_eq!(policy.judge(&info(method, uri), Some(user)).level, level, "{method} {uri}");
        }
        assert_eq!(policy.judge(&info("GET", "/api/v1/nodes"), None).level, Level::None, "nobody is in no group");
        let whole = policy.judge(&info("GET", "/apis/apps/v1/deployments"), Some(&proxy));
        assert_eq!(whole.omitted, Stage::RequestReceived.bit() | Stage::ResponseStarted.bit());
        assert!(!whole.omit_managed_fields);
        assert!(policy.judge(&info("GET", "/api/v1/nodes"), Some(&proxy)).omit_managed_fields);
    }

    #[test]
    fn a_policy_that_says_nothing_sensible_is_refused() {
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
        for text in [
            head.to_owned(),
            format!("{head}rules: [{{level: Everything}}]"),
            format!("{head}rules: [{{level: None, nonResourceURLs: ['healthz']}}]"),
            format!("{head}rules: [{{level: None, nonResourceURLs: ['/a'], namespaces: ['b']}}]"),
            format!("{head}rules: [{{level: None, resources: [{{resourceNames: ['b']}}]}}]"),
            format!("{head}rules: [{{level: None, unknown: 1}}]"),
            "apiVersion: audit.k8s.io/v1alpha1\nkind: Policy\nrules: [{level: None}]".to_owned(),
        ] {
            assert!(Policy::parse(&text).is_err(), "{text}");
        }
    }
}
