//! The controller manager as a whole: leader election, metrics, and what it does with objects it cannot read.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Cluster, name};
use ferrokube_client::leader::Election;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

fn candidate(identity: &str) -> Election {
    Election {
        lease_duration: Duration::from_secs(90),
        renew_deadline: Duration::from_secs(60),
        retry_period: Duration::from_millis(100),
        ..Election::new("kube-system", "kube-controller-manager", identity)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_stops_hands_over_within_one_try_and_two_never_work_at_once() {
    let cluster = Cluster::with(&["serviceaccount"]).await;
    let manager = cluster.client_as("system:kube-controller-manager");
    let working = Arc::new(AtomicI32::new(0));
    let work = |working: Arc<AtomicI32>, started: tokio::sync::oneshot::Sender<()>| async move {
        struct Working(Arc<AtomicI32>);
        impl Drop for Working {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        assert_eq!(working.fetch_add(1, Ordering::SeqCst), 0, "another one works");
        let _working = Working(working);
        started.send(()).unwrap();
        std::future::pending().await
    };
    let (first_started, first_starts) = tokio::sync::oneshot::channel();
    let (second_started, second_starts) = tokio::sync::oneshot::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let first = tokio::spawn({
        let (client, working) = (manager.clone(), working.clone());
        async move {
            candidate("first").lead_until(&client, || work(working, first_started), async { drop(stopped.await) }).await;
        }
    });
    first_starts.await.unwrap();
    let second = tokio::spawn({
        let (client, working) = (manager.clone(), working.clone());
        async move { candidate("second").lead(&client, || work(working, second_started)).await }
    });
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-controller-manager";
    assert_eq!(cluster.get(lease).await["spec"]["holderIdentity"], "first");
    stop.send(()).unwrap();
    first.await.unwrap();
    // Less than the lease would last.
    tokio::time::timeout(Duration::from_secs(60), second_starts).await.expect("the second leads").unwrap();
    let held = cluster.get(lease).await;
    assert_eq!((&held["spec"]["holderIdentity"], &held["spec"]["leaseTransitions"]), (&json!("second"), &json!(1)));
    second.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_queues_and_running_controllers_are_counted() {
    let cluster = Cluster::with(&["serviceaccount"]).await;
    cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "counted"}})).await;
    cluster
        .eventually("the account", async || {
            cluster.list("/api/v1/namespaces/counted/serviceaccounts").await.iter().any(|a| name(a) == "default")
        })
        .await;
    let text = cluster.metrics();
    assert!(text.contains("workqueue_adds_total{name=\"serviceaccount\"}"), "{text}");
    assert!(
        text.contains("running_managed_controllers{manager=\"kube-controller-manager\",name=\"serviceaccount-controller\"} 1"),
        "{text}"
    );
    assert!(!text.contains("name=\"deployment-controller\""), "only what was selected runs");
    cluster.stop().await;
}
