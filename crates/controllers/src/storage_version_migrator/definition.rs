//! The CustomResourceDefinition of a resource that is migrated: it says that its objects are being moved, and after that which
//! versions are still stored.
//!
//! Versions are only taken off the list after every object was rewritten, and only when the definition is the one that the migration
//! began with: with another storage version in between, some objects were moved to the wrong one.

use super::plan::Migrated;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferrokube_api::time::format_time;
use ferrokube_client::{Client, Error, Optional, Patch, Target};
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Field manager.
const MANAGER: &str = "migration-runner-controller";
const CONDITION: &str = "StorageMigrating";

/// What the definition is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said<'n> {
    /// The migration of this name runs.
    Runs(&'n str),
    Succeeded,
    Failed,
}

/// The definition of a resource; `None` when the resource is no custom one.
pub(super) async fn of(client: &Client, migrated: &Migrated) -> Result<Option<Value>, Error> {
    if migrated.group.is_empty() {
        return Ok(None);
    }
    client.request(Method::GET, &target(&format!("{}.{}", migrated.resource, migrated.group)), "", None).await.optional()
}

fn target(name: &str) -> Target {
    Target {
        group: "apiextensions.k8s.io".into(),
        version: "v1".into(),
        resource: "customresourcedefinitions".into(),
        name: name.into(),
        ..Target::default()
    }
}

/// Tells the definition, if there is one. A conflict means that it changed in between: the caller comes again.
pub(super) async fn tell(client: &Client, migrated: &Migrated, said: Said<'_>) -> Result<(), Error> {
    let Some(definition) = of(client, migrated).await? else { return Ok(()) };
    let name = definition["metadata"]["name"].as_str().unwrap_or_default();
    let patch = Patch::Apply(MANAGER, applied(&definition, said, Timestamp::now()));
    client.patch_target(&target(name).sub("status"), &patch).await.optional().map(drop)
}

/// What is applied to the status.
fn applied(definition: &Value, said: Said<'_>, now: Timestamp) -> Value {
    let generation = &definition["metadata"]["generation"];
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    let began_with = conditions.filter(|c| c["type"] == CONDITION).any(|c| c["observedGeneration"] == *generation);
    let storage = storage_version(definition);
    // What is not applied again is lost by whoever applied it once: the list goes with every word, changed or not.
    let mut stored = definition["status"]["storedVersions"].clone();
    let (status, reason, message) = match said {
        Said::Runs(name) => ("True", "MigrationRunning", format!("Migration {name} is running")),
        Said::Failed => ("False", "MigrationFailed", "The migration has failed".to_owned()),
        Said::Succeeded if began_with && !storage.is_empty() => {
            stored = json!([storage]);
            ("False", "MigrationSucceeded", "The migration has succeeded and the stored versions have been updated".to_owned())
        }
        Said::Succeeded => {
            let message = "The migration has succeeded but the stored versions have not been updated due to a generation mismatch";
            ("False", "MigrationSucceeded", message.to_owned())
        }
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": definition["metadata"]["name"], "resourceVersion": definition["metadata"]["resourceVersion"]},
        "status": {
            "conditions": [{"type": CONDITION, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": format_time(now), "observedGeneration": generation}],
            "storedVersions": stored,
        },
    })
}

fn storage_version(definition: &Value) -> &str {
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    versions.filter(|v| v["storage"] == true).find_map(|v| v["name"].as_str()).unwrap_or_default()
}

/// Whether discovery says that a definition's objects are stored as the definition says: until then, writing an object again may
/// leave it in an older version.
pub(super) fn is_in_effect(definition: &Value, kind: &str, hash: &str) -> bool {
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let digest = Sha256::digest(format!("{group}/{}/{kind}", storage_version(definition)));
    hash.is_empty() || STANDARD.encode(&digest[..8]) == hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(generation: i64, observed: i64) -> Value {
        json!({"metadata": {"name": "widgets.example.com", "generation": generation, "resourceVersion": "5"},
            "spec": {"group": "example.com", "versions": [{"name": "v1", "storage": false}, {"name": "v2", "storage": true}]},
            "status": {"storedVersions": ["v1", "v2"], "conditions": [{"type": CONDITION, "status": "True", "observedGeneration": observed}]}})
    }

    fn told(definition: &Value, said: Said<'_>) -> (String, String, Value) {
        let applied = applied(definition, said, Timestamp::UNIX_EPOCH);
        let condition = &applied["status"]["conditions"][0];
        let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(applied["metadata"]["resourceVersion"], "5", "on the condition that nothing changed");
        assert_eq!(condition["observedGeneration"], definition["metadata"]["generation"]);
        (format!("{} {}", text("status"), text("reason")), text("message"), applied["status"]["storedVersions"].clone())
    }

    #[test]
    fn versions_are_taken_off_only_after_a_success_on_the_same_definition() {
        let (said, message, stored) = told(&definition(3, 2), Said::Runs("a"));
        assert_eq!((said.as_str(), message.as_str(), stored), ("True MigrationRunning", "Migration a is running", json!(["v1", "v2"])));
        let (said, message, stored) = told(&definition(3, 3), Said::Succeeded);
        assert_eq!((said.as_str(), stored), ("False MigrationSucceeded", json!(["v2"])));
        assert_eq!(message, "The migration has succeeded and the stored versions have been updated");
        let (said, message, stored) = told(&definition(4, 3), Said::Succeeded);
        assert_eq!((said.as_str(), stored), ("False MigrationSucceeded", json!(["v1", "v2"])));
        assert!(message.ends_with("due to a generation mismatch"), "{message}");
        let (said, message, stored) = told(&definition(3, 3), Said::Failed);
        assert_eq!((said.as_str(), message.as_str()), ("False MigrationFailed", "The migration has failed"));
        assert_eq!(stored, json!(["v1", "v2"]), "objects may be left in any of them");
    }

    #[test]
    fn a_definition_is_in_effect_when_discovery_knows_its_storage_version() {
        let hash = |text: &str| STANDARD.encode(&Sha256::digest(text)[..8]);
        assert!(is_in_effect(&definition(1, 1), "Widget", &hash("example.com/v2/Widget")));
        assert!(!is_in_effect(&definition(1, 1), "Widget", &hash("example.com/v1/Widget")));
        assert!(is_in_effect(&definition(1, 1), "Widget", ""), "a server that tells no hash");
    }
}
