//! Priority and fairness of a running server: what its answers say, and how it follows the objects.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Cluster, Reply, reply};
use ferrokube_apiserver::UserInfo;
use serde_json::{Value, json};
use std::time::Duration;

const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

async fn get_as(cluster: &Cluster, user: UserInfo, uri: &str) -> Reply {
    reply(cluster.send(user, "GET", uri, "", "application/json", Vec::new()).await).await
}

/// Asks until the answer is as wanted.
async fn until(cluster: &Cluster, user: &UserInfo, uri: &str, wanted: impl Fn(&Reply) -> bool) -> Reply {
    let asking = async {
        loop {
            let answer = get_as(cluster, user.clone(), uri).await;
            if wanted(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking).await.expect("in time")
}

async fn uid(cluster: &Cluster, resource: &str, name: &str) -> String {
    cluster.get(&format!("{FLOW}/{resource}/{name}")).await.json["metadata"]["uid"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_answer_names_the_schema_and_the_level_it_fell_under() {
    let cluster = Cluster::start().await;
    let node = UserInfo::component("system:node:n", &["system:nodes"]);
    let (schema, level) =
        (uid(&cluster, "flowschemas", "system-node-high").await, uid(&cluster, "prioritylevelconfigurations", "node-high").await);
    let named = |answer: &Reply, header: &str, uid: &str| answer.headers.get(header).is_some_and(|v| v == uid);
    let answer = until(&cluster, &node, "/api/v1/nodes/n", |a| named(a, "x-kubernetes-pf-flowschema-uid", &schema)).await;
    assert!(named(&answer, "x-kubernetes-pf-prioritylevel-uid", &level));
    let metrics = cluster.get("/metrics").await.text;
    assert!(
        metrics.contains("apiserver_flowcontrol_nominal_limit_seats{priority_level=\"catch-all\"} 13\n"),
        "five of 245 shares of 600 seats: {metrics}"
    );
    assert!(
        metrics.contains("apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"system-node-high\",priority_level=\"node-high\"}")
    );
    let dump = cluster.get("/debug/api_priority_and_fairness/dump_priority_levels").await.text;
    assert!(dump.starts_with("PriorityLevelName,") && dump.contains("\nworkload-low,"), "{dump}");
}

#[tokio::test]
async fn a_schema_without_its_level_says_so_and_takes_nothing_until_it_is_there() {
    let cluster = Cluster::start().await;
    let jane = UserInfo::component("jane", &[]);
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": "jane"}}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    });
    let schema = json!({"metadata": {"name": "janes"}, "spec": {"priorityLevelConfiguration": {"name": "hers"}, "matchingPrecedence": 50, "rules": [rule]}});
    let made = cluster.post(&format!("{FLOW}/flowschemas"), &schema).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let admin = common::admin();
    let uri = format!("{FLOW}/flowschemas/janes");
    let condition = |a: &Reply| a.json["status"]["conditions"][0].clone();
    let is = |status: &'static str| move |c: Value| c["type"] == "Dangling" && c["status"] == status;
    let told = until(&cluster, &admin, &uri, |a| is("True")(condition(a))).await;
    assert_eq!(
        condition(&told)["message"],
        "This FlowSchema references the PriorityLevelConfiguration object named \"hers\" and there is no such object"
    );
    let own = made.json["metadata"]["uid"].as_str().unwrap();
    let before = get_as(&cluster, jane.clone(), "/api").await;
    assert_ne!(before.headers["x-kubernetes-pf-flowschema-uid"], own);

    let level = json!({"metadata": {"name": "hers"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}});
    assert_eq!(cluster.post(&format!("{FLOW}/prioritylevelconfigurations"), &level).await.code, 201);
    until(&cluster, &admin, &uri, |a| is("False")(condition(a))).await;
    until(&cluster, &jane, "/api", |a| a.headers["x-kubernetes-pf-flowschema-uid"] == own).await;
}

#[tokio::test]
async fn who_finds_no_room_is_told_in_plain_words_when_to_come_again() {
    let cluster = Cluster::start().await;
    let jane = UserInfo::component("jane", &[]);
    let level = json!({"metadata": {"name": "none"}, "spec": {"type": "Limited",
        "limited": {"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    let made = cluster.post(&format!("{FLOW}/prioritylevelconfigurations"), &level).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": "jane"}}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    });
    let schema = json!({"metadata": {"name": "janes"}, "spec": {"priorityLevelConfiguration": {"name": "none"}, "matchingPrecedence": 50, "rules": [rule]}});
    assert_eq!(cluster.post(&format!("{FLOW}/flowschemas"), &schema).await.code, 201);
    let refused = until(&cluster, &jane, "/api", |a| a.code == 429).await;
    let header = |name: &str| refused.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    assert_eq!((header("retry-after"), header("content-type")), ("1".to_owned(), "text/plain; charset=utf-8".to_owned()));
    assert_eq!(refused.text, "Too many requests, please try again later.\n");
}
