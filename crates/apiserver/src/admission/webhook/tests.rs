//! Webhooks over real TLS on loopback.

use super::super::{Admission, AdmissionConfig, Operation, Review};
use super::*;
use crate::attributes::UserInfo;
use crate::authz::Authorizer;
use crate::objects::testing::Map;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ferrokube_api::kinds;
use ferrokube_api::schema::Schema;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::KeyPair;
use rustls::pki_types::PrivateKeyDer;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

/// Starts a webhook that answers every review with `answer(request)`; its port and its CA in base64.
async fn webhook(answer: fn(&Value) -> Value) -> (u16, String) {
    let (port, ca, _) = counted(answer, &[]).await;
    (port, ca)
}

/// The same, speaking the protocols, with the number of its connections.
async fn counted(answer: fn(&Value) -> Value, protocols: &[&[u8]]) -> (u16, String, Arc<AtomicUsize>) {
    let key = KeyPair::generate().expect("a key");
    let names = vec!["127.0.0.1".to_owned(), "hook.dev.svc".to_owned()];
    let cert = rcgen::CertificateParams::new(names).expect("names").self_signed(&key).expect("signed");
    let ca = STANDARD.encode(cert.pem());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let mut config = builder.with_single_cert(vec![cert.der().clone()], key).expect("a pair");
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
                    let version = request.version();
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    let review: Value = serde_json::from_slice(&body).expect("json");
                    let mut response = answer(&review["request"]);
                    response["uid"] = review["request"]["uid"].clone();
                    response["warnings"]
                        .as_array_mut()
                        .into_iter()
                        .flatten()
                        .for_each(|w| *w = json!(format!("{}{version:?}", w.as_str().unwrap_or_default())));
                    let body = json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response });
                    Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(body.to_string()))))
                });
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (port, ca, connections)
}

fn configuration(map: &Map, resource: &str, client: Value, extra: Value) {
    let mut hook = json!({
        "name": "hook.example.com", "clientConfig": client, "sideEffects": "None", "timeoutSeconds": 5,
        "rules": [{ "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"] }],
    });
    for (key, value) in extra.as_object().into_iter().flatten() {
        hook[key] = value.clone();
    }
    map.put(GROUP, resource, json!({ "metadata": { "name": "hooks" }, "webhooks": [hook] }));
}

fn admission(map: &Arc<Map>) -> Admission {
    Admission::new(map.clone(), Arc::new(Authorizer::new(map.clone())), &AdmissionConfig::default()).expect("defaults")
}

async fn create(map: &Arc<Map>, labels: Value) -> Result<(Value, Outcome), Status> {
    create_by(&admission(map), map, labels).await
}

async fn create_by(admission: &Admission, map: &Arc<Map>, labels: Value) -> Result<(Value, Outcome), Status> {
    map.put("", "namespaces", json!({ "metadata": { "name": "dev", "labels": { "env": "dev" } } }));
    let user = UserInfo { name: "jane".into(), ..UserInfo::default() };
    let schema = kinds::lookup("", "v1", "configmaps").and_then(|row| Schema::builtin(&row.schema));
    let review = Review {
        user: &user,
        operation: Operation::Create,
        group: "",
        version: "v1",
        resource: "configmaps",
        subresource: "",
        kind: ("", "ConfigMap"),
        namespace: "dev",
        name: "c",
        old: None,
        options: &Value::Null,
        dry_run: false,
        schema: schema.as_ref(),
    };
    let mut object = json!({ "kind": "ConfigMap", "apiVersion": "v1", "metadata": { "name": "c", "labels": labels }, "data": {} });
    let mut outcome = Outcome::default();
    admission.mutate(&review, &mut object, &mut outcome).await?;
    admission.validate(&review, Some(&object), &mut outcome).await?;
    Ok((object, outcome))
}

#[tokio::test]
async fn a_mutating_webhook_patches_and_warns() {
    let (port, ca) = webhook(|request| {
        assert_eq!(
            (&request["operation"], &request["kind"]["kind"], &request["userInfo"]["username"]),
            (&json!("CREATE"), &json!("ConfigMap"), &json!("jane"))
        );
        let patch = json!([{ "op": "add", "path": "/data/seen", "value": request["name"] }]);
        json!({ "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string()), "warnings": ["careful"] })
    })
    .await;
    let map = Arc::new(Map::default());
    configuration(
        &map,
        "mutatingwebhookconfigurations",
        json!({ "url": format!("https://127.0.0.1:{port}/x"), "caBundle": ca }),
        json!({}),
    );
    let (object, outcome) = create(&map, json!({})).await.expect("admitted");
    assert_eq!(object["data"], json!({ "seen": "c" }));
    assert_eq!(outcome.warnings, ["carefulHTTP/1.1"]);
}

#[tokio::test]
async fn what_a_webhook_makes_of_an_object_is_read_by_its_type() {
    let (port, ca) = webhook(|request| {
        // Each object says in a label what becomes of it.
        let operation = match request["object"]["metadata"]["labels"]["make"].as_str() {
            Some("number") => json!({ "op": "add", "path": "/data", "value": 7 }),
            Some("unknown") => json!({ "op": "add", "path": "/strange", "value": { "a": 1 } }),
            _ => json!({ "op": "remove", "path": "/data/nothing" }),
        };
        json!({ "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(json!([operation]).to_string()) })
    })
    .await;
    let map = Arc::new(Map::default());
    let client = json!({ "url": format!("https://127.0.0.1:{port}/x"), "caBundle": ca });
    configuration(&map, "mutatingwebhookconfigurations", client, json!({}));
    let status = create(&map, json!({ "make": "number" })).await.expect_err("no map");
    let why = "json: cannot unmarshal number into Go struct field ConfigMap.data of type map[string]string";
    assert_eq!((status.code, status.message), (500, format!("Internal error occurred: {why}")));
    let (object, _) = create(&map, json!({ "make": "unknown" })).await.expect("admitted");
    assert_eq!(object.get("strange"), None);
    let status = create(&map, json!({})).await.expect_err("no such key");
    let why = "error in remove for path: '/data/nothing': Unable to remove nonexistent key: nothing: missing value";
    assert_eq!((status.code, status.message), (500, format!("Internal error occurred: {why}")));
}

#[tokio::test]
async fn a_refusal_is_told_as_the_webhook_says_it() {
    let (port, ca) = webhook(|request| match request["object"]["metadata"]["labels"]["say"].as_str() {
        Some("reason") => json!({ "allowed": false, "status": { "reason": "too round" } }),
        Some("code") => json!({ "allowed": false, "status": { "message": "no", "code": 418, "reason": "Forbidden" } }),
        _ => json!({ "allowed": false }),
    })
    .await;
    let map = Arc::new(Map::default());
    let client = json!({ "url": format!("https://127.0.0.1:{port}/"), "caBundle": ca });
    configuration(&map, "validatingwebhookconfigurations", client, json!({}));
    let denied = "admission webhook \\\"hook.example.com\\\" denied the request";
    for (say, wanted) in [
        ("reason", format!(r#""message":"{denied}: too round","reason":"too round","code":400}}"#)),
        ("code", format!(r#""message":"{denied}: no","reason":"Forbidden","code":418}}"#)),
        ("", format!(r#""message":"{denied} without explanation","code":400}}"#)),
    ] {
        let status = create(&map, json!({ "say": say })).await.expect_err("refused").to_json();
        let head = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#;
        assert_eq!(String::from_utf8_lossy(&status), format!("{head}{wanted}"));
    }
}

#[tokio::test]
async fn a_validating_webhook_behind_a_service_refuses() {
    let (port, ca) = webhook(|_| json!({ "allowed": false, "status": { "code": 403, "message": "not on a Sunday" } })).await;
    let map = Arc::new(Map::default());
    map.put("", "services", json!({ "metadata": { "name": "hook", "namespace": "dev" }, "spec": { "clusterIP": "192.0.2.1", "ports": [{ "port": 443, "name": "https" }] } }));
    map.put(
        "discovery.k8s.io",
        "endpointslices",
        json!({
            "metadata": { "name": "hook-1", "namespace": "dev", "labels": { "kubernetes.io/service-name": "hook" } },
            "endpoints": [{ "addresses": ["127.0.0.1"], "conditions": { "ready": true } }], "ports": [{ "name": "https", "port": port }],
        }),
    );
    let client = json!({ "service": { "namespace": "dev", "name": "hook", "path": "/v" }, "caBundle": ca });
    let other = json!({ "namespaceSelector": { "matchLabels": { "env": "prod" } } });
    configuration(&map, "validatingwebhookconfigurations", client.clone(), other);
    create(&map, json!({})).await.expect("another namespace");
    configuration(
        &map,
        "validatingwebhookconfigurations",
        client.clone(),
        json!({ "objectSelector": { "matchLabels": { "watch": "me" } } }),
    );
    create(&map, json!({})).await.expect("another object");
    let status = create(&map, json!({ "watch": "me" })).await.expect_err("refused");
    assert_eq!((status.code, status.message.as_str()), (403, "admission webhook \"hook.example.com\" denied the request: not on a Sunday"));
}

#[test]
fn reviews_spread_over_the_ready_endpoints_of_a_service() {
    let map = Arc::new(Map::default());
    map.put("", "services", json!({ "metadata": { "name": "hook", "namespace": "dev" }, "spec": { "ports": [{ "port": 443 }] } }));
    let endpoint = |ip: &str, ready: bool| json!({ "addresses": [ip], "conditions": { "ready": ready } });
    let slice = |name: &str, endpoints: Value| {
        json!({
            "metadata": { "name": name, "namespace": "dev", "labels": { "kubernetes.io/service-name": "hook" } },
            "endpoints": endpoints, "ports": [{ "port": 8443 }],
        })
    };
    let two = json!([endpoint("192.0.2.1", true), endpoint("192.0.2.2", false)]);
    map.put("discovery.k8s.io", "endpointslices", slice("hook-1", two));
    map.put("discovery.k8s.io", "endpointslices", slice("hook-2", json!([endpoint("192.0.2.3", true)])));
    // Not to have met both after so many tries has a chance of one in 2^200.
    let met: BTreeSet<String> = (0..200).map(|_| call::endpoint(&*map, "dev", "hook", 443).expect("one")).collect();
    assert_eq!(met.into_iter().collect::<Vec<_>>(), ["192.0.2.1:8443", "192.0.2.3:8443"]);
}

#[tokio::test]
async fn a_webhook_that_is_not_there_fails_open_or_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let map = Arc::new(Map::default());
    let client = json!({ "url": format!("https://127.0.0.1:{port}/"), "caBundle": "" });
    configuration(&map, "validatingwebhookconfigurations", client.clone(), json!({ "failurePolicy": "Fail" }));
    let status = create(&map, json!({})).await.expect_err("closed");
    assert_eq!(status.code, 500);
    assert!(
        status.message.starts_with(
            "Internal error occurred: failed calling webhook \"hook.example.com\": failed to call webhook: Post \"https://127.0.0.1:"
        ),
        "{status}"
    );
    configuration(&map, "validatingwebhookconfigurations", client, json!({ "failurePolicy": "Ignore" }));
    create(&map, json!({})).await.expect("open");
}

#[tokio::test]
async fn a_webhook_sees_what_later_ones_made_of_the_object() {
    // Each writes down how often it was asked; the first asks to see the object again.
    let counts = |request: &Value| {
        let seen = request["object"]["data"]["seen"].as_str().unwrap_or_default().to_owned();
        let op = if seen.is_empty() { "add" } else { "replace" };
        let patch = json!([{ "op": op, "path": "/data/seen", "value": format!("{seen}x") }]);
        json!({ "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string()) })
    };
    let (port, ca) = webhook(counts).await;
    let client = json!({ "url": format!("https://127.0.0.1:{port}/"), "caBundle": ca });
    let rules = json!([{ "operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["configmaps"] }]);
    let hook = |name: &str, policy: &str| json!({ "name": name, "clientConfig": client, "rules": rules, "sideEffects": "None", "reinvocationPolicy": policy });
    let map = Arc::new(Map::default());
    let hooks = json!([hook("a.example.com", "IfNeeded"), hook("b.example.com", "Never")]);
    map.put(GROUP, "mutatingwebhookconfigurations", json!({ "metadata": { "name": "hooks" }, "webhooks": hooks }));
    let (object, outcome) = create(&map, json!({})).await.expect("admitted");
    assert_eq!(object["data"]["seen"], "xxx");
    let notes: Vec<&str> = outcome.annotations.iter().map(|(k, _)| k.rsplit('/').next().unwrap_or_default()).collect();
    assert_eq!(notes, ["round_0_index_0", "round_0_index_1", "round_1_index_0"]);
}

#[tokio::test]
async fn a_webhook_sees_the_version_that_its_rules_name() {
    let (port, ca) = webhook(|request| {
        let fine = request["kind"]["version"] == "v1"
            && request["requestKind"]["version"] == "v2"
            && request["object"]["apiVersion"] == "autoscaling/v1"
            && request["object"]["spec"]["targetCPUUtilizationPercentage"] == 60;
        let patch = json!([{ "op": "replace", "path": "/spec/targetCPUUtilizationPercentage", "value": 70 }]);
        json!({ "allowed": fine, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string()) })
    })
    .await;
    let map = Arc::new(Map::default());
    map.put("", "namespaces", json!({ "metadata": { "name": "dev" } }));
    let rules = |version: &str| json!({ "rules": [{ "operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": [version], "resources": ["horizontalpodautoscalers"] }] });
    let client = json!({ "url": format!("https://127.0.0.1:{port}/"), "caBundle": ca });
    let admission = Admission::new(map.clone(), Arc::new(Authorizer::new(map.clone())), &AdmissionConfig::default()).expect("defaults");
    let user = UserInfo { name: "jane".into(), ..UserInfo::default() };
    let review = Review {
        user: &user,
        operation: Operation::Create,
        group: "autoscaling",
        version: "v2",
        resource: "horizontalpodautoscalers",
        subresource: "",
        kind: ("autoscaling", "HorizontalPodAutoscaler"),
        namespace: "dev",
        name: "h",
        old: None,
        options: &Value::Null,
        dry_run: false,
        schema: None,
    };
    let target = json!({ "type": "Utilization", "averageUtilization": 60 });
    let metrics = json!([{ "type": "Resource", "resource": { "name": "cpu", "target": target } }]);
    let made = json!({ "kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v2", "metadata": { "name": "h" }, "spec": { "maxReplicas": 2, "metrics": metrics } });
    for (policy, wanted) in [("Equivalent", 70), ("Exact", 60)] {
        let mut extra = rules("v1");
        extra["matchPolicy"] = json!(policy);
        configuration(&map, "mutatingwebhookconfigurations", client.clone(), extra);
        let mut object = made.clone();
        admission.mutate(&review, &mut object, &mut Outcome::default()).await.expect("admitted");
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], wanted, "{policy}");
        assert_eq!(object["apiVersion"], "autoscaling/v2");
    }
}

#[tokio::test]
async fn connections_serve_again_also_after_configurations_changed() {
    for (protocols, spoken) in [(&[b"http/1.1".as_slice()] as &[&[u8]], "HTTP/1.1"), (&[b"h2", b"http/1.1"], "HTTP/2.0")] {
        let (port, ca, connections) = counted(|_| json!({ "allowed": true, "warnings": [""] }), protocols).await;
        let map = Arc::new(Map::default());
        let admission = admission(&map);
        let client = json!({ "url": format!("https://127.0.0.1:{port}/"), "caBundle": ca });
        for extra in [json!({}), json!({}), json!({ "failurePolicy": "Ignore" })] {
            configuration(&map, "validatingwebhookconfigurations", client.clone(), extra);
            let (_, outcome) = create_by(&admission, &map, json!({})).await.expect("admitted");
            assert_eq!(outcome.warnings, [spoken]);
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1, "{spoken}");
        // What is configured otherwise is trusted otherwise: no old connection serves it.
        let mistrusted = json!({ "url": client["url"], "caBundle": counted(|_| Value::Null, &[]).await.1 });
        configuration(&map, "validatingwebhookconfigurations", mistrusted, json!({}));
        let status = create_by(&admission, &map, json!({})).await.expect_err("another CA");
        assert!(status.message.contains("x509: certificate signed by unknown authority"), "{status}");
    }
}
