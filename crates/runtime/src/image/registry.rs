//! The registry client: resolves references and opens blobs (OCI distribution 1.1 and its Docker ancestors).
//!
//! A reference is looked for at its mirrors, then at its registry. HTTPS always, except for loopback hosts and for
//! mirrors that the configuration writes with `http://`. Credentials of a pull go to the registry that the reference
//! names and to the token server that it points to over an equally safe connection, and nowhere else; mirrors get
//! those in their own URL.

use super::archive::DOCUMENT_LIMIT;
use super::challenge::{self, Challenge};
use super::content::verify;
use super::error::{Error, Result, resolve_failed};
use super::reference::{DEFAULT_REGISTRY, Digest, Reference, default_registry_api_host};
use super::spec::{INDEX_TYPES, MANIFEST_TYPES};
use super::store::Config;
use base64::Engine as _;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// How to log in to a registry.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// With a password; empty when there is none.
    pub username: String,
    /// Or an access token that the registry takes for one.
    pub password: String,
    /// Refresh token, to be traded for access tokens.
    pub identity_token: String,
    /// Bearer token that goes to the registry as it is.
    pub registry_token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive() // Secrets stay out of logs.
    }
}

/// The client.
pub struct Registry {
    http: reqwest::Client,
    /// Loopback registries are never asked through a proxy.
    local: reqwest::Client,
    mirrors: BTreeMap<String, Vec<String>>,
    mirror_only: bool,
    progress_timeout: Duration,
    tokens: Mutex<HashMap<TokenKey, Token>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    base: String,
    scope: String,
    credentials: Option<Credentials>,
}

struct Token {
    header: HeaderValue,
    expires: Option<Instant>,
}

/// One place to ask for a repository.
struct Endpoint {
    /// `scheme://host[:port][/path]`, without user information.
    base: String,
    credentials: Option<Credentials>,
    /// Tried first although the next one may be meant: plain HTTP on a loopback host.
    tentative: bool,
}

/// What a reference leads to.
pub struct Resolved {
    /// Of the manifest or index.
    pub digest: Digest,
    /// As the registry says it.
    pub media_type: Option<String>,
    /// Fetched already, or to be fetched by digest when it is not stored.
    pub bytes: Option<Vec<u8>>,
}

/// An open blob.
pub struct Blob {
    response: Response,
    /// Where the bytes begin: 0 when the registry ignored the range asked for.
    pub offset: u64,
    timeout: Duration,
    url: String,
}

impl Blob {
    /// The next bytes; `None` is the end. A stall is an error.
    pub async fn chunk(&mut self) -> Result<Option<bytes::Bytes>> {
        let unreachable = |why: String| Error::Unreachable { method: "GET", url: self.url.clone(), why };
        match tokio::time::timeout(self.timeout, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(unreachable(innermost(&error))),
            Err(_) => Err(unreachable(format!("no progress in {} seconds", self.timeout.as_secs()))),
        }
    }
}

/// What is asked of a repository.
struct Request<'a> {
    method: Method,
    path: String,
    accept: bool,
    offset: u64,
    repository: &'a str,
}

impl Registry {
    /// Makes the HTTP clients; reads the certificates this machine trusts.
    pub fn new(config: &Config) -> Result<Self> {
        // Somebody else may have installed the same provider before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let failed = |e: reqwest::Error| Error::Invalid(format!("failed to set up the registry client: {}", innermost(&e)));
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("ferrokube/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(Duration::from_secs(30))
                .pool_idle_timeout(Duration::from_secs(30))
                .redirect(reqwest::redirect::Policy::custom(redirect))
        };
        // A machine without a certificate store can still pull over HTTP from itself; HTTPS then says whom it does not know.
        let build = |builder: &dyn Fn() -> reqwest::ClientBuilder| match builder().build() {
            Err(error) => {
                tracing::warn!(error = innermost(&error), "no trusted certificates: registries over HTTPS cannot be used");
                builder().tls_certs_only([]).build()
            }
            built => built,
        };
        Ok(Self {
            http: build(&builder).map_err(failed)?,
            local: build(&|| builder().no_proxy()).map_err(failed)?,
            mirrors: config.mirrors.clone(),
            mirror_only: config.mirror_only,
            progress_timeout: config.progress_timeout,
            tokens: Mutex::default(),
        })
    }

    /// Finds out what a reference stands for right now.
    pub async fn resolve(&self, reference: &Reference, credentials: Option<&Credentials>) -> Result<Resolved> {
        self.try_resolve(reference, credentials).await.map_err(|e| resolve_failed(reference, e))
    }

    async fn try_resolve(&self, reference: &Reference, credentials: Option<&Credentials>) -> Result<Resolved> {
        let path = format!("manifests/{}", reference.target());
        // HEAD first: public registries count the GETs of manifests.
        let mut request = Request { method: Method::HEAD, path, accept: true, offset: 0, repository: reference.path() };
        match self.first(reference, &request, credentials).await {
            Ok(response) => {
                let media_type = header(&response, CONTENT_TYPE.as_str());
                let stated = header(&response, "docker-content-digest").map(|text| Digest::parse(&text)).transpose()?;
                if let Some(digest) = reference.digest().cloned().or(stated) {
                    return Ok(Resolved { digest, media_type, bytes: None });
                }
            }
            Err(error) if may_work_with_get(&error) => {}
            Err(error) => return Err(error),
        }
        request.method = Method::GET; // A registry that does not do HEAD properly.
        let response = self.first(reference, &request, credentials).await?;
        let media_type = header(&response, CONTENT_TYPE.as_str());
        let bytes = self.document(response).await?;
        let digest = reference.digest().cloned().unwrap_or_else(|| Digest::of(&bytes));
        verify(&digest, &bytes)?;
        Ok(Resolved { digest, media_type, bytes: Some(bytes) })
    }

    /// A manifest or index by digest, checked.
    pub async fn manifest(&self, reference: &Reference, digest: &Digest, credentials: Option<&Credentials>) -> Result<Vec<u8>> {
        let request =
            Request { method: Method::GET, path: format!("manifests/{digest}"), accept: true, offset: 0, repository: reference.path() };
        self.fetch(reference, &request, digest, credentials).await
    }

    /// A small blob (an image config), checked.
    pub async fn small_blob(&self, reference: &Reference, digest: &Digest, credentials: Option<&Credentials>) -> Result<Vec<u8>> {
        let request =
            Request { method: Method::GET, path: format!("blobs/{digest}"), accept: false, offset: 0, repository: reference.path() };
        self.fetch(reference, &request, digest, credentials).await
    }

    async fn fetch(
        &self,
        reference: &Reference,
        request: &Request<'_>,
        digest: &Digest,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<u8>> {
        let context = |e: Error| e.context(format!("failed to copy {digest}"));
        let response = self.first(reference, request, credentials).await.map_err(context)?;
        let bytes = self.document(response).await.map_err(context)?;
        verify(digest, &bytes).map_err(context)?;
        Ok(bytes)
    }

    /// Opens a blob from a byte on, if the registry can do that.
    pub async fn blob(&self, reference: &Reference, digest: &Digest, offset: u64, credentials: Option<&Credentials>) -> Result<Blob> {
        let request = Request { method: Method::GET, path: format!("blobs/{digest}"), accept: false, offset, repository: reference.path() };
        let response = self.first(reference, &request, credentials).await?;
        let offset = match response.status() {
            StatusCode::PARTIAL_CONTENT => range_start(&response).unwrap_or(offset),
            _ => 0,
        };
        let url = response.url().to_string();
        Ok(Blob { response, offset, timeout: self.progress_timeout, url })
    }

    /// The answer of the first place that gives one. Of the errors the most telling one is kept, the last of equals.
    async fn first(&self, reference: &Reference, request: &Request<'_>, credentials: Option<&Credentials>) -> Result<Response> {
        let mut worst: Option<Error> = None;
        for endpoint in self.endpoints(reference, credentials)? {
            let error = match self.ask(&endpoint, request, reference).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            tracing::debug!(endpoint = endpoint.base, %error, "registry did not serve");
            // Anything but silence or a "400 you are not speaking TLS" is the answer of a plain HTTP registry.
            let settled = endpoint.tentative && !matches!(&error, Error::Unreachable { .. }) && !may_work_with_get(&error);
            if worst.as_ref().is_none_or(|worst| telling(&error) >= telling(worst)) {
                worst = Some(error);
            }
            if settled {
                break;
            }
        }
        Err(worst.unwrap_or_else(|| Error::NotFound(reference.to_string())))
    }

    fn endpoints(&self, reference: &Reference, credentials: Option<&Credentials>) -> Result<Vec<Endpoint>> {
        let host = reference.host();
        let mut endpoints = Vec::new();
        let mirrors = self.mirrors.get(host).or_else(|| self.mirrors.get("*"));
        for mirror in mirrors.into_iter().flatten() {
            endpoints.push(mirror_endpoint(mirror)?);
        }
        if self.mirror_only && !endpoints.is_empty() {
            return Ok(endpoints);
        }
        let origin = |scheme: &str, host: &str, tentative| Endpoint {
            base: format!("{scheme}://{host}"),
            credentials: credentials.cloned(),
            tentative,
        };
        if host == DEFAULT_REGISTRY {
            endpoints.push(origin("https", &default_registry_api_host(), false));
        } else {
            if is_loopback(host) {
                endpoints.push(origin("http", host, true));
            }
            endpoints.push(origin("https", host, false));
        }
        Ok(endpoints)
    }

    /// Sends a request, logging in when asked to, and turns refusals into errors.
    async fn ask(&self, endpoint: &Endpoint, request: &Request<'_>, reference: &Reference) -> Result<Response> {
        let scope = format!("repository:{}:pull", request.repository);
        let key = TokenKey { base: endpoint.base.clone(), scope, credentials: endpoint.credentials.clone() };
        let mut response = self.send(endpoint, request, self.known_authorization(&key)).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenges = challenges(response.headers());
            if let Some(authorization) = self.authorize(endpoint, &key, &challenges).await? {
                response = self.send(endpoint, request, Some(authorization)).await?;
            }
        }
        let status = response.status();
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::NOT_FOUND => Err(Error::NotFound(reference.to_string())),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                self.tokens.lock().remove(&key);
                Err(Error::Denied(refusal(response).await))
            }
            _ => {
                let (method, url) = (method_name(&request.method), response.url().to_string());
                Err(Error::Status { method, url, status: status.to_string(), body: message(response).await })
            }
        }
    }

    async fn send(&self, endpoint: &Endpoint, request: &Request<'_>, authorization: Option<HeaderValue>) -> Result<Response> {
        let url = format!("{}/v2/{}/{}", endpoint.base, request.repository, request.path);
        let mut headers = HeaderMap::new();
        if request.accept {
            let types = [MANIFEST_TYPES, INDEX_TYPES].concat().join(", ");
            headers.insert(ACCEPT, HeaderValue::from_str(&format!("{types}, */*")).unwrap_or(HeaderValue::from_static("*/*")));
        }
        if request.offset > 0 {
            headers.insert(
                RANGE,
                HeaderValue::from_str(&format!("bytes={}-", request.offset)).unwrap_or(HeaderValue::from_static("bytes=0-")),
            );
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        let client = self.client(&endpoint.base);
        let sent = client.request(request.method.clone(), &url).headers(headers).send();
        let unreachable = |why: String| Error::Unreachable { method: method_name(&request.method), url: url.clone(), why };
        match tokio::time::timeout(self.progress_timeout, sent).await {
            Ok(sent) => sent.map_err(|e| unreachable(innermost(&e))),
            Err(_) => Err(unreachable("timed out waiting for an answer".into())),
        }
    }

    fn client(&self, url: &str) -> &reqwest::Client {
        let local = Url::parse(url).ok().and_then(|url| url.host_str().map(is_loopback)).unwrap_or(false);
        if local { &self.local } else { &self.http }
    }

    fn known_authorization(&self, key: &TokenKey) -> Option<HeaderValue> {
        let mut tokens = self.tokens.lock();
        let token = tokens.get(key)?;
        if token.expires.is_some_and(|at| at <= Instant::now()) {
            tokens.remove(key);
            return None;
        }
        Some(token.header.clone())
    }

    /// Gets what a challenge asks for. `None`: nothing we have fits.
    async fn authorize(&self, endpoint: &Endpoint, key: &TokenKey, challenges: &[Challenge]) -> Result<Option<HeaderValue>> {
        let credentials = endpoint.credentials.as_ref();
        for challenge in challenges {
            let (secret, lifetime) = match (challenge.scheme.as_str(), credentials) {
                ("bearer", Some(credentials)) if !credentials.registry_token.is_empty() => {
                    (format!("Bearer {}", credentials.registry_token), None)
                }
                ("bearer", credentials) => {
                    let who = if credentials.is_some() { "oauth" } else { "anonymous" };
                    let token = self.token(endpoint, key, challenge, credentials).await;
                    let token = token.map_err(|e| e.context(format!("failed to authorize: failed to fetch {who} token")))?;
                    (format!("Bearer {}", token.0), Some(token.1))
                }
                ("basic", Some(credentials)) if !credentials.username.is_empty() => (basic(credentials), None),
                _ => continue,
            };
            let invalid = |_| Error::Denied("credentials with characters that no header can carry".into());
            let mut header = HeaderValue::from_str(&secret).map_err(invalid)?;
            header.set_sensitive(true);
            let expires = lifetime.map(|lifetime| Instant::now() + lifetime);
            self.tokens.lock().insert(key.clone(), Token { header: header.clone(), expires });
            return Ok(Some(header));
        }
        Ok(None)
    }

    /// Trades credentials (or none) for an access token at the server that the registry names.
    async fn token(
        &self,
        endpoint: &Endpoint,
        key: &TokenKey,
        challenge: &Challenge,
        credentials: Option<&Credentials>,
    ) -> Result<(String, Duration)> {
        let realm = challenge.parameters.get("realm").map(String::as_str).unwrap_or_default();
        let mut url = Url::parse(realm).map_err(|e| Error::Invalid(format!("invalid token auth challenge realm {realm:?}: {e}")))?;
        let safe = url.scheme() == "https" || (url.scheme() == "http" && endpoint.base.starts_with("http://"));
        if !safe {
            return Err(Error::Denied(format!("token server {realm} is less safe than its registry")));
        }
        let service = challenge.parameters.get("service").cloned();
        let scope = challenge.parameters.get("scope").unwrap_or(&key.scope).clone();
        let client = self.client(realm);
        let request = match credentials {
            Some(credentials) if !credentials.identity_token.is_empty() => {
                let mut form = Url::parse("form:").map_err(|e| Error::Invalid(e.to_string()))?;
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("refresh_token", &credentials.identity_token)
                    .append_pair("client_id", "ferrokube")
                    .append_pair("service", service.as_deref().unwrap_or_default())
                    .append_pair("scope", &scope);
                let body = form.query().unwrap_or_default().to_owned();
                client.post(url.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
            }
            credentials => {
                url.query_pairs_mut().extend_pairs(service.iter().map(|s| ("service", s.as_str()))).append_pair("scope", &scope);
                let request = client.get(url.clone());
                match credentials.filter(|credentials| !credentials.username.is_empty()) {
                    Some(credentials) => request.header(AUTHORIZATION, basic(credentials)),
                    None => request,
                }
            }
        };
        let method = if credentials.is_some_and(|c| !c.identity_token.is_empty()) { "POST" } else { "GET" };
        let sent = request.timeout(self.progress_timeout).send().await;
        let response = sent.map_err(|e| Error::Unreachable { method, url: realm.to_owned(), why: innermost(&e) })?;
        match response.status() {
            StatusCode::OK => decode_token(&self.document(response).await?),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::Denied(refusal(response).await)),
            status => Err(Error::Status { method, url: realm.to_owned(), status: status.to_string(), body: message(response).await }),
        }
    }

    /// A whole answer, if it is not larger than any honest document.
    async fn document(&self, response: Response) -> Result<Vec<u8>> {
        let url = response.url().to_string();
        let mut blob = Blob { response, offset: 0, timeout: self.progress_timeout, url };
        let mut bytes = Vec::new();
        while let Some(chunk) = blob.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > DOCUMENT_LIMIT {
                return Err(Error::Invalid(format!("{}: larger than {DOCUMENT_LIMIT} bytes", blob.url)));
            }
        }
        Ok(bytes)
    }
}

fn mirror_endpoint(mirror: &str) -> Result<Endpoint> {
    let invalid = || Error::Invalid(format!("invalid registry mirror {mirror:?}"));
    let mut url = Url::parse(mirror).map_err(|_| invalid())?;
    let username = url.username().to_owned();
    let password = url.password().unwrap_or_default().to_owned();
    let credentials = (!username.is_empty()).then_some(Credentials { username, password, ..Credentials::default() });
    url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| invalid())?;
    Ok(Endpoint { base: url.as_str().trim_end_matches('/').to_owned(), credentials, tentative: false })
}

/// Whether a host (with or without port) is this machine itself.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None if host.matches(':').count() > 1 => host,
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Follows a few redirects, never from HTTPS to HTTP.
fn redirect(attempt: reqwest::redirect::Attempt<'_>) -> reqwest::redirect::Action {
    let downgrade = attempt.previous().last().is_some_and(|from| from.scheme() == "https") && attempt.url().scheme() != "https";
    match attempt.previous().len() {
        _ if downgrade => attempt.error("redirect from https to http"),
        n if n > 10 => attempt.error("too many redirects"),
        _ => attempt.follow(),
    }
}

/// Which of several errors is worth showing: a refusal says more than an absence, and that more than silence.
fn telling(error: &Error) -> u8 {
    match error.root() {
        Error::Unreachable { .. } => 1,
        Error::NotFound(_) => 2,
        _ => 3,
    }
}

/// Whether HEAD may have failed for being HEAD.
fn may_work_with_get(error: &Error) -> bool {
    match error.root() {
        Error::Status { status, .. } => status.starts_with("405") || status.starts_with("400") || status.starts_with("501"),
        _ => false,
    }
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        _ => "GET",
    }
}

fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect()
}

/// First byte of `Content-Range: bytes 5-9/10`.
fn range_start(response: &Response) -> Option<u64> {
    let range = header(response, "content-range")?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

fn basic(credentials: &Credentials) -> String {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

fn decode_token(bytes: &[u8]) -> Result<(String, Duration)> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
        expires_in: Option<u64>,
    }
    let answer: Answer = super::spec::decode(bytes, "token response")?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() {
        return Err(Error::Invalid("authorization server did not include a token in the response".into()));
    }
    // Without a lifetime a minute is promised; a little of it is left for the way.
    Ok((token, Duration::from_secs(answer.expires_in.unwrap_or(60).saturating_sub(5))))
}

/// Why a registry refuses, in its own words.
async fn refusal(response: Response) -> String {
    let stated = challenges(response.headers()).into_iter().find_map(|challenge| challenge.parameters.get("error").cloned());
    match (stated, message(response).await) {
        (Some(error), _) => format!("server message: {error}: authorization failed"),
        (None, Some(body)) => format!("authorization failed: {body}"),
        (None, None) => "authorization failed".to_owned(),
    }
}

/// The message of an error document, or the beginning of whatever else the body is.
async fn message(mut response: Response) -> Option<String> {
    let mut bytes = Vec::new();
    while bytes.len() < 4096 {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            _ => break,
        }
    }
    #[derive(Deserialize)]
    struct Answer {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        code: String,
        #[serde(default)]
        message: String,
    }
    if let Ok(answer) = serde_json::from_slice::<Answer>(&bytes) {
        let items: Vec<_> = answer.errors.iter().map(|item| format!("{}: {}", item.code.to_lowercase(), item.message)).collect();
        return Some(items.join(", ")).filter(|text| !text.is_empty());
    }
    let text: String = String::from_utf8_lossy(&bytes).chars().take(256).collect();
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The cause at the bottom: "error sending request" says nothing.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000", "[::1]", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "10.0.0.1:5000", "[2001:db8::1]:5000", "registry", "127.0.0.1.example"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
