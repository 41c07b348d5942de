//! What the server serves, told to clients: `/api`, `/apis` (classic and aggregated), OpenAPI, the version. Derived from
//! the rows and made once per table of kinds.

pub mod aggregated;
pub mod classic;
pub mod openapi;
pub mod version;

use crate::ApiServer;
use crate::output::{Body, negotiate, pretty};
use crate::pipeline::respond;
use crate::registry::Table;
use crate::request::Query;
use crate::route;
use crate::server::answer::not_found_page;
use bytes::Bytes;
use ferrokube_api::Status;
use ferrokube_api::openapi::OpenApi;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use parking_lot::Mutex;
use sha2::{Digest, Sha512};
use std::collections::HashMap;
use std::sync::Arc;

/// A document with its ETag.
#[derive(Clone, Debug)]
pub struct Document {
    /// The bytes.
    pub body: Bytes,
    /// Hash of the bytes, quoted.
    pub etag: String,
}

impl Document {
    fn new(body: Vec<u8>) -> Self {
        let hash = Sha512::digest(&body);
        let hex: String = hash.iter().map(|b| format!("{b:02X}")).collect();
        Document { body: body.into(), etag: format!("\"{hex}\"") }
    }
}

/// Documents of the current table, by name.
#[derive(Debug, Default)]
pub struct Documents {
    made: Mutex<(u64, HashMap<String, Document>)>,
    openapi: Mutex<Option<(u64, Arc<OpenApi>)>>,
}

impl Documents {
    /// The API description of the current table.
    pub fn openapi(&self, generation: u64, make: impl FnOnce() -> OpenApi) -> Arc<OpenApi> {
        let mut kept = self.openapi.lock();
        match &*kept {
            Some((of, api)) if *of == generation => api.clone(),
            _ => {
                let api = Arc::new(make());
                *kept = Some((generation, api.clone()));
                api
            }
        }
    }

    /// A document, made when it is asked for the first time since the kinds changed.
    pub fn get(&self, generation: u64, name: &str, make: impl FnOnce() -> Result<Vec<u8>, Status>) -> Result<Document, Status> {
        {
            let mut made = self.made.lock();
            if made.0 != generation {
                *made = (generation, HashMap::new());
            }
            if let Some(document) = made.1.get(name) {
                return Ok(document.clone());
            }
        }
        let document = Document::new(make()?);
        let mut made = self.made.lock();
        if made.0 == generation {
            made.1.insert(name.to_owned(), document.clone());
        }
        Ok(document)
    }
}

/// A document with its ETag, or 304 when the client has it.
pub fn tagged(document: &Document, media: &'static str, parts: &Parts) -> Result<Response<Body>, Status> {
    let has = parts
        .headers
        .get(IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|tags| tags.split(',').any(|t| t.trim() == document.etag));
    let mut response = if has {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond(200, Body::Full(document.body.clone()), negotiate::Format::Json, &parts.headers)?
    };
    if let Ok(tag) = HeaderValue::from_str(&document.etag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().append(http::header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// Answers a path below `/api`, `/apis` or `/openapi`.
pub fn answer(server: &Arc<ApiServer>, path: &str, parts: &Parts, query: &Query) -> Result<Response<Body>, Status> {
    if let Some(answer) = openapi::answer(server, path, parts, query) {
        return answer;
    }
    let (table, remotes) = (server.registry.table(), server.aggregator.remotes());
    // Changes with either.
    let generation = (table.generation << 32) | remotes.generation();
    let accept = parts.headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(",");
    if matches!(path, "/api" | "/apis")
        && let Some(format) = aggregated::wanted(&accept)
    {
        let name = format!("{format:?} {path}");
        let made = || aggregated::document(&table, &remotes, path == "/api", format);
        let mut document = server.documents.get(generation, &name, made)?;
        if format == negotiate::Format::Json {
            document = readable(document, parts, query);
        }
        return tagged(&document, aggregated::media_type(format), parts);
    }
    if routed(path, &table) {
        route::acceptable(&parts.headers, &[&route::MEDIA])?;
    }
    let format = negotiate::accept(&parts.headers, negotiate::Endpoint::DOCUMENTS)?.format;
    let value = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["", "api"] => Some(classic::versions(&server.external.get().cloned().unwrap_or_default())),
        ["", "apis"] => Some(classic::groups(&table, &remotes)),
        ["", "apis", group] => classic::group(&table, &remotes, group),
        ["", "api", version] => classic::resources(&table, "", version),
        ["", "apis", group, version] => classic::resources(&table, group, version),
        _ => None,
    };
    let Some(value) = value else { return nothing(path, &table) };
    let mut json = value.to_string().into_bytes();
    if format == negotiate::Format::Json && pretty::wanted(query, &parts.headers) {
        json = pretty::indent(&json);
    }
    respond(200, Body::Full(json.into()), format, &parts.headers)
}

/// Indented for people. It is the same document, so the tag stays.
fn readable(mut document: Document, parts: &Parts, query: &Query) -> Document {
    if pretty::wanted(query, &parts.headers) {
        document.body = pretty::indent(&document.body).into();
    }
    document
}

/// Whether a path lies in go-restful's routing table upstream: that of the built-in groups, not what custom resources bring.
fn routed(path: &str, table: &Table) -> bool {
    let own = |group: &str| table.entries().iter().any(|e| e.custom.is_none() && e.kind.group == group);
    let mut parts = path.strip_prefix('/').unwrap_or(path).split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("api" | "version"), ..) => true,
        (Some("apis"), Some(group), Some(_)) => own(group),
        _ => false,
    }
}

/// A path that does not exist: below the server's own groups it has a Status, any other is nobody's.
fn nothing(path: &str, table: &Table) -> Result<Response<Body>, Status> {
    if routed(path, table) { Err(Status::no_such_path()) } else { Ok(not_found_page()) }
}
