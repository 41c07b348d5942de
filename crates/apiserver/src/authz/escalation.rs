//! Nobody may grant what they do not hold: checks of writes to roles and bindings.
//!
//! Source: `pkg/registry/rbac/*/policybased`, `rbac/validation`. Whoever may `escalate` a role may write any rule into
//! it; whoever may `bind` a role may bind it; members of system:masters may do both.

use super::rules::{Rule, uncovered};
use super::{Authorizer, privileged};
use crate::attributes::{Attributes, UserInfo};
use ferrokube_api::Status;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks a create (`old` is `None`) or update of a role or binding.
pub async fn check(
    authorizer: &Authorizer,
    user: &UserInfo,
    resource: &str,
    namespace: &str,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if privileged(user) {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let subject = Write { authorizer, user, resource, namespace, name };
    match resource {
        "roles" | "clusterroles" => subject.role(object, old).await,
        "rolebindings" | "clusterrolebindings" => subject.binding(object, old).await,
        _ => Ok(()),
    }
}

struct Write<'a> {
    authorizer: &'a Authorizer,
    user: &'a UserInfo,
    resource: &'a str,
    namespace: &'a str,
    name: &'a str,
}

/// The parts that grant something did not change: only labels, owners and finalizers did.
fn same(object: &Value, old: Option<&Value>, fields: &[&str]) -> bool {
    old.is_some_and(|old| fields.iter().all(|f| object[f] == old[f]))
}

impl Write<'_> {
    async fn may(&self, verb: &str, resource: &str, name: &str) -> bool {
        let ask = Attributes {
            user: self.user.clone(),
            verb: verb.into(),
            group: GROUP.into(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: self.namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        self.authorizer.decide(&ask).await.allowed()
    }

    fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(GROUP, self.resource, self.name, why)
    }

    async fn role(&self, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        if same(object, old, &["rules", "aggregationRule"]) || self.may("escalate", self.resource, self.name).await {
            return Ok(());
        }
        let rules = Vec::<Rule>::deserialize(&object["rules"]).unwrap_or_default();
        self.holds(&rules)?;
        let aggregates = |o: &Value| o["aggregationRule"]["clusterRoleSelectors"].as_array().is_some_and(|s| !s.is_empty());
        if aggregates(object)
            && !old.is_some_and(|old| old["aggregationRule"] == object["aggregationRule"])
            && self.holds(&everything()).is_err()
        {
            return Err(self.forbidden("must have cluster-admin privileges to use the aggregationRule"));
        }
        Ok(())
    }

    async fn binding(&self, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        if same(object, old, &["subjects", "roleRef"]) {
            return Ok(());
        }
        let (kind, role) = (object["roleRef"]["kind"].as_str().unwrap_or_default(), object["roleRef"]["name"].as_str().unwrap_or_default());
        let resource = if kind == "Role" { "roles" } else { "clusterroles" };
        if self.may("bind", resource, role).await {
            return Ok(());
        }
        let rules = self.authorizer.rules_of(kind, self.namespace, role).ok_or_else(|| Status::not_found(GROUP, resource, role))?;
        self.holds(&rules)
    }

    /// The user holds everything these rules allow.
    fn holds(&self, rules: &[Rule]) -> Result<(), Status> {
        let (owned, missing_roles): (Vec<Arc<[Rule]>>, _) = self.authorizer.rules_for(self.user, self.namespace);
        let missing = uncovered(owned.iter().flat_map(|r| r.iter()), rules);
        if missing.is_empty() {
            return Ok(());
        }
        let mut lines: Vec<String> = missing.iter().map(Rule::compact).collect();
        lines.sort();
        let groups: Vec<String> = self.user.groups.iter().map(|g| format!("{g:?}")).collect();
        let mut why = format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            self.user.name,
            groups.join(" "),
            lines.join("\n")
        );
        if !missing_roles.is_empty() {
            why = format!("{why}; resolution errors: [{}]", missing_roles.join(", "));
        }
        Err(self.forbidden(&why))
    }
}

fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}
