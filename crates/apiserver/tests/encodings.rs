//! Formats: what clients that speak Kubernetes protobuf send and get, and what is refused.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Cluster, MAPS, Reply, admin, reply};
use ferrokube_api::protobuf;
use ferrokube_api::schema::Schema;
use futures_util::StreamExt;
use http_body_util::BodyStream;
use serde_json::{Value, json};
use std::time::Duration;

const WIRE: &str = "application/vnd.kubernetes.protobuf";
const CORE: &str = "io.k8s.api.core.v1";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

fn read(bytes: &[u8], schema: &str) -> Value {
    protobuf::read(bytes, &Schema::builtin(schema).unwrap()).unwrap()
}

async fn wire(cluster: &Cluster, method: &str, uri: &str, accept: &str, body: Vec<u8>) -> (u16, String, bytes::Bytes) {
    let response = cluster.send(admin(), method, uri, WIRE, accept, body).await;
    let media = response.headers()["content-type"].to_str().unwrap().to_owned();
    (response.status().as_u16(), media, response.into_body().collect().await.unwrap())
}

async fn asking(cluster: &Cluster, uri: &str, accept: &str) -> Reply {
    reply(cluster.send(admin(), "GET", uri, "", accept, Vec::new()).await).await
}

fn map(name: &str) -> Vec<u8> {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"a": "b"}}, "data": {"k": "v"}});
    protobuf::write(object.to_string().as_bytes(), &Schema::builtin(&format!("{CORE}.ConfigMap")).unwrap()).unwrap()
}

#[tokio::test]
async fn objects_go_in_and_come_out_in_protobuf() {
    let cluster = Cluster::start().await;
    let (code, media, made) = wire(&cluster, "POST", MAPS, WIRE, map("a")).await;
    assert_eq!((code, media.as_str()), (201, WIRE));
    let plain = cluster.get(&format!("{MAPS}/a")).await.json;
    assert_eq!(read(&made, &format!("{CORE}.ConfigMap")), plain);
    let (_, _, got) = wire(&cluster, "GET", &format!("{MAPS}/a"), &format!("{WIRE},application/json"), Vec::new()).await;
    assert_eq!(got, made);

    cluster.config_map("b", &json!({"long": "x".repeat(200_000)})).await;
    let (code, _, list) = wire(&cluster, "GET", &format!("{MAPS}?labelSelector=!none"), WIRE, Vec::new()).await;
    let list = read(&list, &format!("{CORE}.ConfigMapList"));
    let mut wanted = cluster.get(&format!("{MAPS}?labelSelector=!none")).await.json;
    wanted["items"].as_array_mut().unwrap().iter_mut().for_each(|item| {
        item.as_object_mut().unwrap().retain(|key, _| key != "kind" && key != "apiVersion");
    });
    assert_eq!((code, &list), (200, &wanted));
    let (_, _, page) = wire(&cluster, "GET", &format!("{MAPS}?limit=1"), WIRE, Vec::new()).await;
    let page = read(&page, &format!("{CORE}.ConfigMapList"));
    assert_eq!((page["items"].as_array().unwrap().len(), page["metadata"]["remainingItemCount"].as_i64()), (1, Some(1)));
    assert!(page["metadata"]["continue"].is_string());
}

/// Long lists are written piece by piece while they are sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_says_the_same_in_every_form_before_and_after_a_change() {
    let cluster = Cluster::start().await;
    for n in 0..12 {
        let made = cluster.config_map(&format!("m{n:02}"), &json!({"filling": format!("{n:02}").repeat(60_000)})).await;
        assert_eq!(made.code, 201, "{}", made.text);
    }
    let as_table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let of_rows = |table: &Value| table["rows"].as_array().unwrap().iter().map(|row| row["object"]["metadata"].clone()).collect::<Vec<_>>();
    for round in 0..3 {
        let plain = cluster.get(MAPS).await.json;
        let items = plain["items"].as_array().unwrap();
        let metadata: Vec<_> = items.iter().map(|item| item["metadata"].clone()).collect();
        assert_eq!(metadata.len(), 12 - round);

        let response = cluster.send(admin(), "GET", MAPS, "", WIRE, Vec::new()).await;
        let promised = response.body().len();
        let bytes = response.into_body().collect().await.unwrap();
        assert_eq!(promised, Some(bytes.len() as u64));
        let list = read(&bytes, &format!("{CORE}.ConfigMapList"));
        assert!(list["items"] == plain["items"], "round {round}");
        let partial = format!("{WIRE};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
        let (_, _, partial) = wire(&cluster, "GET", MAPS, &partial, Vec::new()).await;
        let partial = read(&partial, &format!("{CORE}.ConfigMapList"));
        assert_eq!(partial["items"].as_array().unwrap().iter().map(|item| item["metadata"].clone()).collect::<Vec<_>>(), metadata);

        // As it is sent, and put together for those who want it indented.
        let table = asking(&cluster, MAPS, as_table).await.json;
        assert_eq!((of_rows(&table), &table["metadata"]), (metadata, &plain["metadata"]));
        let indented = asking(&cluster, &format!("{MAPS}?pretty=true&includeObject=Object"), as_table).await;
        assert!(indented.text.starts_with("{\n  \"kind\": \"Table\""));
        assert_eq!(of_rows(&indented.json), of_rows(&table));

        cluster.put(&format!("{MAPS}/m05"), &json!({"metadata": {"name": "m05"}, "data": {"filling": "y".repeat(90_000 + round)}})).await;
        cluster.delete(&format!("{MAPS}/m{:02}", 11 - round), &Value::Null).await;
    }
}

#[tokio::test]
async fn statuses_scales_and_discovery_have_a_protobuf_form() {
    let cluster = Cluster::start().await;
    let (code, media, missing) = wire(&cluster, "GET", &format!("{MAPS}/none"), WIRE, Vec::new()).await;
    let status = read(&missing, &format!("{META}.Status"));
    assert_eq!((code, media.as_str(), status["reason"].as_str(), status["code"].as_i64()), (404, WIRE, Some("NotFound"), Some(404)));
    assert_eq!(status["details"]["name"], "none");

    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let set = json!({"metadata": {"name": "s"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    assert_eq!(cluster.post(sets, &set).await.code, 201);
    let (_, _, scale) = wire(&cluster, "GET", &format!("{sets}/s/scale"), WIRE, Vec::new()).await;
    assert_eq!(read(&scale, "io.k8s.api.autoscaling.v1.Scale")["spec"]["replicas"], 3);

    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Orphan", "dryRun": ["All"]});
    let options = protobuf::write(options.to_string().as_bytes(), &Schema::builtin(&format!("{META}.DeleteOptions")).unwrap()).unwrap();
    let (code, _, _) = wire(&cluster, "DELETE", &format!("{sets}/s"), WIRE, options).await;
    assert_eq!(code, 200);
    assert_eq!(cluster.get(&format!("{sets}/s")).await.code, 200, "a dry run");
    cluster.config_map("gone", &json!({})).await;
    let (_, _, gone) = wire(&cluster, "DELETE", &format!("{MAPS}/gone"), WIRE, Vec::new()).await;
    assert_eq!(read(&gone, &format!("{META}.Status"))["status"], "Success");

    let (_, media, resources) = wire(&cluster, "GET", "/apis/apps/v1", WIRE, Vec::new()).await;
    let resources = read(&resources, &format!("{META}.APIResourceList"));
    assert_eq!((media.as_str(), resources["groupVersion"].as_str()), (WIRE, Some("apps/v1")));
}

#[tokio::test]
async fn metadata_has_a_protobuf_form_and_a_table_has_none() {
    let cluster = Cluster::start().await;
    cluster.config_map("a", &json!({"k": "v"})).await;
    let partial = |name: &str| format!("{WIRE};as={name};g=meta.k8s.io;v=v1");
    let (_, _, one) = wire(&cluster, "GET", &format!("{MAPS}/a"), &partial("PartialObjectMetadata"), Vec::new()).await;
    // The same numbers as those of any object's metadata.
    let one = read(&one, &format!("{CORE}.ConfigMap"));
    assert_eq!((one["kind"].as_str(), one["metadata"]["name"].as_str()), (Some("PartialObjectMetadata"), Some("a")));
    assert!(one.get("data").is_none());
    let (_, _, list) = wire(&cluster, "GET", MAPS, &partial("PartialObjectMetadataList"), Vec::new()).await;
    let list = read(&list, &format!("{CORE}.ConfigMapList"));
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert!(list["items"][0]["metadata"]["uid"].is_string() && list["items"][0].get("data").is_none());

    let refused = asking(&cluster, MAPS, &partial("Table")).await;
    assert_eq!(refused.code, 406);
    let words = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    assert_eq!((refused.message(), refused.json["reason"].as_str()), (words, Some("NotAcceptable")));
    let both = format!("{},application/json;as=Table;g=meta.k8s.io;v=v1", partial("Table"));
    assert_eq!(asking(&cluster, MAPS, &both).await.json["kind"], "Table");
}

#[tokio::test]
async fn custom_resources_do_not_speak_protobuf() {
    let cluster = Cluster::start().await;
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let names = json!({"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"});
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]}});
    let made = cluster.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let uri = "/apis/example.com/v1/namespaces/default/widgets";
    let mut watch = cluster.watch("/apis/apiextensions.k8s.io/v1/customresourcedefinitions?watch=1").await;
    while !watch.next().await.unwrap()["object"]["status"]["conditions"].to_string().contains("\"Established\"") {}
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}});
    assert_eq!(cluster.post(uri, &widget).await.code, 201);

    assert_eq!(asking(&cluster, uri, WIRE).await.code, 406);
    let fallback = asking(&cluster, uri, &format!("{WIRE},application/json")).await;
    assert_eq!((fallback.code, fallback.json["kind"].as_str()), (200, Some("WidgetList")));
    let (_, media, partial) =
        wire(&cluster, "GET", uri, &format!("{WIRE};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"), Vec::new()).await;
    assert_eq!(media, WIRE);
    assert_eq!(read(&partial, &format!("{CORE}.ConfigMapList"))["items"][0]["metadata"]["name"], "w");
    let sent = cluster.ask("POST", uri, WIRE, map("x")).await;
    assert_eq!((sent.code, sent.json["reason"].as_str()), (415, Some("UnsupportedMediaType")));
    let unknown = cluster.ask("POST", MAPS, "text/csv", b"a,b".to_vec()).await;
    let words = "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    assert_eq!((unknown.code, unknown.message()), (415, words));
}

/// The events of a watch in protobuf: each with its length in front.
struct Events(BodyStream<ferrokube_apiserver::Body>, Vec<u8>);

impl Events {
    async fn next(&mut self, schema: &str) -> (String, Value) {
        loop {
            if let Some((length, rest)) = self.1.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if rest.len() >= length {
                    let event = rest[..length].to_vec();
                    self.1.drain(..4 + length);
                    return Self::read(&event, schema);
                }
            }
            let frame = tokio::time::timeout(Duration::from_secs(60), self.0.next()).await.expect("an event in time");
            self.1.extend_from_slice(frame.expect("an event").unwrap().data_ref().unwrap());
        }
    }

    /// `WatchEvent{type = 1, object = 2 {raw = 1}}`.
    fn read(event: &[u8], schema: &str) -> (String, Value) {
        let length = usize::from(event[1]);
        assert_eq!((event[0], event[2 + length]), (0x0a, 0x12));
        let kind = String::from_utf8(event[2..2 + length].to_vec()).unwrap();
        let start = event.windows(4).position(|w| w == protobuf::MAGIC).unwrap();
        (kind, read(&event[start..], schema))
    }
}

async fn events(cluster: &Cluster, uri: &str) -> Events {
    let response = cluster.send(admin(), "GET", uri, "", &format!("{WIRE};stream=watch,application/json"), Vec::new()).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    Events(BodyStream::new(response.into_body()), Vec::new())
}

#[tokio::test]
async fn a_watch_in_protobuf_tells_what_the_one_in_json_tells() {
    let cluster = Cluster::start().await;
    cluster.config_map("a", &json!({"long": "x".repeat(300)})).await;
    let uri = format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let (mut wire, mut also, mut plain) = (events(&cluster, &uri).await, events(&cluster, &uri).await, cluster.watch(&uri).await);
    let schema = format!("{CORE}.ConfigMap");
    for step in 0..5 {
        match step {
            2 => _ = cluster.put(&format!("{MAPS}/a"), &json!({"metadata": {"name": "a"}, "data": {"k": "w"}})).await,
            3 => _ = cluster.config_map("b", &json!({})).await,
            4 => _ = cluster.delete(&format!("{MAPS}/a"), &Value::Null).await,
            _ => {}
        }
        let mut wanted = plain.next().await.unwrap();
        let (kind, object) = wire.next(&schema).await;
        if kind == "BOOKMARK" {
            wanted["object"]["metadata"].as_object_mut().unwrap().remove("creationTimestamp");
        }
        assert_eq!((kind.as_str(), &object), (wanted["type"].as_str().unwrap(), &wanted["object"]), "step {step}");
        assert_eq!(also.next(&schema).await, (kind, object));
    }
}

#[tokio::test]
async fn a_watch_in_yaml_is_refused() {
    let cluster = Cluster::start().await;
    let refused = asking(&cluster, &format!("{MAPS}?watch=1"), "application/yaml").await;
    assert_eq!(refused.code, 406);
    // The refusal itself has a form in YAML.
    assert!(refused.text.contains("application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"), "{}", refused.text);
}

#[tokio::test]
async fn discovery_of_all_groups_is_the_same_document_in_every_format() {
    let cluster = Cluster::start().await;
    let name = "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    for path in ["/api", "/apis"] {
        let plain = asking(&cluster, path, &format!("application/json;{name}")).await;
        let accept = format!("{WIRE};{name}");
        let (code, media, bytes) = wire(&cluster, "GET", path, &accept, Vec::new()).await;
        assert_eq!((code, media), (200, accept));
        let mut wanted = plain.json;
        wanted["items"].as_array_mut().unwrap().iter_mut().for_each(|item| {
            item["metadata"].as_object_mut().unwrap().remove("creationTimestamp");
        });
        assert_eq!(read(&bytes, "io.k8s.api.apidiscovery.v2.APIGroupDiscoveryList"), wanted);
        let yaml = asking(&cluster, path, &format!("application/yaml;{name}")).await;
        assert!(yaml.text.contains("kind: APIGroupDiscoveryList"), "{}", yaml.text);
        let beta =
            asking(&cluster, path, "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json").await;
        assert!(matches!(beta.json["kind"].as_str(), Some("APIVersions" | "APIGroupList")), "{}", beta.text);
    }
}
