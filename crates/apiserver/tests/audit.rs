//! Audit events as a collector sees them: in the log file, and at a webhook.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::hook::Hook;
use common::{Cluster, MAPS, admin, reply};
use ferrokube_api::Selection;
use ferrokube_apiserver::UserInfo;
use ferrokube_apiserver::audit::{AuditConfig, BatchConfig, LogConfig, Mode, Truncate, WebhookConfig};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: None
  users: ["system:apiserver"]
- level: RequestResponse
  resources: [{group: "", resources: ["configmaps"]}]
  omitManagedFields: true
- level: Metadata
  resources: [{group: "", resources: ["secrets"]}]
- level: Request
  resources: [{group: "", resources: ["pods"]}]
  omitStages: [RequestReceived]
"#;

async fn logged(path: &Path, change: impl FnOnce(&mut LogConfig)) -> Cluster {
    let mut log = LogConfig::new(path.to_string_lossy());
    change(&mut log);
    let audit = AuditConfig { policy: POLICY.to_owned(), log: Some(log), webhook: None };
    Cluster::with(|config| config.audit = Some(audit)).await
}

fn events(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn stages(events: &[Value]) -> Vec<&str> {
    events.iter().map(|e| e["stage"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_request_is_written_down_as_far_as_the_policy_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let cluster = logged(&path, |_| {}).await;
    let made = cluster.config_map("a", &json!({"k": "v"})).await;
    let all = events(&path);
    assert_eq!(stages(&all), ["RequestReceived", "ResponseComplete"]);
    let event = &all[1];
    assert_eq!(event["kind"], "Event");
    assert_eq!(event["apiVersion"], "audit.k8s.io/v1");
    assert_eq!(event["auditID"].as_str().unwrap(), made.headers["audit-id"].to_str().unwrap());
    assert_eq!((event["level"].as_str(), event["verb"].as_str()), (Some("RequestResponse"), Some("create")));
    assert_eq!(event["requestURI"], MAPS);
    assert_eq!(event["user"]["username"], "kubernetes-admin");
    assert_eq!(event["userAgent"], "test/1");
    let reference = json!({"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"});
    assert_eq!(event["objectRef"], reference);
    assert_eq!(event["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(event["requestObject"]["data"]["k"], "v");
    assert_eq!(event["responseObject"]["metadata"]["uid"], made.json["metadata"]["uid"]);
    assert!(event["responseObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");

    cluster.post("/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": "s"}, "stringData": {"x": "hidden"}})).await;
    assert!(!std::fs::read_to_string(&path).unwrap().contains("hidden"), "Metadata has no objects");
    cluster.get("/api/v1/namespaces").await;
    assert_eq!(events(&path).len(), 4, "no rule matches: nothing is written");

    cluster.patch(&format!("{MAPS}/a"), "merge-patch", &json!({"data": {"k": "w"}})).await;
    cluster.get(MAPS).await;
    let all = events(&path);
    assert_eq!(all[5]["requestObject"], json!({"data": {"k": "w"}}));
    assert_eq!(all[7]["responseObject"]["items"][0]["data"]["k"], "w");

    let mut watch = cluster.watch(&format!("{MAPS}?watch=1")).await;
    watch.next().await.unwrap();
    assert_eq!(stages(&events(&path)[8..]), ["RequestReceived", "ResponseStarted"]);
    drop(watch);
    assert_eq!(stages(&events(&path)[8..]), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
}

#[tokio::test]
async fn a_refusal_is_written_down_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let cluster = logged(&path, |_| {}).await;
    let jane = UserInfo::component("jane", &[]);
    let refused = reply(cluster.send(jane, "GET", "/api/v1/pods", "", "application/json", Vec::new()).await).await;
    assert_eq!(refused.code, 403);
    let all = events(&path);
    assert_eq!(stages(&all), ["ResponseComplete"], "the rule leaves RequestReceived out");
    assert_eq!(all[0]["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!((all[0]["responseStatus"]["reason"].as_str(), all[0]["responseStatus"]["code"].as_u64()), (Some("Forbidden"), Some(403)));
    let metrics = reply(cluster.send(admin(), "GET", "/metrics", "", "", Vec::new()).await).await.text;
    assert!(metrics.contains("apiserver_audit_event_total 1\n"), "{metrics}");
}

#[tokio::test]
async fn an_event_that_is_too_long_loses_its_objects() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let cluster = logged(&path, |log| log.truncate = Some(Truncate { max_event: 2000, max_batch: 4000 })).await;
    cluster.config_map("a", &json!({"k": "v".repeat(3000)})).await;
    let all = events(&path);
    assert_eq!(all[1]["annotations"]["audit.k8s.io/truncated"], "true");
    assert!(all[1].get("requestObject").is_none() && all[1].get("responseObject").is_none());
}

#[tokio::test]
async fn a_webhook_gets_batches_and_the_rest_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut hook = Hook::start(|_, _| (200, json!({}))).await;
    let mut webhook = WebhookConfig::new(hook.kubeconfig(folder.path()));
    webhook.batch = BatchConfig { max_size: 3, max_wait: Duration::from_secs(3600), ..BatchConfig::webhook() };
    let audit = AuditConfig { policy: POLICY.to_owned(), log: None, webhook: Some(webhook) };
    let cluster = Cluster::with(|config| config.audit = Some(audit)).await;
    for name in ["a", "b"] {
        cluster.config_map(name, &json!({})).await;
    }
    let lists = hook.until(|seen| !seen.is_empty()).await;
    assert_eq!((lists[0]["kind"].as_str(), lists[0]["items"].as_array().unwrap().len()), (Some("EventList"), 3));
    cluster.running.stop().await;
    let lists = hook.seen();
    assert_eq!(lists[1]["items"][0]["stage"], "ResponseComplete", "what waited was sent when the server stopped");
}

#[tokio::test]
async fn strict_blocking_refuses_what_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let hook = Hook::start(|_, _| (403, json!({}))).await;
    let mut webhook = WebhookConfig::new(hook.kubeconfig(folder.path()));
    webhook.mode = Mode::BlockingStrict;
    let audit = AuditConfig { policy: POLICY.to_owned(), log: None, webhook: Some(webhook) };
    let cluster = Cluster::with(|config| config.audit = Some(audit)).await;
    assert_eq!(cluster.config_map("a", &json!({})).await.code, 500);
    assert_eq!(cluster.get("/api/v1/namespaces").await.code, 200, "the policy does not want this one");
}

#[tokio::test]
async fn a_component_of_the_process_is_audited_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let cluster = logged(&path, |_| {}).await;
    let selection = Selection { version: "v1".into(), resource: "secrets".into(), ..Selection::default() };
    let changes = cluster.running.server.subscribe(admin(), selection).unwrap();
    let all = events(&path);
    assert_eq!(stages(&all), ["RequestReceived", "ResponseStarted"]);
    assert_eq!((all[1]["verb"].as_str(), all[1]["objectRef"]["resource"].as_str()), (Some("watch"), Some("secrets")));
    drop(changes);
    assert_eq!(stages(&events(&path)), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
}
