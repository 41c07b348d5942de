//! Type checking of admission policies: expressions that name fields which the matched types do not have are told in
//! `status.typeChecking` of the ValidatingAdmissionPolicy.
//!
//! Reads policies, discovery and published schemas; writes the status of policies. A policy works whatever this says: only the API
//! server decides. Source: `pkg/controller/validatingadmissionpolicystatus`.

use crate::Context;
use ferrokube_api::schema::{Gvk, Schema};
use ferrokube_cel::Decl;
use ferrokube_cel::policy::{ExpressionWarning, type_check};
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Client, Error, Named, ObjectKey, Optional, Patch};
use http::Method;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};

/// Field manager.
const MANAGER: &str = "validatingadmissionpolicy-status";

/// Group, version and resource.
type Named3 = (String, String, String);

/// Kinds and declarations of the resources that a policy matches.
type Types = HashMap<Named3, (String, Decl)>;

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue(MANAGER);
    let policies: Cache<ValidatingAdmissionPolicy> = context.caches.of();
    let add = queue.clone();
    policies.on_change(move |d| add.add(d.key().clone()));
    policies.synced().await;
    let reconcile = |key: ObjectKey| {
        let (context, policies) = (&context, &policies);
        async move {
            let Some(policy) = policies.read("", &key.name)? else { return Ok(Next::Wait) };
            let seen = policy.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
            if policy.metadata.generation.unwrap_or(0) <= seen {
                return Ok(Next::Wait);
            }
            let json = serde_json::to_value(&policy).unwrap_or_default();
            let types = types(&context.client, &json).await?;
            let warnings = type_check(&json, |group, version, resource| {
                types.get(&(group.to_owned(), version.to_owned(), resource.to_owned())).cloned()
            });
            let patch = Patch::Apply(MANAGER, applied(&policy, &warnings));
            context.client.patch_status::<ValidatingAdmissionPolicy>("", policy.name(), &patch).await.optional().map(|_| Next::Wait)
        }
    };
    controller::run::<_, Error, _, _>("validatingadmissionpolicy-status", queue, 5, reconcile).await;
}

/// What is applied to the status.
fn applied(policy: &ValidatingAdmissionPolicy, warnings: &[ExpressionWarning]) -> Value {
    let list: Vec<Value> = warnings.iter().map(|w| json!({"fieldRef": w.field, "warning": w.warning})).collect();
    let checking = if list.is_empty() { json!({}) } else { json!({"expressionWarnings": list}) };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": policy.name()},
        "status": {"observedGeneration": policy.metadata.generation, "typeChecking": checking},
    })
}

/// The resources that a policy's rules name without wildcards.
fn named(policy: &Value) -> BTreeSet<Named3> {
    let texts = |rule: &Value, key: &str| -> Vec<String> {
        rule[key]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .filter(|v| !v.contains(['*', '/']))
            .map(str::to_owned)
            .collect()
    };
    let mut found = BTreeSet::new();
    for rule in policy["spec"]["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
        for group in texts(rule, "apiGroups") {
            for version in texts(rule, "apiVersions") {
                found.extend(texts(rule, "resources").into_iter().map(|resource| (group.clone(), version.clone(), resource)));
            }
        }
    }
    found
}

/// What can be learned of the named resources; those that are not served are left out, as the check leaves them out.
async fn types(client: &Client, policy: &Value) -> Result<Types, Error> {
    let mut found = Types::new();
    for (group, version, resource) in named(policy) {
        let root = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
        let Some(listed) = document(client, &format!("/{root}")).await.optional()? else { continue };
        let entry = listed["resources"].as_array().into_iter().flatten().find(|r| r["name"] == *resource);
        let Some(kind) = entry.and_then(|r| r["kind"].as_str()) else { continue };
        let decl = match ferrokube_api::schema::Types::builtin().name_of(&group, &version, kind).and_then(Schema::builtin) {
            Some(schema) => Some(Decl::of_type(schema.root())),
            None => published(client, &root, &group, &version, kind).await?,
        };
        if let Some(decl) = decl {
            found.insert((group, version, resource), (kind.to_owned(), decl));
        }
    }
    Ok(found)
}

async fn document(client: &Client, path: &str) -> Result<Value, Error> {
    let response = client.send(Method::GET, path, None, Default::default()).await?;
    serde_json::from_slice(response.body()).map_err(|source| Error::Decode { what: "a document of the API", source })
}

/// The declaration of a custom kind, from its published schema.
async fn published(client: &Client, root: &str, group: &str, version: &str, kind: &str) -> Result<Option<Decl>, Error> {
    let Some(openapi) = document(client, &format!("/openapi/v3/{root}")).await.optional()? else { return Ok(None) };
    let is_it = |schema: &&Value| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        kinds.into_iter().flatten().any(|k| k["group"] == *group && k["version"] == *version && k["kind"] == *kind)
    };
    let Some(schema) = openapi["components"]["schemas"].as_object().and_then(|all| all.values().find(is_it)) else { return Ok(None) };
    let mut schema = schema.clone();
    // The server adds these to what the definition says; they are the same for every kind.
    for common in ["apiVersion", "kind", "metadata"] {
        schema["properties"].as_object_mut().and_then(|p| p.remove(common));
    }
    let gvk = Gvk { group: group.to_owned().into(), version: version.to_owned().into(), kind: kind.to_owned().into() };
    Ok(Schema::custom(gvk, Some(&schema)).ok().map(|s| Decl::of_type(s.root())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_resources_that_are_named_are_looked_up() {
        let policy = json!({"spec": {"matchConstraints": {"resourceRules": [
            {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments", "deployments/scale", "*"]},
            {"apiGroups": ["", "*"], "apiVersions": ["v1"], "resources": ["pods"]}]}}});
        let found: Vec<String> = named(&policy).into_iter().map(|(g, v, r)| format!("{g}/{v}/{r}")).collect();
        assert_eq!(found, ["/v1/pods", "apps/v1/deployments"]);
    }

    #[test]
    fn the_status_says_which_generation_was_checked() {
        let policy: ValidatingAdmissionPolicy = serde_json::from_value(json!({"metadata": {"name": "p", "generation": 3}})).unwrap();
        let clean = applied(&policy, &[]);
        assert_eq!(clean["status"], json!({"observedGeneration": 3, "typeChecking": {}}));
        let warning =
            ExpressionWarning { field: "spec.validations[0].expression".into(), warning: "apps/v1, Kind=Deployment: ERROR".into() };
        let told = applied(&policy, &[warning]);
        assert_eq!(told["status"]["typeChecking"]["expressionWarnings"][0]["fieldRef"], "spec.validations[0].expression");
    }
}
