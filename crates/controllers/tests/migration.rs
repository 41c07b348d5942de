//! Storage version migration against a real API server: what stands in the store before and after.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Cluster, name};
use ferrokube_apiserver::{Config, ConfigFile};
use ferrokube_client::{Patch, Target};
use http::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const MIGRATIONS: &str = "/apis/storagemigration.k8s.io/v1beta1/storageversionmigrations";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DEFINITION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const MIGRATOR: &str = "storage-version-migrator";
/// For what ends in a second on a quiet machine.
const LONG: Duration = Duration::from_secs(180);

fn switch_on(config: &mut Config) {
    config.features = "StorageVersionMigrator=true".parse().unwrap();
    config.runtime_config = "storagemigration.k8s.io/v1beta1=true".parse().unwrap();
}

async fn cluster() -> Cluster {
    Cluster::with_config(&["serviceaccount", MIGRATOR], switch_on).await
}

async fn migrate(cluster: &Cluster, name: &str, group: &str, resource: &str) {
    cluster.post(MIGRATIONS, json!({"metadata": {"name": name}, "spec": {"resource": {"group": group, "resource": resource}}})).await;
}

fn condition<'o>(object: &'o Value, kind: &str) -> &'o Value {
    let all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

/// Waits until something is so that stays so.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("it never came that {what}"));
}

/// A migration when it is over.
async fn over(cluster: &Cluster, name: &str) -> Value {
    let path = format!("{MIGRATIONS}/{name}");
    let is = |m: &Value, kind: &str| condition(m, kind)["status"] == "True";
    until("the migration is over", async || {
        let now = cluster.get(&path).await;
        (is(&now, "Succeeded") || is(&now, "Failed")) && !is(&now, "Running")
    })
    .await;
    cluster.get(&path).await
}

fn definition(storage: &str) -> Value {
    let version = |name: &str| {
        json!({"name": name, "served": true, "storage": name == storage,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
    };
    json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "versions": [version("v1"), version("v2")]}})
}

async fn widget(cluster: &Cluster, name: &str) -> Value {
    cluster.post(WIDGETS, json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "size": 3})).await
}

/// The version in which a widget stands in the store.
async fn stored_version(cluster: &Cluster, name: &str) -> String {
    let bytes = cluster.stored(&format!("/registry/example.com/widgets/default/{name}")).await;
    let object: Value = serde_json::from_slice(&bytes).unwrap();
    object["apiVersion"].as_str().unwrap().to_owned()
}

/// A definition with `count` widgets that are stored in v1, and v2 as the storage version from now on.
async fn widgets_of_old(cluster: &Cluster, count: usize) {
    cluster.post(DEFINITIONS, definition("v1")).await;
    until("widgets are served", async || cluster.try_get(WIDGETS).await.is_some()).await;
    for at in 0..count {
        widget(cluster, &format!("w{at}")).await;
    }
    cluster.patch(DEFINITION, json!({"spec": {"versions": definition("v2")["spec"]["versions"]}})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_move_to_the_storage_version_of_now_and_the_old_one_can_be_dropped() {
    let cluster = cluster().await;
    // More than are listed at once.
    const COUNT: usize = 520;
    widgets_of_old(&cluster, COUNT).await;
    until("what is written is written in v2", async || {
        drop(cluster.ask(Method::DELETE, &format!("{WIDGETS}/young"), None).await);
        widget(&cluster, "young").await;
        stored_version(&cluster, "young").await == "example.com/v2"
    })
    .await;
    assert_eq!(stored_version(&cluster, "w0").await, "example.com/v1", "nobody has touched it");
    assert_eq!(cluster.get(DEFINITION).await["status"]["storedVersions"], json!(["v1", "v2"]));
    let young = cluster.get(&format!("{WIDGETS}/young")).await;

    migrate(&cluster, "widgets", "example.com", "widgets").await;
    let migration = over(&cluster, "widgets").await;
    let told = |kind: &str| ["status", "reason", "message"].map(|key| condition(&migration, kind)[key].as_str().unwrap_or_default());
    assert_eq!(told("Succeeded"), ["True", "StorageVersionMigrationSucceeded", ""], "{migration}");
    assert_eq!(told("Running"), ["False", "MigrationCompleted", "Migration completed"]);
    assert!(migration["status"]["resourceVersion"].as_str().is_some_and(|v| v.parse::<u64>().is_ok()), "{migration}");

    for at in 0..COUNT {
        assert_eq!(stored_version(&cluster, &format!("w{at}")).await, "example.com/v2", "w{at}");
    }
    let moved = cluster.get(&format!("{WIDGETS}/w0")).await;
    assert_eq!(moved["size"], 3);
    let managers = moved["metadata"]["managedFields"].to_string();
    assert!(!managers.contains(MIGRATOR), "whoever applies nothing owns nothing: {managers}");
    let same = cluster.get(&format!("{WIDGETS}/young")).await;
    assert_eq!(same["metadata"]["resourceVersion"], young["metadata"]["resourceVersion"], "what stands right is not written");

    let definition = cluster.get(DEFINITION).await;
    assert_eq!(definition["status"]["storedVersions"], json!(["v2"]));
    let migrating = condition(&definition, "StorageMigrating");
    assert_eq!((&migrating["status"], &migrating["reason"]), (&json!("False"), &json!("MigrationSucceeded")), "{migrating}");
    let left: Vec<Value> = definition["spec"]["versions"].as_array().unwrap().iter().filter(|v| v["name"] == "v2").cloned().collect();
    cluster.patch(DEFINITION, json!({"spec": {"versions": left}})).await;
    until("v2 is all there is", async || cluster.try_get(WIDGETS).await.is_none()).await;
    assert_eq!(cluster.list("/apis/example.com/v2/namespaces/default/widgets").await.len(), COUNT + 1);

    // Another one later finds the definition as the first left it.
    migrate(&cluster, "again", "example.com", "widgets").await;
    assert_eq!(condition(&over(&cluster, "again").await, "Succeeded")["status"], "True");
    assert_eq!(cluster.get(DEFINITION).await["status"]["storedVersions"], json!(["v2"]));
    cluster.stop().await;
}

fn encrypt_with(path: &Path, keys: &[(&str, char)]) {
    use base64::Engine;
    let secret = |byte: char| base64::engine::general_purpose::STANDARD.encode([byte as u8; 32]);
    let keys: Vec<String> = keys.iter().map(|(name, byte)| format!("{{name: {name}, secret: {}}}", secret(*byte))).collect();
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers: [{{aesgcm: {{keys: [{}]}}}}, {{identity: {{}}}}]\n",
        keys.join(", ")
    );
    // As editors do it: the file is replaced, not written in place.
    let draft = path.with_extension("new");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, path).unwrap();
}

async fn key_of(cluster: &Cluster, name: &str) -> String {
    let bytes = cluster.stored(&format!("/registry/secrets/default/{name}")).await;
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).into_owned();
    head.strip_prefix("k8s:enc:aesgcm:v1:").and_then(|rest| rest.split(':').next()).unwrap_or("none").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_encrypted_with_the_key_of_now() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("enc.yaml");
    encrypt_with(&path, &[("old", 'o')]);
    let file = ConfigFile { path: path.clone(), reload: Some(Duration::from_millis(20)) };
    let cluster = Cluster::with_config(&["serviceaccount", MIGRATOR], |config| {
        switch_on(config);
        config.encryption = Some(file);
    })
    .await;
    let make = async |name: &str| cluster.post(SECRETS, json!({"metadata": {"name": name}, "stringData": {"k": "v"}})).await;
    for at in 0..20 {
        make(&format!("s{at}")).await;
    }
    assert_eq!(key_of(&cluster, "s0").await, "old");
    encrypt_with(&path, &[("new", 'n'), ("old", 'o')]);
    until("the new key is used", async || {
        drop(cluster.ask(Method::DELETE, &format!("{SECRETS}/probe"), None).await);
        make("probe").await;
        key_of(&cluster, "probe").await == "new"
    })
    .await;
    assert_eq!(key_of(&cluster, "s0").await, "old", "nobody has touched it");
    // Two at once: one waits for the other.
    migrate(&cluster, "first", "", "secrets").await;
    migrate(&cluster, "second", "", "secrets").await;
    for migration in ["first", "second"] {
        let migration = over(&cluster, migration).await;
        assert_eq!(condition(&migration, "Succeeded")["status"], "True", "{migration}");
    }
    for secret in cluster.list(SECRETS).await {
        assert_eq!(key_of(&cluster, name(&secret)).await, "new", "{}", name(&secret));
    }
    assert_eq!(cluster.get(&format!("{SECRETS}/s7")).await["data"]["k"], "dg==");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_cannot_be_done_fails_and_no_version_is_dropped() {
    let cluster = cluster().await;
    migrate(&cluster, "odd", "", "componentstatuses").await;
    let odd = over(&cluster, "odd").await;
    let failed = condition(&odd, "Failed");
    assert_eq!((&failed["status"], &failed["reason"]), (&json!("True"), &json!("StorageVersionMigrationFailed")), "{odd}");

    widgets_of_old(&cluster, 3).await;
    let rules = json!([{"apiGroups": ["example.com"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["widgets"]}]);
    let admission = "/apis/admissionregistration.k8s.io/v1";
    let policy = json!({"metadata": {"name": "keep"}, "spec": {"failurePolicy": "Fail", "matchConstraints": {"resourceRules": rules},
        "validations": [{"expression": "false", "message": "nothing changes here"}]}});
    cluster.post(&format!("{admission}/validatingadmissionpolicies"), policy).await;
    let binding = json!({"metadata": {"name": "keep"}, "spec": {"policyName": "keep", "validationActions": ["Deny"]}});
    cluster.post(&format!("{admission}/validatingadmissionpolicybindings"), binding).await;
    until("widgets cannot be changed", async || {
        cluster.ask(Method::PATCH, &format!("{WIDGETS}/w0?dryRun=All"), Some(&json!({"size": 4}))).await.is_err()
    })
    .await;

    migrate(&cluster, "widgets", "example.com", "widgets").await;
    let migration = over(&cluster, "widgets").await;
    let message = condition(&migration, "Failed")["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("migration encountered unhandled error: ") && message.contains("nothing changes here"), "{migration}");
    let definition = cluster.get(DEFINITION).await;
    assert_eq!(definition["status"]["storedVersions"], json!(["v1", "v2"]), "some may still stand in v1");
    let migrating = condition(&definition, "StorageMigrating");
    assert_eq!((&migrating["status"], &migrating["reason"]), (&json!("False"), &json!("MigrationFailed")), "{migrating}");
    assert_eq!(stored_version(&cluster, "w0").await, "example.com/v1");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_meanwhile_is_not_made_again() {
    let cluster = cluster().await;
    let migrator = cluster.client_as("system:serviceaccount:kube-system:storage-version-migrator-controller");
    let target = Target {
        version: "v1".into(),
        resource: "configmaps".into(),
        namespace: "default".into(),
        name: "gone".into(),
        ..Target::default()
    };
    let nothing = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"uid": "6d5a9f4c-4f43-4a8f-9d1e-0d6d0f6f3a11", "resourceVersion": "5"}});
    let error = migrator.patch_target(&target, &Patch::Apply("storage-version-migrator-controller", nothing)).await.unwrap_err();
    assert!(error.is_conflict() || error.is_not_found(), "{error}");
    assert!(cluster.try_get("/api/v1/namespaces/default/configmaps/gone").await.is_none());
    cluster.stop().await;
}
