//! RBAC compiled: who is bound to which rules, where.
//!
//! Built from the four kinds of `rbac.authorization.k8s.io`, and built anew when one of them changed; what was parsed
//! before is parsed only once. Aggregated ClusterRoles get the rules that their selectors give, whatever is stored in
//! them: the stored rules are for people to read (see `bootstrap::aggregation`).

use super::Decision;
use super::rules::{Rule, nullable};
use crate::attributes::{Attributes, UserInfo};
use crate::objects::Objects;
use crate::tokens;
use arc_swap::ArcSwapOption;
use ferrokube_api::Object;
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRole {
    #[serde(default, deserialize_with = "nullable")]
    rules: Vec<Rule>,
    #[serde(default)]
    aggregation_rule: Option<Aggregation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Aggregation {
    #[serde(default, deserialize_with = "nullable")]
    cluster_role_selectors: Vec<Selector>,
}

/// A label selector, as far as aggregation rules use it: all of it.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Selector {
    #[serde(deserialize_with = "nullable")]
    match_labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    match_expressions: Vec<Requirement>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Requirement {
    key: String,
    operator: String,
    #[serde(deserialize_with = "nullable")]
    values: Vec<String>,
}

impl Selector {
    fn matches(&self, object: &Object) -> bool {
        let expression = |r: &Requirement| {
            let value = object.label(&r.key);
            let listed = value.is_some_and(|v| r.values.iter().any(|x| x == v));
            match r.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        };
        self.match_labels.iter().all(|(k, v)| object.label(k) == Some(v)) && self.match_expressions.iter().all(expression)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBinding {
    role_ref: RoleRef,
    #[serde(default, deserialize_with = "nullable")]
    subjects: Vec<Subject>,
}

#[derive(Deserialize)]
struct RoleRef {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
}

/// Rules that somebody is bound to.
struct Grant {
    /// `None` when the role does not exist.
    rules: Option<Arc<[Rule]>>,
    /// Why, for the audit log; or what is missing.
    text: Box<str>,
}

#[derive(Default)]
struct Grants {
    users: HashMap<Box<str>, Vec<Grant>>,
    groups: HashMap<Box<str>, Vec<Grant>>,
}

impl Grants {
    fn of<'a>(&'a self, user: &'a UserInfo) -> impl Iterator<Item = &'a Grant> {
        let by_name = self.users.get(user.name.as_str()).into_iter();
        by_name.chain(user.groups.iter().filter_map(|g| self.groups.get(g.as_str()))).flatten()
    }
}

/// Rules by namespace (empty for ClusterRoles) and name.
type RulesByRole = HashMap<(Arc<str>, Arc<str>), Arc<[Rule]>>;

/// RBAC at one moment.
#[derive(Default)]
pub(super) struct Index {
    revisions: [u64; 4],
    cluster: Grants,
    namespaces: HashMap<Arc<str>, Grants>,
    roles: RulesByRole,
}

impl Index {
    fn grants<'a>(&'a self, user: &'a UserInfo, namespace: &str) -> impl Iterator<Item = &'a Grant> {
        let local = if namespace.is_empty() { None } else { self.namespaces.get(namespace) };
        self.cluster.of(user).chain(local.into_iter().flat_map(|g| g.of(user)))
    }

    pub(super) fn authorize(&self, a: &Attributes) -> Decision {
        let mut missing: Vec<&str> = Vec::new();
        for grant in self.grants(&a.user, &a.namespace) {
            match &grant.rules {
                Some(rules) if rules.iter().any(|r| r.allows(a)) => return Decision::Allow(format!("RBAC: allowed by {}", grant.text)),
                Some(_) => {}
                None if missing.contains(&&*grant.text) => {}
                None => missing.push(&grant.text),
            }
        }
        Decision::NoOpinion(match missing.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        })
    }

    pub(super) fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Arc<[Rule]>>, Vec<String>) {
        let (mut rules, mut missing) = (Vec::new(), Vec::new());
        for grant in self.grants(user, namespace) {
            match &grant.rules {
                Some(r) => rules.push(r.clone()),
                None => missing.push(grant.text.to_string()),
            }
        }
        (rules, missing)
    }

    pub(super) fn rules_of(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        let namespace = if kind == "Role" { namespace } else { "" };
        self.roles.get(&(namespace.into(), name.into())).cloned()
    }
}

enum Parsed {
    Role(Arc<[Rule]>, Option<Vec<Selector>>),
    Binding(RawBinding),
    /// Written by something that knew better than the schema: grants nothing.
    Unreadable,
}

/// What was parsed, by uid and revision.
type Memory = HashMap<(Arc<str>, u64), Arc<Parsed>>;

/// The current index, and what is needed to make the next.
#[derive(Default)]
pub(super) struct Roles {
    current: ArcSwapOption<Index>,
    parsed: Mutex<Memory>,
}

impl Roles {
    /// The index of what the caches show.
    pub(super) fn current(&self, objects: &dyn Objects) -> Arc<Index> {
        let revisions = RESOURCES.map(|r| objects.revision(GROUP, r));
        let fresh = |index: &Arc<Index>| index.revisions == revisions;
        if let Some(index) = self.current.load_full().filter(fresh) {
            return index;
        }
        let mut parsed = self.parsed.lock();
        // Somebody else may have built it meanwhile.
        if let Some(index) = self.current.load_full().filter(fresh) {
            return index;
        }
        let index = Arc::new(build(objects, revisions, &mut parsed));
        self.current.store(Some(index.clone()));
        index
    }
}

fn parse(object: &Object, is_role: bool) -> Parsed {
    if is_role {
        return object
            .decode::<RawRole>()
            .map_or(Parsed::Unreadable, |role| Parsed::Role(role.rules.into(), role.aggregation_rule.map(|a| a.cluster_role_selectors)));
    }
    object.decode::<RawBinding>().map_or(Parsed::Unreadable, Parsed::Binding)
}

fn build(objects: &dyn Objects, revisions: [u64; 4], memory: &mut Memory) -> Index {
    let mut next = Memory::with_capacity(memory.len());
    let mut load = |resource: &str| -> Vec<(Arc<Object>, Arc<Parsed>)> {
        let is_role = !resource.ends_with("bindings");
        let listed = objects.list(GROUP, resource, "").into_iter();
        let with_parsed = listed.map(|object| {
            let key = (object.uid.clone(), object.revision);
            let parsed = memory.remove(&key).unwrap_or_else(|| Arc::new(parse(&object, is_role)));
            next.insert(key, parsed.clone());
            (object, parsed)
        });
        with_parsed.collect()
    };
    let [cluster_roles, cluster_bindings, roles, bindings] = RESOURCES.map(&mut load);
    *memory = next;
    let mut index = Index { revisions, ..Index::default() };
    for (object, parsed) in roles.iter().chain(&cluster_roles) {
        if let Parsed::Role(rules, _) = &**parsed {
            index.roles.insert((object.key.namespace.clone(), object.key.name.clone()), rules.clone());
        }
    }
    aggregate(&mut index, &cluster_roles);
    for (object, parsed) in cluster_bindings.iter().chain(&bindings) {
        if let Parsed::Binding(binding) = &**parsed {
            bind(&mut index, object, binding);
        }
    }
    index
}

/// Fills aggregated roles. Selected roles may be aggregated themselves (admin ← edit ← view): repeat until nothing changes.
fn aggregate(index: &mut Index, roles: &[(Arc<Object>, Arc<Parsed>)]) {
    let aggregated = roles.iter().filter_map(|(o, p)| match &**p {
        Parsed::Role(_, Some(selectors)) => Some((o, selectors)),
        _ => None,
    });
    let aggregated: Vec<_> = aggregated.collect();
    // Each round settles at least one role of a chain; a cycle stops growing because rules are not repeated.
    for _ in 0..=aggregated.len() {
        let mut changed = false;
        for (object, selectors) in &aggregated {
            let chosen = roles.iter().filter(|(o, _)| o.key != object.key && selectors.iter().any(|s| s.matches(o)));
            let mut rules: Vec<Rule> = Vec::new();
            for (other, _) in chosen {
                let theirs = index.roles.get(&(Arc::default(), other.key.name.clone()));
                for rule in theirs.iter().flat_map(|r| r.iter()) {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
            let slot = index.roles.entry((Arc::default(), object.key.name.clone())).or_insert_with(|| Vec::new().into());
            if **slot != *rules {
                *slot = rules.into();
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
}

fn bind(index: &mut Index, object: &Object, binding: &RawBinding) {
    let namespace = &object.key.namespace;
    let role = &binding.role_ref;
    let role_namespace: Arc<str> = if role.kind == "Role" { namespace.clone() } else { Arc::default() };
    let rules = index.roles.get(&(role_namespace, role.name.as_str().into())).cloned();
    let described = if namespace.is_empty() {
        format!("ClusterRoleBinding {:?} of {} {:?}", object.key.name, role.kind, role.name)
    } else {
        format!("RoleBinding \"{}/{namespace}\" of {} {:?}", object.key.name, role.kind, role.name)
    };
    let grants = if namespace.is_empty() { &mut index.cluster } else { index.namespaces.entry(namespace.clone()).or_default() };
    for subject in &binding.subjects {
        let account_namespace = if subject.namespace.is_empty() { namespace } else { subject.namespace.as_str() };
        let (map, key, whom) = match subject.kind.as_str() {
            "User" => (&mut grants.users, subject.name.clone(), format!("User {:?}", subject.name)),
            "Group" => (&mut grants.groups, subject.name.clone(), format!("Group {:?}", subject.name)),
            "ServiceAccount" if !account_namespace.is_empty() => {
                let whom = format!("ServiceAccount \"{}/{account_namespace}\"", subject.name);
                (&mut grants.users, tokens::username(account_namespace, &subject.name), whom)
            }
            _ => continue,
        };
        let text = match &rules {
            Some(_) => format!("{described} to {whom}"),
            None => format!("{}.{GROUP} {:?} not found", role.kind.to_lowercase(), role.name),
        };
        map.entry(key.into()).or_default().push(Grant { rules: rules.clone(), text: text.into() });
    }
}
