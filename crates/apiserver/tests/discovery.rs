//! Discovery documents against those of a Go API server, when they are beside the checkout.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::Cluster;
use serde_json::{Value, json};
use std::path::PathBuf;

fn reference() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/data/api/discovery");
    if !folder.is_dir() {
        println!("SKIP: no discovery documents at {}", folder.display());
        return None;
    }
    Some(folder)
}

/// Upstream stores these as v1beta1 so that it can be downgraded; here they are stored as they are served.
const STORED_AS_SERVED: [&str; 3] = ["customresourcedefinitions", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings"];

fn by_name(list: &Value) -> Vec<(&str, &Value)> {
    list["resources"].as_array().into_iter().flatten().map(|r| (r["name"].as_str().unwrap(), r)).collect()
}

#[tokio::test]
async fn every_resource_is_described_as_upstream_does() {
    let Some(folder) = reference() else { return };
    let cluster = Cluster::start().await;
    let mut checked = 0;
    for known in ferrokube_api::kinds::GROUP_VERSIONS {
        let (path, file) = match known.group {
            "" => ("/api/v1".to_owned(), "api__v1.json".to_owned()),
            group => (format!("/apis/{group}/{}", known.version), format!("apis__{group}__{}.json", known.version)),
        };
        let Ok(text) = std::fs::read_to_string(folder.join(&file)) else { continue };
        let theirs: Value = serde_json::from_str(&text).unwrap();
        let ours = cluster.get(&path).await.json;
        assert_eq!(ours["groupVersion"], theirs["groupVersion"]);
        let theirs = by_name(&theirs);
        for (name, resource) in by_name(&ours) {
            let wanted = theirs.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{path} {name} is not upstream's"));
            let (mut resource, mut wanted) = (resource.clone(), wanted.1.clone());
            if STORED_AS_SERVED.contains(&name) {
                for side in [&mut resource, &mut wanted] {
                    side.as_object_mut().unwrap().remove("storageVersionHash");
                }
            }
            assert_eq!(resource, wanted, "{path} {name}");
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} resources and subresources compared");
    let theirs: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("apis.json")).unwrap()).unwrap();
    let ours = cluster.get("/apis").await.json;
    let names = |list: &Value| -> Vec<String> {
        list["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap().to_owned()).collect()
    };
    let served = names(&ours);
    assert_eq!(served, names(&theirs).into_iter().filter(|n| served.contains(n)).collect::<Vec<_>>(), "groups in the order of upstream");
}

#[tokio::test]
async fn health_is_told_as_a_whole_and_check_by_check() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.get("/readyz").await.text, "ok");
    assert_eq!(cluster.get("/readyz/etcd").await.text, "ok");
    assert_eq!(cluster.get("/livez/etcd-readiness").await.code, 404, "only readiness has it");
    let verbose = cluster.get("/readyz?verbose&exclude=etcd&exclude=nothing").await.text;
    for line in ["[+]etcd excluded: ok", "[+]etcd-readiness ok", "[+]shutdown ok", "no matches for \"nothing\"", "readyz check passed"] {
        assert!(verbose.contains(line), "{line} in {verbose}");
    }
    // Those that upstream's own tests ask for, and what `/` lists of them.
    let paths = cluster.get("/").await.json;
    let paths = paths["paths"].as_array().unwrap();
    for name in [
        "poststarthook/start-apiserver-admission-initializer",
        "poststarthook/generic-apiserver-start-informers",
        "poststarthook/start-apiextensions-informers",
        "poststarthook/start-apiextensions-controllers",
        "poststarthook/crd-informer-synced",
        "poststarthook/start-system-namespaces-controller",
        "poststarthook/rbac/bootstrap-roles",
        "poststarthook/scheduling/bootstrap-system-priority-classes",
        "poststarthook/start-cluster-authentication-info-controller",
        "poststarthook/start-kube-aggregator-informers",
        "poststarthook/apiservice-registration-controller",
        "poststarthook/kube-apiserver-autoregistration",
        "autoregister-completion",
        "poststarthook/apiservice-openapi-controller",
    ] {
        assert!(verbose.contains(&format!("[+]{name} ok\n")), "{name} in {verbose}");
        assert!(paths.contains(&json!(format!("/livez/{name}"))), "{name}");
    }
    assert!(!verbose.contains("max-in-flight-filter") && verbose.contains("priority-and-fairness-filter"), "{verbose}");
    let slis = cluster.get("/metrics/slis").await.text;
    for line in [
        "kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1",
        "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"readyz\"} 2",
    ] {
        assert!(slis.contains(line), "{line} in {slis}");
    }
    ferrokube_store::Store::revision(&*cluster.store).await.expect("the store serves");
    cluster.store.close();
    let failed = cluster.get("/readyz").await;
    assert_eq!(failed.code, 500);
    assert!(failed.text.contains("[-]etcd failed: reason withheld") && failed.text.ends_with("readyz check failed\n"), "{}", failed.text);
    let why = cluster.get("/readyz/etcd").await;
    assert!(why.code == 500 && why.text.starts_with("internal server error: etcd failed"), "{}", why.text);
}

#[tokio::test]
async fn what_runs_and_with_which_flags_is_told_to_people_and_by_name_to_programs() {
    let cluster = Cluster::start().await;
    let page = async |path: &str, accept: &str| {
        let answer = cluster.send(common::admin(), "GET", path, "", accept, Vec::new()).await;
        common::reply(answer).await
    };
    let status = page("/statusz", "*/*").await.text;
    assert!(status.starts_with("\nkube-apiserver statusz\n") && status.contains("\nUp: 0 hr 0"), "{status}");
    let flags = page("/flagz", "text/plain").await.text;
    assert!(flags.starts_with("\nkube-apiserver flagz\nWarning: "), "{flags}");
    assert!(flags.contains("\nauthorization-mode=[Node,RBAC]\n") && flags.contains("\nrequest-timeout=1m0s\n"), "{flags}");
    let flags = page("/flagz", "application/json;v=v1beta1;g=config.k8s.io;as=Flagz").await.json;
    assert_eq!((flags["kind"].as_str(), flags["flags"]["max-requests-inflight"].as_str()), (Some("Flagz"), Some("400")));
    let status = page("/statusz", "application/json;v=v1beta1;g=config.k8s.io;as=Statusz").await.json;
    assert_eq!((status["apiVersion"].as_str(), status["emulationVersion"].as_str()), (Some("config.k8s.io/v1beta1"), Some("1.36")));
    assert_eq!(page("/statusz", "application/json").await.code, 406);
    assert_eq!(page("/debug/pprof/profile", "*/*").await.code, 404, "nothing is profiled, as the flags say");
    let profiled = Cluster::with(|config| config.serving.profiling = true).await;
    assert_eq!(profiled.get("/debug/pprof/cmdline").await.code, 200);
}

#[tokio::test]
async fn requests_are_counted_while_they_last_and_by_size_and_deprecation() {
    let cluster = Cluster::start().await;
    let metrics = async || cluster.get("/metrics").await.text;
    let watch = cluster.watch("/api/v1/namespaces/default/configmaps?watch=1").await;
    let running = "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"configmaps\",scope=\"namespace\",subresource=\"\",verb=\"WATCH\",version=\"v1\"}";
    assert!(metrics().await.contains(&format!("{running} 1\n")), "{}", metrics().await);
    drop(watch);
    assert!(!metrics().await.contains(running));
    let path =
        "/api/v1/namespaces/default/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut list = cluster.watch(path).await;
    while list.next().await.expect("a bookmark")["type"] != "BOOKMARK" {}
    let name = "apiserver_watch_list_duration_seconds_count{group=\"\",resource=\"configmaps\",scope=\"namespace\",version=\"v1\"} 1\n";
    assert!(metrics().await.contains(name), "{}", metrics().await);
    drop(list);
    let endpoints = cluster.get("/api/v1/namespaces/default/endpoints").await;
    assert_eq!(endpoints.headers["warning"], "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"");
    cluster.config_map("a", &serde_json::json!({})).await;
    cluster
        .patch(
            "/api/v1/namespaces/default/configmaps/a?fieldManager=me",
            "apply",
            &serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap"}),
        )
        .await;
    let text = metrics().await;
    for line in [
        "apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",subresource=\"\",version=\"v1\"} 1",
        "apiserver_response_sizes_count{component=\"apiserver\",group=\"\",resource=\"endpoints\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1",
        "apiserver_response_sizes_bucket{component=\"apiserver\",group=\"\",resource=\"endpoints\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\",le=\"1e+09\"} 1",
        "apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"false\",type=\"admit\"}",
        "verb=\"APPLY\"",
        "\nkubernetes_feature_enabled{name=\"WatchList\",stage=\"BETA\"} 1\n",
        "\nkubernetes_feature_enabled{name=\"ServiceAccountTokenJTI\",stage=\"\"} 1\n",
        "\napiserver_storage_events_received_total{group=\"\",resource=\"configmaps\"} ",
        "\napiserver_cel_evaluation_duration_seconds_count 0\n",
        "\nprocess_resident_memory_bytes ",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test]
async fn what_is_off_by_default_needs_its_version_and_its_feature_and_goes_with_them() {
    const GROUP: &str = "/apis/storagemigration.k8s.io";
    const SERVICE: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.storagemigration.k8s.io";
    const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:controller:storage-version-migrator-controller";
    let plain = Cluster::start().await;
    for path in [GROUP, SERVICE, ROLE] {
        assert_eq!(plain.get(path).await.code, 404, "{path}");
    }
    let version = || "storagemigration.k8s.io/v1beta1=true".parse().unwrap();
    let without_feature = plain.restart_with(|config| config.runtime_config = version()).await.unwrap();
    assert_eq!(without_feature.get(GROUP).await.code, 404);
    let cluster = without_feature
        .restart_with(|config| {
            config.runtime_config = version();
            config.features = "StorageVersionMigrator=true".parse().unwrap();
        })
        .await
        .unwrap();
    let listed = cluster.get(&format!("{GROUP}/v1beta1")).await.json;
    if let Some(folder) = reference() {
        let theirs = std::fs::read_to_string(folder.join("apis__storagemigration.k8s.io__v1beta1.json")).unwrap();
        let theirs: Value = serde_json::from_str(&theirs).unwrap();
        assert_eq!(by_name(&listed), by_name(&theirs));
    }
    let names: Vec<&str> = by_name(&listed).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["storageversionmigrations", "storageversionmigrations/status"]);
    let groups = cluster.get("/apis").await.json;
    assert_eq!(groups["groups"].as_array().unwrap().last().unwrap()["name"], "storagemigration.k8s.io");
    assert_eq!(cluster.get(SERVICE).await.json["spec"]["groupPriorityMinimum"], 15800);
    assert_eq!(cluster.get(ROLE).await.code, 200);
    assert_eq!(cluster.get(&format!("/openapi/v3{GROUP}/v1beta1")).await.code, 200);
    let text = cluster.get("/metrics").await.text;
    assert!(text.contains("kubernetes_feature_enabled{name=\"StorageVersionMigrator\",stage=\"BETA\"} 1\n"), "{text}");
    let made = cluster
        .post(
            &format!("{GROUP}/v1beta1/storageversionmigrations"),
            &serde_json::json!({"metadata": {"name": "m"}, "spec": {"resource": {"resource": "secrets"}}}),
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.text);

    let off = cluster.restart().await;
    for path in [GROUP, SERVICE] {
        assert_eq!(off.get(path).await.code, 404, "{path} is gone again");
    }
}
