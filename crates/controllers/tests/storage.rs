//! Claims, volumes and their attachments against a real API server; the test plays provisioner, attacher and kubelet.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Cluster, PODS, name};
use serde_json::{Value, json};

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";

fn with(mut object: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

fn claim(name: &str, more: Value) -> Value {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    with(json!({"metadata": {"name": name}, "spec": spec}), more)
}

fn volume(name: &str, more: Value) -> Value {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "hostPath": {"path": format!("/nowhere/{name}")}});
    with(json!({"metadata": {"name": name}, "spec": spec}), more)
}

fn pod(name: &str, node: &str, volume: Value) -> Value {
    let mut source = volume;
    source["name"] = "v".into();
    json!({"metadata": {"name": name}, "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "i"}], "volumes": [source]}})
}

async fn phase(cluster: &Cluster, path: &str) -> Value {
    cluster.try_get(path).await.map_or(Value::Null, |o| o["status"]["phase"].clone())
}

async fn becomes(cluster: &Cluster, path: &str, expected: &str) {
    cluster.eventually(&format!("{path} is {expected}"), async || phase(cluster, path).await == expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_gets_the_smallest_volume_and_releases_it() {
    let cluster = Cluster::start().await;
    cluster.post(VOLUMES, volume("large", json!({"capacity": {"storage": "9Gi"}}))).await;
    cluster.post(VOLUMES, volume("small", json!({}))).await;
    becomes(&cluster, &format!("{VOLUMES}/large"), "Available").await;
    becomes(&cluster, &format!("{VOLUMES}/small"), "Available").await;
    cluster.post(CLAIMS, claim("c", json!({}))).await;
    becomes(&cluster, &format!("{CLAIMS}/c"), "Bound").await;
    let bound = cluster.get(&format!("{CLAIMS}/c")).await;
    assert_eq!(bound["spec"]["volumeName"], "small");
    assert_eq!(bound["status"]["capacity"]["storage"], "2Gi");
    assert_eq!(bound["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"], "yes");
    becomes(&cluster, &format!("{VOLUMES}/small"), "Bound").await;
    let volume = cluster.get(&format!("{VOLUMES}/small")).await;
    assert_eq!(volume["spec"]["claimRef"]["uid"], bound["metadata"]["uid"]);
    assert!(volume["status"]["lastPhaseTransitionTime"].is_string());
    // A bound volume outlives its deletion; a claim that nobody uses does not.
    cluster.delete(&format!("{VOLUMES}/small"), "Background").await;
    assert!(cluster.try_get(&format!("{VOLUMES}/small")).await.is_some());
    cluster.delete(&format!("{CLAIMS}/c"), "Background").await;
    cluster
        .eventually("both are gone", async || {
            cluster.try_get(&format!("{CLAIMS}/c")).await.is_none() && cluster.try_get(&format!("{VOLUMES}/small")).await.is_none()
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_users_bound_by_name_is_honoured_from_both_sides() {
    let cluster = Cluster::start().await;
    cluster.post(VOLUMES, volume("any", json!({}))).await;
    cluster
        .post(VOLUMES, volume("mine", json!({"capacity": {"storage": "50Gi"}, "claimRef": {"namespace": "default", "name": "one"}})))
        .await;
    // Only a controller that knows both can choose between them.
    becomes(&cluster, &format!("{VOLUMES}/any"), "Available").await;
    becomes(&cluster, &format!("{VOLUMES}/mine"), "Available").await;
    cluster.post(CLAIMS, claim("one", json!({}))).await;
    becomes(&cluster, &format!("{CLAIMS}/one"), "Bound").await;
    assert_eq!(cluster.get(&format!("{CLAIMS}/one")).await["spec"]["volumeName"], "mine");
    cluster.post(CLAIMS, claim("two", json!({"volumeName": "any"}))).await;
    becomes(&cluster, &format!("{CLAIMS}/two"), "Bound").await;
    cluster.post(CLAIMS, claim("three", json!({"volumeName": "any"}))).await;
    let told = async || cluster.events().await.iter().any(|e| e.contains("already bound to a different claim"));
    cluster.eventually("the third is told", told).await;
    becomes(&cluster, &format!("{CLAIMS}/three"), "Pending").await;
    // A volume kept for its data is not given to the next claim, and a lost volume is said to be lost.
    cluster.delete(&format!("{CLAIMS}/one"), "Background").await;
    becomes(&cluster, &format!("{VOLUMES}/mine"), "Released").await;
    let (any, unprotected) = (format!("{VOLUMES}/any"), json!({"metadata": {"finalizers": null}}));
    // The protection is put back as often as it is taken away, until the volume is gone.
    let gone = async || {
        drop(cluster.ask(http::Method::DELETE, &any, None).await);
        drop(cluster.ask(http::Method::PATCH, &any, Some(&unprotected)).await);
        cluster.try_get(&any).await.is_none()
    };
    cluster.eventually("the volume is lost", gone).await;
    becomes(&cluster, &format!("{CLAIMS}/two"), "Lost").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_claim_got_another_one_is_free_again() {
    let cluster = Cluster::start().await;
    cluster.post(CLAIMS, claim("c", json!({"resources": {"requests": {"storage": "5Gi"}}}))).await;
    let uid = cluster.get(&format!("{CLAIMS}/c")).await["metadata"]["uid"].clone();
    // Too small for the claim that it is said to be bound to.
    let reference = json!({"namespace": "default", "name": "c", "uid": uid});
    cluster.post(VOLUMES, volume("small", json!({"claimRef": reference}))).await;
    cluster.post(VOLUMES, volume("large", json!({"capacity": {"storage": "9Gi"}}))).await;
    becomes(&cluster, &format!("{CLAIMS}/c"), "Bound").await;
    assert_eq!(cluster.get(&format!("{CLAIMS}/c")).await["spec"]["volumeName"], "large");
    becomes(&cluster, &format!("{VOLUMES}/small"), "Available").await;
    let reference = cluster.get(&format!("{VOLUMES}/small")).await["spec"]["claimRef"].clone();
    assert_eq!((reference["name"].as_str(), reference["uid"].as_str()), (Some("c"), None));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_claim_is_handed_to_its_provisioner_once_a_node_is_chosen() {
    let cluster = Cluster::start().await;
    let class = json!({"metadata": {"name": "fast"}, "provisioner": "example.com/p", "volumeBindingMode": "WaitForFirstConsumer"});
    cluster.post(CLASSES, class).await;
    cluster.post(CLAIMS, claim("c", json!({"storageClassName": "fast"}))).await;
    let path = format!("{CLAIMS}/c");
    let told = async || cluster.events().await.iter().any(|e| e.contains("waiting for first consumer to be created before binding"));
    cluster.eventually("it is said to wait", told).await;
    cluster.patch(&path, json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}})).await;
    cluster
        .eventually("the provisioner is asked", async || {
            cluster.get(&path).await["metadata"]["annotations"][PROVISIONER] == "example.com/p"
        })
        .await;
    let uid = cluster.get(&path).await["metadata"]["uid"].clone();
    let mut made = volume(
        "pvc-1",
        json!({"storageClassName": "fast", "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {"namespace": "default", "name": "c", "uid": uid}}),
    );
    made["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": "example.com/p"});
    cluster.post(VOLUMES, made).await;
    becomes(&cluster, &path, "Bound").await;
    becomes(&cluster, &format!("{VOLUMES}/pvc-1"), "Bound").await;
    cluster.delete(&path, "Background").await;
    becomes(&cluster, &format!("{VOLUMES}/pvc-1"), "Released").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_without_a_class_gets_the_default_one_when_there_is_one() {
    let cluster = Cluster::start().await;
    cluster.post(CLAIMS, claim("c", json!({}))).await;
    let told = async || cluster.events().await.iter().any(|e| e.contains("no storage class is set"));
    cluster.eventually("it waits", told).await;
    let mark = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    cluster.post(CLASSES, json!({"metadata": {"name": "std", "annotations": mark}, "provisioner": "example.com/p"})).await;
    cluster
        .eventually("it has the class and a provisioner", async || {
            let claim = cluster.get(&format!("{CLAIMS}/c")).await;
            claim["spec"]["storageClassName"] == "std" && claim["metadata"]["annotations"][PROVISIONER] == "example.com/p"
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_in_use_outlives_its_deletion_until_the_pod_is_gone() {
    let cluster = Cluster::start().await;
    cluster.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    cluster.post(CLAIMS, claim("c", json!({}))).await;
    let body = pod("p", "n1", json!({"persistentVolumeClaim": {"claimName": "c"}}));
    cluster.post(PODS, body).await;
    let path = format!("{CLAIMS}/c");
    cluster.delete(&path, "Background").await;
    // Something that is known to be handled later than the claim shows that the claim was looked at.
    cluster.post(CLAIMS, claim("d", json!({}))).await;
    cluster.delete(&format!("{CLAIMS}/d"), "Background").await;
    cluster.eventually("the unused one goes", async || cluster.try_get(&format!("{CLAIMS}/d")).await.is_none()).await;
    assert!(cluster.get(&path).await["metadata"]["deletionTimestamp"].is_string());
    cluster.delete(&format!("{PODS}/p"), "Background").await;
    cluster.eventually("the claim goes with the pod", async || cluster.try_get(&path).await.is_none()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_volume_has_a_claim_of_its_pod() {
    let cluster = Cluster::start().await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": claim("", json!({}))["spec"]});
    cluster.post(PODS, pod("p", "", json!({"ephemeral": {"volumeClaimTemplate": template.clone()}}))).await;
    let path = format!("{CLAIMS}/p-v");
    cluster.eventually("the claim", async || cluster.try_get(&path).await.is_some()).await;
    let made = cluster.get(&path).await;
    assert_eq!(made["metadata"]["ownerReferences"][0]["name"], "p");
    assert_eq!(made["metadata"]["labels"]["a"], "b");
    cluster.delete(&format!("{PODS}/p"), "Background").await;
    cluster.eventually("it goes with the pod", async || cluster.try_get(&path).await.is_none()).await;
    // A name that somebody else has stays somebody else's, although the controller does not know at first who has it.
    cluster.late.send_replace("persistentvolumeclaims".to_owned());
    cluster.post(CLAIMS, claim("q-v", json!({}))).await;
    cluster.post(PODS, pod("q", "", json!({"ephemeral": {"volumeClaimTemplate": template}}))).await;
    let failed = "\nephemeral_volume_controller_create_failures_total ";
    cluster.eventually("it tries in vain", async || cluster.metrics().contains(failed)).await;
    cluster.late.send_replace(String::new());
    let why = "ephemeral volume v: PVC default/q-v was not created for pod default/q (pod is not owner)";
    let told = format!("\"Pod\" \"q\" \"FailedBinding\": \"{why}\"");
    cluster.eventually("the pod is told", async || cluster.events().await.contains(&told)).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_csi_volume_is_attached_reported_and_detached_once_unmounted() {
    let cluster = Cluster::start().await;
    let managed = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
    cluster.post("/api/v1/nodes", json!({"metadata": {"name": "n1", "annotations": managed}})).await;
    let csi = json!({"hostPath": null, "csi": {"driver": "d.example.com", "volumeHandle": "h"}});
    cluster.post(VOLUMES, volume("v", csi)).await;
    cluster.post(CLAIMS, claim("c", json!({}))).await;
    becomes(&cluster, &format!("{CLAIMS}/c"), "Bound").await;
    cluster.post(PODS, pod("p", "n1", json!({"persistentVolumeClaim": {"claimName": "c"}}))).await;
    cluster.eventually("an attachment", async || cluster.list(ATTACHMENTS).await.len() == 1).await;
    let attachment = cluster.list(ATTACHMENTS).await.remove(0);
    assert_eq!((&attachment["spec"]["attacher"], &attachment["spec"]["nodeName"]), (&json!("d.example.com"), &json!("n1")));
    let path = format!("{ATTACHMENTS}/{}", name(&attachment));
    cluster.patch(&format!("{path}/status"), json!({"status": {"attached": true}})).await;
    let unique = "kubernetes.io/csi/d.example.com^h";
    let reported = async || cluster.get("/api/v1/nodes/n1").await["status"]["volumesAttached"][0]["name"] == unique;
    cluster.eventually("the node knows", reported).await;
    let told = async || cluster.events().await.iter().any(|e| e.contains("SuccessfulAttachVolume"));
    cluster.eventually("the pod is told", told).await;
    // Mounted: it stays attached although the pod is gone, and although the controller hears of it only when it tells the node.
    cluster.late.send_replace("nodes".to_owned());
    cluster.patch("/api/v1/nodes/n1/status", json!({"status": {"volumesInUse": [unique]}})).await;
    cluster.delete(&format!("{PODS}/p"), "Background").await;
    let told = async || cluster.get("/api/v1/nodes/n1").await["status"]["volumesAttached"].as_array().is_none_or(Vec::is_empty);
    cluster.eventually("the node is told that it goes", told).await;
    cluster.late.send_replace(String::new());
    cluster.eventually("and that it stays", reported).await;
    cluster.delete(&format!("{CLAIMS}/c"), "Background").await;
    becomes(&cluster, &format!("{VOLUMES}/v"), "Released").await;
    assert!(cluster.try_get(&path).await.is_some_and(|a| a["metadata"]["deletionTimestamp"].is_null()));
    cluster.patch("/api/v1/nodes/n1/status", json!({"status": {"volumesInUse": []}})).await;
    cluster.eventually("it is detached", async || cluster.try_get(&path).await.is_none()).await;
    assert!(cluster.get("/api/v1/nodes/n1").await["status"]["volumesAttached"].as_array().is_none_or(Vec::is_empty));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_speaks_of_a_plugin_that_is_gone_is_handed_to_its_driver() {
    const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
    let cluster = Cluster::start().await;
    cluster.post(CLASSES, json!({"metadata": {"name": "old"}, "provisioner": "kubernetes.io/gce-pd"})).await;
    cluster.post(CLAIMS, claim("c", json!({"storageClassName": "old"}))).await;
    let noted = async |path: &str, key: &str| cluster.get(path).await["metadata"]["annotations"][key].clone();
    let driver = json!("pd.csi.storage.gke.io");
    let path = format!("{CLAIMS}/c");
    cluster.eventually("the driver is asked", async || noted(&path, PROVISIONER).await == driver).await;
    let mut made = volume("v", json!({}));
    made["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": "kubernetes.io/gce-pd"});
    cluster.post(VOLUMES, made).await;
    let path = format!("{VOLUMES}/v");
    cluster.eventually("the volume is marked", async || noted(&path, MIGRATED_TO).await == driver).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_policy_nobody_here_can_carry_out_has_failed() {
    let cluster = Cluster::start().await;
    let cases = [
        ("delete", "Delete", "VolumeFailedDelete", "host_path deleter only supports /tmp/.+ but received provided /nowhere/delete"),
        ("recycle", "Recycle", "VolumeFailedRecycle", "No recycler plugin found for the volume!"),
    ];
    for (name, policy, reason, message) in cases {
        cluster.post(VOLUMES, volume(name, json!({"persistentVolumeReclaimPolicy": policy}))).await;
        cluster.post(CLAIMS, claim(name, json!({"volumeName": name}))).await;
        becomes(&cluster, &format!("{CLAIMS}/{name}"), "Bound").await;
        cluster.delete(&format!("{CLAIMS}/{name}"), "Background").await;
        let path = format!("{VOLUMES}/{name}");
        becomes(&cluster, &path, "Failed").await;
        assert_eq!(cluster.get(&path).await["status"]["message"], message);
        let told = format!("\"PersistentVolume\" \"{name}\" \"{reason}\": \"{message}\"");
        cluster.eventually("people are told", async || cluster.events().await.contains(&told)).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_told_who_has_the_exclusive_volume_it_waits_for() {
    let cluster = Cluster::start().await;
    let managed = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
    for node in ["n1", "n2"] {
        cluster.post("/api/v1/nodes", json!({"metadata": {"name": node, "annotations": managed}})).await;
    }
    let csi = json!({"hostPath": null, "csi": {"driver": "d.example.com", "volumeHandle": "h"}});
    cluster.post(VOLUMES, volume("v", csi)).await;
    cluster.post(CLAIMS, claim("c", json!({}))).await;
    becomes(&cluster, &format!("{CLAIMS}/c"), "Bound").await;
    // What the controller did itself it knows at once.
    cluster.late.send_replace("volumeattachments".to_owned());
    cluster.post(PODS, pod("first", "n1", json!({"persistentVolumeClaim": {"claimName": "c"}}))).await;
    cluster.eventually("an attachment", async || cluster.list(ATTACHMENTS).await.len() == 1).await;
    cluster.post(PODS, pod("second", "n2", json!({"persistentVolumeClaim": {"claimName": "c"}}))).await;
    let told = r#""Pod" "second" "FailedAttachVolume": "Multi-Attach error for volume \"v\" Volume is already used by pod(s) first""#;
    cluster.eventually("the second pod is told", async || cluster.events().await.iter().any(|e| e == told)).await;
    assert_eq!(cluster.list(ATTACHMENTS).await.len(), 1);
    cluster.stop().await;
}
