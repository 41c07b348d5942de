//! Versions of a custom resource that a webhook converts, through a real server and real TLS.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use common::Cluster;
use ferrokube_api::{Change, Selection};
use ferrokube_store::Store;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rcgen::KeyPair;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A webhook between `spec.host` + `spec.port` (v2) and `spec.address` (v1).
struct Webhook {
    port: u16,
    ca: String,
    asked: Arc<AtomicUsize>,
}

fn convert(mut object: Value, to: &str) -> Value {
    let spec = object["spec"].clone();
    object["spec"] = match to {
        "example.com/v1" => json!({"address": format!("{}:{}", spec["host"].as_str().unwrap_or_default(), spec["port"])}),
        _ => {
            let (host, port) = spec["address"].as_str().and_then(|a| a.split_once(':')).unwrap_or(("", "0"));
            json!({"host": host, "port": port.parse::<i64>().unwrap_or(0)})
        }
    };
    object["apiVersion"] = json!(to);
    object
}

fn review(body: &[u8]) -> Value {
    let review: Value = serde_json::from_slice(body).unwrap();
    let to = review["request"]["desiredAPIVersion"].as_str().unwrap();
    let objects = review["request"]["objects"].as_array().unwrap();
    let broken = objects.iter().any(|o| o["metadata"]["name"] == "broken" && to == "example.com/v1");
    let result = if broken { json!({"status": "Failure", "message": "that cannot be"}) } else { json!({"status": "Success"}) };
    let converted: Vec<Value> = objects.iter().map(|o| convert(o.clone(), to)).collect();
    json!({"kind": "ConversionReview", "apiVersion": review["apiVersion"],
        "response": {"uid": review["request"]["uid"], "result": result, "convertedObjects": converted}})
}

async fn webhook() -> Webhook {
    let key = KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let ca = STANDARD.encode(cert.pem());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![cert.der().clone()], key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), count.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    count.fetch_add(1, Ordering::SeqCst);
                    async move {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(review(&body).to_string()))))
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Webhook { port, ca, asked }
}

fn definition(conversion: Value) -> Value {
    let version = |name: &str, storage: bool, properties: Value| {
        json!({"name": name, "served": true, "storage": storage, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}}})
    };
    let (string, integer) = (json!({"type": "string"}), json!({"type": "integer"}));
    json!({"metadata": {"name": "links.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "links", "kind": "Link"}, "conversion": conversion, "versions": [
            version("v2", true, json!({"host": string, "port": integer, "secure": {"type": "boolean", "default": true}})),
            version("v1", false, json!({"address": string}))]}})
}

async fn define(cluster: &Cluster, definition: &Value) {
    let made = cluster.post(CRDS, definition).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let mut watch = cluster.watch(&format!("{CRDS}?watch=1")).await;
    loop {
        let event = watch.next().await.expect("the watch goes on");
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            return;
        }
    }
}

fn at(version: &str) -> String {
    format!("/apis/example.com/{version}/namespaces/default/links")
}

#[tokio::test]
async fn objects_are_converted_on_every_way_between_store_and_client() {
    let webhook = webhook().await;
    let cluster = Cluster::start().await;
    let client = json!({"url": format!("https://127.0.0.1:{}/convert", webhook.port), "caBundle": webhook.ca});
    define(&cluster, &definition(json!({"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]}})))
        .await;
    // The storage version asks nobody.
    let made = cluster
        .post(
            &at("v2"),
            &json!({"apiVersion": "example.com/v2", "kind": "Link", "metadata": {"name": "a"}, "spec": {"host": "a", "port": 1}}),
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(webhook.asked.load(Ordering::SeqCst), 0);
    // Written in another version.
    let made = cluster
        .post(&at("v1"), &json!({"apiVersion": "example.com/v1", "kind": "Link", "metadata": {"name": "b"}, "spec": {"address": "b:2"}}))
        .await;
    assert_eq!(
        (made.code, made.json["spec"].clone(), made.json["apiVersion"].as_str()),
        (201, json!({"address": "b:2"}), Some("example.com/v1")),
        "{}",
        made.text
    );
    let stored = cluster
        .store
        .range("/registry/example.com/links/default/b".into(), "/registry/example.com/links/default/b\0".into(), None, 0)
        .await
        .unwrap();
    let stored: Value = serde_json::from_slice(&stored.items[0].value).unwrap();
    assert_eq!(
        (stored["apiVersion"].as_str(), &stored["spec"]["host"], &stored["spec"]["port"]),
        (Some("example.com/v2"), &json!("b"), &json!(2))
    );
    // Read in either version; a list asks once.
    assert_eq!(cluster.get(&format!("{}/a", at("v1"))).await.json["spec"], json!({"address": "a:1"}));
    assert_eq!(cluster.get(&format!("{}/b", at("v2"))).await.json["spec"]["port"], json!(2));
    let before = webhook.asked.load(Ordering::SeqCst);
    let list = cluster.get(&at("v1")).await.json;
    let addresses: Vec<&str> = list["items"].as_array().unwrap().iter().map(|i| i["spec"]["address"].as_str().unwrap()).collect();
    assert_eq!((addresses, webhook.asked.load(Ordering::SeqCst) - before), (vec!["a:1", "b:2"], 1));
    // Changed in one version, seen in the other, by a watch as well.
    let version = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch = cluster.watch(&format!("{}?watch=1&resourceVersion={version}", at("v1"))).await;
    let patched = cluster.patch(&format!("{}/a", at("v2")), "merge-patch", &json!({"spec": {"port": 9}})).await;
    assert_eq!(patched.code, 200, "{}", patched.text);
    let event = watch.next().await.unwrap();
    assert_eq!(
        (event["type"].as_str(), &event["object"]["spec"], &event["object"]["apiVersion"]),
        (Some("MODIFIED"), &json!({"address": "a:9"}), &json!("example.com/v1"))
    );
    let patched = cluster.patch(&format!("{}/a", at("v1")), "merge-patch", &json!({"spec": {"address": "z:3"}})).await;
    assert_eq!((patched.code, patched.json["spec"].clone()), (200, json!({"address": "z:3"})), "{}", patched.text);
    assert_eq!(cluster.get(&format!("{}/a", at("v2"))).await.json["spec"]["host"], json!("z"));
    let gone = cluster.delete(&format!("{}/a", at("v1")), &Value::Null).await;
    assert_eq!(gone.code, 200, "{}", gone.text);
    // What the webhook refuses is told in upstream's words.
    let made =
        cluster.post(&at("v2"), &json!({"apiVersion": "example.com/v2", "kind": "Link", "metadata": {"name": "broken"}, "spec": {}})).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let refused = cluster.get(&format!("{}/broken", at("v1"))).await;
    assert_eq!((refused.code, refused.message()), (500, "conversion webhook for example.com/v2, Kind=Link failed: that cannot be"));
    assert_eq!(cluster.get(&at("v1")).await.code, 500);
    assert_eq!(cluster.get(&at("v2")).await.code, 200);
}

#[tokio::test]
async fn policies_see_custom_objects_in_the_version_that_their_rules_name() {
    let webhook = webhook().await;
    let cluster = Cluster::start().await;
    let client = json!({"url": format!("https://127.0.0.1:{}/convert", webhook.port), "caBundle": webhook.ca});
    define(&cluster, &definition(json!({"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]}})))
        .await;
    let registration = "/apis/admissionregistration.k8s.io/v1";
    let rules =
        json!({"resourceRules": [{"apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["links"]}]});
    let validations = json!([{"expression": "object.spec.address != 'evil:1'", "messageExpression": "'not to ' + object.spec.address"}]);
    let patch = "[JSONPatch{op: 'replace', path: '/spec/address', value: object.spec.address + '0'}]";
    let conditions = json!([{"name": "once", "expression": "!object.spec.address.endsWith('0') && object.spec.address != 'evil:1'"}]);
    let mutations = json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}]);
    for (plural, kind, spec) in [
        ("validatingadmissionpolicies", "ValidatingAdmissionPolicy", json!({"matchConstraints": rules, "validations": validations})),
        (
            "validatingadmissionpolicybindings",
            "ValidatingAdmissionPolicyBinding",
            json!({"policyName": "p", "validationActions": ["Deny"]}),
        ),
        (
            "mutatingadmissionpolicies",
            "MutatingAdmissionPolicy",
            json!({"matchConstraints": rules, "matchConditions": conditions, "mutations": mutations, "reinvocationPolicy": "Never"}),
        ),
        ("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", json!({"policyName": "p"})),
    ] {
        let made = cluster.post(&format!("{registration}/{plural}"), &json!({"kind": kind, "metadata": {"name": "p"}, "spec": spec})).await;
        assert_eq!(made.code, 201, "{}", made.text);
    }
    let link =
        |host: &str| json!({"apiVersion": "example.com/v2", "kind": "Link", "metadata": {"name": host}, "spec": {"host": host, "port": 1}});
    let refused = cluster.post(&at("v2"), &link("evil")).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    assert!(refused.message().ends_with("not to evil:1"), "{}", refused.text);
    let made = cluster.post(&at("v2"), &link("good")).await;
    assert_eq!((made.code, &made.json["spec"]["port"]), (201, &json!(10)), "{}", made.text);
}

#[tokio::test]
async fn an_event_is_converted_once_however_many_watch() {
    let webhook = webhook().await;
    let cluster = Cluster::start().await;
    let client = json!({"url": format!("https://127.0.0.1:{}/convert", webhook.port), "caBundle": webhook.ca});
    define(&cluster, &definition(json!({"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]}})))
        .await;
    let position = cluster.get(&at("v2")).await.version();
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(cluster.watch(&format!("{}?watch=1&resourceVersion={position}", at("v1"))).await);
    }
    let link = json!({"apiVersion": "example.com/v2", "kind": "Link", "metadata": {"name": "b"}, "spec": {"host": "b", "port": 7}});
    assert_eq!(cluster.post(&at("v2"), &link).await.code, 201);
    for watch in &mut watches {
        assert_eq!(watch.next().await.unwrap()["object"]["spec"], json!({"address": "b:7"}));
    }
    assert_eq!(webhook.asked.load(Ordering::SeqCst), 1);
}

fn link(version: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("example.com/{version}"), "kind": "Link", "metadata": {"name": name}, "spec": spec})
}

/// The definition with fields that select, other ones in each version.
fn selectable(conversion: Value) -> Value {
    let mut definition = definition(conversion);
    definition["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.host"}, {"jsonPath": ".spec.port"}]);
    definition["spec"]["versions"][1]["selectableFields"] = json!([{"jsonPath": ".spec.address"}]);
    definition
}

#[tokio::test]
async fn field_selectors_look_at_objects_in_the_version_of_the_request() {
    let webhook = webhook().await;
    let cluster = Cluster::start().await;
    let client = json!({"url": format!("https://127.0.0.1:{}/convert", webhook.port), "caBundle": webhook.ca});
    define(&cluster, &selectable(json!({"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]}})))
        .await;
    let mut old = cluster.watch(&format!("{}?watch=1&fieldSelector=spec.address%3Da:1", at("v1"))).await;
    let mut new = cluster.watch(&format!("{}?watch=1&fieldSelector=spec.host%3Da,spec.port%3D2", at("v2"))).await;
    for (name, host, port) in [("x", "a", 1), ("y", "a", 2), ("z", "b", 1)] {
        assert_eq!(cluster.post(&at("v2"), &link("v2", name, json!({"host": host, "port": port}))).await.code, 201);
    }
    let listed = async |version: &str, query: &str| {
        let list = cluster.get(&format!("{}?{query}", at(version))).await.json;
        let names: Vec<String> = list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap().into()).collect();
        (names.join(","), list["metadata"]["continue"].as_str().unwrap_or_default().to_owned())
    };
    for (version, selector, wanted) in [
        ("v1", "spec.address%3Da:1", "x"),
        ("v1", "spec.address!%3Da:1", "y,z"),
        ("v1", "spec.address%3Da:1,metadata.name%3Dy", ""),
        ("v2", "spec.host%3Da", "x,y"),
        ("v2", "spec.host%3Da,spec.port%3D2", "y"),
    ] {
        assert_eq!(listed(version, &format!("fieldSelector={selector}")).await.0, wanted, "{version} {selector}");
    }
    // Pages are made of what is selected.
    let (page, token) = listed("v1", "fieldSelector=spec.address!%3Da:2&limit=1").await;
    assert_eq!(page, "x");
    assert_eq!(listed("v1", &format!("fieldSelector=spec.address!%3Da:2&limit=1&continue={token}")).await, ("z".into(), String::new()));

    assert_eq!(old.told().await, common::pair("ADDED", "x"));
    assert_eq!(new.told().await, common::pair("ADDED", "y"));
    // One comes and goes by a change in the other version.
    let changed = cluster.patch(&format!("{}/x", at("v2")), "merge-patch", &json!({"spec": {"port": 2}})).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    assert_eq!(old.told().await, common::pair("DELETED", "x"));
    assert_eq!(new.told().await, common::pair("ADDED", "x"));
    let changed = cluster.patch(&format!("{}/z", at("v1")), "merge-patch", &json!({"spec": {"address": "a:1"}})).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    let event = old.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["spec"]), (&json!("ADDED"), &json!({"address": "a:1"})));
    let gone = cluster.delete(&format!("{}?fieldSelector=spec.address%3Da:2", at("v1")), &Value::Null).await;
    assert_eq!(gone.code, 200, "{}", gone.text);
    assert_eq!(listed("v1", "").await.0, "z");
    let mut left = [new.told().await, new.told().await];
    left.sort();
    assert_eq!(left, [common::pair("DELETED", "x"), common::pair("DELETED", "y")]);
    // A watch that begins with what is there.
    let mut late = cluster.watch(&format!("{}?watch=1&fieldSelector=spec.address%3Da:1", at("v1"))).await;
    assert_eq!(late.told().await, common::pair("ADDED", "z"));
}

#[tokio::test]
async fn versions_that_differ_in_name_only_may_have_different_selectable_fields() {
    let cluster = Cluster::start().await;
    let mut definition = selectable(json!({"strategy": "None"}));
    for version in [0, 1] {
        let properties = &mut definition["spec"]["versions"][version]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        *properties = json!({"host": {"type": "string"}, "port": {"type": "integer"}, "address": {"type": "string"}});
    }
    define(&cluster, &definition).await;
    let mut watch = cluster.watch(&format!("{}?watch=1&fieldSelector=spec.address%3Db", at("v1"))).await;
    for address in ["a", "b"] {
        assert_eq!(cluster.post(&at("v1"), &link("v1", address, json!({"address": address}))).await.code, 201);
    }
    let list = cluster.get(&format!("{}?fieldSelector=spec.address%3Db", at("v1"))).await;
    assert_eq!((list.json["items"].as_array().map(Vec::len), &list.json["items"][0]["metadata"]["name"]), (Some(1), &json!("b")));
    assert_eq!(watch.told().await, common::pair("ADDED", "b"));
}

#[tokio::test]
async fn a_component_of_the_process_never_takes_what_cannot_be_converted_for_gone() {
    let webhook = webhook().await;
    let cluster = Cluster::start().await;
    let client = json!({"url": format!("https://127.0.0.1:{}/convert", webhook.port), "caBundle": webhook.ca});
    define(&cluster, &definition(json!({"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]}})))
        .await;
    let make = async |name: &str| {
        let link = json!({"apiVersion": "example.com/v2", "kind": "Link", "metadata": {"name": name}, "spec": {"host": name, "port": 1}});
        assert_eq!(cluster.post(&at("v2"), &link).await.code, 201);
    };
    let remove = async |name: &str| assert_eq!(cluster.delete(&format!("{}/{name}", at("v2")), &Value::Null).await.code, 200);
    make("a").await;
    make("broken").await;
    let asked = webhook.asked.load(Ordering::SeqCst);
    let selection = Selection { group: "example.com".into(), version: "v1".into(), resource: "links".into(), ..Selection::default() };
    let mut changes = Box::pin(cluster.running.server.subscribe(common::admin(), selection).unwrap());
    // It is asked for the listing, and nothing is told of it, not even that there is nothing.
    let repaired = async {
        while webhook.asked.load(Ordering::SeqCst) == asked {
            tokio::task::yield_now().await;
        }
        remove("broken").await;
    };
    let (first, ()) = tokio::join!(changes.next(), repaired);
    assert!(matches!(first, Some(Change::Restart)));
    assert!(matches!(changes.next().await, Some(Change::Set(object)) if &*object.key.name == "a"));
    assert!(matches!(changes.next().await, Some(Change::Synced(_))));
    // An event that cannot be converted is not passed over for ever.
    make("broken").await;
    make("c").await;
    remove("broken").await;
    let mut names = std::collections::BTreeSet::from(["a".to_owned()]);
    let mut listing = false;
    while listing || !names.contains("c") {
        match changes.next().await.expect("it goes on") {
            Change::Restart => {
                listing = true;
                names.clear();
            }
            Change::Set(object) => _ = names.insert(object.key.name.to_string()),
            Change::Gone(object) => _ = names.remove(&*object.key.name),
            Change::Synced(_) => {
                listing = false;
                assert!(names.contains("a"), "{names:?}");
            }
        }
    }
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "c"]);
}

/// What a subscription tells of a listing, up to its end.
async fn listing(changes: &mut (impl futures_util::Stream<Item = Change> + Unpin)) -> Vec<String> {
    assert!(matches!(changes.next().await, Some(Change::Restart)));
    let mut names = Vec::new();
    loop {
        match changes.next().await.expect("it goes on") {
            Change::Set(object) => names.push(object.key.name.to_string()),
            Change::Synced(_) => return names,
            other => panic!("{other:?} in a listing"),
        }
    }
}

#[tokio::test]
async fn a_component_of_the_process_goes_on_with_a_definition_that_was_changed() {
    let (first, second) = (webhook().await, webhook().await);
    let cluster = Cluster::start().await;
    let client = |webhook: &Webhook| json!({"url": format!("https://127.0.0.1:{}/convert", webhook.port), "caBundle": webhook.ca});
    let conversion = json!({"strategy": "Webhook", "webhook": {"clientConfig": client(&first), "conversionReviewVersions": ["v1"]}});
    define(&cluster, &definition(conversion)).await;
    let make = async |name: &str| {
        let link = json!({"apiVersion": "example.com/v2", "kind": "Link", "metadata": {"name": name}, "spec": {"host": name, "port": 1}});
        assert_eq!(cluster.post(&at("v2"), &link).await.code, 201);
    };
    let change = async |patch: Value| {
        let changed = cluster.patch(&format!("{CRDS}/links.example.com"), "json-patch", &patch).await;
        assert_eq!(changed.code, 200, "{}", changed.text);
    };
    make("a").await;
    let selection = Selection { group: "example.com".into(), version: "v1".into(), resource: "links".into(), ..Selection::default() };
    let mut changes = Box::pin(cluster.running.server.subscribe(common::admin(), selection).unwrap());
    assert_eq!(listing(&mut changes).await, ["a"]);
    // Another webhook is named.
    change(json!([{"op": "replace", "path": "/spec/conversion/webhook/clientConfig", "value": client(&second)}])).await;
    while second.asked.load(Ordering::SeqCst) == 0 {
        assert_eq!(cluster.get(&at("v1")).await.code, 200);
    }
    assert_eq!(listing(&mut changes).await, ["a"]);
    let asked = first.asked.load(Ordering::SeqCst);
    make("b").await;
    assert!(matches!(changes.next().await, Some(Change::Set(object)) if &*object.key.name == "b"));
    assert_eq!(first.asked.load(Ordering::SeqCst), asked);
    // A version is added: all is read anew, once.
    let version = json!({"name": "v3", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}});
    change(json!([{"op": "add", "path": "/spec/versions/-", "value": version}])).await;
    while cluster.get(&at("v3")).await.code == 404 {}
    assert_eq!(listing(&mut changes).await, ["a", "b"]);
    make("c").await;
    assert!(matches!(changes.next().await, Some(Change::Set(object)) if &*object.key.name == "c"));
    // Of a definition that is gone there is nothing more to tell.
    assert_eq!(cluster.delete(&format!("{CRDS}/links.example.com"), &Value::Null).await.code, 200);
    while changes.next().await.is_some() {}
}
