//! Discovery documents against those of a Go API server, when they are beside the checkout.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::Cluster;
use serde_json::Value;
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
    let status = cluster.get("/statusz").await.text;
    assert!(status.starts_with("\nkube-apiserver statusz\n") && status.contains("Up: 0 hr 00 min"), "{status}");
    ferrokube_store::Store::revision(&*cluster.store).await.expect("the store serves");
    cluster.store.close();
    let failed = cluster.get("/readyz").await;
    assert_eq!(failed.code, 500);
    assert!(failed.text.contains("[-]etcd failed: reason withheld") && failed.text.ends_with("readyz check failed\n"), "{}", failed.text);
    let why = cluster.get("/readyz/etcd").await;
    assert!(why.code == 500 && why.text.starts_with("internal server error: etcd failed"), "{}", why.text);
}
