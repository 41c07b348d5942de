//! Who owns which field: the calls into the apply machinery.

use super::options::WriteOptions;
use super::rules::{self, View};
use crate::pipeline::Request;
use ferrokube_api::Status;
use ferrokube_api::apply::{self, Versions, Writer};
use ferrokube_api::schema::Schema;
use serde_json::Value;

/// The versions of the request's kind, for managers that wrote in another one.
struct Served<'r>(&'r Request<'r>);

impl std::fmt::Debug for Served<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Served({})", self.0.entry.kind.resource)
    }
}

impl Versions for Served<'_> {
    fn convert(&self, object: &Value, api_version: &str) -> Option<(Value, Schema)> {
        let table = self.0.server.registry.table();
        let row = |api_version: &str| {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            table.get(group, version, &self.0.entry.kind.resource).cloned()
        };
        let to = row(api_version)?;
        let from = row(object.get("apiVersion")?.as_str()?)?;
        // Only versions of the same stored object are versions of each other.
        if to.kind.storage_prefix != from.kind.storage_prefix {
            return None;
        }
        let mut value = object.clone();
        if let Some(convert) = from.kind.hooks.to_storage {
            convert(&mut value);
        }
        if let Some(convert) = to.kind.hooks.from_storage {
            convert(&mut value);
        }
        crate::output::present::stamp(&to, &mut value);
        Some((value, to.schema.clone()))
    }
}

fn writer<'r>(
    request: &'r Request<'r>,
    options: &'r WriteOptions,
    view: View,
    api_version: &'r str,
    versions: &'r Served<'r>,
) -> Writer<'r> {
    Writer {
        manager: &options.manager,
        api_version,
        subresource: view.subresource(),
        has_status: request.entry.behaviour("status").is_some(),
        status_resets: rules::status_resets(&request.entry),
        versions: Some(versions),
        now: request.now,
    }
}

/// Records the writer of a new object.
pub fn created(request: &Request<'_>, new: &mut Value, options: &WriteOptions, view: View) {
    let version = request.entry.kind.api_version();
    apply::track_update(None, new, &request.entry.schema, &writer(request, options, view, &version, &Served(request)));
}

/// Records the writer of a change.
pub fn updated(request: &Request<'_>, new: &mut Value, old: &Value, options: &WriteOptions, view: View) {
    let version = request.entry.kind.api_version();
    apply::track_update(Some(old), new, &request.entry.schema, &writer(request, options, view, &version, &Served(request)));
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
    let served = Served(request);
    apply::apply(live, configuration, &request.entry.schema, options.force, &writer(request, options, view, &version, &served))
}
