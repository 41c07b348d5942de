//! Finalizers that keep an object while it is in use. Pure, and one write.

use ferrokube_client::{Client, Error, Optional, Resource};

/// What an object's protection needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// It is as it should be.
    Nothing,
    /// It is not being deleted and has no finalizer yet.
    Add,
    /// It is being deleted; the finalizer goes unless it is in use.
    RemoveUnlessUsed,
}

/// What the protection of an object by a finalizer needs.
pub(crate) fn need<R: Resource>(object: &R, finalizer: &str) -> Need {
    let meta = object.meta();
    let has = meta.finalizers.iter().flatten().any(|f| f == finalizer);
    match (meta.deletion_timestamp.is_some(), has) {
        (false, false) => Need::Add,
        (true, true) => Need::RemoveUnlessUsed,
        _ => Need::Nothing,
    }
}

/// Adds the finalizer; an object that went meanwhile is no error.
pub(crate) async fn add<R: Resource>(client: &Client, mut object: R, finalizer: &str) -> Result<(), Error> {
    object.meta_mut().finalizers.get_or_insert_default().push(finalizer.to_owned());
    client.update(&object).await.optional().map(drop)
}

/// Removes the finalizer; an object that went meanwhile is no error.
pub(crate) async fn remove<R: Resource>(client: &Client, mut object: R, finalizer: &str) -> Result<(), Error> {
    if let Some(list) = &mut object.meta_mut().finalizers {
        list.retain(|f| f != finalizer);
    }
    client.update(&object).await.optional().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    #[test]
    fn a_finalizer_is_added_while_an_object_lives_and_taken_when_it_dies_unused() {
        let now = "2026-01-01T00:00:00Z";
        let cases = [
            (json!({}), Need::Add),
            (json!({"finalizers": ["other"]}), Need::Add),
            (json!({"finalizers": ["f"]}), Need::Nothing),
            (json!({"finalizers": ["f"], "deletionTimestamp": now}), Need::RemoveUnlessUsed),
            (json!({"finalizers": ["other"], "deletionTimestamp": now}), Need::Nothing),
        ];
        for (metadata, expected) in cases {
            let object: ConfigMap = serde_json::from_value(json!({"metadata": metadata})).unwrap();
            assert_eq!(need(&object, "f"), expected, "{metadata}");
        }
    }
}
