//! Who owns which field: the calls into the apply machinery.

use super::options::WriteOptions;
use super::rules::View;
use crate::pipeline::Request;
use ferrokube_api::Status;
use ferrokube_api::apply::{self, Writer};
use serde_json::Value;

fn writer<'r>(request: &'r Request<'_>, options: &'r WriteOptions, view: View, api_version: &'r str) -> Writer<'r> {
    Writer {
        manager: &options.manager,
        api_version,
        subresource: view.subresource(),
        has_status: request.entry.behaviour("status").is_some(),
        now: request.now,
    }
}

/// Records the writer of a new object.
pub fn created(request: &Request<'_>, new: &mut Value, options: &WriteOptions, view: View) {
    let version = request.entry.kind.api_version();
    apply::track_update(None, new, &request.entry.schema, &writer(request, options, view, &version));
}

/// Records the writer of a change.
pub fn updated(request: &Request<'_>, new: &mut Value, old: &Value, options: &WriteOptions, view: View) {
    let version = request.entry.kind.api_version();
    apply::track_update(Some(old), new, &request.entry.schema, &writer(request, options, view, &version));
}

/// Applies a configuration; the result carries its managed fields.
pub fn applied(
    request: &Request<'_>,
    live: Option<&Value>,
    configuration: Value,
    options: &WriteOptions,
    view: View,
) -> Result<Value, Status> {
    let version = request.entry.kind.api_version();
    apply::apply(live, configuration, &request.entry.schema, options.force, &writer(request, options, view, &version))
}
