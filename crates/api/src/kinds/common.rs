//! Hooks that several kinds share as they are.

use super::HookContext;
use super::json::*;
use serde_json::{Map, Value};

/// The status of a new object is the server's business: whatever the client says is dropped.
pub fn reset_status(object: &mut Value, _: &HookContext) {
    set(object, "status", Map::new());
}

/// Nothing of a new object is touched.
pub fn keep_all(_: &mut Value, _: &HookContext) {}
