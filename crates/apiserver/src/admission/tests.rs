//! The plugins, each through the chain that every request goes through.

use super::*;
use crate::objects::testing::Map;
use serde_json::json;

struct World {
    map: Arc<Map>,
    admission: Admission,
}

fn world() -> World {
    world_with(AdmissionConfig::default())
}

fn world_with(config: AdmissionConfig) -> World {
    let map = Arc::new(Map::default());
    map.put("", "namespaces", json!({ "metadata": { "name": "dev" }, "status": { "phase": "Active" } }));
    map.put(
        "",
        "serviceaccounts",
        json!({ "metadata": { "name": "default", "namespace": "dev" }, "imagePullSecrets": [{ "name": "reg" }] }),
    );
    let authorizer = Arc::new(Authorizer::new(map.clone()));
    World { admission: Admission::new(map.clone(), authorizer, &config).expect("a configuration"), map }
}

fn user(name: &str, group: &str) -> UserInfo {
    UserInfo { name: name.into(), groups: vec![group.into()], ..UserInfo::default() }
}

fn review<'a>(
    user: &'a UserInfo,
    operation: Operation,
    path: (&'a str, &'a str, &'a str),
    name: &'a str,
    old: Option<&'a Value>,
) -> Review<'a> {
    Review {
        user,
        operation,
        group: path.0,
        version: "v1",
        resource: path.1,
        subresource: path.2,
        kind: (path.0, ""),
        namespace: "dev",
        name,
        old,
        options: &Value::Null,
        dry_run: false,
        schema: None,
    }
}

const POD: (&str, &str, &str) = ("", "pods", "");

fn pod() -> Value {
    json!({ "metadata": { "name": "p", "namespace": "dev" }, "spec": { "containers": [{ "name": "c", "image": "i" }] } })
}

impl World {
    async fn create(&self, path: (&str, &str, &str), mut object: Value) -> Result<(Value, Reservation, Outcome), Status> {
        let user = user("jane", "system:authenticated");
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let review = review(&user, Operation::Create, path, &name, None);
        let mut outcome = Outcome::default();
        self.admission.mutate(&review, &mut object, &mut outcome).await?;
        let reservation = self.admission.validate(&review, Some(&object), &mut outcome).await?;
        Ok((object, reservation, outcome))
    }

    async fn as_node(
        &self,
        operation: Operation,
        path: (&str, &str, &str),
        name: &str,
        object: Option<Value>,
        old: Option<Value>,
    ) -> Result<(), String> {
        let node = user("system:node:n1", "system:nodes");
        let mut review = review(&node, operation, path, name, old.as_ref());
        if path.1 == "nodes" {
            review.namespace = "";
        }
        let done = self.admission.validate(&review, object.as_ref(), &mut Outcome::default()).await;
        done.map(|_| ()).map_err(|e| e.message)
    }
}

#[tokio::test]
async fn a_plain_pod_gets_account_token_tolerations_and_priority() {
    let world = world();
    let (pod, ..) = world.create(POD, pod()).await.expect("admitted");
    let spec = &pod["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
    assert_eq!(spec["imagePullSecrets"], json!([{ "name": "reg" }]));
    let volume = spec["volumes"][0]["name"].as_str().expect("a volume");
    assert!(volume.starts_with("kube-api-access-") && volume.len() == "kube-api-access-".len() + 5);
    assert_eq!(spec["volumes"][0]["projected"]["defaultMode"], 420);
    assert_eq!(spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
    let mount = json!({ "name": volume, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" });
    assert_eq!(spec["containers"][0]["volumeMounts"], json!([mount]));
    assert_eq!(spec["tolerations"].as_array().expect("a list").len(), 2);
    assert_eq!((&spec["priority"], &spec["preemptionPolicy"]), (&json!(0), &json!("PreemptLowerPriority")));
}

#[tokio::test]
async fn automount_may_be_declined_by_pod_and_account() {
    let world = world();
    let mut declined = pod();
    declined["spec"]["automountServiceAccountToken"] = json!(false);
    let (made, ..) = world.create(POD, declined).await.expect("admitted");
    assert!(made["spec"]["volumes"].is_null());
    world.map.put(
        "",
        "serviceaccounts",
        json!({ "metadata": { "name": "quiet", "namespace": "dev" }, "automountServiceAccountToken": false }),
    );
    let mut quiet = pod();
    quiet["spec"]["serviceAccountName"] = json!("quiet");
    assert!(world.create(POD, quiet).await.expect("admitted").0["spec"]["volumes"].is_null());
}

#[tokio::test]
async fn refusals_have_the_words_of_upstream() {
    let world = world();
    let mut lost = pod();
    lost["spec"]["serviceAccountName"] = json!("nobody");
    let told = world.create(POD, lost).await.expect_err("no account");
    assert_eq!(told.message, "pods \"p\" is forbidden: error looking up service account dev/nobody: serviceaccount \"nobody\" not found");
    let mut important = pod();
    important["spec"]["priorityClassName"] = json!("vip");
    assert_eq!(
        world.create(POD, important).await.expect_err("no class").message,
        "pods \"p\" is forbidden: no PriorityClass with name vip was found"
    );
    world.map.put("", "namespaces", json!({ "metadata": { "name": "dev" }, "status": { "phase": "Terminating" } }));
    let told = world.create(POD, pod()).await.expect_err("terminating");
    assert_eq!(told.message, "pods \"p\" is forbidden: unable to create new content in namespace dev because it is being terminated");
    let cause = &told.details.expect("details").causes[0];
    assert_eq!((cause.kind.as_str(), cause.field.as_str()), ("NamespaceTerminating", "metadata.namespace"));
    world.map.remove("", "namespaces", "", "dev");
    assert_eq!(world.create(POD, pod()).await.expect_err("no namespace").message, "namespaces \"dev\" not found");
}

#[tokio::test]
async fn system_namespaces_stay() {
    let world = world();
    let jane = user("jane", "system:masters");
    for (name, stays) in [("default", true), ("kube-system", true), ("kube-public", true), ("dev", false)] {
        let mut review = review(&jane, Operation::Delete, ("", "namespaces", ""), name, None);
        review.namespace = name;
        let done = world.admission.validate(&review, None, &mut Outcome::default()).await;
        assert_eq!(done.is_err(), stays, "{name}");
    }
}

#[tokio::test]
async fn limits_fill_and_bound() {
    let world = world();
    world.map.put("", "limitranges", json!({
        "metadata": { "name": "l", "namespace": "dev" },
        "spec": { "limits": [{ "type": "Container", "default": { "cpu": "500m" }, "defaultRequest": { "cpu": "100m" }, "max": { "cpu": "1" } }] },
    }));
    let (made, ..) = world.create(POD, pod()).await.expect("admitted");
    assert_eq!(made["spec"]["containers"][0]["resources"], json!({ "requests": { "cpu": "100m" }, "limits": { "cpu": "500m" } }));
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let mut big = pod();
    big["spec"]["containers"][0]["resources"] = json!({ "limits": { "cpu": "2" }, "requests": { "cpu": "2" } });
    let told = world.create(POD, big).await.expect_err("too big").message;
    assert_eq!(told, "pods \"p\" is forbidden: maximum cpu usage per Container is 1, but limit is 2");
}

#[tokio::test]
async fn each_limit_range_speaks_for_itself() {
    let world = world();
    let jane = user("jane", "system:authenticated");
    let range = |name: &str, limits: Value| json!({ "metadata": { "name": name, "namespace": "dev" }, "spec": { "limits": limits } });
    let first = json!([
        { "type": "Container", "defaultRequest": { "memory": "1Mi", "cpu": "1m" } },
        { "type": "Container", "defaultRequest": { "cpu": "2m" }, "max": { "example.com/x": "1" } },
        { "type": "Pod", "max": { "example.com/x": "1" } },
    ]);
    world.map.put("", "limitranges", range("a", first));
    world.map.put("", "limitranges", range("b", json!([{ "type": "Container", "default": { "cpu": "500m" } }])));
    let mut two = pod();
    two["spec"]["containers"] = json!([two["spec"]["containers"][0], { "name": "d", "image": "i" }]);
    let review = review(&jane, Operation::Create, POD, "p", None);
    world.admission.mutate(&review, &mut two, &mut Outcome::default()).await.expect("filled");
    assert_eq!(two["spec"]["containers"][0]["resources"]["requests"], json!({ "cpu": "2m", "memory": "1Mi" }));
    assert_eq!(
        two["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu limit for container c; cpu limit for container d",
        "the last one that filled something is told of"
    );
    let told = world.admission.validate(&review, Some(&two), &mut Outcome::default()).await.expect_err("no limit").message;
    let per = |kind: &str| format!("maximum example.com/x usage per {kind} is 1.  No limit is specified");
    assert_eq!(told, format!("pods \"p\" is forbidden: [{}, {}]", per("Container"), per("Pod")), "each error once");
}

#[tokio::test]
async fn limits_do_not_hold_back_what_is_being_deleted() {
    let world = world();
    let jane = user("jane", "system:authenticated");
    let limits = json!([{ "type": "PersistentVolumeClaim", "max": { "storage": "1Gi" } }]);
    world.map.put("", "limitranges", json!({ "metadata": { "name": "l", "namespace": "dev" }, "spec": { "limits": limits } }));
    let mut claim =
        json!({ "metadata": { "name": "p", "namespace": "dev" }, "spec": { "resources": { "requests": { "storage": "2Gi" } } } });
    let (kind, operation) = (("", "persistentvolumeclaims", ""), Operation::Update);
    let old = claim.clone();
    let done = world.admission.validate(&review(&jane, operation, kind, "p", Some(&old)), Some(&claim), &mut Outcome::default()).await;
    let why = "persistentvolumeclaims \"p\" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi";
    assert_eq!(done.expect_err("too big").message, why);
    claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let old = claim.clone();
    let done = world.admission.validate(&review(&jane, operation, kind, "p", Some(&old)), Some(&claim), &mut Outcome::default()).await;
    assert!(done.is_ok(), "{done:?}");
}

#[tokio::test]
async fn what_comes_under_a_quota_by_a_change_is_charged_as_a_whole() {
    let world = world();
    let jane = user("jane", "system:authenticated");
    let scope = json!({ "matchExpressions": [{ "scopeName": "VolumeAttributesClass", "operator": "In", "values": ["fast"] }] });
    let spec = json!({ "hard": { "requests.storage": "1Gi" }, "scopeSelector": scope });
    world.map.put("", "resourcequotas", json!({ "metadata": { "name": "q", "namespace": "dev" }, "spec": spec }));
    let old = json!({
        "metadata": { "name": "p", "namespace": "dev", "resourceVersion": "3" },
        "spec": { "volumeAttributesClassName": "slow", "resources": { "requests": { "storage": "2Gi" } } },
    });
    let mut new = old.clone();
    new["spec"]["volumeAttributesClassName"] = json!("fast");
    let kind = ("", "persistentvolumeclaims", "");
    let asked = review(&jane, Operation::Update, kind, "p", Some(&old));
    let told = world.admission.validate(&asked, Some(&new), &mut Outcome::default()).await.expect_err("too much").message;
    let why = "exceeded quota: q, requested: requests.storage=2Gi, used: requests.storage=0, limited: requests.storage=1Gi";
    assert_eq!(told, format!("persistentvolumeclaims \"p\" is forbidden: {why}"));
}

#[tokio::test]
async fn two_requests_cannot_both_take_the_last_pod() {
    let world = world();
    world.map.put(
        "",
        "resourcequotas",
        json!({ "metadata": { "name": "q", "namespace": "dev" }, "spec": { "hard": { "pods": "1", "requests.cpu": "1" } } }),
    );
    let told = world.create(POD, pod()).await.expect_err("no request").message;
    assert_eq!(told, "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: c");
    let sized = |name: &str, cpu: &str| {
        let mut p = pod();
        p["metadata"]["name"] = json!(name);
        p["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": cpu } });
        p
    };
    let (first, reservation, _) = world.create(POD, sized("a", "100m")).await.expect("room");
    let told = world.create(POD, sized("b", "100m")).await.expect_err("taken").message;
    assert_eq!(told, "pods \"b\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1");
    drop(reservation);
    let (.., reservation, _) = world.create(POD, sized("b", "100m")).await.expect("room again");
    drop(reservation);
    let (.., reservation, _) = world.create(POD, first.clone()).await.expect("room again");
    let stored = world.map.put("", "pods", first);
    reservation.commit(stored.revision);
    assert!(
        world
            .create(POD, sized("b", "2"))
            .await
            .expect_err("taken")
            .message
            .contains("requested: pods=1,requests.cpu=2, used: pods=1,requests.cpu=100m, limited: pods=1,requests.cpu=1")
    );
    world.map.remove("", "pods", "dev", "a");
    assert!(world.create(POD, sized("b", "1")).await.is_ok());
}

#[tokio::test]
async fn pod_security_refuses_and_warns() {
    let world = world();
    world.map.put("", "namespaces", json!({ "metadata": { "name": "dev", "labels": { "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted" } } }));
    let (.., outcome) = world.create(POD, pod()).await.expect("baseline is fine");
    assert!(
        outcome.warnings[0].starts_with("would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false"),
        "{:?}",
        outcome.warnings
    );
    let mut host = pod();
    host["spec"]["hostNetwork"] = json!(true);
    let told = world.create(POD, host.clone()).await.expect_err("not baseline").message;
    assert_eq!(told, "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)");
    let deployment = json!({ "metadata": { "name": "d" }, "spec": { "template": { "spec": host["spec"] } } });
    assert_eq!(world.create(("apps", "deployments", ""), deployment).await.expect("only a warning").2.warnings.len(), 1);
}

#[tokio::test]
async fn defaults_of_claims_and_ingresses() {
    let world = world();
    let class = |name: &str, key: &str| json!({ "metadata": { "name": name, "annotations": { key: "true" } } });
    world.map.put("storage.k8s.io", "storageclasses", class("fast", "storageclass.kubernetes.io/is-default-class"));
    world.map.put("networking.k8s.io", "ingressclasses", class("nginx", "ingressclass.kubernetes.io/is-default-class"));
    let (claim, ..) =
        world.create(("", "persistentvolumeclaims", ""), json!({ "metadata": { "name": "c" }, "spec": {} })).await.expect("admitted");
    assert_eq!(claim["spec"]["storageClassName"], "fast");
    assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let (claim, ..) = world
        .create(("", "persistentvolumeclaims", ""), json!({ "metadata": { "name": "c" }, "spec": { "storageClassName": "" } }))
        .await
        .expect("admitted");
    assert_eq!(claim["spec"]["storageClassName"], "");
    let (ingress, ..) =
        world.create(("networking.k8s.io", "ingresses", ""), json!({ "metadata": { "name": "i" }, "spec": {} })).await.expect("admitted");
    assert_eq!(ingress["spec"]["ingressClassName"], "nginx");
}

#[tokio::test]
async fn a_node_writes_only_what_is_its_own() {
    let world = world();
    let node = |name: &str, labels: Value| json!({ "metadata": { "name": name, "labels": labels }, "spec": {} });
    let nodes = ("", "nodes", "");
    let create = |n: Value| {
        world.as_node(Operation::Create, nodes, n["metadata"]["name"].as_str().unwrap_or_default().to_owned().leak(), Some(n), None)
    };
    create(node("n1", json!({ "kubernetes.io/hostname": "n1", "example.com/x": "y", "kubelet.kubernetes.io/a": "b" })))
        .await
        .expect("its own");
    let told = create(node("n1", json!({ "node-role.kubernetes.io/control-plane": "", "node-restriction.kubernetes.io/a": "b" })))
        .await
        .expect_err("labels");
    assert!(told.ends_with("node \"n1\" is not allowed to set the following labels: node-restriction.kubernetes.io/a, node-role.kubernetes.io/control-plane"), "{told}");
    let told = create(node("n2", json!({}))).await.expect_err("another");
    assert!(told.contains("node \"n1\" is not allowed to modify node \"n2\""), "{told}");
    let mut tainted = node("n1", json!({}));
    tainted["spec"]["taints"] = json!([{ "key": "a", "effect": "NoSchedule" }]);
    let told = world.as_node(Operation::Update, nodes, "n1", Some(node("n1", json!({}))), Some(tainted)).await.expect_err("taints");
    assert!(told.contains("node \"n1\" is not allowed to modify taints"), "{told}");
    let (plain, ..) = world.create(POD, pod()).await.expect("admitted for others");
    let told = world.as_node(Operation::Create, POD, "p", Some(plain), None).await.expect_err("not a mirror pod");
    assert!(told.contains("node \"n1\" can only create mirror pods"), "{told}");
    world.map.put("", "nodes", node("n1", json!({})));
    let mirror = json!({
        "metadata": {
            "name": "p", "namespace": "dev", "annotations": { "kubernetes.io/config.mirror": "x" },
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-n1", "controller": true }],
        },
        "spec": { "nodeName": "n1", "containers": [] },
    });
    world.as_node(Operation::Create, POD, "p", Some(mirror), None).await.expect("a mirror pod");
    let theirs = json!({ "metadata": { "name": "p", "namespace": "dev" }, "spec": { "nodeName": "n2" } });
    assert!(world.as_node(Operation::Delete, POD, "p", None, Some(theirs)).await.is_err());
}

#[tokio::test]
async fn a_node_asks_for_tokens_of_its_own_pods() {
    let world = world();
    let stored = json!({
        "metadata": { "name": "p", "namespace": "dev" },
        "spec": { "nodeName": "n1", "volumes": [{ "name": "t", "projected": { "sources": [{ "serviceAccountToken": { "path": "t", "audience": "vault" } }] } }] },
    });
    world.map.put("", "pods", stored);
    let request = |audiences: Value, uid: &str| json!({ "spec": { "audiences": audiences, "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid } } });
    let ask = |body: Value| world.as_node(Operation::Create, ("", "serviceaccounts", "token"), "default", Some(body), None);
    ask(request(json!(["vault"]), "uid-p")).await.expect("its volume wants it");
    assert!(
        ask(request(json!(["other"]), "uid-p"))
            .await
            .expect_err("nobody wants it")
            .contains("audience \"other\" not found in pod spec volume")
    );
    assert!(ask(request(json!(["vault"]), "old")).await.expect_err("stale").contains("does not match the UID in record"));
    assert!(ask(json!({ "spec": {} })).await.expect_err("unbound").contains("node requested token not bound to a pod"));
}

#[tokio::test]
async fn zone_and_region_travel_with_the_binding() {
    let world = world();
    world.map.put("", "nodes", json!({ "metadata": { "name": "n1", "labels": { "topology.kubernetes.io/zone": "z", "other": "x" } } }));
    let binding = json!({ "metadata": { "name": "p" }, "target": { "kind": "Node", "name": "n1" } });
    let (made, ..) = world.create(("", "pods", "binding"), binding).await.expect("admitted");
    assert_eq!(made["metadata"]["labels"], json!({ "topology.kubernetes.io/zone": "z" }));
}

#[tokio::test]
async fn a_pod_is_not_changed_in_a_way_that_its_node_cannot_follow() {
    let world = world();
    let allocatable = json!({ "cpu": "4", "memory": "8Gi" });
    let node = |features: Value| {
        let meta = json!({ "name": "n1", "labels": { "kubernetes.io/os": "linux" } });
        json!({ "metadata": meta, "status": { "allocatable": allocatable, "declaredFeatures": features } })
    };
    let sized = |generation: u64, whole: &str, init: &str, main: &str| {
        let cpu = |amount: &str| json!({ "requests": { "cpu": amount } });
        let container = |name: &str, amount: &str| json!({ "name": name, "image": "i", "resources": cpu(amount) });
        json!({ "metadata": { "name": "p", "namespace": "dev", "generation": generation }, "spec": {
            "nodeName": "n1", "resources": cpu(whole), "initContainers": [container("i", init)], "containers": [container("c", main)] } })
    };
    let old = sized(1, "2", "1", "1");
    let update = async |new: Value| {
        let user = user("jane", "system:authenticated");
        let review = review(&user, Operation::Update, ("", "pods", "resize"), "p", Some(&old));
        let done = world.admission.validate(&review, Some(&new), &mut Outcome::default()).await;
        done.map(|_| ()).map_err(|e| e.message)
    };
    let refused = |features: &str| {
        let why = format!("pod update requires features {features} which are not available on node \"n1\"");
        Err(format!("pods \"p\" is forbidden: {why}"))
    };
    let (whole, init) = ("InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers");
    world.map.put("", "nodes", node(json!(["RestartAllContainersOnContainerExits"])));
    assert_eq!(update(sized(2, "2", "1", "500m")).await, Ok(()), "every node can do that");
    assert_eq!(update(sized(2, "3", "1", "1")).await, refused(whole));
    assert_eq!(update(sized(2, "3", "2", "1")).await, refused(&format!("{whole}, {init}")));
    world.map.put("", "nodes", node(json!([whole])));
    assert_eq!(update(sized(2, "3", "1", "1")).await, Ok(()));
    assert_eq!(update(sized(2, "2", "2", "1")).await, refused(init));
}

fn enabled(plugins: &[&str], configuration: Value) -> World {
    let configuration = configuration.as_object().expect("an object").iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    world_with(AdmissionConfig {
        enable: plugins.iter().map(|p| (*p).to_owned()).collect(),
        plugins: configuration,
        ..AdmissionConfig::default()
    })
}

#[tokio::test]
async fn pods_stay_on_a_node_that_does_not_answer_for_as_long_as_flags_say() {
    let world = world_with(AdmissionConfig { not_ready_seconds: Some(30), ..AdmissionConfig::default() });
    let (made, ..) = world.create(POD, pod()).await.expect("admitted");
    let seconds = |key: &str| list(&made["spec"], "tolerations").find(|t| t["key"] == key).map(|t| t["tolerationSeconds"].clone());
    assert_eq!(seconds("node.kubernetes.io/not-ready"), Some(json!(30)));
    assert_eq!(seconds("node.kubernetes.io/unreachable"), Some(json!(300)));
}

#[tokio::test]
async fn optional_plugins_do_their_work_when_asked() {
    let told = |done: Result<(Value, Reservation, Outcome), Status>| done.err().map(|e| e.message).unwrap_or_default();
    let world = enabled(&["AlwaysPullImages", "ExtendedResourceToleration"], json!({}));
    let mut asks = pod();
    asks["spec"]["containers"][0]["resources"] =
        json!({"requests": {"example.com/gpu": "1", "cpu": "1"}, "limits": {"example.com/gpu": "1"}});
    let (made, ..) = world.create(POD, asks).await.expect("admitted");
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert!(
        list(&made["spec"], "tolerations").any(|t| *t == json!({"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"}))
    );

    let world = enabled(&["LimitPodHardAntiAffinityTopology", "DenyServiceExternalIPs"], json!({}));
    let mut keeps_off = pod();
    keeps_off["spec"]["affinity"] =
        json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}});
    assert_eq!(
        told(world.create(POD, keeps_off).await),
        "pods \"p\" is forbidden: affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey zone but only key kubernetes.io/hostname is allowed"
    );
    let service = json!({"metadata": {"name": "s"}, "spec": {"externalIPs": ["192.0.2.1"]}});
    assert_eq!(
        told(world.create(("", "services", ""), service).await),
        "services \"s\" is forbidden: Use of external IPs is denied by admission control"
    );

    let world = enabled(&["AlwaysDeny"], json!({}));
    assert_eq!(told(world.create(POD, pod()).await), "pods \"p\" is forbidden: admission control is denying all modifications");
}

#[tokio::test]
async fn namespaces_choose_nodes_and_tolerations_for_their_pods() {
    let world = enabled(
        &["PodNodeSelector", "PodTolerationRestriction"],
        json!({"PodNodeSelector": {"podNodeSelectorPluginConfig": {"clusterDefaultNodeSelector": "pool=shared", "dev": "pool=gold,zone=a"}}}),
    );
    let annotations = json!({
        "scheduler.alpha.kubernetes.io/node-selector": "pool=gold",
        "scheduler.alpha.kubernetes.io/defaultTolerations": "[{\"key\": \"gold\", \"operator\": \"Exists\"}]",
    });
    world.map.put("", "namespaces", json!({"metadata": {"name": "dev", "annotations": annotations}}));
    let (made, ..) = world.create(POD, pod()).await.expect("admitted");
    assert_eq!(made["spec"]["nodeSelector"], json!({"pool": "gold"}));
    assert!(list(&made["spec"], "tolerations").any(|t| t["key"] == "gold"));
    let mut elsewhere = pod();
    elsewhere["spec"]["nodeSelector"] = json!({"pool": "silver"});
    let told = world.create(POD, elsewhere).await.expect_err("conflict").message;
    assert_eq!(told, "pods \"p\" is forbidden: pod node label selector conflicts with its namespace node label selector");
    let mut outside = pod();
    outside["spec"]["nodeSelector"] = json!({"disk": "fast"});
    let told = world.create(POD, outside).await.expect_err("not allowed").message;
    assert_eq!(told, "pods \"p\" is forbidden: pod node label selector labels conflict with its namespace whitelist");
}

#[tokio::test]
async fn the_configuration_of_pod_security_has_defaults_and_exemptions() {
    let document = json!({
        "apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
        "defaults": {"enforce": "baseline", "enforce-version": "v1.34"},
        "exemptions": {"usernames": ["root"], "runtimeClasses": ["vm"], "namespaces": []},
    });
    let world = enabled(&[], json!({ "PodSecurity": document }));
    let mut host = pod();
    host["spec"]["hostNetwork"] = json!(true);
    let told = world.create(POD, host.clone()).await.expect_err("not baseline").message;
    assert_eq!(told, "pods \"p\" is forbidden: violates PodSecurity \"baseline:v1.34\": host namespaces (hostNetwork=true)");
    world.map.put("node.k8s.io", "runtimeclasses", json!({"metadata": {"name": "vm"}, "handler": "vm"}));
    host["spec"]["runtimeClassName"] = json!("vm");
    let (.., outcome) = world.create(POD, host).await.expect("exempt");
    assert!(outcome.annotations.contains(&("pod-security.kubernetes.io/exempt".to_owned(), "runtimeClass".to_owned())));
}

#[tokio::test]
async fn limited_resources_need_a_quota() {
    let limited = json!({"limitedResources": [{"resource": "pods", "matchScopes": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}]});
    let world = enabled(&[], json!({ "ResourceQuota": limited }));
    world.map.put("scheduling.k8s.io", "priorityclasses", json!({"metadata": {"name": "high"}, "value": 1000}));
    assert!(world.create(POD, pod()).await.is_ok());
    let mut high = pod();
    high["spec"]["priorityClassName"] = json!("high");
    let told = world.create(POD, high.clone()).await.expect_err("no quota").message;
    assert_eq!(told, "insufficient quota to match these scopes: [{PriorityClass In [high]}]");
    let spec = json!({"hard": {"pods": "5"}, "scopeSelector": limited["limitedResources"][0]["matchScopes"]});
    let spec = json!({"hard": spec["hard"], "scopeSelector": {"matchExpressions": spec["scopeSelector"]}});
    world.map.put("", "resourcequotas", json!({"metadata": {"name": "q", "namespace": "dev"}, "spec": spec}));
    assert!(world.create(POD, high).await.is_ok());
}

#[tokio::test]
async fn who_creates_makes_the_namespace_when_that_is_wanted() {
    let world = enabled(&["NamespaceAutoProvision"], json!({}));
    world.admission.write_through(world.map.clone());
    world.map.remove("", "namespaces", "", "dev");
    world.create(POD, pod()).await.expect("admitted");
    assert!(world.map.get("", "namespaces", "", "dev").is_some());
}

#[tokio::test]
async fn owners_are_given_by_those_who_may_delete() {
    let world = enabled(&["OwnerReferencesPermissionEnforcement"], json!({}));
    let mut owned = pod();
    owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u"}]);
    assert!(world.create(POD, owned.clone()).await.is_ok());
    let mut blocking = owned.clone();
    blocking["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = json!(true);
    let told = world.create(POD, blocking).await.expect_err("not allowed").message;
    assert!(
        told.starts_with(
            "pods \"p\" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on"
        ),
        "{told}"
    );
    let (jane, old) = (user("jane", "system:authenticated"), pod());
    let review = review(&jane, Operation::Update, POD, "p", Some(&old));
    let told = world.admission.validate(&review, Some(&owned), &mut Outcome::default()).await.expect_err("not allowed").message;
    assert!(told.starts_with("pods \"p\" is forbidden: cannot set an ownerRef on a resource you can't delete"), "{told}");
}

/// A namespace's labels, and what of a review they lead to.
fn labelled(labels: Value) -> World {
    let world = world();
    world.map.put("", "namespaces", json!({ "metadata": { "name": "dev", "labels": labels }, "status": { "phase": "Active" } }));
    world
}

#[tokio::test]
async fn an_update_of_a_pod_is_looked_at_when_an_image_changes() {
    let world = labelled(json!({ "pod-security.kubernetes.io/enforce": "baseline" }));
    let jane = user("jane", "system:authenticated");
    let mut old = pod();
    old["spec"]["hostNetwork"] = json!(true);
    let change = async |new: Value| {
        let review = review(&jane, Operation::Update, POD, "p", Some(&old));
        world.admission.validate(&review, Some(&new), &mut Outcome::default()).await.map(|_| ()).map_err(|e| e.message)
    };
    let mut labelled = old.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    labelled["spec"]["tolerations"] = json!([{ "operator": "Exists" }]);
    assert_eq!(change(labelled).await, Ok(()));
    let mut other = old.clone();
    other["spec"]["containers"][0]["image"] = json!("other");
    let why = "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
    assert_eq!(change(other).await, Err(why.to_owned()));
    let mut more = old.clone();
    more["spec"]["ephemeralContainers"] = json!([{ "name": "debug", "image": "i" }]);
    assert!(change(more).await.is_err());
}

#[tokio::test]
async fn what_is_refused_is_not_warned_about_and_labels_that_cannot_be_read_are_noted() {
    let labels = json!({ "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted", "pod-security.kubernetes.io/audit": "none" });
    let world = labelled(labels);
    let jane = user("jane", "system:authenticated");
    let mut host = pod();
    host["spec"]["hostNetwork"] = json!(true);
    let review = review(&jane, Operation::Create, POD, "p", None);
    world.admission.mutate(&review, &mut host, &mut Outcome::default()).await.expect("filled");
    let mut outcome = Outcome::default();
    assert!(world.admission.validate(&review, Some(&host), &mut outcome).await.is_err());
    assert_eq!(outcome.warnings, Vec::<String>::new());
    let why = "Failed to parse policy: metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"none\": must be one of privileged, baseline, restricted";
    assert!(outcome.annotations.contains(&("pod-security.kubernetes.io/error".to_owned(), why.to_owned())), "{:?}", outcome.annotations);
    let (.., outcome) = world.create(POD, pod()).await.expect("baseline");
    assert!(
        outcome.warnings[0].starts_with("would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation"),
        "{:?}",
        outcome.warnings
    );
}

#[tokio::test]
async fn another_version_of_a_level_is_measured_against_the_pods_that_are_there() {
    let world = world();
    let owner = json!([{ "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true }]);
    for name in ["b", "a", "c"] {
        let metadata = json!({ "name": name, "namespace": "dev", "ownerReferences": owner });
        world.map.put(
            "",
            "pods",
            json!({ "metadata": metadata, "spec": { "hostNetwork": true, "containers": [{ "name": "c", "image": "i" }] } }),
        );
    }
    let jane = user("jane", "system:authenticated");
    let named = |level: &str, version: &str| {
        let labels = json!({ "pod-security.kubernetes.io/enforce": level, "pod-security.kubernetes.io/enforce-version": version });
        json!({ "metadata": { "name": "dev", "labels": labels } })
    };
    let (old, new) = (named("restricted", "v1.34"), named("baseline", "v1.35"));
    let review = review(&jane, Operation::Update, ("", "namespaces", ""), "dev", Some(&old));
    let mut outcome = Outcome::default();
    world.admission.validate(&review, Some(&new), &mut outcome).await.expect("labels");
    assert_eq!(
        outcome.warnings,
        [
            "existing pods in namespace \"dev\" violate the new PodSecurity enforce level \"baseline:v1.35\"",
            "a (and 2 other pods): host namespaces"
        ]
    );
}

#[tokio::test]
async fn a_namespace_that_asks_for_nothing_is_noted_as_privileged() {
    let (.., outcome) = world().create(POD, pod()).await.expect("admitted");
    assert!(outcome.annotations.contains(&("pod-security.kubernetes.io/enforce-policy".to_owned(), "privileged:latest".to_owned())));
}
