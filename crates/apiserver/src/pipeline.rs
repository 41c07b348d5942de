//! The one pipeline: every request of every verb of every kind goes through [`ApiServer::run`], from a socket or from a
//! component in the same process.
//!
//! route → authenticate → audit → flow control → authorize → decode → mutate-admit → default → validate →
//! validate-admit → store transaction → encode. The middle, from decode to the transaction, is that of `verbs/` and
//! `write/`; nothing there is reached but through here.

use crate::ApiServer;
use crate::admission::Outcome;
use crate::attributes::UserInfo;
use crate::audit::Trail;
use crate::authn::{PeerCertificates, impersonate};
use crate::connect::forwarded::append_client;
use crate::output::negotiate::{self, Accept, Endpoint};
use crate::output::table::{self, Include};
use crate::output::{Body, Format, Shape, present, pretty, protobuf, yaml};
use crate::registry::Entry;
use crate::request::content::Content;
use crate::request::{Query, RequestBody, RequestInfo};
use crate::route;
use crate::server::answer;
use crate::verbs::Answer;
use bytes::Bytes;
use ferrokube_api::Status;
use ferrokube_api::decode::Strictness;
use ferrokube_api::kinds::SubresourceKind;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;

/// Who sends a request.
pub enum Sender<'p> {
    /// Whoever the credentials say.
    Unknown(&'p Peer),
    /// A component of this process, under its own name.
    Known(UserInfo),
}

/// The other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// What it presented in the handshake.
    pub certificates: Option<PeerCertificates>,
}

impl Sender<'_> {
    fn address(&self) -> Option<IpAddr> {
        match self {
            Sender::Unknown(peer) => Some(peer.address),
            Sender::Known(_) => None,
        }
    }
}

/// A request as it came, with its line read.
pub struct Come {
    /// Line and headers.
    pub parts: Parts,
    /// What the line asks for.
    pub info: RequestInfo,
    /// The query.
    pub query: Query,
    /// What it leaves behind besides the answer.
    pub outcome: Arc<Mutex<Outcome>>,
    /// What audit learns of it.
    pub trail: Trail,
}

/// A request that is authenticated and authorized, on its way through a verb.
pub struct Request<'s> {
    /// The server.
    pub server: &'s Arc<ApiServer>,
    /// Who.
    pub user: UserInfo,
    /// What the request line says.
    pub info: RequestInfo,
    /// The query.
    pub query: Query,
    /// Headers.
    pub headers: HeaderMap,
    /// Method.
    pub method: Method,
    /// The row that serves it.
    pub entry: Arc<Entry>,
    /// What the client wants to read.
    pub accept: Accept,
    /// When it came.
    pub now: Timestamp,
    body: Mutex<Option<RequestBody>>,
    /// What audit learns of it; empty for requests that the server makes on behalf of another.
    pub trail: Trail,
    upgrade: Mutex<Option<hyper::upgrade::OnUpgrade>>,
    outcome: Arc<Mutex<Outcome>>,
}

impl ApiServer {
    /// All steps of a request, in order.
    pub(crate) async fn run(self: &Arc<Self>, come: Come, body: RequestBody, sender: Sender<'_>) -> Result<Response<Body>, Status> {
        // Route: what is asked for was read from the request line when the request came.
        let Come { mut parts, info, query, outcome, trail } = come;

        // Authenticate: who asks, and in whose name.
        let address = sender.address();
        let user = match sender {
            Sender::Known(user) => user,
            Sender::Unknown(peer) => {
                let user = self.authenticator.authenticate(&parts, peer.certificates.as_ref()).await;
                user.inspect_err(|_| trail.unauthenticated(&parts, &info, address))?
            }
        };

        // Audit: whether it is written down.
        trail.received(&parts, &info, &user, address).await?;
        let attributes = info.attributes(&user, &query);
        let user = impersonate(&self.authorizer, user, &parts.headers, &attributes, &trail).await?;

        // Flow control: whether there is room.
        let _room = match self.room(&info, &query, &user, &outcome).await {
            Ok(room) => room,
            Err(busy) => {
                trail.failed(&busy);
                return Ok(refused(&busy));
            }
        };

        // Authorize: whether they may.
        let attributes = info.attributes(&user, &query);
        let decision = self.authorizer.decide_request(&attributes).await;
        trail.decided(&decision);
        decision.into_result(&attributes)?;

        // Storage versions: whether the other servers know by now in which version this one writes.
        if let Some(versions) = &self.storage_versions {
            versions.check(&info, &user)?;
        }

        // Aggregation: whether another server serves it.
        if let Some(remote) = self.aggregator.serving(&info) {
            append_client(&mut parts.headers, address);
            return Box::pin(self.aggregator.forward(self, &remote, parts, body, &user, trail)).await;
        }

        // Paths that are no resources: health, discovery, metrics, OpenAPI.
        if !info.resource_request {
            return Box::pin(self.path(&parts, &info, &query)).await;
        }

        let entry = match route::find(&self.registry.table(), &info, &parts.method, &parts.headers) {
            Ok(entry) => entry,
            Err(nowhere) => return nowhere.into_answer(),
        };

        // Decode, admit, default, validate, store: the verb's business.
        if entry.behaviour(&info.subresource) == Some(SubresourceKind::Connect) {
            append_client(&mut parts.headers, address);
        }
        let request = self.request(entry, parts, body, user, info, query, outcome, trail)?;
        let answer = request.dispatch().await?;

        // Encode.
        request.encode(answer).await
    }

    fn request(
        self: &Arc<Self>,
        entry: Arc<Entry>,
        mut parts: Parts,
        body: RequestBody,
        user: UserInfo,
        info: RequestInfo,
        query: Query,
        outcome: Arc<Mutex<Outcome>>,
        trail: Trail,
    ) -> Result<Request<'_>, Status> {
        let connects = entry.behaviour(&info.subresource) == Some(SubresourceKind::Connect);
        let kept = entry.kind.storage_prefix.is_some() || entry.kind.hooks.cells.is_some();
        let endpoint = Endpoint {
            transforms: true,
            tables: kept && entry.behaviour(&info.subresource) != Some(SubresourceKind::Action),
            // Custom resources have no protobuf form; a Scale has, whatever it scales.
            protobuf: entry.custom.is_none() || entry.behaviour(&info.subresource) == Some(SubresourceKind::Scale),
            watch: info.verb == "watch",
        };
        let accept = if connects { Accept::default() } else { negotiate::accept(&parts.headers, endpoint)? };
        if let Some(text) = entry.deprecation() {
            self.metrics.deprecated(&info);
            let mut outcome = outcome.lock();
            outcome.warnings.push(text.to_owned());
            outcome.annotations.push(("k8s.io/deprecated".to_owned(), "true".to_owned()));
        }
        let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        Ok(Request {
            server: self,
            user,
            info,
            query,
            headers: parts.headers,
            method: parts.method,
            entry,
            accept,
            now: Timestamp::now(),
            body: Mutex::new(Some(body)),
            upgrade: Mutex::new(upgrade),
            trail,
            outcome,
        })
    }
}

impl<'s> Request<'s> {
    /// To the code of the verb. One allocation per request, as large as the verb needs: the futures of all verbs lie neither in each
    /// other's types nor side by side on the stack that they run on.
    fn dispatch(&self) -> BoxFuture<'_, Result<Answer, Status>> {
        let refused = || Box::pin(std::future::ready(Err::<Answer, Status>(Status::method_not_allowed())));
        let verb = self.info.verb.as_str();
        let subresource = self.entry.kind.subresource(&self.info.subresource);
        match (subresource.map(|s| s.behaviour), verb) {
            (Some(SubresourceKind::Connect), _) => Box::pin(self.connect()),
            (Some(SubresourceKind::Action), _) => match self.info.subresource.as_str() {
                "binding" => Box::pin(self.bind()),
                "eviction" => Box::pin(self.evict()),
                "token" => Box::pin(self.token_request()),
                _ => refused(),
            },
            (Some(SubresourceKind::Scale), "get") => Box::pin(self.get_scale()),
            (None, "create") if self.entry.is("", "bindings") => Box::pin(self.bind()),
            (None, "create") if self.entry.kind.storage_prefix.is_none() => Box::pin(self.review_request()),
            (None, "get" | "list") if self.entry.kind.storage_prefix.is_none() => Box::pin(self.component_statuses()),
            (None, "create") => Box::pin(self.create()),
            (None, "list") => Box::pin(self.list()),
            (None, "watch") => Box::pin(self.watch()),
            (None, "delete") => Box::pin(self.delete()),
            (None, "deletecollection") => Box::pin(self.delete_collection()),
            (_, "get") => Box::pin(self.get()),
            (_, "update") => Box::pin(self.update()),
            (_, "patch") => Box::pin(self.patch()),
            _ => refused(),
        }
    }

    /// From an answer to bytes in the format and shape that the client wants.
    async fn encode(&self, answer: Answer) -> Result<Response<Body>, Status> {
        let include = || Include::parse(self.query.get("includeObject"));
        let accept = self.accept;
        let (code, mut body) = match answer {
            Answer::Raw(response) => return Ok(response),
            Answer::Value(code, value) if accept.shape == Shape::Table && value["kind"] == "Scale" => {
                (code, Body::Full(table::scale(&value, accept.beta, self.now)?))
            }
            Answer::Value(code, value) => (code, Body::Full(serde_json::to_vec(&value).map_err(Status::internal)?.into())),
            Answer::One(code, object) if accept.format == Format::Protobuf => {
                self.trail.response_body(&mut Body::Full(object.json()));
                let body = Body::Full(protobuf::one(&self.entry, &object.json(), accept.shape, accept.beta)?);
                return Ok(finished(code, body, accept.format, &self.headers));
            }
            Answer::Many(many) if accept.format == Format::Protobuf => {
                if self.trail.wants_response() {
                    self.trail.response_body(&mut many.clone().plain(&self.entry)?);
                }
                let body = protobuf::many(&self.entry, many, accept.shape, accept.beta).await?;
                return Ok(finished(200, body, accept.format, &self.headers));
            }
            Answer::One(code, object) => match accept.shape {
                Shape::Object => (code, Body::Full(object.json())),
                Shape::Partial | Shape::PartialList => (code, Body::Full(present::partial(&object.json(), accept.beta)?)),
                Shape::Table => {
                    let table = table::single(&self.entry, &object, &table::columns(&self.entry), include()?, accept.beta, self.now)?;
                    (code, Body::Full(table))
                }
            },
            Answer::Many(many) => match accept.shape {
                Shape::Object => (200, many.plain(&self.entry)?),
                Shape::Partial | Shape::PartialList => (200, many.partial(accept.beta).await?),
                Shape::Table => (200, many.table(&self.entry, include()?, accept.beta).await?),
            },
        };
        let indented = accept.format == Format::Json && pretty::wanted(&self.query, &self.headers);
        if indented || accept.format == Format::Yaml || self.trail.wants_response() {
            body = body.gathered().await.map_err(Status::internal)?;
        }
        self.trail.response_body(&mut body);
        if indented {
            body = Body::Full(pretty::indent(&collected(body)).into());
        }
        respond(code, body, accept.format, &self.headers)
    }

    /// Namespace of the objects concerned; empty for cluster-scoped kinds and for all namespaces.
    pub fn namespace(&self) -> &str {
        if self.entry.kind.namespaced() { &self.info.namespace } else { "" }
    }

    /// The same request, for a namespace of those it covers.
    pub fn within(&self, namespace: &str) -> Request<'s> {
        let info = RequestInfo { namespace: namespace.to_owned(), ..self.info.clone() };
        self.derived(self.entry.clone(), info)
    }

    /// A request that the server makes on behalf of this one, about another object of the same namespace.
    pub fn aimed_at(&self, group: &str, version: &str, resource: &str, name: &str, subresource: &str) -> Result<Request<'s>, Status> {
        let table = self.server.registry.table();
        let entry = table.get(group, version, resource).ok_or_else(Status::no_such_path)?.clone();
        let info = RequestInfo {
            group: group.to_owned(),
            version: version.to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            ..self.info.clone()
        };
        Ok(self.derived(entry, info))
    }

    fn derived(&self, entry: Arc<Entry>, info: RequestInfo) -> Request<'s> {
        Request {
            server: self.server,
            user: self.user.clone(),
            info,
            query: self.query.clone(),
            headers: HeaderMap::new(),
            method: self.method.clone(),
            entry,
            accept: self.accept,
            now: self.now,
            body: Mutex::new(None),
            upgrade: Mutex::new(None),
            trail: Trail::default(),
            outcome: self.outcome.clone(),
        }
    }

    /// The body, once.
    pub fn body_stream(&self) -> Option<RequestBody> {
        self.body.lock().take()
    }

    /// The body, read.
    pub async fn take_body(&self) -> Result<Bytes, Status> {
        let body = self.body_stream();
        match body {
            Some(body) => body.read().await.inspect(|bytes| self.trail.request_body(&self.headers, bytes)),
            None => Ok(Bytes::new()),
        }
    }

    /// The connection, when the client asked to upgrade it.
    pub fn upgrade(&self) -> Option<hyper::upgrade::OnUpgrade> {
        self.upgrade.lock().take()
    }

    /// Decodes the body as an object of the row.
    pub async fn decode_own(&self, strictness: Strictness) -> Result<Value, Status> {
        let content = Content::of(&self.headers)?;
        if content == Content::Protobuf && self.entry.custom.is_some() {
            return Err(negotiate::unsupported("application/json, application/yaml"));
        }
        let body = self.take_body().await?;
        let decoded = content.decode(&body, &self.entry.schema, &self.entry.gvk(), strictness)?;
        decoded.warnings.into_iter().for_each(|text| self.warn(text));
        self.trail.request_object(&decoded.value);
        Ok(decoded.value)
    }

    /// Adds a `Warning` header.
    pub fn warn(&self, text: String) {
        self.warn_once(text);
    }

    /// Adds a `Warning` header, unless the same text is there.
    pub fn warn_once(&self, text: String) {
        let mut outcome = self.outcome.lock();
        if !outcome.warnings.contains(&text) {
            outcome.warnings.push(text);
        }
    }

    /// Keeps what admission leaves behind.
    pub fn remember(&self, more: Outcome) {
        more.warnings.into_iter().for_each(|text| self.warn_once(text));
        self.outcome.lock().annotations.extend(more.annotations);
    }
}

/// A response in a format, from a body that is JSON.
pub fn respond(code: u16, body: Body, format: Format, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    let body = match (format, body) {
        (Format::Json, body) => body,
        (Format::Yaml, body) => Body::Full(yaml::from_json(&collected(body))?.into()),
        (Format::Protobuf, body) => Body::Full(protobuf::value(&collected(body))?),
    };
    Ok(finished(code, body, format, headers))
}

/// A response, compressed when it is large and the client takes it.
fn finished(code: u16, body: Body, format: Format, headers: &HeaderMap) -> Response<Body> {
    let large = body.len().is_none_or(|len| len > 128 * 1024);
    let zip = large && negotiate::takes_gzip(headers);
    let mut response = Response::new(if zip { body.gzip() } else { body });
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    let out = response.headers_mut();
    out.insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    if zip {
        out.insert(http::header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        out.insert(http::header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

/// A body that needs no waiting, as bytes.
fn collected(body: Body) -> Bytes {
    futures_util::FutureExt::now_or_never(body.collect()).and_then(Result::ok).unwrap_or_default()
}

/// A refusal for want of room: upstream has no time for more than plain words and when to come again.
fn refused(busy: &Status) -> Response<Body> {
    let code = http::StatusCode::from_u16(busy.code).unwrap_or(http::StatusCode::TOO_MANY_REQUESTS);
    let mut response = answer::refusal(code, &busy.message);
    put_retry_after(&mut response, busy);
    response
}

fn put_retry_after(response: &mut Response<Body>, status: &Status) {
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// A failure as a response, indented for people and for those who take none of what the server speaks.
pub fn failure(status: &Status, headers: &HeaderMap, readable: bool) -> Response<Body> {
    let accepted = negotiate::accept(headers, Endpoint::DOCUMENTS);
    let readable = readable || accepted.is_err();
    let format = accepted.map(|a| a.format).unwrap_or_default();
    let json = status.to_json();
    let body = Body::Full(if readable && format == Format::Json { pretty::indent(&json).into() } else { json.into() });
    let mut response = respond(status.code, body, format, headers).unwrap_or_else(|_| Response::new(Body::Empty));
    put_retry_after(&mut response, status);
    response
}

/// `Warning: 299 - "text"`, quotes and backslashes escaped, control characters dropped.
pub fn warning_header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let clean: String = text.chars().filter(|c| !c.is_control()).take(2048).collect();
    let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
    let value = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()).ok()?;
    Some((http::header::WARNING, value))
}
