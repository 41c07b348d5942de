//! FlowSchemas compiled: which requests they match, and which flow of the schema a request belongs to.

use super::level::Level;
use super::metrics::Counts;
use crate::attributes::UserInfo;
use crate::registry::hash_of;
use crate::request::RequestInfo;
use crate::tokens;
use http::HeaderValue;
use serde::{Deserialize, Deserializer};
use std::sync::Arc;

pub(super) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// `FlowSchemaSpec`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SchemaSpec {
    pub priority_level_configuration: Named,
    #[serde(default = "default_precedence")]
    pub matching_precedence: i64,
    #[serde(default)]
    pub distinguisher_method: Option<Distinguisher>,
    #[serde(default, deserialize_with = "nullable")]
    rules: Vec<Rule>,
}

fn default_precedence() -> i64 {
    1000
}

#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Distinguisher {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default, deserialize_with = "nullable")]
    subjects: Vec<Subject>,
    #[serde(default, deserialize_with = "nullable")]
    resource_rules: Vec<ResourceRule>,
    #[serde(default, deserialize_with = "nullable")]
    non_resource_rules: Vec<PathRule>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind")]
enum Subject {
    User {
        user: Named,
    },
    Group {
        group: Named,
    },
    ServiceAccount {
        #[serde(rename = "serviceAccount")]
        account: Account,
    },
}

#[derive(Debug, Deserialize)]
struct Account {
    namespace: String,
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceRule {
    #[serde(default, deserialize_with = "nullable")]
    verbs: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    api_groups: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    resources: Vec<String>,
    #[serde(default)]
    cluster_scope: bool,
    #[serde(default, deserialize_with = "nullable")]
    namespaces: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct PathRule {
    #[serde(default, deserialize_with = "nullable")]
    verbs: Vec<String>,
    #[serde(default, rename = "nonResourceURLs", deserialize_with = "nullable")]
    urls: Vec<String>,
}

fn holds(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Subject {
    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Subject::User { user: named } => named.name == "*" || named.name == user.name,
            Subject::Group { group } => group.name == "*" || user.groups.contains(&group.name),
            Subject::ServiceAccount { account } => tokens::split_username(&user.name)
                .is_some_and(|(namespace, name)| account.namespace == namespace && (account.name == "*" || account.name == name)),
        }
    }
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let resource = |wanted: &String| match wanted.split_once('/') {
            _ if wanted == "*" => true,
            None => info.subresource.is_empty() && *wanted == info.resource,
            Some((resource, subresource)) => resource == info.resource && subresource == info.subresource,
        };
        holds(&self.verbs, &info.verb)
            && holds(&self.api_groups, &info.group)
            && self.resources.iter().any(resource)
            && if info.namespace.is_empty() { self.cluster_scope } else { holds(&self.namespaces, &info.namespace) }
    }
}

impl PathRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let url = |url: &String| {
            url == "*"
                || *url == info.path
                || url.strip_suffix("/*").is_some_and(|p| info.path.starts_with(p) && info.path[p.len()..].starts_with('/'))
        };
        holds(&self.verbs, &info.verb) && self.urls.iter().any(url)
    }
}

impl Rule {
    fn matches(&self, info: &RequestInfo, user: &UserInfo) -> bool {
        self.subjects.iter().any(|s| s.is(user))
            && if info.resource_request {
                self.resource_rules.iter().any(|r| r.matches(info))
            } else {
                self.non_resource_rules.iter().any(|r| r.matches(info))
            }
    }
}

/// A FlowSchema whose level exists.
pub struct Schema {
    pub(super) name: String,
    /// Value of `X-Kubernetes-PF-FlowSchema-UID`.
    pub uid: HeaderValue,
    /// Where its requests go.
    pub(super) level: Arc<Level>,
    pub(super) counts: Arc<Counts>,
    spec: SchemaSpec,
}

impl Schema {
    pub(super) fn new(name: String, uid: &str, spec: SchemaSpec, level: Arc<Level>, counts: Arc<Counts>) -> Self {
        Schema { name, uid: HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static("")), level, counts, spec }
    }

    /// Value of `X-Kubernetes-PF-PriorityLevel-UID`.
    pub fn level_uid(&self) -> HeaderValue {
        self.level.uid()
    }

    pub(super) fn order(&self) -> (i64, &str) {
        (self.spec.matching_precedence, &self.name)
    }

    pub(super) fn matches(&self, info: &RequestInfo, user: &UserInfo) -> bool {
        self.spec.rules.iter().any(|rule| rule.matches(info, user))
    }

    /// What tells the flows of the schema apart.
    pub(super) fn distinguisher<'a>(&self, info: &'a RequestInfo, user: &'a UserInfo) -> &'a str {
        match self.spec.distinguisher_method.as_ref().map(|d| d.kind.as_str()) {
            Some("ByUser") => &user.name,
            Some("ByNamespace") => &info.namespace,
            _ => "",
        }
    }

    pub(super) fn flow<'a>(&self, info: &'a RequestInfo, user: &'a UserInfo) -> Flow<'a> {
        let distinguisher = self.distinguisher(info, user);
        Flow { hash: hash_of((&self.name, distinguisher)), distinguisher }
    }
}

/// Requests that share a fate: those of one schema with one distinguisher.
#[derive(Clone, Copy)]
pub(super) struct Flow<'a> {
    pub hash: u64,
    pub distinguisher: &'a str,
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Schema({})", self.name)
    }
}
