//! create, update, patch and delete.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Cluster, MAPS, Reply, pod};
use serde_json::{Value, json};

#[tokio::test]
async fn a_create_answers_with_what_is_stored() {
    let cluster = Cluster::start().await;
    let made = cluster.config_map("a", &json!({"k": "v"})).await;
    assert_eq!(made.code, 201);
    let meta = &made.json["metadata"];
    assert!(!meta["uid"].as_str().unwrap().is_empty() && meta["creationTimestamp"].is_string());
    assert_eq!(meta["managedFields"][0]["manager"], "test");
    assert_eq!(cluster.get(&format!("{MAPS}/a")).await.json, made.json);
    let again = cluster.config_map("a", &json!({})).await;
    assert_eq!((again.code, again.json["reason"].as_str()), (409, Some("AlreadyExists")));
    assert_eq!(again.message(), "configmaps \"a\" already exists");
    let named = cluster.post(MAPS, &json!({"metadata": {"generateName": "gen-"}})).await;
    assert_eq!(named.json["metadata"]["name"].as_str().unwrap().len(), 9);
    let dry = cluster.post(&format!("{MAPS}?dryRun=All"), &json!({"metadata": {"name": "dry"}})).await;
    assert_eq!((dry.code, dry.json["metadata"].get("resourceVersion")), (201, None));
    assert_eq!(cluster.get(&format!("{MAPS}/dry")).await.code, 404);
}

#[tokio::test]
async fn bad_input_gets_the_answer_kubernetes_gives() {
    let cluster = Cluster::start().await;
    let cases = [
        (json!({"metadata": {"name": "UPPER"}}), 422, "Invalid"),
        (json!({"metadata": {}}), 422, "Invalid"),
        (json!({"metadata": {"name": "a", "namespace": "other"}}), 400, "BadRequest"),
        (json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}}), 400, "BadRequest"),
        (json!({"metadata": {"name": "a"}, "data": {"k": 1}}), 400, "BadRequest"),
        (json!({"metadata": {"name": "a", "labels": {"-bad": "x"}}}), 422, "Invalid"),
    ];
    for (body, code, reason) in cases {
        let reply = cluster.post(MAPS, &body).await;
        assert_eq!((reply.code, reply.json["reason"].as_str()), (code, Some(reason)), "{body}: {}", reply.text);
    }
    let broken = cluster.ask("POST", MAPS, "application/json", b"{".to_vec()).await;
    assert_eq!(broken.code, 400);
    let huge = cluster.ask("POST", MAPS, "application/json", vec![b' '; 3 * 1024 * 1024 + 1]).await;
    assert_eq!((huge.code, huge.json["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    let media = cluster.ask("POST", MAPS, "text/plain", b"{}".to_vec()).await;
    assert_eq!((media.code, media.json["reason"].as_str()), (415, Some("UnsupportedMediaType")));
    let unknown = json!({"metadata": {"name": "w"}, "nope": 1});
    let warned = cluster.post(MAPS, &unknown).await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"nope\\\"\"");
    assert_eq!(cluster.post(&format!("{MAPS}?fieldValidation=Strict"), &json!({"metadata": {"name": "s"}, "nope": 1})).await.code, 400);
    assert_eq!(cluster.get("/api/v1/nope").await.code, 404);
    assert_eq!(cluster.post("/api/v1/pods", &pod("x")).await.code, 405);
    assert_eq!(cluster.ask("PUT", MAPS, "application/json", b"{}".to_vec()).await.code, 405);
    assert_eq!(cluster.get(&format!("{MAPS}/none")).await.message(), "configmaps \"none\" not found");
}

#[tokio::test]
async fn an_update_needs_the_version_it_is_based_on() {
    let cluster = Cluster::start().await;
    let uri = format!("{MAPS}/a");
    let first = cluster.config_map("a", &json!({"n": "1"})).await.json;
    let mut changed = first.clone();
    changed["data"]["n"] = json!("2");
    let second = cluster.put(&uri, &changed).await;
    assert_eq!(second.code, 200);
    assert_ne!(second.json["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let stale = cluster.put(&uri, &changed).await;
    assert_eq!((stale.code, stale.json["reason"].as_str()), (409, Some("Conflict")));
    let same = cluster.put(&uri, &second.json).await;
    assert_eq!(same.json["metadata"]["resourceVersion"], second.json["metadata"]["resourceVersion"], "no change, no new version");
    let wrong_uid = json!({"metadata": {"name": "a", "uid": "other"}});
    assert_eq!(cluster.put(&uri, &wrong_uid).await.code, 409);
    assert_eq!(cluster.put(&uri, &json!({"metadata": {"name": "b"}})).await.code, 400);
    assert_eq!(cluster.put(&format!("{MAPS}/none"), &json!({"metadata": {"name": "none"}})).await.code, 404);
    let lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    assert_eq!(cluster.put(lease, &json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}})).await.code, 201);
    assert_eq!(cluster.put(lease, &json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "you"}})).await.code, 422);
}

#[tokio::test]
async fn writers_of_one_object_lose_nothing() {
    let cluster = Cluster::start().await;
    cluster.config_map("a", &json!({})).await;
    let uri = format!("{MAPS}/a");
    let patches = (0..40).map(|n| {
        let (cluster, uri) = (&cluster, &uri);
        async move { cluster.patch(uri, "merge-patch", &json!({"data": {format!("k{n}"): "x"}})).await.code }
    });
    let codes = futures_util::future::join_all(patches).await;
    assert!(codes.iter().all(|c| *c == 200), "{codes:?}");
    assert_eq!(cluster.get(&uri).await.json["data"].as_object().unwrap().len(), 40);
}

#[tokio::test]
async fn a_patch_that_does_not_fit_is_shown_back() {
    let cluster = Cluster::start().await;
    let uri = "/apis/apps/v1/namespaces/default/deployments/web";
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
    cluster.post("/apis/apps/v1/namespaces/default/deployments", &deployment).await;
    let wrong = json!({"spec": {"replicas": "three"}});
    for (kind, shown) in [("merge-patch", "replicas"), ("strategic-merge-patch", "map[spec:map[replicas:three]]")] {
        let refused = cluster.patch(uri, kind, &wrong).await;
        assert_eq!(refused.code, 422, "{}", refused.text);
        assert!(
            refused.message().starts_with(" \"\" is invalid: patch: Invalid value: ")
                && refused.text.contains("json: cannot unmarshal string"),
            "{}",
            refused.text
        );
        assert!(refused.message().contains(shown), "{}", refused.text);
    }
    let unknown = cluster.patch(&format!("{uri}?fieldValidation=Strict"), "merge-patch", &json!({"spec": {"nope": 1}})).await;
    assert_eq!((unknown.code, unknown.message().contains("strict decoding error: unknown field")), (422, true), "{}", unknown.text);
    let mut configuration = deployment.clone();
    configuration["spec"]["nope"] = json!(1);
    let untyped = cluster.patch(&format!("{uri}?fieldManager=me"), "apply", &configuration).await;
    assert_eq!((untyped.code, untyped.message().starts_with("failed to create typed patch object (")), (500, true), "{}", untyped.text);
    let renamed = cluster.patch(uri, "merge-patch", &json!({"kind": "DaemonSet"})).await;
    assert_eq!(renamed.code, 422, "{}", renamed.text);
    assert_eq!(cluster.patch(uri, "merge-patch", &json!({"kind": null})).await.json["kind"], "Deployment");
}

#[tokio::test]
async fn a_view_of_a_pod_changes_only_its_part() {
    let cluster = Cluster::start().await;
    let uri = "/api/v1/namespaces/default/pods/p";
    let made = cluster.post("/api/v1/namespaces/default/pods", &pod("p")).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let mut body = made.json.clone();
    body["metadata"]["labels"] = json!({"sneaked": "in"});
    body["spec"]["containers"][0]["image"] = json!("other");
    body["spec"]["ephemeralContainers"] = json!([{"name": "debug", "image": "tools"}]);
    let debugged = cluster.put(&format!("{uri}/ephemeralcontainers"), &body).await;
    assert_eq!(debugged.code, 200, "{}", debugged.text);
    let spec = &debugged.json["spec"];
    assert_eq!(
        (&spec["containers"], spec["ephemeralContainers"][0]["terminationMessagePolicy"].as_str()),
        (&made.json["spec"]["containers"], Some("File"))
    );
    assert_eq!(debugged.json["metadata"].get("labels"), made.json["metadata"].get("labels"));
    let mut gone = debugged.json.clone();
    gone["spec"]["ephemeralContainers"] = json!([{"name": "another", "image": "tools"}]);
    let refused = cluster.put(&format!("{uri}/ephemeralcontainers"), &gone).await;
    assert_eq!((refused.code, refused.message().contains("may not be removed")), (422, true), "{}", refused.text);
    let mut more = debugged.json.clone();
    more["spec"]["containers"] = json!([more["spec"]["containers"][0], {"name": "second", "image": "x"}]);
    let refused = cluster.put(&format!("{uri}/resize"), &more).await;
    assert_eq!(
        (refused.code, refused.message().contains("containers may not be added or removed on resize")),
        (422, true),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn the_four_kinds_of_patch_work() {
    let cluster = Cluster::start().await;
    let uri = "/apis/apps/v1/namespaces/default/deployments/web";
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
    let applied = cluster.patch(&format!("{uri}?fieldManager=me"), "apply", &deployment).await;
    assert_eq!((applied.code, applied.json["metadata"]["generation"].as_i64()), (201, Some(1)), "{}", applied.text);
    let again = cluster.patch(&format!("{uri}?fieldManager=me"), "apply", &deployment).await;
    assert_eq!((again.code, again.version()), (200, applied.version()));
    let merged = cluster
        .patch(uri, "strategic-merge-patch", &json!({"spec": {"template": {"spec": {"containers": [{"name": "d", "image": "two"}]}}}}))
        .await;
    assert_eq!(merged.json["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
    assert_eq!(merged.json["metadata"]["generation"], 2);
    let by_json = cluster.patch(uri, "json-patch", &json!([{"op": "replace", "path": "/spec/replicas", "value": 4}])).await;
    assert_eq!(by_json.json["spec"]["replicas"], 4);
    assert_eq!(cluster.patch(uri, "json-patch", &json!([{"op": "test", "path": "/spec/replicas", "value": 9}])).await.code, 422);
    let by_merge = cluster.patch(uri, "merge-patch", &json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!((by_merge.json["metadata"]["labels"]["x"].as_str(), by_merge.json["metadata"]["generation"].as_i64()), (Some("y"), Some(3)));
    let mut other = deployment.clone();
    other["spec"]["template"]["spec"]["containers"][0]["image"] = json!("three");
    let conflict = cluster.patch(&format!("{uri}?fieldManager=you"), "apply", &other).await;
    assert_eq!(
        (conflict.code, conflict.json["details"]["causes"][0]["reason"].as_str()),
        (409, Some("FieldManagerConflict")),
        "{}",
        conflict.text
    );
    let forced = cluster.patch(&format!("{uri}?fieldManager=you&force=true"), "apply", &other).await;
    assert_eq!(forced.code, 200);
    assert_eq!(cluster.patch(uri, "apply", &deployment).await.code, 422, "apply without a manager");
    assert_eq!(cluster.ask("PATCH", uri, "application/json", b"{}".to_vec()).await.code, 415);
}

#[tokio::test]
async fn views_write_only_their_part() {
    let cluster = Cluster::start().await;
    let uri = "/apis/apps/v1/namespaces/default/deployments/web";
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
    let made = cluster.post("/apis/apps/v1/namespaces/default/deployments", &deployment).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let mut body = made.json.clone();
    body["spec"]["replicas"] = json!(9);
    body["status"] = json!({"replicas": 2, "readyReplicas": 1, "observedGeneration": 1});
    let status = cluster.put(&format!("{uri}/status"), &body).await.json;
    assert_eq!((status["spec"]["replicas"].as_i64(), status["status"]["readyReplicas"].as_i64()), (Some(2), Some(1)));
    assert_eq!(status["metadata"]["generation"], 1);
    body["metadata"]["resourceVersion"] = status["metadata"]["resourceVersion"].clone();
    body["status"]["readyReplicas"] = json!(7);
    let main = cluster.put(uri, &body).await.json;
    assert_eq!((main["spec"]["replicas"].as_i64(), main["status"]["readyReplicas"].as_i64()), (Some(9), Some(1)));
    assert_eq!(main["metadata"]["generation"], 2);
    let scale = cluster.get(&format!("{uri}/scale")).await.json;
    assert_eq!(
        (scale["kind"].as_str(), scale["spec"]["replicas"].as_i64(), scale["status"]["selector"].as_str()),
        (Some("Scale"), Some(9), Some("a=b"))
    );
    let scaled = cluster.patch(&format!("{uri}/scale"), "merge-patch", &json!({"spec": {"replicas": 3}})).await;
    assert_eq!((scaled.code, scaled.json["spec"]["replicas"].as_i64()), (200, Some(3)), "{}", scaled.text);
    assert_eq!(cluster.get(uri).await.json["spec"]["replicas"], 3);
}

#[tokio::test]
async fn metadata_is_left_alone_by_the_status_of_kinds_that_say_so_and_may_change_with_that_of_others() {
    let cluster = Cluster::start().await;
    let claim = json!({"metadata": {"name": "c"}, "spec": {}});
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}});
    let service = json!({"metadata": {"name": "v1.example.org"}, "spec": {"group": "example.org", "version": "v1", "groupPriorityMinimum": 1,
        "versionPriority": 1, "insecureSkipTLSVerify": true, "service": {"name": "s", "namespace": "default"}}});
    let policy = json!({"metadata": {"name": "p"}, "spec": {"validations": [{"expression": "true"}],
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}}});
    let attachment =
        json!({"metadata": {"name": "a"}, "spec": {"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "v"}}});
    let schema = json!({"metadata": {"name": "f"}, "spec": {"priorityLevelConfiguration": {"name": "global-default"}}});
    let range = json!({"metadata": {"name": "r"}, "spec": {"cidrs": ["10.9.0.0/24"]}});
    let kinds = [
        ("/api/v1/namespaces/default/resourcequotas", quota, true),
        ("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", claim, false),
        ("/apis/apiregistration.k8s.io/v1/apiservices", service, false),
        ("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", policy, false),
        ("/apis/storage.k8s.io/v1/volumeattachments", attachment, false),
        ("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", schema, false),
        ("/apis/networking.k8s.io/v1/servicecidrs", range, false),
    ];
    let labels = json!({"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}}});
    for (uri, object, changes) in kinds {
        let made = cluster.post(uri, &object).await;
        assert_eq!(made.code, 201, "{}", made.text);
        let name = object["metadata"]["name"].as_str().unwrap();
        let status = cluster.patch(&format!("{uri}/{name}/status"), "merge-patch", &labels).await;
        assert_eq!(status.code, 200, "{}", status.text);
        let meta = &status.json["metadata"];
        assert_eq!((meta["labels"]["a"] == "b", meta["annotations"]["a"] == "b"), (changes, changes), "{uri}");
    }
}

#[tokio::test]
async fn events_live_as_long_as_the_flag_says_and_other_kinds_for_ever() {
    let cluster = Cluster::with(|config| config.event_ttl = std::time::Duration::from_secs(1)).await;
    let events = "/api/v1/namespaces/default/events";
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}});
    assert_eq!(cluster.post(events, &event).await.code, 201);
    assert_eq!(cluster.config_map("kept", &json!({})).await.code, 201);
    let gone = async || {
        let code = cluster.get(&format!("{events}/e")).await.code;
        anyhow::ensure!(code == 404, "{code}");
        Ok(())
    };
    ferrokube_testkit::wait_for("the event to go", std::time::Duration::from_secs(60), gone).await.unwrap();
    assert_eq!(cluster.get("/api/v1/namespaces/default/configmaps/kept").await.code, 200);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let cluster = Cluster::start().await;
    let uri = format!("{MAPS}/a");
    cluster.post(MAPS, &json!({"metadata": {"name": "a", "finalizers": ["example.com/hold"]}})).await;
    let asked = cluster.delete(&uri, &Value::Null).await.json;
    assert!(asked["metadata"]["deletionTimestamp"].is_string());
    let added = cluster.patch(&uri, "merge-patch", &json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}})).await;
    assert_eq!(added.code, 422);
    assert_eq!(cluster.patch(&uri, "merge-patch", &json!({"metadata": {"finalizers": null}})).await.code, 200);
    assert_eq!(cluster.get(&uri).await.code, 404);
    cluster.config_map("b", &json!({})).await;
    let foreground = cluster.delete(&format!("{MAPS}/b"), &json!({"propagationPolicy": "Foreground"})).await.json;
    assert_eq!(foreground["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    cluster.config_map("c", &json!({})).await;
    let dry = cluster.delete(&format!("{MAPS}/c?dryRun=All"), &Value::Null).await;
    assert_eq!(dry.code, 200);
    assert_eq!(cluster.get(&format!("{MAPS}/c")).await.code, 200);
}

#[tokio::test]
async fn who_means_another_object_is_told_in_the_words_of_upstream() {
    let cluster = Cluster::start().await;
    let uri = format!("{MAPS}/c");
    let stored = cluster.config_map("c", &json!({})).await.json;
    let (uid, version) = (stored["metadata"]["uid"].as_str().unwrap(), stored["metadata"]["resourceVersion"].as_str().unwrap());
    let told =
        |reply: common::Reply| (reply.code, reply.json["message"].as_str().unwrap_or_default().to_owned(), reply.json["details"].clone());
    for (precondition, why) in [
        (
            json!({"uid": "x"}),
            format!(
                "the UID in the precondition (x) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
            ),
        ),
        (
            json!({"resourceVersion": "1"}),
            format!(
                "the ResourceVersion in the precondition (1) does not match the ResourceVersion in record ({version}). The object might have been modified"
            ),
        ),
    ] {
        assert_eq!(
            told(cluster.delete(&uri, &json!({ "preconditions": precondition })).await),
            (409, format!("Operation cannot be fulfilled on ConfigMap \"c\": {why}"), json!({"name": "c", "kind": "ConfigMap"}))
        );
    }
    let failed = |resource: &str, key: &str, actual: &str| {
        let why = format!("Precondition failed: UID in precondition: x, UID in object meta: {actual}");
        let (name, kind) = (key.rsplit('/').next().unwrap(), resource.split('.').next().unwrap());
        let error = format!("StorageError: invalid object, Code: 4, Key: /registry/{key}, ResourceVersion: 0, AdditionalErrorMsg: {why}");
        let mut details = json!({"name": name, "kind": kind});
        if let Some((_, group)) = resource.split_once('.') {
            details["group"] = json!(group);
        }
        (409, format!("Operation cannot be fulfilled on {resource} \"{name}\": {error}"), details)
    };
    let named = |name: &str| json!({"metadata": {"name": name, "uid": "x"}});
    assert_eq!(told(cluster.put(&uri, &named("c")).await), failed("configmaps", "configmaps/default/c", uid));
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    assert_eq!(told(cluster.put(&format!("{leases}/l"), &named("l")).await), failed("leases.coordination.k8s.io", "leases/default/l", ""));
    let patched = cluster.patch(&uri, "merge-patch", &json!({"metadata": {"uid": "x"}})).await;
    assert_eq!((patched.code, patched.json["details"]["causes"][0]["field"].as_str()), (422, Some("metadata.uid")));
    let made = cluster.post("/api/v1/namespaces/default/pods", &pod("p")).await.json;
    let binding = json!({"metadata": {"name": "p", "uid": "x"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(
        told(cluster.post("/api/v1/namespaces/default/pods/p/binding", &binding).await),
        failed("pods", "pods/default/p", made["metadata"]["uid"].as_str().unwrap())
    );
}

#[tokio::test]
async fn patches_that_are_none_are_told_as_upstream_does() {
    let cluster = Cluster::start().await;
    cluster.config_map("c", &json!({})).await;
    let uri = format!("{MAPS}/c");
    let absent = cluster.patch(&format!("{MAPS}/none"), "json-patch", &json!({})).await;
    assert_eq!(absent.code, 404, "{}", absent.text);
    let failed = cluster.patch(&uri, "json-patch", &json!([{"op": "test", "path": "/data/k", "value": "x"}])).await;
    assert_eq!((failed.code, &failed.json["details"]), (422, &json!({})), "{}", failed.text);
    let strange = json!([{"op": "add", "path": "/data", "value": {}, "extra": 1}]);
    let strict = cluster.patch(&format!("{uri}?fieldValidation=Strict"), "json-patch", &strange).await;
    assert!(
        strict.json["message"].as_str().unwrap().ends_with(r#"strict decoding error: json patch unknown field "[0].extra""#),
        "{}",
        strict.text
    );
    let list = cluster.patch(&uri, "strategic-merge-patch", &json!([])).await;
    assert_eq!(list.json["message"], "json: cannot unmarshal array into Go value of type map[string]interface {}");
}

#[tokio::test]
async fn a_running_pod_gets_its_grace() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let never_ran = cluster.post(pods, &pod("never")).await;
    assert_eq!(never_ran.code, 201, "{}", never_ran.text);
    cluster.delete(&format!("{pods}/never"), &Value::Null).await;
    assert_eq!(cluster.get(&format!("{pods}/never")).await.code, 404);
    cluster.post(pods, &pod("p")).await;
    let nominated = cluster.patch(&format!("{pods}/p/status"), "merge-patch", &json!({"status": {"nominatedNodeName": "n2"}})).await;
    assert_eq!(nominated.json["status"]["nominatedNodeName"], "n2");
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(cluster.post(&format!("{pods}/p/binding"), &binding).await.code, 201);
    let bound = cluster.get(&format!("{pods}/p")).await.json;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"].get("nominatedNodeName"), None, "a pod that has its node waits for none");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let twice = cluster.post(&format!("{pods}/p/binding"), &binding).await;
    assert_eq!(twice.code, 409, "{}", twice.text);
    let asked = cluster.delete(&format!("{pods}/p"), &Value::Null).await.json;
    assert_eq!(asked["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = cluster.delete(&format!("{pods}/p"), &json!({"gracePeriodSeconds": 5})).await.json;
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    cluster.delete(&format!("{pods}/p"), &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(cluster.get(&format!("{pods}/p")).await.code, 404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let cluster = Cluster::start().await;
    for n in 0..150 {
        cluster.post(MAPS, &json!({"metadata": {"name": format!("m{n}"), "labels": {"even": (n % 2 == 0).to_string()}}})).await;
    }
    let gone = cluster.delete(&format!("{MAPS}?labelSelector=even%3Dtrue"), &Value::Null).await;
    assert_eq!((gone.code, gone.json["items"].as_array().map(Vec::len)), (200, Some(75)));
    assert_eq!(cluster.get(MAPS).await.json["items"].as_array().unwrap().len(), 75);
}

#[tokio::test]
async fn services_get_addresses_of_their_own() {
    let cluster = Cluster::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, more: Value| {
        let mut body = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
        more.as_object().unwrap().iter().for_each(|(k, v)| body["spec"][k] = v.clone());
        body
    };
    let a = cluster.post(services, &service("a", json!({}))).await.json;
    let ip = a["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.96."));
    assert_eq!(
        (a["spec"]["clusterIPs"].clone(), a["spec"]["ipFamilies"].clone(), a["spec"]["ipFamilyPolicy"].clone()),
        (json!([ip]), json!(["IPv4"]), json!("SingleStack"))
    );
    let taken = cluster.post(services, &service("b", json!({"clusterIP": ip}))).await;
    assert_eq!((taken.code, taken.json["details"]["causes"][0]["field"].as_str()), (422, Some("spec.clusterIPs")), "{}", taken.text);
    assert!(taken.message().contains("provided IP is already allocated"), "{}", taken.message());
    cluster.delete(&format!("{services}/a"), &Value::Null).await;
    assert_eq!(cluster.post(services, &service("b", json!({"clusterIP": ip}))).await.code, 201, "a freed address can be had at once");
    let node_port = cluster.post(services, &service("n", json!({"type": "NodePort"}))).await.json;
    let port = node_port["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&port));
    let back = cluster.patch(&format!("{services}/n"), "merge-patch", &json!({"spec": {"type": "ClusterIP"}})).await.json;
    assert!(back["spec"]["ports"][0].get("nodePort").is_none());
    let wrong = cluster.post(services, &service("w", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}))).await;
    assert!(
        wrong.message().contains("provided port is not in the valid range. The range of valid ports is 30000-32767"),
        "{}",
        wrong.message()
    );
    let headless = cluster.post(services, &service("h", json!({"clusterIP": "None"}))).await.json;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
}

#[tokio::test]
async fn namespaces_go_when_their_finalizers_are_gone() {
    let cluster = Cluster::start().await;
    cluster.post("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await;
    let asked = cluster.delete("/api/v1/namespaces/n", &Value::Null).await.json;
    assert_eq!(asked["status"]["phase"], "Terminating");
    let refused = cluster.post("/api/v1/namespaces/n/configmaps", &json!({"metadata": {"name": "a"}})).await;
    assert_eq!(refused.code, 403, "{}", refused.text);
    let mut finalized = asked.clone();
    finalized["spec"]["finalizers"] = json!([]);
    assert_eq!(cluster.put("/api/v1/namespaces/n/finalize", &finalized).await.code, 200);
    assert_eq!(cluster.get("/api/v1/namespaces/n").await.code, 404);
}

#[tokio::test]
async fn an_eviction_asks_the_disruption_budget() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    cluster.post(pods, &pod("p")).await;
    cluster.post(&format!("{pods}/p/binding"), &json!({"target": {"name": "n1"}})).await;
    let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(cluster.patch(&format!("{pods}/p/status"), "merge-patch", &running).await.code, 200);
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = cluster
        .post(budgets, &json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "p"}}}}))
        .await;
    assert_eq!(budget.code, 201, "{}", budget.text);
    let status = |allowed: i64| json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    assert_eq!(cluster.patch(&format!("{budgets}/b/status"), "merge-patch", &status(0)).await.code, 200);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let refused = cluster.post(&format!("{pods}/p/eviction"), &eviction).await;
    assert_eq!(
        (refused.code, refused.message()),
        (429, "Cannot evict pod as it would violate the pod's disruption budget."),
        "{}",
        refused.text
    );
    let cause = |reply: &Reply| reply.json["details"]["causes"][0].clone();
    let why = "The disruption budget b needs 1 healthy pods and has 1 currently";
    assert_eq!(cause(&refused), json!({"reason": "DisruptionBudget", "message": why}));
    assert!(!refused.headers.contains_key("retry-after"), "nobody knows when");
    // A budget that was changed is looked at by its controller first; that takes a moment.
    let changed = json!({"spec": {"maxUnavailable": 0, "minAvailable": null}});
    assert_eq!(cluster.patch(&format!("{budgets}/b"), "merge-patch", &changed).await.code, 200);
    let later = cluster.post(&format!("{pods}/p/eviction"), &eviction).await;
    assert_eq!((later.code, later.headers["retry-after"].to_str().unwrap()), (429, "10"));
    assert_eq!(cause(&later)["message"], "The disruption budget b is still being processed by the server.");
    let failed = json!({"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "no scale",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let mut status_failed = status(0);
    status_failed["status"]["observedGeneration"] = json!(2);
    status_failed["status"]["conditions"] = json!([failed]);
    assert_eq!(cluster.patch(&format!("{budgets}/b/status"), "merge-patch", &status_failed).await.code, 200);
    let failed = cluster.post(&format!("{pods}/p/eviction"), &eviction).await;
    let why = "The disruption budget b does not allow evicting pods currently because it failed sync: no scale";
    assert_eq!((failed.code, &cause(&failed)["message"]), (429, &json!(why)));
    let status = |allowed: i64| {
        let mut status = status(allowed);
        status["status"]["observedGeneration"] = json!(2);
        status
    };
    cluster.patch(&format!("{budgets}/b/status"), "merge-patch", &status(1)).await;
    assert_eq!(cluster.post(&format!("{pods}/p/eviction"), &eviction).await.code, 201);
    assert!(cluster.get(&format!("{pods}/p")).await.json["metadata"]["deletionTimestamp"].is_string());
    let left = cluster.get(&format!("{budgets}/b")).await;
    assert_eq!(left.json["status"]["disruptionsAllowed"], 0);
    assert_eq!(left.json["status"]["conditions"][0]["reason"], "InsufficientPods");
    let gone = cluster.get(&format!("{pods}/p")).await;
    let target = gone.json["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&target["reason"], &target["message"]), (&json!("EvictionByEvictionAPI"), &json!("Eviction API: evicting")));
}

#[tokio::test]
async fn a_scale_is_applied_to_where_the_object_keeps_its_replicas() {
    let cluster = Cluster::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    assert_eq!(cluster.post(deployments, &made).await.code, 201);
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 4}});
    let path = format!("{deployments}/d/scale?fieldManager=me");
    let refused = cluster.patch(&path, "apply", &scale).await;
    assert_eq!(
        (refused.code, refused.message()),
        (409, "Apply failed with 1 conflict: conflict with \"test\" using apps/v1: .spec.replicas")
    );
    let scaled = cluster.patch(&format!("{path}&force=true"), "apply", &scale).await;
    assert_eq!((scaled.code, &scaled.json["kind"], &scaled.json["spec"]["replicas"]), (200, &json!("Scale"), &json!(4)), "{}", scaled.text);
    let object = cluster.get(&format!("{deployments}/d")).await;
    let mine = object.json["metadata"]["managedFields"].as_array().unwrap().iter().find(|m| m["manager"] == "me").unwrap().clone();
    assert_eq!((&mine["subresource"], &mine["fieldsV1"]), (&json!("scale"), &json!({"f:spec": {"f:replicas": {}}})));
    let wrong = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
    assert_eq!(cluster.patch(&path, "apply", &wrong).await.code, 400);
}

#[tokio::test]
async fn a_signing_request_carries_who_made_it() {
    let cluster = Cluster::start().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let request = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, request);
    let spec = json!({"request": request, "signerName": "example.com/s", "usages": ["client auth"], "username": "root", "uid": "0"});
    let made = cluster.post(requests, &json!({"metadata": {"name": "r"}, "spec": spec})).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let spec = &made.json["spec"];
    assert_eq!((&spec["username"], &spec["uid"]), (&json!("kubernetes-admin"), &Value::Null));
    assert!(spec["groups"].as_array().unwrap().contains(&json!("system:masters")));

    let mut status = made.json.clone();
    status["status"] = json!({"certificate": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBQUEKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo="});
    let refused = cluster.put(&format!("{requests}/r/status"), &status).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    let why = "status.certificate: Invalid value: \"<certificate data>\": x509: malformed certificate";
    assert!(refused.message().ends_with(why), "{}", refused.message());

    let decided = json!({"metadata": {"annotations": {"by": "me"}}, "spec": {"signerName": "other"},
        "status": {"certificate": "eA==", "conditions": [{"type": "Approved", "status": "True", "reason": "E2E"}]}});
    let approved = cluster.patch(&format!("{requests}/r/approval"), "merge-patch", &decided).await;
    assert_eq!((approved.code, &approved.json["metadata"]["annotations"]["by"]), (200, &json!("me")), "{}", approved.text);
    assert_eq!(approved.json["status"]["conditions"][0]["type"], "Approved");
    assert_eq!((&approved.json["spec"]["signerName"], approved.json["status"].get("certificate")), (&json!("example.com/s"), None));
}

#[tokio::test]
async fn admin_access_to_devices_needs_the_label_of_the_namespace() {
    let cluster = Cluster::start().await;
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu", "adminAccess": true}});
    let claim = json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [request]}}});
    let refused = cluster.post(claims, &claim).await;
    assert_eq!(
        refused.message(),
        "ResourceClaim.resource.k8s.io \"c\" is invalid: spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"
    );
    let label = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}});
    cluster.patch("/api/v1/namespaces/default", "merge-patch", &label).await;
    let made = cluster.post(claims, &claim).await;
    assert_eq!(made.code, 201, "{}", made.text);
}

#[tokio::test]
async fn selectors_of_devices_compile_and_are_not_too_costly() {
    let cluster = Cluster::start().await;
    let class = |expression: &str| json!({"metadata": {"name": "c"}, "spec": {"selectors": [{"cel": {"expression": expression}}]}});
    let classes = "/apis/resource.k8s.io/v1/deviceclasses";
    let path = "spec.selectors[0].cel.expression";
    for (expression, want) in [
        ("device.nonsense == 1", "compilation failed: ERROR: <input>:1:7: undefined field 'nonsense'"),
        ("1", "must evaluate to bool or the unknown type, not int"),
        (
            "device.attributes.all(d, device.attributes.all(e, device.attributes.all(f, device.attributes.all(g, d != e && f != g))))",
            "Forbidden: too complex, exceeds cost limit",
        ),
    ] {
        let refused = cluster.post(classes, &class(expression)).await;
        assert_eq!((refused.code, refused.json["details"]["causes"][0]["field"].as_str()), (422, Some(path)), "{}", refused.text);
        assert!(refused.message().contains(want), "{}", refused.text);
    }
    let good = "device.driver == 'gpu.example.com' && device.attributes['gpu.example.com'].model == 'a' && device.capacity['gpu.example.com'].memory.isGreaterThan(quantity('1Gi'))";
    let made = cluster.post(classes, &class(good)).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let claim = json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [{"name": "r", "firstAvailable": [
        {"name": "s", "deviceClassName": "c", "selectors": [{"cel": {"expression": "device.driver"}}]}]}]}}});
    let refused = cluster.post("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", &claim).await;
    let path = "spec.devices.requests[0].firstAvailable[0].selectors[0].cel.expression";
    assert_eq!((refused.code, refused.json["details"]["causes"][0]["field"].as_str()), (422, Some(path)), "{}", refused.text);
}
