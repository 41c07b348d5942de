//! Why an operation of a JSON patch does not fit a document, in the words of the Go library (`evanphx/json-patch`, version 4).
//!
//! Runs only after the operation has failed.

use json_patch::PatchOperation;
use json_patch::jsonptr::Pointer;
use serde_json::Value;

/// Why a JSON patch was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// A `test` did not hold.
    #[error("{0}")]
    Test(String),
    /// It does not fit the document, or is no patch.
    #[error("{0}")]
    Other(String),
}

impl Misfit {
    pub(super) fn of(document: &Value, operation: &PatchOperation, error: &json_patch::PatchError) -> Self {
        let text = explain(document, operation).unwrap_or_else(|| error.to_string());
        if matches!(operation, PatchOperation::Test(_)) { Misfit::Test(text) } else { Misfit::Other(text) }
    }
}

/// Parent of what a path names, and the last part of the path; `None` when there is no parent.
fn parent<'d>(document: &'d Value, path: &Pointer) -> Option<(&'d Value, String)> {
    let (parent, key) = path.split_back()?;
    let found = document.pointer(parent.as_str()).filter(|p| p.is_object() || p.is_array())?;
    Some((found, key.decoded().into_owned()))
}

/// Why a key cannot be taken out of or put into what it would be in.
fn unusable(parent: &Value, key: &str) -> String {
    match (parent, key.parse::<i64>()) {
        (Value::Array(_), Ok(_)) => format!("Unable to access invalid index: {key}: invalid index referenced"),
        (Value::Array(_), Err(_)) => format!("strconv.Atoi: parsing {key:?}: invalid syntax"),
        _ => format!("Unable to remove nonexistent key: {key}: missing value"),
    }
}

/// The sentence; `None` for what fails in other ways.
fn explain(document: &Value, operation: &PatchOperation) -> Option<String> {
    Some(match operation {
        PatchOperation::Add(add) => match parent(document, &add.path) {
            None => format!("add operation does not apply: doc is missing path: \"{}\": missing value", add.path),
            Some((parent, key)) => format!("error in add for path: '{}': {}", add.path, unusable(parent, &key)),
        },
        PatchOperation::Remove(remove) => match parent(document, &remove.path) {
            None => format!("remove operation does not apply: doc is missing path: \"{}\": missing value", remove.path),
            Some((parent, key)) => format!("error in remove for path: '{}': {}", remove.path, unusable(parent, &key)),
        },
        PatchOperation::Replace(replace) => {
            let what = if parent(document, &replace.path).is_some() { "key" } else { "path" };
            format!("replace operation does not apply: doc is missing {what}: {}: missing value", replace.path)
        }
        PatchOperation::Test(test) => format!("testing value {} failed: test failed", test.path),
        PatchOperation::Move(_) | PatchOperation::Copy(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::json_patch_explained;
    use super::Misfit;
    use serde_json::{Value, json};

    #[test]
    fn the_author_of_a_patch_is_told_what_does_not_fit() {
        let told = |operation: Value| {
            json_patch_explained(&mut json!({"data": {"a": "b"}, "list": [1]}), &json!([operation])).expect_err("no").to_string()
        };
        for (operation, why) in [
            (
                json!({"op": "remove", "path": "/data/x"}),
                "error in remove for path: '/data/x': Unable to remove nonexistent key: x: missing value",
            ),
            (
                json!({"op": "remove", "path": "/meta/x"}),
                "remove operation does not apply: doc is missing path: \"/meta/x\": missing value",
            ),
            (
                json!({"op": "add", "path": "/meta/x~1y", "value": 1}),
                "add operation does not apply: doc is missing path: \"/meta/x~1y\": missing value",
            ),
            (
                json!({"op": "add", "path": "/list/7", "value": 1}),
                "error in add for path: '/list/7': Unable to access invalid index: 7: invalid index referenced",
            ),
            (
                json!({"op": "replace", "path": "/data/x", "value": 1}),
                "replace operation does not apply: doc is missing key: /data/x: missing value",
            ),
            (
                json!({"op": "replace", "path": "/meta/x", "value": 1}),
                "replace operation does not apply: doc is missing path: /meta/x: missing value",
            ),
            (json!({"op": "test", "path": "/data/a", "value": 1}), "testing value /data/a failed: test failed"),
        ] {
            assert_eq!(told(operation), why);
        }
        let object = json_patch_explained(&mut json!({}), &json!({}));
        assert_eq!(object, Err(Misfit::Other("json: cannot unmarshal object into Go value of type jsonpatch.Patch".to_owned())));
    }
}
