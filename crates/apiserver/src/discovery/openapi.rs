//! `/openapi/v2` and `/openapi/v3`, made from the type table and the rows when somebody asks.

use super::tagged;
use crate::ApiServer;
use crate::output::Body;
use crate::registry::Entry;
use crate::request::Query;
use ferrokube_api::Status;
use ferrokube_api::openapi::{self, OpenApi, Served};
use http::header::{ACCEPT, CACHE_CONTROL, EXPIRES};
use http::request::Parts;
use http::{HeaderValue, Response};
use std::sync::Arc;

/// What a client may keep for a year because its address names its hash.
const IMMUTABLE: &str = "public, immutable";

fn description(server: &ApiServer) -> Arc<OpenApi> {
    let table = server.registry.table();
    let served = |entry: &Arc<Entry>| Served { kind: entry.kind.clone(), schema: entry.custom.as_ref().and_then(|c| c.openapi.clone()) };
    server.documents.openapi(table.generation, || OpenApi::new(table.entries().iter().map(served)))
}

/// The only form in which kubectl reads `/openapi/v2`; older clients write the first one.
const PROTOBUF: [&str; 2] =
    ["application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"];

fn protobuf_wanted(parts: &Parts) -> bool {
    let sent = parts.headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let mut first = sent.flat_map(|v| v.split(',')).map(|m| m.split(';').next().unwrap_or_default().trim());
    first.next().is_some_and(|media| PROTOBUF.contains(&media))
}

fn json_acceptable(parts: &Parts) -> bool {
    let sent = parts.headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(",");
    sent.is_empty()
        || sent
            .split(',')
            .map(|c| c.split(';').next().unwrap_or_default().trim())
            .any(|m| matches!(m, "application/json" | "*/*" | "application/*"))
}

/// The index of both servers' descriptions.
fn index(server: &ApiServer, api: &OpenApi) -> super::Document {
    let (own, remotes) = (api.index(), server.aggregator.remotes());
    match serde_json::from_slice::<serde_json::Value>(&own.json) {
        Ok(mut all) if !remotes.is_empty() => {
            remotes.describe(&mut all);
            super::Document::new(all.to_string().into_bytes())
        }
        _ => document(own),
    }
}

fn document(found: openapi::Document) -> super::Document {
    super::Document { body: found.json, etag: format!("\"{}\"", found.hash) }
}

/// A document that others had a part in: its hash is not known without it.
fn joined(found: openapi::Document, others: &[Arc<serde_json::Value>]) -> super::Document {
    if others.is_empty() { document(found) } else { super::Document::new(found.json.to_vec()) }
}

/// Answers a path below `/openapi`; `None` for any other.
pub fn answer(server: &Arc<ApiServer>, path: &str, parts: &Parts, query: &Query) -> Option<Result<Response<Body>, Status>> {
    let path = path.strip_prefix("/openapi/")?;
    if path == "v2" && protobuf_wanted(parts) {
        let others = server.aggregator.remotes().swagger();
        return Some(tagged(&joined(description(server).v2_protobuf(&others), &others), PROTOBUF[1], parts));
    }
    if !json_acceptable(parts) {
        // kube-openapi says no more than the code.
        let mut answer = Response::new(Body::Empty);
        *answer.status_mut() = http::StatusCode::NOT_ACCEPTABLE;
        return Some(Ok(answer));
    }
    let api = description(server);
    Some(match path.strip_prefix("v3") {
        _ if path == "v2" => {
            let others = server.aggregator.remotes().swagger();
            tagged(&joined(api.v2(&others), &others), "application/json", parts)
        }
        Some("") => tagged(&index(server, &api), "application/json", parts),
        Some(part) => one(&api, part.trim_start_matches('/'), parts, query),
        None => Err(Status::no_such_path()),
    })
}

fn one(api: &OpenApi, part: &str, parts: &Parts, query: &Query) -> Result<Response<Body>, Status> {
    let found = api.v3(part).ok_or_else(Status::no_such_path)?;
    let current = query.get("hash") == &*found.hash;
    let mut response = tagged(&document(found), "application/json", parts)?;
    if current {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(IMMUTABLE));
        response.headers_mut().insert(EXPIRES, HeaderValue::from_static("Fri, 31 Dec 2100 23:59:59 GMT"));
    }
    Ok(response)
}
