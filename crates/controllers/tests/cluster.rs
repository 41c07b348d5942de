//! What the control plane does for the cluster itself: certificates, tokens, node ranges, roles, against a real API server.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Cluster, PODS, name};
use ferrokube_client::Target;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const CONTROLLERS: &str = "/api/v1/namespaces/default/replicationcontrollers";

fn request(common_name: &str, organization: &str) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, common_name);
    STANDARD.encode(params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap())
}

fn csr(name: &str, signer: &str, request: &str, usages: &[&str]) -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"signerName": signer, "request": request, "usages": usages}})
}

fn has(object: &Value, condition: &str) -> bool {
    object["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == condition && c["status"] == "True")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_a_kubelet_is_approved_and_signed_and_others_wait_for_somebody() {
    let cluster = Cluster::start().await;
    let node = request("system:node:n1", "system:nodes");
    let kubelet = csr("kubelet", "kubernetes.io/kube-apiserver-client-kubelet", &node, &["digital signature", "client auth"]);
    cluster.post(CSRS, kubelet).await;
    let person = csr("jane", "kubernetes.io/kube-apiserver-client", &request("jane", "dev"), &["client auth"]);
    cluster.post(CSRS, person).await;
    cluster
        .eventually("the kubelet has its certificate", async || {
            cluster.get(&format!("{CSRS}/kubelet")).await["status"]["certificate"].is_string()
        })
        .await;
    let approved = cluster.get(&format!("{CSRS}/kubelet")).await;
    let condition = &approved["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["reason"]), (&json!("Approved"), &json!("AutoApproved")));
    let mut jane = cluster.get(&format!("{CSRS}/jane")).await;
    assert!(jane["status"]["conditions"].is_null(), "nobody has approved it");
    jane["status"] = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Test", "message": "by hand"}]});
    cluster.ask(http::Method::PUT, &format!("{CSRS}/jane/approval"), Some(&jane)).await.unwrap();
    cluster
        .eventually("the person has a certificate", async || {
            cluster.get(&format!("{CSRS}/jane")).await["status"]["certificate"].is_string()
        })
        .await;
    // What a signer does not sign fails, visibly.
    let mut odd = csr("odd", "kubernetes.io/kubelet-serving", &request("jane", "dev"), &["server auth"]);
    cluster.post(CSRS, odd.clone()).await;
    odd = cluster.get(&format!("{CSRS}/odd")).await;
    odd["status"] = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Test", "message": "by mistake"}]});
    cluster.ask(http::Method::PUT, &format!("{CSRS}/odd/approval"), Some(&odd)).await.unwrap();
    cluster.eventually("it has failed", async || has(&cluster.get(&format!("{CSRS}/odd")).await, "Failed")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_a_kubelet_is_approved_once_its_user_may_ask_for_it() {
    let cluster = Cluster::start().await;
    let role = |name: &str, resource: &str| json!({"metadata": {"name": name}, "rules": [{"apiGroups": ["certificates.k8s.io"], "resources": [resource], "verbs": ["create", "get"]}]});
    let binding = |name: &str| {
        json!({"metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "newcomer"}]})
    };
    let (roles, bindings) = ("/apis/rbac.authorization.k8s.io/v1/clusterroles", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings");
    cluster.post(roles, role("asks", "certificatesigningrequests")).await;
    cluster.post(bindings, binding("asks")).await;
    let node = request("system:node:n1", "system:nodes");
    let kubelet = csr("kubelet", "kubernetes.io/kube-apiserver-client-kubelet", &node, &["digital signature", "client auth"]);
    let newcomer = cluster.client_as("newcomer");
    let target = Target {
        group: "certificates.k8s.io".into(),
        version: "v1".into(),
        resource: "certificatesigningrequests".into(),
        ..Target::default()
    };
    cluster.eventually("the user may ask", async || newcomer.request(http::Method::POST, &target, "", Some(&kubelet)).await.is_ok()).await;
    // The loop has looked at it, in vain.
    cluster.eventually("it was looked at", async || retries(&cluster.metrics()) > 0.0).await;
    assert!(cluster.get(&format!("{CSRS}/kubelet")).await["status"]["conditions"].is_null(), "nobody allows it");
    cluster.post(roles, role("becomes", "certificatesigningrequests/nodeclient")).await;
    cluster.post(bindings, binding("becomes")).await;
    cluster.eventually("it is approved", async || has(&cluster.get(&format!("{CSRS}/kubelet")).await, "Approved")).await;
    cluster.stop().await;
}

/// How often keys of the queue of certificates were put back.
fn retries(metrics: &str) -> f64 {
    let lines = metrics.lines().filter(|l| l.starts_with("workqueue_retries_total{name=\"certificate\"}"));
    lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_for_an_account_gets_a_token_that_is_good_until_the_account_goes() {
    let cluster = Cluster::start().await;
    cluster.post("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "robot"}})).await;
    let secret = json!({"metadata": {"name": "robot-token", "annotations": {"kubernetes.io/service-account.name": "robot"}}, "type": "kubernetes.io/service-account-token"});
    cluster.post("/api/v1/namespaces/default/secrets", secret).await;
    let path = "/api/v1/namespaces/default/secrets/robot-token";
    cluster.eventually("the token", async || cluster.get(path).await["data"]["token"].is_string()).await;
    let data = cluster.get(path).await["data"].clone();
    assert_eq!(STANDARD.decode(data["namespace"].as_str().unwrap()).unwrap(), b"default");
    let token = String::from_utf8(STANDARD.decode(data["token"].as_str().unwrap()).unwrap()).unwrap();
    let who = cluster.who_am_i(&token).await.unwrap();
    assert_eq!(who["status"]["user"]["username"], "system:serviceaccount:default:robot", "{who}");
    cluster.delete("/api/v1/namespaces/default/serviceaccounts/robot", "Background").await;
    cluster.eventually("the secret goes", async || cluster.try_get(path).await.is_none()).await;
    assert_ne!(cluster.who_am_i(&token).await.unwrap()["status"]["authenticated"], true);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_get_a_range_of_each_family_and_their_cache_time() {
    let cluster = Cluster::start().await;
    for n in ["n1", "n2"] {
        cluster.post("/api/v1/nodes", json!({"metadata": {"name": n}})).await;
    }
    cluster
        .eventually("ranges", async || {
            let nodes = cluster.list("/api/v1/nodes").await;
            nodes.iter().all(|n| {
                n["spec"]["podCIDRs"].as_array().is_some_and(|c| c.len() == 2)
                    && n["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] == "0"
            })
        })
        .await;
    let mut ranges: Vec<Value> = cluster.list("/api/v1/nodes").await.iter().map(|n| n["spec"]["podCIDR"].clone()).collect();
    ranges.sort_by_key(Value::to_string);
    assert_eq!(ranges, ["10.244.0.0/24", "10.244.1.0/24"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_collects_the_rules_of_new_roles() {
    let cluster = Cluster::start().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    cluster
        .post(
            roles,
            json!({"metadata": {"name": "see-widgets", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]}]}),
        )
        .await;
    let collected = async |role: &str| {
        let role = cluster.get(&format!("{roles}/{role}")).await;
        role["rules"].as_array().unwrap().iter().any(|r| r["resources"] == json!(["widgets"]))
    };
    cluster
        .eventually("view, edit and admin have it", async || collected("view").await && collected("edit").await && collected("admin").await)
        .await;
    cluster.delete(&format!("{roles}/see-widgets"), "Background").await;
    cluster.eventually("it is gone again", async || !collected("admin").await).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_controller_keeps_its_pods_adopts_and_releases() {
    let cluster = Cluster::start().await;
    let pod = json!({"metadata": {"name": "orphan", "labels": {"app": "old"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.post(PODS, pod.clone()).await;
    // The controllers share what they know of pods: once the quota counts it, all know the orphan.
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    cluster.post(quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "9"}}})).await;
    let counted = async || cluster.get(&format!("{quotas}/q")).await["status"]["used"]["pods"] == "1";
    cluster.eventually("the orphan is known", counted).await;
    let template =
        json!({"metadata": pod["metadata"]["labels"].is_object().then(|| json!({"labels": {"app": "old"}})), "spec": pod["spec"]});
    cluster
        .post(CONTROLLERS, json!({"metadata": {"name": "old"}, "spec": {"replicas": 2, "selector": {"app": "old"}, "template": template}}))
        .await;
    let owned =
        async || cluster.list(PODS).await.iter().filter(|p| p["metadata"]["ownerReferences"][0]["kind"] == "ReplicationController").count();
    cluster.eventually("two pods, one of them adopted", async || cluster.list(PODS).await.len() == 2 && owned().await == 2).await;
    cluster.patch(&format!("{PODS}/orphan"), json!({"metadata": {"labels": {"app": "other"}}})).await;
    cluster.eventually("it is let go and replaced", async || cluster.list(PODS).await.len() == 3 && owned().await == 2).await;
    cluster
        .eventually("the status", async || {
            cluster.run_pods().await;
            let status = cluster.get(&format!("{CONTROLLERS}/old")).await["status"].clone();
            status["replicas"] == 2 && status["readyReplicas"] == 2 && status["availableReplicas"] == 2
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_info_is_signed_by_tokens_and_tokens_that_have_run_out_go() {
    let cluster = Cluster::with(&["*", "bootstrapsigner", "tokencleaner"]).await;
    let token = |id: &str, expiration: &str| {
        json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token",
            "stringData": {"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true", "expiration": expiration}})
    };
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    cluster.post(secrets, token("abcdef", "2099-01-01T00:00:00Z")).await;
    cluster.post(secrets, token("old000", "2020-01-01T00:00:00Z")).await;
    cluster
        .post(
            "/api/v1/namespaces/kube-public/configmaps",
            json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "clusters: []"}}),
        )
        .await;
    cluster
        .eventually("the signature", async || {
            let info = cluster.get("/api/v1/namespaces/kube-public/configmaps/cluster-info").await;
            info["data"]["jws-kubeconfig-abcdef"].is_string() && info["data"]["jws-kubeconfig-old000"].is_null()
        })
        .await;
    cluster
        .eventually("the old token is gone", async || !cluster.list(secrets).await.iter().any(|s| name(s) == "bootstrap-token-old000"))
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_service_addresses_is_ready_and_stays_while_it_is_used() {
    let cluster = Cluster::start().await;
    let ranges = "/apis/networking.k8s.io/v1/servicecidrs";
    cluster.post(ranges, json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/24"]}})).await;
    cluster
        .eventually("ready", async || {
            let range = cluster.get(&format!("{ranges}/more")).await;
            has(&range, "Ready") && range["metadata"]["finalizers"] == json!(["networking.k8s.io/service-cidr-finalizer"])
        })
        .await;
    let service = json!({"group": "", "resource": "services", "namespace": "default", "name": "s"});
    let address = json!({"metadata": {"name": "10.97.0.7", "labels": {"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "test"}}, "spec": {"parentRef": service}});
    cluster.post("/apis/networking.k8s.io/v1/ipaddresses", address).await;
    cluster.delete(&format!("{ranges}/more"), "Background").await;
    cluster
        .eventually("it waits", async || {
            let range = cluster.get(&format!("{ranges}/more")).await;
            range["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["reason"] == "Terminating")
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_written_by_hand_are_mirrored_through_create_update_and_delete() {
    let cluster = Cluster::start().await;
    cluster
        .post("/api/v1/namespaces/default/services", json!({"metadata": {"name": "db"}, "spec": {"ports": [{"name": "sql", "port": 80}]}}))
        .await;
    let endpoints =
        json!({"metadata": {"name": "db"}, "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"name": "sql", "port": 80}]}]});
    // Of its own writes the controller needs no news.
    cluster.late.send_replace("endpointslices".to_owned());
    cluster.post("/api/v1/namespaces/default/endpoints", endpoints).await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Ddb";
    let shown = async || -> Vec<Value> { cluster.list(slices).await.iter().map(|s| s["endpoints"][0]["addresses"][0].clone()).collect() };
    cluster.eventually("a slice", async || shown().await == ["10.1.2.3"]).await;
    let slice = cluster.list(slices).await[0].clone();
    assert_eq!(slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"], "endpointslicemirroring-controller.k8s.io");
    assert_eq!(slice["ports"][0]["port"], 80);
    let path = "/api/v1/namespaces/default/endpoints/db";
    cluster.patch(path, json!({"subsets": [{"addresses": [{"ip": "10.2.3.4"}], "ports": [{"name": "sql", "port": 80}]}]})).await;
    cluster.eventually("the new address", async || shown().await == ["10.2.3.4"]).await;
    assert_eq!(cluster.list(slices).await[0]["metadata"]["uid"], slice["metadata"]["uid"], "the same slice");
    cluster.late.send_replace(String::new());
    cluster.delete(path, "Background").await;
    cluster.eventually("the slice goes", async || shown().await.is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_an_endpoint_only_while_its_node_is_there() {
    let cluster = Cluster::with(&["serviceaccount-controller", "endpointslice-controller"]).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.post("/api/v1/namespaces/default/services", service).await;
    let pod = json!({"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {"nodeName": "late", "containers": [{"name": "c", "image": "i"}]}});
    let pod = cluster.post(PODS, pod).await;
    cluster.set_pod(&pod, "Running", true).await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dweb";
    let shown = async || -> Vec<Value> { cluster.list(slices).await.iter().map(|s| s["endpoints"][0]["addresses"][0].clone()).collect() };
    cluster.eventually("a slice without it", async || shown().await == [Value::Null]).await;
    cluster.post("/api/v1/nodes", json!({"metadata": {"name": "late"}})).await;
    cluster.eventually("with its node it is there", async || shown().await == ["10.0.0.1"]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_told_which_fields_its_types_do_not_have() {
    let cluster = Cluster::start().await;
    let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.post(definitions, definition).await;
    cluster
        .eventually("widgets are served and described", async || {
            let described = cluster.try_get("/openapi/v3/apis/example.com/v1").await.is_some_and(|d| d.to_string().contains("Widget"));
            described && cluster.try_get("/apis/example.com/v1").await.is_some_and(|d| d["resources"][0]["kind"] == "Widget")
        })
        .await;
    let policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let rule = |group: &str, resource: &str| json!({"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]});
    let policy = json!({"metadata": {"name": "sizes"}, "spec": {
        "matchConstraints": {"resourceRules": [rule("apps", "deployments"), rule("example.com", "widgets")]},
        "validations": [{"expression": "object.spec.replicas > 1"}, {"expression": "object.metadata.name != ''"}]}});
    cluster.post(policies, policy).await;
    cluster
        .eventually("the policy is checked", async || {
            let policy = cluster.get(&format!("{policies}/sizes")).await;
            policy["status"]["observedGeneration"] == policy["metadata"]["generation"]
        })
        .await;
    let status = cluster.get(&format!("{policies}/sizes")).await["status"].clone();
    let warnings = status["typeChecking"]["expressionWarnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{status}");
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[0].expression");
    let warning = warnings[0]["warning"].as_str().unwrap();
    assert!(warning.starts_with("example.com/v1, Kind=Widget: ERROR: <input>:1:12: undefined field 'replicas'"), "{warning}");
    cluster.stop().await;
}
