//! The three patch formats that change a live object: JSON patch (RFC 6902), merge patch (RFC 7396), strategic merge patch.
//!
//! All work on values without knowing whose they are; afterwards the result is read by the schema again
//! ([`crate::decode::normalize`]), which finds unknown fields and wrong types. Server-side apply is in [`crate::apply`].

mod misfit;
mod strategic;
#[cfg(test)]
mod tests;

use crate::decode::go_kind;
use crate::schema::Schema;
use crate::status::{Details, Reason, Status};
use json_patch::PatchOperation;
use serde_json::{Value, json};

pub use misfit::Misfit;
pub use strategic::PatchError;

/// A JSON patch with more operations is refused.
pub const MOST_OPERATIONS: usize = 10_000;

/// Whether the error is one of the two that mean "well-formed, but does not fit the object".
fn unprocessable() -> Status {
    let status = Status::failure(422, Reason::Invalid, "the server rejected our request due to an error in our request");
    Status { details: Some(Details::default()), ..status }
}

/// The fields of an operation, all texts but the last.
const FIELDS: [&str; 4] = ["op", "path", "from", "value"];

/// An operation as the Go implementation reads it, which looks at most of it only when it comes to it: what is no operation at all
/// fails like one that does not fit.
fn operation(fields: &Value) -> Result<PatchOperation, Status> {
    let misfit = |value: &Value, target: &str| {
        Status::bad_request(format!("error decoding patch: json: cannot unmarshal {} into Go {target}", go_kind(value)))
    };
    let Value::Object(map) = fields else { return Err(misfit(fields, "value of type handlers.jsonPatchOp")) };
    for field in &FIELDS[..3] {
        match map.get(*field) {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(other) => return Err(misfit(other, &format!("struct field jsonPatchOp.{field} of type string"))),
        }
    }
    let mut whole = fields.clone();
    if matches!(whole["op"].as_str(), Some("add" | "replace" | "test")) && !map.contains_key("value") {
        whole["value"] = json!(null);
    }
    serde_json::from_value(whole).map_err(|_| unprocessable())
}

/// What an operation of a JSON patch has besides its fields, in the words of the strict decoder.
pub fn unknown_fields(patch: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for (i, operation) in patch.as_array().into_iter().flatten().enumerate() {
        let strange = operation.as_object().into_iter().flat_map(|o| o.keys()).filter(|key| !FIELDS.contains(&key.as_str()));
        out.extend(strange.map(|key| format!("unknown field \"[{i}].{key}\"")));
    }
    out
}

/// Whether the operation tests for null what is not there, which holds for the Go implementation and which operators build on: so
/// they put the first finalizer on an object.
fn tests_absence(document: &Value, operation: &PatchOperation) -> bool {
    let PatchOperation::Test(test) = operation else { return false };
    let Some((parent, key)) = test.path.split_back() else { return false };
    let parent = document.pointer(parent.as_str()).and_then(Value::as_object);
    test.value.is_null() && parent.is_some_and(|parent| !parent.contains_key(key.decoded().as_ref()))
}

/// Applies an RFC 6902 patch; all of it or nothing.
///
/// # Errors
/// 400 when it is not a patch, 413 when it has too many operations, 422 when an operation does not fit the object (a failed
/// `test`, a missing path).
pub fn json_patch(document: &mut Value, patch: &Value) -> Result<(), Status> {
    let Value::Array(operations) = patch else {
        let why = format!("json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp", go_kind(patch));
        return Err(Status::bad_request(format!("error decoding patch: {why}")));
    };
    if operations.len() > MOST_OPERATIONS {
        let count = operations.len();
        let message = format!("The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {count}");
        return Err(Status::failure(413, Reason::RequestEntityTooLarge, message));
    }
    let operations: Vec<_> = operations.iter().map(operation).collect::<Result<_, _>>()?;
    run(document, &operations).map_err(|_| unprocessable())
}

/// [`json_patch`] of an admission webhook or policy, whose author is told what does not fit.
///
/// # Errors
/// The sentence of the library that upstream's API server uses.
pub fn json_patch_explained(document: &mut Value, patch: &Value) -> Result<(), Misfit> {
    let Value::Array(operations) = patch else {
        return Err(Misfit::Other(format!("json: cannot unmarshal {} into Go value of type jsonpatch.Patch", go_kind(patch))));
    };
    let operations = operations.iter().map(operation).collect::<Result<Vec<_>, _>>();
    run(document, &operations.map_err(|status| Misfit::Other(status.message))?)
}

fn run(document: &mut Value, operations: &[PatchOperation]) -> Result<(), Misfit> {
    // Taking back what a patch did before it failed is more than the library gets right in every case.
    let mut changed = document.clone();
    for operation in operations {
        if !tests_absence(&changed, operation) {
            let done = json_patch::patch_unsafe(&mut changed, std::slice::from_ref(operation));
            done.map_err(|error| Misfit::of(&changed, operation, &error))?;
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
        return Err(Status::bad_request(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            go_kind(&patch)
        )));
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
