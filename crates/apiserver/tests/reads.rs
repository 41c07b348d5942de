//! get, list and watch.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Cluster, MAPS, admin, pair};
use ferrokube_api::{Change, Selection};
use futures_util::StreamExt;
use serde_json::{Value, json};

fn names(list: &Value) -> Vec<String> {
    list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_show_one_revision_whatever_is_written_between_them() {
    let cluster = Cluster::start().await;
    for n in 0..7 {
        assert_eq!(cluster.config_map(&format!("m{n}"), &json!({"n": n.to_string()})).await.code, 201);
    }
    let first = cluster.get(&format!("{MAPS}?limit=3")).await.json;
    assert_eq!(names(&first), ["m0", "m1", "m2"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    let revision = first["metadata"]["resourceVersion"].clone();
    // A new object in front, one deleted and one changed behind the page.
    cluster.config_map("a0", &json!({})).await;
    cluster.delete(&format!("{MAPS}/m4"), &Value::Null).await;
    cluster.put(&format!("{MAPS}/m5"), &json!({"metadata": {"name": "m5"}, "data": {"n": "changed"}})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = cluster.get(&format!("{MAPS}?limit=3&continue={token}")).await.json;
    assert_eq!(names(&second), ["m3", "m4", "m5"]);
    assert_eq!(second["items"][2]["data"]["n"], "5");
    assert_eq!(second["metadata"]["resourceVersion"], revision);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let last = cluster.get(&format!("{MAPS}?limit=3&continue={token}")).await.json;
    assert_eq!(names(&last), ["m6"]);
    assert!(last["metadata"].get("continue").is_none());
    let now = cluster.get(MAPS).await.json;
    assert_eq!(names(&now), ["a0", "m0", "m1", "m2", "m3", "m5", "m6"]);
    let exact = cluster.get(&format!("{MAPS}?resourceVersion={}&resourceVersionMatch=Exact", revision.as_str().unwrap())).await.json;
    assert_eq!(names(&exact), ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
}

#[tokio::test]
async fn pages_from_the_store_are_those_from_memory() {
    let cluster = Cluster::start().await;
    for n in 0..5 {
        cluster.config_map(&format!("m{n}"), &json!({})).await;
    }
    let first = cluster.get(&format!("{MAPS}?limit=2")).await.json;
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    // More changes than memory keeps.
    for n in 0..300 {
        cluster
            .put(&format!("{MAPS}/m4"), &json!({"metadata": {"name": "m4"}, "data": {"n": n.to_string(), "fill": "x".repeat(50_000)}}))
            .await;
    }
    let second = cluster.get(&format!("{MAPS}?limit=2&continue={token}")).await.json;
    assert_eq!(names(&second), ["m2", "m3"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let last = cluster.get(&format!("{MAPS}?limit=2&continue={token}")).await.json;
    assert_eq!(names(&last), ["m4"]);
    assert!(last["items"][0].get("data").is_none(), "m4 as it was at the first page");
    // And when the store has forgotten too, the client is told how to go on.
    ferrokube_store::Store::compact(&*cluster.store, ferrokube_store::Store::revision(&*cluster.store).await.unwrap()).await.unwrap();
    let gone = cluster.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((gone.code, gone.json["reason"].as_str()), (410, Some("Expired")));
    assert!(gone.message().starts_with("The provided continue parameter is too old to display a consistent list result."), "{}", gone.text);
    let rest = gone.json["metadata"]["continue"].as_str().unwrap();
    assert_eq!(names(&cluster.get(&format!("{MAPS}?limit=2&continue={rest}")).await.json), ["m4"]);
}

#[tokio::test]
async fn a_page_expires_with_the_history_of_the_store_however_quiet_its_kind_is() {
    let cluster = Cluster::with(|config| config.compaction = std::time::Duration::from_millis(100)).await;
    for n in 0..4 {
        cluster.config_map(&format!("m{n}"), &json!({})).await;
    }
    let first = cluster.get(&format!("{MAPS}?limit=2")).await.json;
    let next = format!("{MAPS}?limit=2&continue={}", first["metadata"]["continue"].as_str().unwrap());
    let expired = loop {
        // Other kinds go on.
        cluster.post("/api/v1/namespaces/default/secrets", &json!({"metadata": {"generateName": "s-"}})).await;
        let page = cluster.get(&next).await;
        if page.code != 200 {
            break page;
        }
        assert_eq!(names(&page.json), ["m2", "m3"]);
    };
    assert_eq!((expired.code, expired.json["reason"].as_str()), (410, Some("Expired")), "{}", expired.text);
    let rest = expired.json["metadata"]["continue"].as_str().unwrap();
    let rest = cluster.get(&format!("{MAPS}?limit=2&continue={rest}")).await;
    assert_eq!(names(&rest.json), ["m2", "m3"]);
    assert_ne!(rest.version(), first["metadata"]["resourceVersion"].as_str().unwrap());
    let exact = cluster.get(&format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Exact")).await;
    let why = "The resourceVersion for the provided list is too old.";
    assert_eq!((exact.code, exact.json["reason"].as_str(), exact.message()), (410, Some("Expired"), why), "{}", exact.text);
}

#[tokio::test]
async fn options_that_contradict_each_other_are_refused() {
    let cluster = Cluster::start().await;
    let cases = [
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersionMatch=Exact&resourceVersion=0", 422),
        ("resourceVersionMatch=Foo&resourceVersion=1", 422),
        ("resourceVersionMatch=NotOlderThan&resourceVersion=1&continue=x", 422),
        ("watch=1&sendInitialEvents=true&resourceVersionMatch=Exact", 422),
        ("sendInitialEvents=true", 422),
        ("watch=1&sendInitialEvents=true", 422),
        ("watch=1&resourceVersionMatch=NotOlderThan", 422),
        ("continue=xxx", 400),
        ("labelSelector=a%20b", 400),
        ("fieldSelector=spec.nope%3D1", 400),
        ("resourceVersion=x", 400),
    ];
    for (query, code) in cases {
        assert_eq!(cluster.get(&format!("{MAPS}?{query}")).await.code, code, "{query}");
    }
    // No limit at all.
    assert_eq!(cluster.get(&format!("{MAPS}?limit=-1")).await.code, 200);
    let both = cluster.get(&format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=Exact")).await;
    assert_eq!(both.json["details"]["causes"].as_array().map(Vec::len), Some(2), "{}", both.text);
    for (uri, words) in [
        (MAPS, "\"spec.nope\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
        ("/api/v1/persistentvolumes", "\"spec.nope\" is not a known field selector: only \"metadata.name\""),
        ("/api/v1/pods", "field label not supported: spec.nope"),
    ] {
        let refused = cluster.get(&format!("{uri}?fieldSelector=spec.nope%3D1")).await;
        assert_eq!((refused.code, refused.message()), (400, words));
    }
    let future = cluster.get(&format!("{MAPS}?resourceVersion=99999999&resourceVersionMatch=NotOlderThan")).await;
    assert_eq!(future.code, 504);
    assert_eq!(future.json["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn json_is_indented_for_people() {
    let cluster = Cluster::start().await;
    cluster.config_map("a", &json!({"k": "x: [1, {}]\""})).await;
    let plain = cluster.get(&format!("{MAPS}/a")).await;
    let pretty = cluster.get(&format!("{MAPS}/a?pretty=true")).await;
    assert!(
        pretty.text.starts_with("{\n  \"kind\": \"ConfigMap\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {\n    \""),
        "{}",
        pretty.text
    );
    assert_eq!(pretty.json, plain.json);
    assert_eq!(cluster.get(&format!("{MAPS}/a?pretty=false")).await.text, plain.text);
}

#[tokio::test]
async fn selectors_select() {
    let cluster = Cluster::start().await;
    for (name, tier) in [("a", "front"), ("b", "back"), ("c", "front")] {
        cluster.post(MAPS, &json!({"metadata": {"name": name, "labels": {"tier": tier}}})).await;
    }
    let by = async |query: &str| names(&cluster.get(&format!("{MAPS}?{query}")).await.json);
    assert_eq!(by("labelSelector=tier%3Dfront").await, ["a", "c"]);
    assert_eq!(by("labelSelector=tier%20notin%20(front)").await, ["b"]);
    assert_eq!(by("fieldSelector=metadata.name%3Db").await, ["b"]);
    assert_eq!(by("fieldSelector=metadata.name!%3Db").await, ["a", "c"]);
}

#[tokio::test]
async fn a_watch_tells_what_happens_and_resumes_where_it_was() {
    let cluster = Cluster::start().await;
    let before = cluster.config_map("old", &json!({})).await.version();
    let mut all = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={before}")).await;
    let mut front = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={before}&labelSelector=tier%3Dfront")).await;
    let labelled = |tier: &str| json!({"metadata": {"name": "x", "labels": {"tier": tier}}});
    cluster.post(MAPS, &labelled("front")).await;
    cluster.put(&format!("{MAPS}/x"), &labelled("back")).await;
    let second = cluster.put(&format!("{MAPS}/x"), &labelled("front")).await.version();
    let gone = cluster.delete(&format!("{MAPS}/x"), &Value::Null).await;
    assert_eq!(gone.json["status"], "Success");
    for kind in ["ADDED", "MODIFIED", "MODIFIED", "DELETED"] {
        assert_eq!(all.told().await, pair(kind, "x"));
    }
    // Leaving and entering the selection looks like deletion and creation.
    for kind in ["ADDED", "DELETED", "ADDED", "DELETED"] {
        assert_eq!(front.told().await, pair(kind, "x"));
    }
    let mut resumed = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={second}")).await;
    let event = resumed.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert!(event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > second.parse().unwrap());
}

#[tokio::test]
async fn a_watch_survives_a_restart_of_the_server() {
    let cluster = Cluster::start().await;
    let seen = cluster.config_map("a", &json!({})).await.version();
    cluster.config_map("b", &json!({})).await;
    cluster.delete(&format!("{MAPS}/a"), &Value::Null).await;
    let cluster = cluster.restart().await;
    let mut watch = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={seen}")).await;
    assert_eq!(watch.told().await, pair("ADDED", "b"));
    let event = watch.next().await.unwrap();
    assert_eq!((event["type"].as_str(), event["object"]["metadata"]["name"].as_str()), (Some("DELETED"), Some("a")));
}

#[tokio::test]
async fn initial_events_end_with_an_annotated_bookmark() {
    let cluster = Cluster::start().await;
    cluster.config_map("a", &json!({})).await;
    let uri = format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let mut watch = cluster.watch(&uri).await;
    assert_eq!(watch.told().await, pair("ADDED", "a"));
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    cluster.config_map("b", &json!({})).await;
    assert_eq!(watch.told().await, pair("ADDED", "b"));
}

#[tokio::test]
async fn a_watch_ends_in_time_with_a_last_bookmark() {
    let cluster = Cluster::start().await;
    let mut watch =
        cluster.watch(&format!("{MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=3&fieldSelector=metadata.name%3Dnone")).await;
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_position_that_history_lacks_is_gone() {
    let cluster = Cluster::start().await;
    cluster.config_map("a", &json!({})).await;
    for n in 0..400 {
        cluster
            .put(&format!("{MAPS}/a"), &json!({"metadata": {"name": "a"}, "data": {"n": n.to_string(), "fill": "x".repeat(50_000)}}))
            .await;
    }
    let mut watch = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion=1")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(
        (event["type"].as_str(), event["object"]["code"].as_u64(), event["object"]["reason"].as_str()),
        (Some("ERROR"), Some(410), Some("Expired"))
    );
    let why = event["object"]["message"].as_str().unwrap();
    assert!(why.starts_with("too old resource version: 1 ("), "{why}");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn tables_and_partial_metadata_are_made_on_request() {
    let cluster = Cluster::start().await;
    cluster.config_map("a", &json!({"k": "v"})).await;
    let as_table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = common::reply(cluster.send(admin(), "GET", MAPS, "", as_table, Vec::new()).await).await.json;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = common::reply(cluster.send(admin(), "GET", MAPS, "", partial, Vec::new()).await).await.json;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert!(list["items"][0].get("data").is_none() && list["items"][0]["metadata"]["name"] == "a");
    let yaml = common::reply(cluster.send(admin(), "GET", &format!("{MAPS}/a"), "", "application/yaml", Vec::new()).await).await;
    assert!(yaml.text.contains("kind: ConfigMap"), "{}", yaml.text);
    let refused = cluster.send(admin(), "GET", MAPS, "", "text/html", Vec::new()).await;
    assert_eq!(refused.status(), 406);
}

#[tokio::test]
async fn views_that_are_not_stored_have_tables_too() {
    let cluster = Cluster::start().await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    cluster.post("/apis/apps/v1/namespaces/default/deployments", &json!({"metadata": {"name": "d"}, "spec": spec})).await;
    let as_table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = async |uri: &str| {
        let table = common::reply(cluster.send(admin(), "GET", uri, "", as_table, Vec::new()).await).await.json;
        let columns = table["columnDefinitions"].as_array().expect("columns").iter().map(|c| c["name"].as_str().unwrap_or_default());
        (columns.collect::<Vec<_>>().join(" "), table["rows"][0]["cells"].clone())
    };
    let (columns, cells) = table("/apis/apps/v1/namespaces/default/deployments/d/scale").await;
    assert_eq!(
        (columns.as_str(), &cells.as_array().expect("cells")[..3]),
        ("Name Desired Available Age", &[json!("d"), json!(3), json!(0)][..])
    );
    let health = ("Name Status Message Error".to_owned(), json!(["etcd-0", "Healthy", "ok", ""]));
    assert_eq!(table("/api/v1/componentstatuses").await, health);
    assert_eq!(table("/api/v1/componentstatuses/etcd-0").await, health);
    let status = async |name: &str| {
        let json = cluster.get(&format!("/api/v1/componentstatuses/{name}")).await.json;
        (json["conditions"][0]["status"].clone(), json["conditions"][0]["message"].clone())
    };
    cluster.running.server.serve_health_of("scheduler", || Ok(()));
    cluster.running.server.serve_health_of("controller-manager", || Err("tired".to_owned()));
    assert_eq!(status("scheduler").await, (json!("True"), json!("ok")));
    assert_eq!(status("controller-manager").await, (json!("False"), json!("tired")));
    assert_eq!(cluster.get("/api/v1/componentstatuses").await.json["items"].as_array().map(Vec::len), Some(3));
    assert_eq!(cluster.get("/api/v1/componentstatuses/kubelet").await.code, 404);
    // A review is no resource: it has no table.
    let review = async |accept: &str| {
        let body = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}).to_string().into_bytes();
        let uri = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        common::reply(cluster.send(admin(), "POST", uri, "application/json", accept, body).await).await
    };
    let refused = review("application/json;as=Table;v=v1;g=meta.k8s.io").await;
    assert_eq!((refused.code, refused.json["reason"].as_str()), (406, Some("NotAcceptable")));
    let plain = review(as_table).await;
    assert_eq!((plain.code, plain.json["kind"].as_str()), (201, Some("SelfSubjectAccessReview")));
}

#[tokio::test]
async fn a_component_of_the_process_sees_the_cached_objects_themselves() {
    let cluster = Cluster::start().await;
    cluster.config_map("a", &json!({})).await;
    let selection = Selection { version: "v1".into(), resource: "configmaps".into(), namespace: "default".into(), ..Selection::default() };
    let mut changes = Box::pin(cluster.running.server.subscribe(admin(), selection.clone()).unwrap());
    assert!(matches!(changes.next().await, Some(Change::Restart)));
    let Some(Change::Set(object)) = changes.next().await else { panic!("an object") };
    let cached = cluster.running.server.caches().get("", "configmaps").unwrap().get("default", "a").unwrap();
    assert!(std::sync::Arc::ptr_eq(&object, &cached));
    assert!(matches!(changes.next().await, Some(Change::Synced(_))));
    cluster.delete(&format!("{MAPS}/a"), &Value::Null).await;
    assert!(matches!(changes.next().await, Some(Change::Gone(_))));
    let nobody = ferrokube_apiserver::UserInfo::component("nobody", &[]);
    assert_eq!(cluster.running.server.subscribe(nobody, selection).err().unwrap().code, 403);
}

#[tokio::test]
async fn events_are_one_resource_in_two_groups() {
    let cluster = Cluster::start().await;
    let event = json!({"metadata": {"name": "e1"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "reason": "Test", "message": "hello", "type": "Normal"});
    let made = cluster.post("/api/v1/namespaces/default/events", &event).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let other = cluster.get("/apis/events.k8s.io/v1/namespaces/default/events/e1").await.json;
    assert_eq!(other["apiVersion"], "events.k8s.io/v1");
    let list = cluster.get("/apis/events.k8s.io/v1/events?fieldSelector=regarding.name%3Dp").await.json;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}
