//! Who may say what in the status of a claim of devices.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Cluster, Reply};
use ferrokube_apiserver::UserInfo;
use serde_json::{Value, json};

const STATUS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/c/status";

fn who(name: &str, node: Option<&str>) -> UserInfo {
    let mut user = UserInfo::component(name, &[]);
    user.extra.extend(node.map(|node| ("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()])));
    user
}

async fn patch(cluster: &Cluster, user: UserInfo, status: Value) -> Reply {
    let body = json!({ "status": status }).to_string().into_bytes();
    common::reply(cluster.send(user, "PATCH", STATUS, "application/merge-patch+json", "application/json", body).await).await
}

/// Lets users patch the status of claims, and something else.
async fn allow(cluster: &Cluster, name: &str, users: &[&str], verbs: &[&str], resources: &[&str], names: &[&str]) {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rule = json!({"apiGroups": ["resource.k8s.io"], "resources": resources, "verbs": verbs, "resourceNames": names});
    let made = cluster.post(&format!("{rbac}/clusterroles"), &json!({"metadata": {"name": name}, "rules": [rule]})).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let subject = |user: &&str| json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user});
    let subjects: Vec<_> = users.iter().map(subject).collect();
    let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
    let binding = json!({"metadata": {"name": name}, "roleRef": reference, "subjects": subjects});
    let bound = cluster.post(&format!("{rbac}/clusterrolebindings"), &binding).await;
    assert_eq!(bound.code, 201, "{}", bound.text);
}

#[tokio::test]
async fn the_status_of_a_claim_is_written_by_schedulers_and_drivers_each_for_their_part() {
    let cluster = Cluster::start().await;
    let account = "system:serviceaccount:default:driver";
    allow(&cluster, "status", &["scheduler", account, "anywhere"], &["patch"], &["resourceclaims/status"], &[]).await;
    allow(&cluster, "binding", &["scheduler"], &["patch"], &["resourceclaims/binding"], &[]).await;
    allow(&cluster, "local", &[account], &["associated-node:patch"], &["resourceclaims/driver"], &["gpu.example.com"]).await;
    allow(&cluster, "global", &["anywhere"], &["arbitrary-node:patch"], &["resourceclaims/driver"], &[]).await;
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
    let claim = json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [request]}}});
    let made = cluster.post("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", &claim).await;
    assert_eq!(made.code, 201, "{}", made.text);

    let result = json!({"request": "r", "driver": "gpu.example.com", "pool": "p", "device": "d"});
    let field = json!({"key": "metadata.name", "operator": "In", "values": ["n1"]});
    let selector = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
    let allocation = json!({"allocation": {"devices": {"results": [result]}, "nodeSelector": selector}});
    let refused = patch(&cluster, who(account, Some("n1")), allocation.clone()).await;
    let cause = &refused.json["details"]["causes"][0];
    assert_eq!(
        (refused.code, cause["field"].as_str(), cause["reason"].as_str()),
        (422, Some("status.allocation"), Some("FieldValueForbidden"))
    );
    let done = patch(&cluster, who("scheduler", None), allocation).await;
    assert_eq!(done.code, 200, "{}", done.text);

    let devices = |data: &str| json!({"devices": [{"driver": "gpu.example.com", "pool": "p", "device": "d", "data": {"k": data}}]});
    for stranger in [who("scheduler", None), who(account, None), who(account, Some("n2"))] {
        let refused = patch(&cluster, stranger, devices("1")).await;
        assert_eq!(
            (refused.code, refused.json["details"]["causes"][0]["field"].as_str()),
            (422, Some("status.devices")),
            "{}",
            refused.text
        );
    }
    let done = patch(&cluster, who(account, Some("n1")), devices("1")).await;
    assert_eq!(done.code, 200, "{}", done.text);
    let done = patch(&cluster, who("anywhere", None), devices("2")).await;
    assert_eq!(done.code, 200, "{}", done.text);
    let same = patch(&cluster, who("scheduler", None), devices("2")).await;
    assert_eq!(same.code, 200, "what does not change needs no permission: {}", same.text);
}
