//! Deletion of a namespace: it stays, terminating, until its finalizers are gone.

use ferrokube_api::time;
use jiff::Timestamp;
use serde_json::{Value, json};

/// What a DELETE makes of a namespace: `None` when it may go at once, `Some(None)` when it is terminating already.
pub fn mark(namespace: &Value, now: Timestamp) -> Option<Option<Value>> {
    let waits = namespace["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    if namespace["metadata"].get("deletionTimestamp").is_some() {
        return waits.then_some(None);
    }
    let mut marked = namespace.clone();
    marked["metadata"]["deletionTimestamp"] = json!(time::format_time(now));
    marked["status"]["phase"] = json!("Terminating");
    Some(Some(marked))
}
