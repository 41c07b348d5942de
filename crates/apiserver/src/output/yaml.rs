//! YAML for the few clients that ask for it.

use ferrokube_api::Status;
use serde_json::Value;

/// Writes JSON as YAML.
pub fn from_json(json: &[u8]) -> Result<Vec<u8>, Status> {
    let value: Value = serde_json::from_slice(json).map_err(Status::internal)?;
    serde_saphyr::to_string(&value).map(String::into_bytes).map_err(Status::internal)
}
