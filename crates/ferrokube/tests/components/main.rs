//! Components as processes of their own: the real binary, an API server and controllers beside it, over loopback.

mod process;

use ferrokube_api::{Change, Selection};
use futures_util::StreamExt;
use process::{Server, until};
use serde_json::{Value, json};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-controller-manager";

/// Short enough for a test, long enough for a holder on a busy machine to renew in time.
const TIMES: [&str; 3] = ["--leader-elect-lease-duration=12s", "--leader-elect-renew-deadline=10s", "--leader-elect-retry-period=1s"];

async fn holder(server: &Server) -> Option<String> {
    let lease = server.try_get(LEASE).await?;
    lease["spec"]["holderIdentity"].as_str().filter(|h| !h.is_empty()).map(str::to_owned)
}

async fn other_than(server: &Server, known: &[&str]) -> String {
    until("another holder of the lease", async || holder(server).await.filter(|h| !known.contains(&h.as_str()))).await
}

/// A namespace whose default account only a working controller manager makes.
async fn works(server: &Server, name: &str) {
    server.post("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
    until("the account of a new namespace", async || server.try_get(&format!("/api/v1/namespaces/{name}/serviceaccounts/default")).await)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_controller_manager_works_at_a_time_and_another_takes_over() {
    let server = Server::start().await;
    // Every holder that there ever was, as a watch shows it.
    let selection = Selection {
        group: "coordination.k8s.io".into(),
        version: "v1".into(),
        resource: "leases".into(),
        namespace: "kube-system".into(),
        ..Selection::default()
    };
    let mut changes = server.client.subscribe(selection);
    let history = tokio::spawn(async move {
        let mut seen: Vec<Value> = Vec::new();
        while let Some(change) = changes.next().await {
            let Change::Set(object) = change else { continue };
            if &*object.key.name == "kube-controller-manager" {
                seen.push(serde_json::from_slice::<Value>(&object.json()).expect("JSON")["spec"].clone());
            }
            if seen.last().is_some_and(|s| s["leaseTransitions"] == 2) {
                return seen;
            }
        }
        seen
    });

    let mut first = server.manager(&TIMES);
    let one = other_than(&server, &[]).await;
    works(&server, "first").await;
    let mut second = server.manager(&TIMES);
    // The second is there and waits.
    until("the second to serve", async || second.page("/healthz").await.filter(|(_, text)| text == "ok")).await;
    let master = async |manager: &process::Manager| {
        let (code, text) = manager.page("/metrics").await?;
        assert_eq!(code, 200, "{text}");
        text.lines().find_map(|l| l.strip_prefix("leader_election_master_status{name=\"kube-controller-manager\"} ").map(str::to_owned))
    };
    assert_eq!(until("the first to count", async || master(&first).await).await, "1");
    assert_eq!(until("the second to count", async || master(&second).await).await, "0");

    first.kill().await;
    let two = other_than(&server, &[&one]).await;
    works(&server, "second").await;

    let third = server.manager(&TIMES);
    until("the third to serve", async || third.page("/healthz").await).await;
    assert!(second.stop().await, "a clean stop is no failure");
    let three = other_than(&server, &[&one, &two]).await;
    works(&server, "third").await;

    let seen = history.await.expect("it sees all");
    let mut holders: Vec<&str> = seen.iter().map(|s| s["holderIdentity"].as_str().unwrap_or_default()).collect();
    holders.dedup();
    assert_eq!(holders, [one.as_str(), &two, "", &three], "a stop gives the lease back, a death does not");
    // The second waited until the lease of the first had run out.
    let time = |s: &Value, field: &str| s[field].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok()).expect("a time");
    let last = seen.iter().rfind(|s| s["holderIdentity"] == one.as_str()).map(|s| time(s, "renewTime")).expect("it held");
    let taken = seen.iter().find(|s| s["holderIdentity"] == two.as_str()).map(|s| time(s, "acquireTime")).expect("it took over");
    assert!(taken.duration_since(last).as_secs() >= 11, "taken at {taken}, last renewed at {last}");
    drop(third);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_serves_health_to_all_and_the_rest_to_those_who_may() {
    let server = Server::start().await;
    let manager = server.manager(&[
        "--controllers=*,-job-controller",
        "--concurrent-deployment-syncs=7",
        // What installers and hardening guides put there.
        "--profiling=false",
        "--tls-min-version=VersionTLS12",
        "--tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "--requestheader-allowed-names=front-proxy-client",
        "--terminated-pod-gc-threshold=10",
        "--feature-gates=JobManagedBy=true,GangScheduling=false",
        "--pvclaimbinder-sync-period=20s",
        "--node-monitor-period=2s",
        "--enable-garbage-collector=false",
        "--disable-http2-serving",
        "--disabled-metrics=workqueue_depth,no_such_metric",
        "-v=2",
    ]);
    until("it to serve", async || manager.page("/readyz?verbose").await.filter(|(_, text)| text.contains("readyz check passed"))).await;
    let said = manager.said();
    assert!(said.contains("without effect here: --node-monitor-period, --requestheader-allowed-names, --v"), "{said}");
    let (code, text) = manager.page_as_nobody("/healthz").await.expect("it answers");
    assert_eq!((code, text.as_str()), (200, "ok"));
    let (code, text) = manager.page_as_nobody("/metrics").await.expect("it answers");
    assert_eq!(code, 403, "{text}");
    let message = "forbidden: User \\\"system:anonymous\\\" cannot get path \\\"/metrics\\\"";
    assert!(text.contains("\"reason\":\"Forbidden\"") && text.contains(message), "{text}");
    let (code, _) = manager.page("/debug/pprof/cmdline").await.expect("it answers");
    assert_eq!(code, 404, "nobody asked for it");
    let (_, text) = manager.page("/configz").await.expect("it answers");
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    let shown = &shown["kubecontrollermanager.config.k8s.io"];
    assert_eq!(shown["DeploymentController"]["ConcurrentDeploymentSyncs"], 7);
    assert_eq!(shown["PersistentVolumeBinderController"]["PVClaimBinderSyncPeriod"], "20s");
    assert_eq!(shown["Generic"]["LeaderElection"]["ResourceName"], "kube-controller-manager");
    let (_, text) = manager.page("/flagz").await.expect("it answers");
    assert!(text.contains("\ncontrollers=*,-job-controller\n"), "{text}");
    let (_, text) = manager.page("/statusz").await.expect("it answers");
    assert!(text.contains("kube-controller-manager statusz"), "{text}");
    until("the selected ones to run", async || {
        let (_, text) = manager.page("/metrics").await?;
        let running =
            |name: &str| text.contains(&format!("running_managed_controllers{{manager=\"kube-controller-manager\",name=\"{name}\"}} 1"));
        let off = !running("job-controller") && !running("garbage-collector-controller");
        assert!(text.contains("kubernetes_feature_enabled{name=\"JobManagedBy\",stage=\"\"} 1"), "{text}");
        assert!(!text.contains("workqueue_depth"), "{text}");
        let counts = text.contains("# HELP workqueue_adds_total");
        (running("deployment-controller") && off && counts).then_some(())
    })
    .await;
    drop(manager);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_components_apart_run_a_deployment() {
    let server = Server::start().await;
    let manager = server.manager(&[]);
    let (misled, address) = server.misled("scheduler");
    let (kubeconfig, master) = (format!("--kubeconfig={}", misled.display()), format!("--master={address}"));
    let more = ["--leader-elect-retry-period=1s", "--pod-max-in-unschedulable-pods-duration=1m", "--profiling", &kubeconfig, &master];
    let scheduler = server.scheduler(&more);
    let node = json!({"metadata": {"name": "hollow"}, "status": {
        "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"}, "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": jiff::Timestamp::now().to_string(), "lastTransitionTime": jiff::Timestamp::now().to_string()}]}});
    server.post("/api/v1/nodes", node).await;
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}}]}}}});
    server.post("/apis/apps/v1/namespaces/default/deployments", deployment).await;
    until("three pods on the node", async || {
        let pods = server.try_get("/api/v1/namespaces/default/pods").await?;
        let placed = pods["items"].as_array()?.iter().filter(|p| p["spec"]["nodeName"] == "hollow").count();
        (placed == 3).then_some(())
    })
    .await;
    until("what the pods take to be shown", async || {
        let (_, text) = scheduler.page("/metrics/resources").await?;
        (text.matches("kube_pod_resource_request{namespace=\"default\",node=\"hollow\"").count() == 3).then_some(())
    })
    .await;
    let (code, arguments) = scheduler.page("/debug/pprof/cmdline").await.expect("it answers");
    assert!(code == 200 && arguments.contains("\0scheduler\0"), "{code}: {arguments:?}");
    // Each controller acts as its own account, which the manager has made.
    let pods = server.try_get("/api/v1/namespaces/kube-system/serviceaccounts/replicaset-controller").await;
    assert!(pods.is_some(), "the account of the controller");
    drop((manager, scheduler));
    server.stop().await;
}
