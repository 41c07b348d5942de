//! A rule of a role, what it matches and what it covers. Source: `rbac/v1` helpers and `component-helpers/auth/rbac/validation`.

use crate::attributes::Attributes;
use serde::{Deserialize, Deserializer, Serialize};

/// `rbac/v1 PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are those of rbac/v1 PolicyRule")]
pub struct Rule {
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub api_groups: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub non_resource_urls: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub resource_names: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub resources: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub verbs: Vec<String>,
}

/// Reads `null` as the empty value.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    /// Whether the rule allows the request.
    pub fn allows(&self, a: &Attributes) -> bool {
        if !has(&self.verbs, &a.verb) {
            return false;
        }
        if a.is_resource() {
            has(&self.api_groups, &a.group) && self.names_resource(&a.resource, &a.subresource) && self.allows_name(&a.name)
        } else {
            self.non_resource_urls.iter().any(|url| url_matches(url, &a.path))
        }
    }

    fn names_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|rule| match (rule.as_str(), subresource.is_empty()) {
            ("*", _) => true,
            (rule, true) => rule == resource,
            (rule, false) => rule.split_once('/').is_some_and(|(r, s)| s == subresource && (r == "*" || r == resource)),
        })
    }

    fn allows_name(&self, name: &str) -> bool {
        self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == name)
    }

    /// Whether everything that `single` allows (a rule with one verb, group, resource, name or URL) is allowed by this rule.
    fn covers(&self, single: &Rule) -> bool {
        let all = |own: &[String], wanted: &[String]| own.iter().any(|i| i == "*") || wanted.iter().all(|w| own.contains(w));
        let resources = || {
            all(&self.resources, &single.resources)
                || single.resources.iter().all(|wanted| {
                    self.resources.contains(wanted)
                        || wanted
                            .split_once('/')
                            .is_some_and(|(_, sub)| self.resources.iter().any(|own| own.strip_prefix("*/") == Some(sub)))
                })
        };
        let names = || {
            if single.resource_names.is_empty() {
                self.resource_names.is_empty()
            } else {
                self.resource_names.is_empty() || single.resource_names.iter().all(|n| self.resource_names.contains(n))
            }
        };
        let urls = || single.non_resource_urls.iter().all(|url| self.non_resource_urls.iter().any(|own| url_covers(own, url)));
        all(&self.verbs, &single.verbs) && all(&self.api_groups, &single.api_groups) && resources() && names() && urls()
    }

    /// The rule as many rules that each name one verb, one group, one resource and at most one name, or one URL.
    fn split(&self) -> Vec<Rule> {
        let one = |s: &String| vec![s.clone()];
        let mut out = Vec::new();
        for verb in &self.verbs {
            for group in &self.api_groups {
                for resource in &self.resources {
                    let base = Rule { api_groups: one(group), resources: one(resource), verbs: one(verb), ..Rule::default() };
                    if self.resource_names.is_empty() {
                        out.push(base);
                    } else {
                        out.extend(self.resource_names.iter().map(|name| Rule { resource_names: one(name), ..base.clone() }));
                    }
                }
            }
            out.extend(self.non_resource_urls.iter().map(|url| Rule { non_resource_urls: one(url), verbs: one(verb), ..Rule::default() }));
        }
        out
    }

    /// In the notation of escalation errors: `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
    pub fn compact(&self) -> String {
        let list = |items: &[String]| items.iter().map(|i| format!("{i:?}")).collect::<Vec<_>>().join(" ");
        let parts = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let parts: Vec<String> =
            parts.iter().filter(|(_, items)| !items.is_empty()).map(|(name, items)| format!("{name}:[{}]", list(items))).collect();
        format!("{{{}}}", parts.join(", "))
    }
}

fn url_matches(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || (rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*')))
}

fn url_covers(owner: &str, wanted: &str) -> bool {
    owner == wanted || (owner.ends_with('*') && wanted.starts_with(owner.trim_end_matches('*')))
}

/// What of `wanted` no rule of `owned` covers, one line per resource; empty when everything is covered.
pub fn uncovered<'a>(owned: impl Iterator<Item = &'a Rule> + Clone, wanted: &[Rule]) -> Vec<Rule> {
    let mut missing: Vec<Rule> = Vec::new();
    for single in wanted.iter().flat_map(Rule::split) {
        if owned.clone().any(|rule| rule.covers(&single)) {
            continue;
        }
        let same = |r: &&mut Rule| {
            r.api_groups == single.api_groups
                && r.resources == single.resources
                && r.resource_names == single.resource_names
                && r.non_resource_urls == single.non_resource_urls
        };
        match missing.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(single.verbs),
            None => missing.push(single),
        }
    }
    missing
}
