//! The front door as a whole: requests at random against a real server. Whatever comes in, the answer is an object or a
//! `Status` with the code that the header says, and what was written is what is read. Long runs: see `ferrokube_testkit::fuzz`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod common;

use common::{Cluster, Reply};
use ferrokube_testkit::fuzz::{Random, assert_same, change, damage, run, text, value};
use serde_json::{Value, json};

/// Paths of collections with an object of each.
fn samples() -> [(&'static str, Value); 6] {
    let pod = json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}], "env": [{"name": "E", "value": "v"}]}],
        "tolerations": [{"key": "k", "operator": "Exists"}], "nodeSelector": {"disk": "ssd"}});
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": pod});
    let deployment = json!({"replicas": 2, "selector": {"matchLabels": {"app": "x"}}, "template": template});
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    [
        ("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "a", "labels": {"app": "x"}}, "data": {"k": "v"}})),
        ("/api/v1/namespaces/default/pods", json!({"metadata": {"name": "a"}, "spec": pod})),
        ("/apis/apps/v1/namespaces/default/deployments", json!({"metadata": {"name": "a"}, "spec": deployment})),
        ("/api/v1/namespaces/default/services", json!({"metadata": {"name": "a"}, "spec": {"ports": [{"name": "p", "port": 80}]}})),
        ("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", json!({"metadata": {"name": "a"}, "rules": rules})),
        (
            "/apis/fuzz.example.com/v1/namespaces/default/things",
            json!({"metadata": {"name": "a"}, "spec": {"size": 3, "tags": ["x"], "more": {"y": "z"}}}),
        ),
    ]
}

fn definition() -> Value {
    let spec = json!({"type": "object", "properties": {
        "size": {"type": "integer", "default": 1, "maximum": 100},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "more": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
        "x-kubernetes-validations": [{"rule": "!has(self.tags) || size(self.tags) < 10"}]});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema, "subresources": {"status": {}}});
    json!({"metadata": {"name": "things.fuzz.example.com"}, "spec": {"group": "fuzz.example.com", "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"}, "versions": [version]}})
}

fn escaped(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

fn check(reply: &Reply, what: &str) {
    if reply.code >= 400 {
        assert_eq!(reply.json["kind"], "Status", "{what}: {}", reply.text);
        assert_eq!(reply.json["code"], reply.code, "{what}: {}", reply.text);
        assert!(!reply.message().is_empty(), "{what}: {}", reply.text);
        assert!(!reply.message().contains("panic"), "{what}: {}", reply.text);
    }
}

async fn write(cluster: &Cluster, random: &mut Random, path: &str, sample: &Value) {
    let mut body = sample.clone();
    (0..random.below(4)).for_each(|_| change(random, &mut body));
    let mut bytes = body.to_string().into_bytes();
    if random.chance(15) {
        damage(random, &mut bytes);
    }
    let one = format!("{path}/a");
    let (method, uri, media) = match random.below(8) {
        0 => ("POST", path.to_owned(), "application/json"),
        1 => ("PUT", one, "application/json"),
        2 => ("PUT", one, "application/yaml"),
        3 => ("PATCH", one, "application/merge-patch+json"),
        4 => ("PATCH", one, "application/strategic-merge-patch+json"),
        5 => ("PATCH", one + "?fieldManager=f&force=true", "application/apply-patch+yaml"),
        6 => {
            let operation = json!([{"op": random.one(&["add", "replace", "remove", "test", "copy"]), "path": random.one(&["/metadata/labels/app", "/spec", "/data/k", "/spec/x"]),
                "from": "/metadata", "value": value(random, 2)}]);
            bytes = operation.to_string().into_bytes();
            ("PATCH", one, "application/json-patch+json")
        }
        _ => ("PATCH", format!("{path}/a/status"), "application/merge-patch+json"),
    };
    let strict = *random.one(&["Strict", "Warn", "Ignore"]);
    let uri = if uri.contains('?') { format!("{uri}&fieldValidation={strict}") } else { format!("{uri}?fieldValidation={strict}") };
    let shown = String::from_utf8_lossy(&bytes).into_owned();
    let reply = cluster.ask(method, &uri, media, bytes).await;
    let what = format!("{method} {uri} {media} {shown}");
    check(&reply, &what);
    // Two errors of patches are 500 upstream as well.
    assert!(reply.code < 500 || (reply.code == 500 && method == "PATCH"), "{what}: {}", reply.text);
    if reply.code < 300 {
        let name = reply.json["metadata"]["name"].as_str().unwrap().to_owned();
        // Names of roles may hold whatever a path segment can.
        let one = format!("{path}/{}", escaped(&name));
        let there = cluster.get(&one).await;
        assert_same(&there.json, &reply.json, &what);
        if name != "a" {
            cluster.delete(&one, &Value::Null).await;
        }
    }
}

async fn read(cluster: &Cluster, random: &mut Random, path: &str) {
    let mut query = match random.below(5) {
        0 => format!("labelSelector={}", escaped(random.one::<&str>(&["app=x", "app in (x,y)", "!app", "app>1"]))),
        1 => format!("fieldSelector={}", escaped(random.one::<&str>(&["metadata.name=a", "metadata.name!=a", "status.phase=Running"]))),
        2 => format!("limit={}&continue={}", random.below(3), escaped(&text(random))),
        3 => format!(
            "resourceVersion={}&resourceVersionMatch={}",
            random.one(&["0", "1", "-1", "x"]),
            random.one(&["Exact", "NotOlderThan", "x"])
        ),
        _ => {
            format!("{}={}", random.one(&["labelSelector", "fieldSelector", "pretty", "timeoutSeconds", "dryRun"]), escaped(&text(random)))
        }
    };
    if random.chance(20) {
        let mut bytes = query.into_bytes();
        damage(random, &mut bytes);
        query = String::from_utf8_lossy(&bytes).chars().filter(|c| c.is_ascii_graphic() && !"#<>\"`{}|\\^".contains(*c)).collect();
    }
    let one = random.chance(30);
    let uri = if one { format!("{path}/a?{query}") } else { format!("{path}?{query}") };
    if query.contains("watch") {
        return;
    }
    let reply = cluster.get(&uri).await;
    check(&reply, &uri);
    // A revision that is not there yet is waited for, upstream as well, and told with a 504.
    // One object at a revision that is none is a plain 500 upstream too: its store's error has no status of its own.
    let no_revision = one && reply.code == 500 && reply.text.contains("resourceVersion: Invalid value");
    assert!(reply.code < 500 || reply.code == 504 || no_revision, "{uri}: {}", reply.text);
}

#[test]
fn whatever_is_asked_is_answered_and_what_is_written_is_read() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cluster = runtime.block_on(async {
        let cluster = Cluster::start().await;
        let made = cluster.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition()).await;
        assert_eq!(made.code, 201, "{}", made.text);
        while cluster.get("/apis/fuzz.example.com/v1/namespaces/default/things").await.code != 200 {
            tokio::task::yield_now().await;
        }
        cluster
    });
    let samples = samples();
    run("requests", 150, |random| {
        let (path, sample) = random.one(&samples);
        runtime.block_on(async {
            if cluster.get(&format!("{path}/a")).await.code == 404 {
                let made = cluster.post(path, sample).await;
                check(&made, path);
            }
            match random.below(10) {
                0 => drop(cluster.delete(&format!("{path}/a"), &json!({"gracePeriodSeconds": 0})).await),
                1..=3 => read(&cluster, random, path).await,
                _ => write(&cluster, random, path, sample).await,
            }
        });
    });
}
