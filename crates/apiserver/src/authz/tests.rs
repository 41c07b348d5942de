//! Tables: who may do what, and in which words they are refused.

use super::*;
use crate::objects::testing::Map;
use serde_json::json;

fn ask(user: &str, groups: &[&str], verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Attributes {
        user: UserInfo { name: user.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..UserInfo::default() },
        verb: verb.into(),
        group: group.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

fn put_role(map: &Map, namespace: &str, name: &str, labels: serde_json::Value, rules: serde_json::Value) {
    let mut object = json!({ "metadata": { "name": name, "labels": labels }, "rules": rules });
    let resource = if namespace.is_empty() { "clusterroles" } else { "roles" };
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    map.put(RBAC, resource, object);
}

fn put_binding(map: &Map, namespace: &str, name: &str, role: (&str, &str), subject: serde_json::Value) {
    let mut object = json!({ "metadata": { "name": name }, "roleRef": { "kind": role.0, "name": role.1 }, "subjects": [subject] });
    let resource = if namespace.is_empty() { "clusterrolebindings" } else { "rolebindings" };
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    map.put(RBAC, resource, object);
}

fn world() -> Arc<Map> {
    let map = Arc::new(Map::default());
    let rule = |verbs: &[&str], groups: &[&str], resources: &[&str]| json!({ "verbs": verbs, "apiGroups": groups, "resources": resources });
    put_role(&map, "", "reader", json!({}), json!([rule(&["get", "list"], &[""], &["pods", "pods/log"])]));
    put_role(&map, "", "scaler", json!({}), json!([rule(&["update"], &["*"], &["*/scale"])]));
    put_role(&map, "", "health", json!({}), json!([{ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/metrics/*"] }]));
    put_role(
        &map,
        "dev",
        "one",
        json!({}),
        json!([{ "verbs": ["*"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"] }]),
    );
    put_role(&map, "", "part", json!({ "to": "sum" }), json!([rule(&["get"], &["apps"], &["deployments"])]));
    map.put(RBAC, "clusterroles", json!({ "metadata": { "name": "sum" }, "rules": null, "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "to": "sum" } }] } }));
    put_binding(&map, "dev", "r", ("ClusterRole", "reader"), json!({ "kind": "User", "name": "jane" }));
    put_binding(&map, "", "s", ("ClusterRole", "scaler"), json!({ "kind": "Group", "name": "ops" }));
    put_binding(&map, "", "h", ("ClusterRole", "health"), json!({ "kind": "User", "name": "jane" }));
    put_binding(&map, "dev", "o", ("Role", "one"), json!({ "kind": "ServiceAccount", "name": "bot" }));
    put_binding(&map, "dev", "m", ("Role", "missing"), json!({ "kind": "User", "name": "joe" }));
    put_binding(&map, "", "a", ("ClusterRole", "sum"), json!({ "kind": "User", "name": "jane" }));
    map
}

#[test]
fn rbac_allows_what_rules_say_and_nothing_else() {
    let authorizer = Authorizer::new(world());
    let bot = "system:serviceaccount:dev:bot";
    let cases = [
        (ask("root", &["system:masters"], "delete", "x", "y", "z", ""), true),
        (ask("jane", &[], "list", "", "pods", "dev", ""), true),
        (ask("jane", &[], "list", "", "pods", "prod", ""), false),
        (ask("jane", &[], "list", "", "pods", "", ""), false),
        (ask("jane", &[], "get", "", "pods/log", "dev", "p"), true),
        (ask("jane", &[], "get", "", "pods/status", "dev", "p"), false),
        (ask("jane", &[], "delete", "", "pods", "dev", "p"), false),
        (ask("jane", &[], "get", "apps", "deployments", "dev", "d"), true),
        (ask("jane", &[], "get", "extensions", "deployments", "dev", "d"), false),
        (ask("x", &["ops"], "update", "apps", "deployments/scale", "dev", "d"), true),
        (ask("x", &["ops"], "update", "apps", "deployments", "dev", "d"), false),
        (ask(bot, &[], "get", "", "secrets", "dev", "mine"), true),
        (ask(bot, &[], "get", "", "secrets", "dev", "other"), false),
        (ask(bot, &[], "list", "", "secrets", "dev", ""), false),
    ];
    for (a, expected) in cases {
        assert_eq!(authorizer.authorize(&a).allowed(), expected, "{a:?}");
    }
    let path = |p: &str| Attributes {
        path: p.into(),
        verb: "get".into(),
        user: UserInfo { name: "jane".into(), ..UserInfo::default() },
        ..Attributes::default()
    };
    assert!(authorizer.authorize(&path("/healthz")).allowed());
    assert!(authorizer.authorize(&path("/metrics/slis")).allowed());
    assert!(!authorizer.authorize(&path("/healthz/ping")).allowed());
}

#[test]
fn a_refusal_reads_as_upstream() {
    let authorizer = Authorizer::new(world());
    let text = |a: Attributes| authorizer.authorize(&a).into_result(&a).expect_err("refused").message;
    assert_eq!(
        text(ask("jane", &[], "delete", "", "pods", "default", "p")),
        "pods \"p\" is forbidden: User \"jane\" cannot delete resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(
        text(ask("jane", &[], "list", "apps", "deployments/scale", "", "")),
        "deployments.apps is forbidden: User \"jane\" cannot list resource \"deployments/scale\" in API group \"apps\" at the cluster scope"
    );
    assert_eq!(
        text(ask("joe", &[], "get", "", "pods", "dev", "p")),
        "pods \"p\" is forbidden: User \"joe\" cannot get resource \"pods\" in API group \"\" in the namespace \"dev\": RBAC: role.rbac.authorization.k8s.io \"missing\" not found"
    );
    let path = Attributes { path: "/metrics".into(), ..ask("joe", &[], "get", "", "", "", "") };
    assert_eq!(text(path), "forbidden: User \"joe\" cannot get path \"/metrics\"");
    let allowed = authorizer.authorize(&ask("jane", &[], "list", "", "pods", "dev", ""));
    assert_eq!(allowed.reason(), "RBAC: allowed by RoleBinding \"r/dev\" of ClusterRole \"reader\" to User \"jane\"");
}

#[test]
fn changes_count_at_once() {
    let map = world();
    let authorizer = Authorizer::new(map.clone());
    let a = ask("new", &[], "list", "", "pods", "prod", "");
    assert!(!authorizer.authorize(&a).allowed());
    put_binding(&map, "prod", "n", ("ClusterRole", "reader"), json!({ "kind": "User", "name": "new" }));
    assert!(authorizer.authorize(&a).allowed());
    map.remove(RBAC, "rolebindings", "prod", "n");
    assert!(!authorizer.authorize(&a).allowed());
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let authorizer = Authorizer::new(world());
    let jane = UserInfo { name: "jane".into(), groups: vec!["g".into()], ..UserInfo::default() };
    let role = |rules| json!({ "metadata": { "name": "r", "namespace": "dev" }, "rules": rules });
    let held = role(json!([{ "verbs": ["list"], "apiGroups": [""], "resources": ["pods"] }]));
    assert!(escalation::check(&authorizer, &jane, "roles", "dev", &held, None).await.is_ok());
    assert!(escalation::check(&authorizer, &jane, "roles", "prod", &held, None).await.is_err());
    let more = role(json!([{ "verbs": ["list", "delete", "watch"], "apiGroups": [""], "resources": ["pods"] }]));
    let status = escalation::check(&authorizer, &jane, "roles", "dev", &more, None).await.expect_err("more than held");
    assert_eq!(
        status.message,
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"jane\" (groups=[\"g\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"watch\"]}"
    );
    assert!(escalation::check(&authorizer, &jane, "roles", "dev", &more, Some(&more)).await.is_ok());
    let bind = |role: &str| json!({ "metadata": { "name": "b", "namespace": "dev" }, "roleRef": { "kind": "ClusterRole", "name": role }, "subjects": [] });
    assert!(escalation::check(&authorizer, &jane, "rolebindings", "dev", &bind("reader"), None).await.is_ok());
    assert_eq!(escalation::check(&authorizer, &jane, "rolebindings", "dev", &bind("scaler"), None).await.expect_err("not held").code, 403);
    assert_eq!(escalation::check(&authorizer, &jane, "rolebindings", "dev", &bind("none"), None).await.expect_err("no role").code, 404);
}

fn node_world() -> Arc<Map> {
    let map = Arc::new(Map::default());
    map.put("", "pods", json!({
        "metadata": { "name": "p", "namespace": "dev" },
        "spec": {
            "nodeName": "n1", "serviceAccountName": "web", "imagePullSecrets": [{ "name": "pull" }],
            "volumes": [
                { "name": "a", "secret": { "secretName": "vol" } },
                { "name": "b", "projected": { "sources": [{ "configMap": { "name": "proj" } }] } },
                { "name": "c", "persistentVolumeClaim": { "claimName": "claim" } },
            ],
            "containers": [{ "name": "c", "env": [{ "name": "E", "valueFrom": { "secretKeyRef": { "name": "env", "key": "k" } } }], "envFrom": [{ "configMapRef": { "name": "from" } }] }],
        },
        "status": { "extendedResourceClaimStatus": { "resourceClaimName": "gpus" }, "resourceClaimStatuses": [{ "name": "x", "resourceClaimName": "made" }] },
    }));
    map.put("", "pods", json!({ "metadata": { "name": "q", "namespace": "dev" }, "spec": { "nodeName": "n2", "volumes": [{ "name": "a", "secret": { "secretName": "theirs" } }] } }));
    map.put("", "persistentvolumes", json!({
        "metadata": { "name": "pv" },
        "spec": { "claimRef": { "namespace": "dev", "name": "claim" }, "csi": { "nodeStageSecretRef": { "namespace": "dev", "name": "stage" } } },
    }));
    map.put(
        "",
        "persistentvolumes",
        json!({
            "metadata": { "name": "azure" },
            "spec": { "claimRef": { "namespace": "dev", "name": "claim" }, "azureFile": { "secretName": "share" } },
        }),
    );
    map
}

#[test]
fn a_node_sees_what_its_pods_need() {
    let authorizer = Authorizer::new(node_world());
    let n1 = |verb: &str, group: &str, resource: &str, namespace: &str, name: &str| {
        ask("system:node:n1", &["system:nodes"], verb, group, resource, namespace, name)
    };
    let select = |mut a: Attributes, selector: &str| {
        a.field_selector = selector.into();
        a
    };
    let yes = [
        n1("get", "", "secrets", "dev", "vol"),
        n1("get", "", "secrets", "dev", "pull"),
        n1("get", "", "secrets", "dev", "env"),
        n1("get", "", "secrets", "dev", "stage"),
        n1("get", "", "secrets", "dev", "share"),
        n1("get", "resource.k8s.io", "resourceclaims", "dev", "made"),
        n1("get", "resource.k8s.io", "resourceclaims", "dev", "gpus"),
        n1("watch", "", "secrets", "dev", "vol"),
        select(n1("list", "", "secrets", "dev", ""), "metadata.name=vol"),
        n1("get", "", "configmaps", "dev", "proj"),
        n1("get", "", "configmaps", "dev", "from"),
        n1("get", "", "persistentvolumeclaims", "dev", "claim"),
        n1("patch", "", "persistentvolumeclaims/status", "dev", "claim"),
        n1("get", "", "persistentvolumes", "", "pv"),
        n1("create", "", "serviceaccounts/token", "dev", "web"),
        n1("get", "", "serviceaccounts", "dev", "web"),
        n1("get", "", "pods", "dev", "p"),
        select(n1("watch", "", "pods", "", ""), "spec.nodeName=n1"),
        n1("patch", "", "pods/status", "dev", "p"),
        n1("create", "", "nodes", "", ""),
        n1("get", "", "nodes", "", "n1"),
        n1("update", "coordination.k8s.io", "leases", "kube-node-lease", "n1"),
        n1("create", "", "events", "dev", ""),
        n1("list", "", "services", "", ""),
        n1("create", "authorization.k8s.io", "subjectaccessreviews", "", ""),
    ];
    for a in yes {
        assert!(authorizer.authorize(&a).allowed(), "{a:?}");
    }
    let no = [
        (n1("get", "", "secrets", "dev", "theirs"), "no relationship found between node 'n1' and this object"),
        (n1("get", "", "secrets", "other", "vol"), "no relationship found between node 'n1' and this object"),
        (n1("list", "", "secrets", "dev", ""), "No Object name found"),
        (n1("delete", "", "secrets", "dev", "vol"), "can only read resources of this type"),
        (n1("list", "", "pods", "", ""), "can only list/watch pods with spec.nodeName field selector"),
        (select(n1("list", "", "pods", "", ""), "spec.nodeName=n2"), "can only list/watch pods with spec.nodeName field selector"),
        (n1("get", "", "pods", "dev", "q"), "no relationship found between node 'n1' and this object"),
        (n1("get", "", "nodes", "", "n2"), "node 'n1' cannot read 'n2', only its own Node object"),
        (n1("list", "", "nodes", "", ""), "node 'n1' cannot read all nodes, only its own Node object"),
        (
            n1("get", "coordination.k8s.io", "leases", "kube-node-lease", "n2"),
            "can only access node lease with the same name as the requesting node",
        ),
        (n1("create", "", "serviceaccounts/token", "dev", "other"), "no relationship found between node 'n1' and this object"),
        (n1("list", "", "endpoints", "", ""), ""),
        (ask("system:node:n1", &[], "get", "", "secrets", "dev", "vol"), ""),
    ];
    for (a, reason) in no {
        assert_eq!(authorizer.authorize(&a), Decision::NoOpinion(reason.into()), "{a:?}");
    }
}

#[test]
fn an_aggregated_role_counts_before_its_rules_are_written_into_it() {
    let authorizer = Authorizer::new(world());
    assert_eq!(authorizer.rules_of("ClusterRole", "", "sum").expect("there").len(), 1);
}

mod reviewing {
    //! The answers that kubectl auth can-i, whoami and kubelets get.

    use super::*;
    use crate::authn::{Authenticator, AuthnConfig};
    use crate::tokens::{ServiceAccountTokens, TokenConfig};
    use serde_json::Value;

    fn ask(kind: &str, namespace: &str, spec: Value) -> Result<Value, Status> {
        let map = world();
        map.put("", "serviceaccounts", json!({ "metadata": { "name": "bot", "namespace": "dev" } }));
        let tokens = ServiceAccountTokens::new(TokenConfig {
            issuer: "https://us".into(),
            api_audiences: vec![],
            signing_key: rcgen::KeyPair::generate().expect("a key").serialize_pem(),
            verify_keys: vec![],
            extend_expiration: false,
            max_expiration_seconds: 0,
        });
        let tokens = Arc::new(tokens.expect("usable"));
        let mut spec = spec;
        if spec["token"] == "issued" {
            let (answer, _) = tokens.request(&*map, "dev", "bot", json!({}), jiff::Timestamp::now()).expect("issued");
            spec["token"] = answer["status"]["token"].clone();
        }
        let authenticator = Authenticator::new(AuthnConfig::default(), tokens, map.clone()).expect("usable");
        let jane = UserInfo { name: "jane".into(), groups: vec!["g".into()], ..UserInfo::default() };
        let review = json!({ "spec": spec });
        let authorizer = Authorizer::new(map);
        let answer = reviews::handle(&authenticator, &authorizer, kind, namespace, review, &jane);
        let answer = futures_util::FutureExt::now_or_never(answer).expect("nobody else is asked");
        answer.map(|r| r["status"].clone())
    }

    #[test]
    fn access_is_told_with_its_reason() {
        let list = json!({ "resourceAttributes": { "verb": "list", "resource": "pods", "namespace": "dev" } });
        let status = ask("SelfSubjectAccessReview", "", list.clone()).expect("an answer");
        assert_eq!(
            status,
            json!({ "allowed": true, "reason": "RBAC: allowed by RoleBinding \"r/dev\" of ClusterRole \"reader\" to User \"jane\"" })
        );
        let mut other = list;
        other["user"] = json!("x");
        assert_eq!(ask("SubjectAccessReview", "", other.clone()).expect("an answer"), json!({ "allowed": false }));
        assert_eq!(ask("LocalSubjectAccessReview", "prod", other.clone()).expect_err("another namespace").code, 400);
        assert_eq!(ask("LocalSubjectAccessReview", "dev", other).expect("an answer")["allowed"], false);
        assert_eq!(ask("SubjectAccessReview", "", json!({ "resourceAttributes": {} })).expect_err("nobody").code, 422);
        let path = json!({ "nonResourceAttributes": { "path": "/healthz", "verb": "get" } });
        assert_eq!(ask("SelfSubjectAccessReview", "", path).expect("an answer")["allowed"], true);
    }

    #[test]
    fn rules_and_identity_are_told() {
        let status = ask("SelfSubjectRulesReview", "", json!({ "namespace": "dev" })).expect("an answer");
        assert!(status["resourceRules"].as_array().expect("rules").iter().any(|r| r["resources"] == json!(["pods", "pods/log"])));
        assert_eq!(status["incomplete"], false);
        let status = ask("SelfSubjectReview", "", json!({})).expect("an answer");
        assert_eq!(status, json!({ "userInfo": { "username": "jane", "groups": ["g"] } }));
    }

    #[test]
    fn tokens_are_reviewed_for_an_audience() {
        let status = ask("TokenReview", "", json!({ "token": "issued" })).expect("an answer");
        assert_eq!((&status["authenticated"], &status["user"]["username"]), (&json!(true), &json!("system:serviceaccount:dev:bot")));
        assert_eq!(status["audiences"], json!(["https://us"]));
        let status = ask("TokenReview", "", json!({ "token": "issued", "audiences": ["vault"] })).expect("an answer");
        assert!(status["authenticated"].is_null() && status["error"].is_string(), "{status}");
    }
}

#[test]
fn a_list_of_authorizers_that_cannot_be_used_leaves_everything_as_it_is() {
    let modes = |modes: &[&str]| AuthzConfig { modes: modes.iter().map(|m| (*m).to_owned()).collect(), ..AuthzConfig::default() };
    let anything = ask("nobody", &[], "delete", "", "nodes", "", "n");
    let master = ask("root", &["system:masters"], "delete", "", "nodes", "", "n");
    let authorizer = Authorizer::with(world(), &modes(&["AlwaysAllow"])).expect("a mode");
    for wrong in [&[][..], &["RBAC", "RBAC"], &["Nonsense"], &["Webhook"], &["ABAC"]] {
        assert!(authorizer.reload(&modes(wrong)).is_err(), "{wrong:?}");
        assert!(authorizer.authorize(&anything).allowed());
    }
    authorizer.reload(&modes(&["AlwaysDeny"])).expect("a mode");
    assert_eq!(authorizer.authorize(&anything), Decision::NoOpinion("Everything is forbidden.".to_owned()));
    assert!(authorizer.authorize(&master).allowed(), "the privileged group stands above all modes");
}
