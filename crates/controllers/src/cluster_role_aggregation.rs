//! ClusterRoles that collect the rules of others: writes the collected rules into them, for people and clients to read.
//!
//! Reads and writes ClusterRoles (their `rules`, by server-side apply). Authorization in this API server does not wait for
//! it. Source: `pkg/controller/clusterroleaggregation`.

use crate::Context;
use crate::pods::matches;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Named, Optional, Patch};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;
use std::sync::Arc;

const MANAGER: &str = "clusterrole-aggregation-controller";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<Arc<str>> = context.queue("ClusterRoleAggregator");
    let roles: Cache<ClusterRole> = context.caches.of();
    let collectors = roles.index(|o| {
        let collects = o.decode::<ClusterRole>().is_ok_and(|r| r.aggregation_rule.is_some());
        if collects { vec![String::new()] } else { Vec::new() }
    });
    let (add, all) = (queue.clone(), collectors.clone());
    roles.on_change(move |_| all.get("").iter().for_each(|o| add.add(o.key.name.clone())));
    roles.synced().await;
    let reconcile = |name: Arc<str>| {
        let (context, roles) = (&context, &roles);
        async move {
            let Some(role) = roles.read("", &name)? else { return Ok(Next::Wait) };
            let Some(rules) = collected(&role, &roles.list()) else { return Ok(Next::Wait) };
            if role.rules.as_deref().unwrap_or_default() != rules {
                let applied = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": role.name()}, "rules": rules});
                context.client.patch::<ClusterRole>("", &name, &Patch::Apply(MANAGER, applied)).await.optional()?;
            }
            Ok(Next::Wait)
        }
    };
    controller::run::<_, Error, _, _>("clusterrole-aggregation", queue, 5, reconcile).await;
}

/// The rules that a role collects, each once, in the order of selectors and then of names; `None` for a role that has its own.
fn collected(role: &ClusterRole, all: &[ClusterRole]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.clone().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in &selectors {
        let mut chosen: Vec<&ClusterRole> =
            all.iter().filter(|r| r.name() != role.name() && matches(selector, r.metadata.labels.as_ref())).collect();
        chosen.sort_by_key(|r| r.name().to_owned());
        for rule in chosen.iter().flat_map(|r| r.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(json: serde_json::Value) -> ClusterRole {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_role_collects_the_rules_of_those_it_selects_once_and_in_order_of_names() {
        let rule = |verb: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]});
        let view = role(json!({"metadata": {"name": "view", "labels": {"to": "view"}}, "rules": [rule("stale")],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}}));
        let all = [
            role(json!({"metadata": {"name": "b", "labels": {"to": "view"}}, "rules": [rule("list"), rule("get")]})),
            role(json!({"metadata": {"name": "a", "labels": {"to": "view"}}, "rules": [rule("get")]})),
            role(json!({"metadata": {"name": "c"}, "rules": [rule("delete")]})),
            view.clone(),
        ];
        let verbs: Vec<String> = collected(&view, &all).unwrap().into_iter().flat_map(|r| r.verbs).collect();
        assert_eq!(verbs, ["get", "list"]);
        assert_eq!(collected(&all[0], &all), None);
    }
}
