//! What a deleted CRD leaves: its objects are deleted, and when the last one is gone, the CRD's finalizer.

use super::{FINALIZER, target};
use crate::ApiServer;
use crate::local::{OwnClient, loopback_user};
use crate::objects::Loopback;
use crate::registry::Entry;
use bytes::Bytes;
use ferrokube_api::kinds::Kind;
use http::Method;
use serde_json::Value;
use std::sync::Arc;

/// Whether the CRD waits for its objects to go.
pub fn is_due(definition: &Value) -> bool {
    let meta = &definition["metadata"];
    let held = meta["finalizers"].as_array().is_some_and(|list| list.iter().any(|f| f == FINALIZER));
    held && meta.get("deletionTimestamp").is_some()
}

/// Marks a CRD that is about to be deleted as held.
pub fn hold(definition: &Value) -> Value {
    let mut held = definition.clone();
    let list = &mut held["metadata"]["finalizers"];
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    if let Some(list) = list.as_array_mut().filter(|list| !list.iter().any(|f| f == FINALIZER)) {
        list.push(FINALIZER.into());
    }
    held
}

fn collection(kind: &Kind, namespace: &str) -> String {
    let place = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    format!("/apis/{}/{}{place}/{}", kind.group, kind.version, kind.resource)
}

/// The row to delete by: that of the version the objects are stored in, so that no conversion webhook is needed.
fn stored_version(server: &ApiServer, group: &str, plural: &str) -> Option<Arc<Entry>> {
    let table = server.registry.table();
    let mut rows = table.entries().iter().filter(|e| e.is(group, plural));
    rows.find(|e| e.kind.stored_as.is_none()).or_else(|| table.any_version(group, plural)).cloned()
}

/// Deletes the objects and, when they are gone, lets the CRD go.
pub async fn run(server: Arc<ApiServer>, definition: Value) {
    let spec = &definition["spec"];
    let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let (group, plural) = (spec["group"].as_str().unwrap_or_default(), spec["names"]["plural"].as_str().unwrap_or_default());
    let entry = stored_version(&server, group, plural);
    if let (Some(entry), Some(cache)) = (entry, server.caches.get(group, plural)) {
        let mut changes = cache.changes();
        let mut asked: Vec<String> = Vec::new();
        loop {
            changes.borrow_and_update();
            let mut places: Vec<String> = cache.list("").iter().map(|o| o.key.namespace.to_string()).collect();
            places.dedup();
            if places.is_empty() {
                break;
            }
            for place in places.into_iter().filter(|p| !asked.contains(p)).collect::<Vec<_>>() {
                let request = http::Request::builder().method(Method::DELETE).uri(collection(&entry.kind, &place)).body(Bytes::new());
                if let Ok(request) = request {
                    server.call(loopback_user(), request).await;
                }
                asked.push(place);
            }
            // Objects with finalizers go when their controllers let them.
            tokio::select! {
                gone = changes.changed() => if gone.is_err() { return },
                () = server.stopping.cancelled() => return,
            }
        }
    }
    release(&server, &name).await;
}

async fn release(server: &Arc<ApiServer>, name: &str) {
    let Some(current) = super::cache(server).and_then(|c| c.get("", name)) else { return };
    let Ok(mut definition) = current.decode::<Value>() else { return };
    if let Some(list) = definition["metadata"].get_mut("finalizers").and_then(Value::as_array_mut) {
        list.retain(|f| f != FINALIZER);
    }
    if let Err(error) = OwnClient(server.clone()).update(target(name), definition).await {
        tracing::debug!(crd = name, %error, "a deleted CRD is not released yet; the next change brings another try");
    }
}
