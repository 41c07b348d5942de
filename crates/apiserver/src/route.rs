//! Which paths exist below a group and version, which methods they take, and what a client is told of one that does not exist.
//!
//! Built-in kinds stand in go-restful's routing table upstream, custom ones behind a handler of their own: they refuse in different
//! words, and so does this. Nothing here looks at a body. Sources: apiserver `endpoints/installer.go`, go-restful `jsr311.go`,
//! apiextensions-apiserver `customresource_handler.go`.

use crate::output::Body;
use crate::registry::{Entry, Table};
use crate::request::RequestInfo;
use crate::server::answer;
use ferrokube_api::kinds::{SubresourceKind, Verbs};
use ferrokube_api::status::Details;
use ferrokube_api::{Reason, Status};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName};
use http::{Method, Response};
use std::sync::Arc;

/// What objects and documents are shown in.
pub const MEDIA: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
/// What a collection that can be watched is shown in besides.
const STREAMS: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
/// What a patch of a built-in kind may be.
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Why a request leads nowhere.
#[derive(Debug)]
pub enum NoRoute {
    /// With a Status, because somebody is responsible for the path.
    Told(Box<Status>),
    /// Nobody is: what Go's HTTP library says.
    Page,
}

impl From<Status> for NoRoute {
    fn from(status: Status) -> Self {
        NoRoute::Told(Box::new(status))
    }
}

impl NoRoute {
    /// As the result of the request.
    pub fn into_answer(self) -> Result<Response<Body>, Status> {
        match self {
            NoRoute::Told(status) => Err(*status),
            NoRoute::Page => Ok(answer::not_found_page()),
        }
    }
}

/// A refusal of the routing table: it always has details, and they are empty.
fn refused(code: u16, reason: Reason, message: String) -> Status {
    Status { details: Some(Details::default()), ..Status::failure(code, reason, message) }
}

/// The row that a request is for.
pub fn find(table: &Table, info: &RequestInfo, method: &Method, headers: &HeaderMap) -> Result<Arc<Entry>, NoRoute> {
    let Some(entry) = table.get(&info.group, &info.version, &info.resource) else {
        // A built-in group answers for everything below it.
        let built_in = info.group.is_empty() || table.entries().iter().any(|e| e.custom.is_none() && e.kind.group == info.group);
        return Err(if built_in { Status::no_such_path().into() } else { NoRoute::Page });
    };
    if entry.custom.is_some() {
        custom(entry, info)?;
    } else {
        built_in(entry, info, method, headers)?;
    }
    Ok(entry.clone())
}

fn verb_bit(verb: &str) -> Verbs {
    match verb {
        "create" => Verbs::CREATE,
        "delete" => Verbs::DELETE,
        "deletecollection" => Verbs::DELETECOLLECTION,
        "get" => Verbs::GET,
        "list" => Verbs::LIST,
        "patch" => Verbs::PATCH,
        "update" => Verbs::UPDATE,
        "watch" => Verbs::WATCH,
        _ => Verbs(1 << 15),
    }
}

/// The verbs that a path of a built-in kind takes; none when it does not exist.
fn verbs_of_path(entry: &Entry, info: &RequestInfo) -> Verbs {
    const NONE: Verbs = Verbs(0);
    let kind = &entry.kind;
    let placed = !info.namespace.is_empty();
    if placed && !kind.namespaced() && !entry.is("", "namespaces") {
        return NONE;
    }
    // The old way to a proxy, gone long since.
    if info.verb == "proxy" {
        return NONE;
    }
    let collection = info.name.is_empty() || matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
    let everywhere = kind.namespaced() && !placed;
    if !info.subresource.is_empty() {
        let view = kind.subresource(&info.subresource).filter(|view| info.rest.is_empty() || view.name == "proxy");
        return view.filter(|_| !collection && !everywhere).map_or(NONE, |view| view.verbs);
    }
    let named = Verbs::GET_PATCH_UPDATE.with(Verbs::DELETE);
    let reading = Verbs::LIST.with(Verbs::WATCH);
    let possible = match (collection, everywhere) {
        (true, true) => reading,
        (true, false) => reading.with(Verbs::CREATE).with(Verbs::DELETECOLLECTION),
        (false, true) => NONE,
        (false, false) => named,
    };
    Verbs(kind.verbs.0 & possible.0)
}

fn built_in(entry: &Entry, info: &RequestInfo, method: &Method, headers: &HeaderMap) -> Result<(), Status> {
    let verbs = verbs_of_path(entry, info);
    if verbs == Verbs(0) {
        return Err(Status::no_such_path());
    }
    let behaviour = entry.behaviour(&info.subresource);
    let passes = info.subresource == "proxy";
    // The verb of a watch can stand in the path, whatever the method; HEAD reads like GET, and is no GET.
    let own = verbs.has(verb_bit(&info.verb)) && *method != Method::HEAD && (info.verb != "watch" || *method == Method::GET);
    if !own && !(passes && matches!(*method, Method::HEAD | Method::OPTIONS)) {
        return Err(Status::method_not_allowed());
    }
    if *method == Method::PATCH && !passes && !media_types(headers, &CONTENT_TYPE).any(|m| PATCHES.contains(&m)) {
        return Err(refused(415, Reason::UnsupportedMediaType, "415: Unsupported Media Type".to_owned()));
    }
    match (behaviour, info.verb.as_str()) {
        (Some(SubresourceKind::Connect), _) if info.subresource == "log" => acceptable(headers, &[&["text/plain"], &MEDIA]),
        (Some(SubresourceKind::Connect), _) => Ok(()),
        (_, "list" | "watch") => acceptable(headers, &[&MEDIA, &STREAMS]),
        _ => acceptable(headers, &[&MEDIA]),
    }
}

/// A request for a custom resource that cannot be.
fn custom(entry: &Entry, info: &RequestInfo) -> Result<(), NoRoute> {
    let kind = &entry.kind;
    let across = matches!(info.verb.as_str(), "list" | "watch");
    if kind.namespaced() == info.namespace.is_empty() && !(kind.namespaced() && across) {
        return Err(NoRoute::Page);
    }
    let view = kind.subresource(&info.subresource);
    if !info.subresource.is_empty() && view.is_none() {
        return Err(Status::not_found(&info.group, &info.resource, &info.name).into());
    }
    if !view.map_or(kind.verbs, |view| view.verbs).has(verb_bit(&info.verb)) {
        return Err(Status::not_supported(&info.group, &info.resource, &info.verb).into());
    }
    if info.name.is_empty() && matches!(info.verb.as_str(), "update" | "patch") {
        return Err(Status::bad_request("name must be provided").into());
    }
    Ok(())
}

/// The media types that a header names, without their parameters.
fn media_types<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let first = headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    first.split(',').map(|m| m.split(';').next().unwrap_or_default().trim())
}

/// Whether the client takes any of what is offered.
///
/// # Errors
/// 406 in go-restful's words.
pub fn acceptable(headers: &HeaderMap, offered: &[&[&str]]) -> Result<(), Status> {
    let taken = |media: &str| media == "*/*" || offered.iter().any(|some| some.contains(&media));
    if headers.get(ACCEPT).is_none_or(|v| v.is_empty()) || media_types(headers, &ACCEPT).any(taken) {
        return Ok(());
    }
    let message = format!("406: Not Acceptable\n\nAvailable representations: {}", offered.concat().join(", "));
    Err(refused(406, Reason::NotAcceptable, message))
}
