//! Which requests a webhook, a policy or a binding wants to see: rules and selectors, read once when the configuration changes.

use super::versions::Other;
use super::{Context, list};
use ferrokube_api::labels::Selector;
use serde_json::Value;

/// How somebody who wants to see a request sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Seen {
    /// As it is.
    #[default]
    Own,
    /// In another version of its resource (`matchPolicy: Equivalent`).
    As(Other),
}

/// Strings of a rule; `*` is all.
#[derive(Debug)]
enum Words {
    All,
    Some(Vec<String>),
}

impl Words {
    fn of(rule: &Value, field: &str) -> Words {
        let words: Vec<String> = list(rule, field).filter_map(Value::as_str).map(str::to_owned).collect();
        if words.iter().any(|w| w == "*") { Words::All } else { Words::Some(words) }
    }

    fn has(&self, word: &str) -> bool {
        match self {
            Words::All => true,
            Words::Some(words) => words.iter().any(|w| w == word),
        }
    }
}

/// A `RuleWithOperations`, for policies with names of objects.
#[derive(Debug)]
struct Rule {
    operations: Words,
    groups: Words,
    versions: Words,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    /// Only namespaced objects, or only others.
    namespaced: Option<bool>,
    /// None: all.
    names: Vec<String>,
}

impl Rule {
    fn of(rule: &Value) -> Rule {
        let split = |pattern: &str| {
            let (resource, subresource) = pattern.split_once('/').unwrap_or((pattern, ""));
            (resource.to_owned(), subresource.to_owned())
        };
        Rule {
            operations: Words::of(rule, "operations"),
            groups: Words::of(rule, "apiGroups"),
            versions: Words::of(rule, "apiVersions"),
            resources: list(rule, "resources").filter_map(Value::as_str).map(split).collect(),
            namespaced: match rule["scope"].as_str() {
                Some("Cluster") => Some(false),
                Some("Namespaced") => Some(true),
                _ => None,
            },
            names: list(rule, "resourceNames").filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }

    /// Whether it is about the object and the operation, whatever their group and version.
    fn about(&self, c: &Context<'_>) -> bool {
        // A Namespace is not in a namespace, although its requests carry one.
        let namespaced = !c.namespace.is_empty() && !is_namespace(c);
        let is = |pattern: &str, word: &str| pattern == "*" || pattern == word;
        self.operations.has(c.operation.as_str())
            && self.resources.iter().any(|(resource, sub)| is(resource, c.resource) && is(sub, c.subresource))
            && self.namespaced.is_none_or(|wanted| wanted == namespaced)
            && (self.names.is_empty() || self.names.iter().any(|n| n == c.name))
    }

    fn serves(&self, group: &str, version: &str) -> bool {
        self.groups.has(group) && self.versions.has(version)
    }
}

fn is_namespace(c: &Context<'_>) -> bool {
    c.group.is_empty() && c.resource == "namespaces"
}

/// Rules and selectors together.
#[derive(Debug)]
pub(super) struct Constraints {
    /// `None`: everything.
    rules: Option<Vec<Rule>>,
    excluded: Vec<Rule>,
    /// `matchPolicy: Equivalent`.
    equivalent: bool,
    namespaces: Option<Selector>,
    objects: Option<Selector>,
}

impl Constraints {
    /// Of a webhook: without rules it sees nothing.
    pub fn of_webhook(hook: &Value) -> Constraints {
        Constraints { rules: Some(list(hook, "rules").map(Rule::of).collect()), ..Self::selecting(hook) }
    }

    /// `matchConstraints` of a policy, or `matchResources` of a binding: without rules everything is meant.
    pub fn of_policy(resources: &Value) -> Constraints {
        let rules: Vec<Rule> = list(resources, "resourceRules").map(Rule::of).collect();
        Constraints {
            rules: (!rules.is_empty()).then_some(rules),
            excluded: list(resources, "excludeResourceRules").map(Rule::of).collect(),
            ..Self::selecting(resources)
        }
    }

    fn selecting(value: &Value) -> Constraints {
        Constraints {
            rules: None,
            excluded: Vec::new(),
            equivalent: value["matchPolicy"] != "Exact",
            namespaces: selector(&value["namespaceSelector"]),
            objects: selector(&value["objectSelector"]),
        }
    }

    /// Whether the request is to be seen, and how.
    pub fn seen(&self, c: &Context<'_>, object: Option<&Value>) -> Option<Seen> {
        let seen = match &self.rules {
            None => Seen::Own,
            Some(rules) => self.hit(rules, c)?,
        };
        let wanted = self.hit(&self.excluded, c).is_none() && self.selects_namespace(c, object) && self.selects_object(c, object);
        wanted.then_some(seen)
    }

    /// Whether one of the rules names the request, or the request in another version.
    fn hit(&self, rules: &[Rule], c: &Context<'_>) -> Option<Seen> {
        let about: Vec<&Rule> = rules.iter().filter(|rule| rule.about(c)).collect();
        if about.iter().any(|rule| rule.serves(c.group, c.version)) {
            return Some(Seen::Own);
        }
        if about.is_empty() || !self.equivalent {
            return None;
        }
        let family = c.versions.family(c);
        let mut found = about.iter().flat_map(|rule| family.others(c).filter(|other| rule.serves(&other.group, &other.version)));
        found.next().cloned().map(Seen::As)
    }

    fn selects_namespace(&self, c: &Context<'_>, object: Option<&Value>) -> bool {
        let Some(selector) = &self.namespaces else { return true };
        if is_namespace(c) {
            let labels = object.or(c.review.old).map(|o| &o["metadata"]["labels"]);
            return selector.matches_map(labels);
        }
        if c.namespace.is_empty() {
            return true;
        }
        c.objects.get("", "namespaces", "", c.namespace).is_none_or(|namespace| selector.matches(&namespace))
    }

    fn selects_object(&self, c: &Context<'_>, object: Option<&Value>) -> bool {
        let Some(selector) = &self.objects else { return true };
        [object, c.review.old].into_iter().flatten().any(|o| selector.matches_map(Some(&o["metadata"]["labels"])))
    }
}

/// A selector that cannot be read selects everything: whoever it belongs to is then asked rather than passed by.
fn selector(value: &Value) -> Option<Selector> {
    if !value.is_object() {
        return None;
    }
    Selector::from_label_selector(Some(value)).ok().filter(|s| !s.is_everything())
}
