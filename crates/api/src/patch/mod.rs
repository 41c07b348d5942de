//! The three patch formats that change a live object: JSON patch (RFC 6902), merge patch (RFC 7396), strategic merge patch.
//!
//! All work on values without knowing whose they are; afterwards the result is read by the schema again
//! ([`crate::decode::normalize`]), which finds unknown fields and wrong types. Server-side apply is in [`crate::apply`].

mod strategic;
#[cfg(test)]
mod tests;

use crate::schema::Schema;
use crate::status::{Reason, Status};
use serde_json::Value;

pub use strategic::PatchError;

/// A JSON patch with more operations is refused.
pub const MOST_OPERATIONS: usize = 10_000;

/// What Go's decoder calls a value of that kind.
fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether the error is one of the two that mean "well-formed, but does not fit the object".
fn unprocessable() -> Status {
    Status::failure(422, Reason::Invalid, "the server rejected our request due to an error in our request")
}

/// Whether the operation tests for null what is not there, which holds for the Go implementation and which operators build on: so
/// they put the first finalizer on an object.
fn tests_absence(document: &Value, operation: &json_patch::PatchOperation) -> bool {
    let json_patch::PatchOperation::Test(test) = operation else { return false };
    let Some((parent, key)) = test.path.split_back() else { return false };
    let parent = document.pointer(parent.as_str()).and_then(Value::as_object);
    test.value.is_null() && parent.is_some_and(|parent| !parent.contains_key(key.decoded().as_ref()))
}

/// Applies an RFC 6902 patch; all of it or nothing.
///
/// # Errors
/// 400 when it is not a patch, 413 when it has too many operations, 422 when an operation does not fit the object (a failed
/// `test`, a missing path).
pub fn json_patch(document: &mut Value, patch: Value) -> Result<(), Status> {
    let Value::Array(operations) = &patch else {
        let why = format!("json: cannot unmarshal {} into Go value of type jsonpatch.Patch", go_kind(&patch));
        return Err(Status::bad_request(format!("error decoding patch: {why}")));
    };
    if operations.len() > MOST_OPERATIONS {
        let count = operations.len();
        let message = format!("The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {count}");
        return Err(Status::failure(413, Reason::RequestEntityTooLarge, message));
    }
    let patch: json_patch::Patch = serde_json::from_value(patch).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    // Taking back what a patch did before it failed is more than the library gets right in every case.
    let mut changed = document.clone();
    for operation in &patch.0 {
        if !tests_absence(&changed, operation) {
            json_patch::patch_unsafe(&mut changed, std::slice::from_ref(operation)).map_err(|_| unprocessable())?;
        }
    }
    *document = changed;
    Ok(())
}

/// Applies an RFC 7396 merge patch.
///
/// # Errors
/// 400 when the patch is not an object.
pub fn merge_patch(document: &mut Value, patch: &Value) -> Result<(), Status> {
    if !patch.is_object() {
        let why = format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", go_kind(patch));
        return Err(Status::bad_request(format!("error decoding patch: {why}")));
    }
    json_patch::merge(document, patch);
    Ok(())
}

/// Applies a strategic merge patch by the merge keys and strategies of the schema. Custom kinds have none: the API server answers
/// 415 for them before it comes here.
///
/// # Errors
/// 400 for a malformed patch or directive, 500 with Kubernetes' text where it answers so (an element without its merge key).
pub fn strategic_merge(original: &mut Value, patch: Value, schema: &Schema) -> Result<(), Status> {
    let Value::Object(patch) = patch else {
        let why = format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", go_kind(&patch));
        return Err(Status::bad_request(format!("error decoding patch: {why}")));
    };
    let live = match original.take() {
        Value::Object(map) => map,
        _ => serde_json::Map::new(),
    };
    *original = Value::Object(strategic::merge_objects(live, patch, Some(schema.root())).map_err(Status::from)?);
    Ok(())
}

impl From<PatchError> for Status {
    fn from(error: PatchError) -> Status {
        match error {
            PatchError::Other(text) => Status::failure(500, Reason::InternalError, text),
            malformed => Status::bad_request(malformed.to_string()),
        }
    }
}
