//! The edges of the HTTP front: paths and methods that do not exist, options that make no sense, types that nobody speaks. What a
//! client is told, in kube-apiserver's words.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Cluster, MAPS, Reply, admin};
use serde_json::{Value, json};

const NO_PATH: &str = "the server could not find the requested resource";
const NO_METHOD: &str = "the server does not allow this method on the requested resource";

/// Code and message of an answer; the text where it is no Status.
fn told(reply: &Reply) -> (u16, &str) {
    (reply.code, if reply.json["kind"] == "Status" { reply.message() } else { reply.text.as_str() })
}

async fn ask(cluster: &Cluster, method: &str, uri: &str, media: &str, accept: &str, body: &str) -> Reply {
    common::reply(cluster.send(admin(), method, uri, media, accept, body.into()).await).await
}

/// A definition of a kind with a status and without a scale.
async fn define(cluster: &Cluster) {
    let version = json!({"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let spec = json!({"group": "example.com", "scope": "Namespaced", "versions": [version],
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}});
    let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": spec});
    assert_eq!(cluster.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await.code, 201);
    let uri = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com";
    let mut watch = cluster.watch(&format!("{uri}s?watch=1").replace("/widgets.example.coms", "")).await;
    while cluster.get("/apis/example.com/v1/widgets").await.code != 200 {
        watch.next().await.expect("the definition is established");
    }
}

#[tokio::test]
async fn a_path_that_does_not_exist_is_not_found_by_whom_it_would_belong_to() {
    let cluster = Cluster::start().await;
    define(&cluster).await;
    let below_built_in = [
        "/api/v1/foos",
        "/api/v2/pods",
        "/api/v2",
        "/apis/apps/v7",
        "/apis/apps/v2/deployments",
        "/version/x",
        "/api/v1/namespaces/default/nodes",
        "/api/v1/namespaces/default/pods/p/bar",
        "/api/v1/namespaces/default/pods/p/status/x",
        "/api/v1/namespaces/default/pods/a%2Fb",
        "/api/v1/bindings",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews/x",
        "/api/v1/watch/namespaces/default/pods/p/status",
        "/api/v1/proxy/nodes/n",
    ];
    for uri in below_built_in {
        let reply = cluster.get(uri).await;
        assert_eq!((told(&reply), &reply.json["details"]), ((404, NO_PATH), &json!({})), "{uri}");
    }
    let nobodys = [
        "/foo",
        "/apis/foo",
        "/apis/foo/v1/bars",
        "/apis/example.com/v2",
        "/apis/example.com/v1/gadgets",
        "/apis/example.com/v2/widgets",
        "/apis/example.com/v1/widgets/x",
    ];
    for uri in nobodys {
        let reply = cluster.get(uri).await;
        assert_eq!((reply.code, reply.text.as_str()), (404, "404 page not found\n"), "{uri}");
        assert_eq!(reply.headers["x-content-type-options"], "nosniff");
    }
    assert_eq!(cluster.post("/foo", &json!({})).await.text, "404 page not found\n");
    let view = cluster.get("/apis/example.com/v1/namespaces/default/widgets/w/scale").await;
    assert_eq!((told(&view), view.json["details"]["name"].as_str()), ((404, "widgets.example.com \"w\" not found"), Some("w")));
    let odd = cluster.get("/api/v1/namespaces/default/pods/%zz").await;
    assert_eq!((odd.code, odd.text.as_str()), (400, "400 Bad Request"));
    for uri in ["/api/", "/apis/", "/api/v1/", "/apis/apps/", "/apis/apps/v1/", "/api/v1/pods/", "/api/v1/namespaces/default/", "/version/"]
    {
        assert_eq!(cluster.get(uri).await.code, 200, "{uri}");
    }
}

#[tokio::test]
async fn a_method_that_a_path_does_not_take_changes_nothing() {
    let cluster = Cluster::start().await;
    define(&cluster).await;
    cluster.config_map("kept", &json!({})).await;
    let cases = [
        ("PUT", "/api/v1/pods"),
        ("POST", "/api/v1/pods"),
        ("PATCH", "/api/v1/pods"),
        ("OPTIONS", "/api/v1/pods"),
        ("HEAD", "/api/v1/pods"),
        // All namespaces at once are read and no more.
        ("DELETE", "/api/v1/configmaps"),
        ("PUT", MAPS),
        ("DELETE", "/api/v1/namespaces"),
        ("POST", "/api/v1/namespaces/default/configmaps/kept"),
        ("POST", "/api/v1/namespaces/default/pods/p/status"),
        ("GET", "/api/v1/namespaces/default/pods/p/binding"),
        ("GET", "/api/v1/namespaces/default/bindings"),
        ("GET", "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
        ("POST", "/api/v1/componentstatuses"),
        ("POST", "/api/v1/watch/configmaps"),
        ("POST", "/api"),
        ("HEAD", "/apis/apps/v1"),
        ("PUT", "/version"),
    ];
    for (method, uri) in cases {
        let reply = ask(&cluster, method, uri, "application/json", "application/json", "{}").await;
        match method {
            "HEAD" => assert_eq!((reply.code, reply.text.as_str()), (405, ""), "{method} {uri}"),
            _ => assert_eq!((told(&reply), reply.json["reason"].as_str()), ((405, NO_METHOD), Some("MethodNotAllowed")), "{method} {uri}"),
        }
    }
    assert_eq!(cluster.get(&format!("{MAPS}/kept")).await.code, 200);
    let widgets = "/apis/example.com/v1/namespaces/default/widgets";
    let options = ask(&cluster, "OPTIONS", widgets, "", "*/*", "").await;
    assert_eq!(told(&options), (405, " is not supported on resources of kind \"widgets.example.com\""));
    assert_eq!(options.json["details"], json!({"group": "example.com", "kind": "widgets"}));
    assert_eq!(told(&cluster.put(widgets, &json!({})).await), (400, "name must be provided"));
    assert_eq!(cluster.delete("/apis/example.com/v1/widgets", &Value::Null).await.text, "404 page not found\n");
    assert_eq!(ask(&cluster, "HEAD", widgets, "", "*/*", "").await.code, 200);
    // What is no resource takes any method.
    assert_eq!(ask(&cluster, "POST", "/healthz", "", "*/*", "").await.text, "ok");
}

#[tokio::test]
async fn options_of_reading_that_make_no_sense_are_refused_with_the_reason() {
    let cluster = Cluster::start().await;
    let cases = [
        ("limit=", "strconv.ParseInt: parsing \"\": invalid syntax"),
        ("limit=abc", "strconv.ParseInt: parsing \"abc\": invalid syntax"),
        ("limit=99999999999999999999", "strconv.ParseInt: parsing \"99999999999999999999\": value out of range"),
        ("timeoutSeconds=1s", "strconv.ParseInt: parsing \"1s\": invalid syntax"),
        ("labelSelector=a%3D%3D%3Db", "unable to parse requirement: found '=', expected: identifier"),
        ("fieldSelector=abc", "invalid selector: 'abc'; can't understand 'abc'"),
        ("fieldSelector=foo%3Dbar", "\"foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
        (
            "resourceVersion=x",
            "invalid resource version: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        ("continue=abc&resourceVersion=5", "specifying resource version is not allowed when using continue"),
        ("timeout=soon", "invalid timeout specified in the request URL - time: invalid duration \"soon\""),
        // Of repeated ones the first counts.
        ("limit=x&limit=1", "strconv.ParseInt: parsing \"x\": invalid syntax"),
    ];
    for (query, message) in cases {
        let reply = cluster.get(&format!("{MAPS}?{query}")).await;
        assert_eq!((told(&reply), reply.json["reason"].as_str()), ((400, message), Some("BadRequest")), "{query}");
    }
    let own_fault = "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax";
    for uri in [format!("{MAPS}?watch=1&resourceVersion=x"), "/api/v1/namespaces/default?resourceVersion=x".to_owned()] {
        let reply = cluster.get(&uri).await;
        assert_eq!((told(&reply), reply.json.get("reason")), ((500, own_fault), None), "{uri}");
    }
    let other = cluster.get("/api/v1/watch/namespaces/default/configmaps/a?fieldSelector=metadata.name%3Db").await;
    assert_eq!(told(&other), (400, "fieldSelector metadata.name doesn't match requested name"));
    // Parameters that are not well-formed are as good as absent, and so is what is not known.
    assert_eq!(cluster.get(&format!("{MAPS}?limit=%zz&a;limit=b&whatever=1")).await.code, 200);
    let log = "/api/v1/namespaces/default/pods/none/log";
    let cases = [
        ("tailLines=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("tailLines=-1", 422, "PodLogOptions \"none\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0"),
        ("stream=Stdout", 422, "PodLogOptions \"none\" is invalid: stream: Forbidden: may not be specified"),
        ("sinceTime=now", 400, "parsing time \"now\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"now\" as \"2006\""),
        ("", 404, "pods \"none\" not found"),
    ];
    for (query, code, message) in cases {
        assert_eq!(told(&cluster.get(&format!("{log}?{query}")).await), (code, message), "{query}");
    }
}

#[tokio::test]
async fn options_of_writing_are_looked_at_together_and_before_the_object() {
    let cluster = Cluster::start().await;
    let map = json!({"metadata": {"name": "a"}});
    let wrong = cluster.post(&format!("{MAPS}?dryRun=Some&dryRun=All&fieldManager=a%0Ab&fieldValidation=Maybe"), &map).await;
    let found = [
        "fieldManager: Invalid value: \"a\\nb\": invalid character U+000A (at position 1)",
        "dryRun: Unsupported value: [\"Some\",\"All\"]: supported values: \"All\"",
        "fieldValidation: Unsupported value: \"Maybe\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
    ];
    assert_eq!(told(&wrong), (422, format!("CreateOptions.meta.k8s.io \"\" is invalid: [{}]", found.join(", ")).as_str()));
    assert_eq!(cluster.post(&format!("{MAPS}?dryRun="), &map).await.code, 422);
    assert_eq!(cluster.post(&format!("{MAPS}?dryRun=All&dryRun=All"), &map).await.code, 201);
    assert_eq!(cluster.get(&format!("{MAPS}/a")).await.code, 404, "twice dry is dry");
    let patch = |flavour: &'static str, query: &'static str| {
        let (cluster, uri) = (&cluster, format!("{MAPS}/a?{query}"));
        async move { cluster.patch(&uri, flavour, &json!({})).await.message().to_owned() }
    };
    let forced = "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch";
    assert_eq!(patch("merge-patch", "force=false").await, forced);
    let nameless = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
    assert_eq!(patch("apply", "").await, nameless);
    let delete = |query: &'static str, body: Value| {
        let (cluster, uri) = (&cluster, format!("{MAPS}/a?{query}"));
        async move { cluster.delete(&uri, &body).await }
    };
    let policies = "supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"";
    let cases = [
        ("propagationPolicy=Foo", Value::Null, 422, format!("propagationPolicy: Unsupported value: \"Foo\": {policies}")),
        ("propagationPolicy=Orphan&orphanDependents=true", Value::Null, 422, "propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set".to_owned()),
        ("gracePeriodSeconds=", Value::Null, 400, "strconv.ParseInt: parsing \"\": invalid syntax".to_owned()),
        ("", json!({"dryRun": ["x"]}), 422, "dryRun: Unsupported value: [\"x\"]: supported values: \"All\"".to_owned()),
        ("", json!({"kind": "Pod", "apiVersion": "v1"}), 400, "no kind \"Pod\" is registered for version \"v1\" in scheme \"pkg/apis/meta/internalversion/scheme/register.go:27\"".to_owned()),
        ("", json!({"kind": "fixed"}), 400, "no kind \"fixed\" is registered for version \"meta.k8s.io/v1\" in scheme \"pkg/apis/meta/internalversion/scheme/register.go:27\"".to_owned()),
        ("", json!({"kind": "APIResourceList", "apiVersion": "v1"}), 400, "converting (v1.APIResourceList) to (v1.DeleteOptions): unknown conversion".to_owned()),
        ("", json!({"kind": "Table"}), 400, "converting (v1.Table) to (v1.DeleteOptions): unknown conversion".to_owned()),
        ("", json!({"unknown": {"field": 1}}), 404, "configmaps \"a\" not found".to_owned()),
        ("", json!({"kind": "DeleteOptions", "apiVersion": "policy/v1"}), 404, "configmaps \"a\" not found".to_owned()),
    ];
    for (query, body, code, message) in cases {
        let reply = delete(query, body).await;
        let wanted = if code == 422 { format!("DeleteOptions.meta.k8s.io \"\" is invalid: {message}") } else { message };
        assert_eq!(told(&reply), (code, wanted.as_str()), "{query}");
    }
    let typed = delete("", json!({"gracePeriodSeconds": "a"})).await;
    let words = "json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64";
    assert_eq!(told(&typed), (400, words));
    for uri in [format!("{MAPS}/a"), MAPS.to_owned()] {
        let sent = |media: &'static str, body: &'static [u8]| {
            let (cluster, uri) = (&cluster, uri.clone());
            async move { common::reply(cluster.send(common::admin(), "DELETE", &uri, media, "application/json", body.to_vec()).await).await }
        };
        let torn = sent("application/json", b"{\"dryRun\":").await;
        assert_eq!(
            (torn.code, torn.message()),
            (400, "couldn't get version/kind; json parse error: unexpected end of JSON input"),
            "{uri}"
        );
        let torn = sent("application/yaml", b"a: [").await;
        assert_eq!(torn.code, 400, "{}", torn.text);
        assert!(torn.message().starts_with("error converting YAML to JSON: "), "{}", torn.text);
        let other = sent("application/yaml", b"kind: Pod\napiVersion: v1\n").await;
        assert!(
            other.code == 400 && other.message().starts_with("no kind \"Pod\" is registered for version \"v1\" in scheme "),
            "{}",
            other.text
        );
        let none = sent("application/vnd.kubernetes.protobuf", b"{}").await;
        assert_eq!((none.code, none.json["reason"].as_str()), (400, Some("BadRequest")), "{}", none.text);
        assert_eq!(sent("application/cbor", b"\xa0").await.code, 415, "{uri}");
    }
}

#[tokio::test]
async fn a_collection_is_deleted_by_pages_when_the_client_says_so() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c"] {
        cluster.post(MAPS, &json!({"metadata": {"name": name, "labels": {"mine": "1"}}})).await;
    }
    let uri = format!("{MAPS}?labelSelector=mine%3D1&limit=2");
    let wrong = cluster.delete(&format!("{uri}&resourceVersionMatch=Exact"), &Value::Null).await;
    assert_eq!((wrong.code, wrong.json["details"]["kind"].as_str()), (422, Some("ListOptions")));
    let page = cluster.delete(&uri, &Value::Null).await;
    assert_eq!(page.json["items"].as_array().map(Vec::len), Some(2), "{}", page.text);
    let token = page.json["metadata"]["continue"].as_str().unwrap_or_default();
    let left = cluster.get(&format!("{MAPS}?labelSelector=mine")).await;
    assert_eq!(left.json["items"].as_array().map(Vec::len), Some(1));
    let rest = cluster.delete(&format!("{uri}&continue={token}"), &Value::Null).await;
    assert_eq!((rest.json["items"].as_array().map(Vec::len), rest.json["metadata"].get("continue")), (Some(1), None));
}

#[tokio::test]
async fn types_that_nobody_speaks_are_refused_with_those_that_are_spoken() {
    let cluster = Cluster::start().await;
    define(&cluster).await;
    let asked = async |uri: &str, accept: &str| ask(&cluster, "GET", uri, "application/json", accept, "").await;
    let objects =
        "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    let streams = format!("{objects}, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch");
    let handler = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    let cases = [
        ("/api/v1/namespaces/default", objects),
        ("/api/v1/namespaces", streams.as_str()),
        ("/api", objects),
        ("/apis/apps/v1", objects),
        ("/version", "406: Not Acceptable\n\nAvailable representations: application/json"),
        ("/apis", handler),
        ("/apis/example.com/v1/widgets", handler),
        ("/openapi/v2", ""),
        ("/openapi/v3", ""),
    ];
    // CBOR is off as in 1.36: it is answered as anything that nobody speaks.
    for accept in ["text/html", "application/cbor", "application/cbor-seq"] {
        for (uri, message) in cases {
            let reply = asked(uri, accept).await;
            assert_eq!(told(&reply), (406, message), "{accept} of {uri}");
            assert!(message.is_empty() || reply.text.starts_with("{\n  \"kind\": \"Status\""), "for people: {}", reply.text);
        }
    }
    let watch = asked(&format!("{MAPS}?watch=1"), "application/cbor-seq").await;
    assert_eq!(told(&watch), (406, streams.as_str()));
    let either = asked(MAPS, "application/cbor, application/json;q=0.5").await;
    assert_eq!((either.code, &either.json["kind"]), (200, &json!("ConfigMapList")), "what is spoken is answered");
    let table = ask(&cluster, "GET", MAPS, "", "application/json;as=Table;g=meta.k8s.io;v=v2", "").await;
    assert_eq!(told(&table), (406, handler));
    let fallback = ask(&cluster, "GET", MAPS, "", "application/json;as=Table;g=meta.k8s.io;v=v2,application/json", "").await;
    assert_eq!(fallback.json["kind"], "ConfigMapList");

    let patch = async |uri: &str, media: &str| ask(&cluster, "PATCH", uri, media, "application/json", "{}").await;
    let reply = patch("/api/v1/namespaces/default", "application/json").await;
    assert_eq!((told(&reply), &reply.json["details"]), ((415, "415: Unsupported Media Type"), &json!({})));
    let widget = "/apis/example.com/v1/namespaces/default/widgets/w";
    let spoken = "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
    assert_eq!(told(&patch(widget, "application/strategic-merge-patch+json").await), (415, spoken));
    let spoken = "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    assert_eq!(told(&ask(&cluster, "POST", MAPS, "text/plain", "application/json", "{}").await), (415, spoken));
    let large = format!("{{\"metadata\":{{\"name\":\"a\"}},\"data\":{{\"k\":\"{}\"}}}}", "x".repeat(3 << 20));
    let reply = ask(&cluster, "POST", MAPS, "application/json", "application/json", &large).await;
    assert_eq!(
        (told(&reply), reply.json["reason"].as_str()),
        ((413, "Request entity too large: limit is 3145728"), Some("RequestEntityTooLarge"))
    );
}

#[tokio::test]
async fn people_are_shown_indented_documents_and_errors() {
    let cluster = Cluster::start().await;
    for uri in ["/api", "/apis", "/apis/apps", "/api/v1", "/api/v1/namespaces/default", "/api/v1/namespaces/none"] {
        let plain = cluster.get(&format!("{uri}?pretty=false")).await;
        let pretty = cluster.get(&format!("{uri}?pretty=true")).await;
        assert_eq!((plain.code, &plain.json), (pretty.code, &pretty.json), "{uri}");
        assert!(!plain.text.contains('\n') && pretty.text.starts_with("{\n  \""), "{uri}: {}", pretty.text);
    }
    assert!(cluster.get("/").await.text.starts_with("{\n  \"paths\": [\n"));
}
