//! Authentication: who is asking. Front proxy, client certificate, bearer token, or nobody, in that order. Tokens are
//! looked at by those who can tell without waiting first; then issuers of OpenID and the webhook are asked.
//!
//! Credentials are checked here and nowhere else. A bad credential is 401 without a reason for the client; the reason
//! goes to the log. No credential is `system:anonymous`, and only for the few paths that anybody may read.

mod bearer;
mod bootstrap_token;
mod config;
mod front_proxy;
mod impersonation;
mod jwt;
pub(crate) mod legacy;
mod service_account;
mod version_one;
mod webhook;
mod x509;

pub use front_proxy::RequestHeaders;
pub use impersonation::impersonate;
pub use jwt::{ALGORITHMS, Expression, JwtConfig, Mapping, Rule, Source};
pub use webhook::TokenWebhookConfig;
pub use x509::{PeerCertificates, client_certificate_verifier};

use crate::attributes::UserInfo;
use crate::objects::Objects;
use crate::server::metrics::head;
use crate::server::reload::ConfigFile;
use crate::tokens::ServiceAccountTokens;
use arc_swap::ArcSwap;
use ferrokube_api::Status;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Group of everybody who proved an identity.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everybody who did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Name of everybody who did not.
pub const ANONYMOUS: &str = "system:anonymous";

/// Paths that need no credential unless something else is said: health, version, and the discovery of the cluster's CA.
pub const ANONYMOUS_PATHS: &[&str] =
    &["/healthz", "/livez", "/readyz", "/version", "/version/", "/api/v1/namespaces/kube-public/configmaps/cluster-info"];

/// Where a request without credential is `system:anonymous`. Elsewhere it is refused with 401.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// `--anonymous-auth=false`.
    Nowhere,
    /// On these paths.
    Paths(Vec<String>),
    /// `--anonymous-auth=true`: authorization decides.
    Everywhere,
}

impl Default for Anonymous {
    fn default() -> Self {
        Anonymous::Paths(ANONYMOUS_PATHS.iter().map(|p| (*p).to_owned()).collect())
    }
}

impl Anonymous {
    fn allows(&self, path: &str) -> bool {
        match self {
            Anonymous::Nowhere => false,
            Anonymous::Paths(paths) => paths.iter().any(|p| p == path),
            Anonymous::Everywhere => true,
        }
    }
}

/// Which credentials count.
#[derive(Clone, Debug, Default)]
pub struct AuthnConfig {
    /// CAs of client certificates in PEM: `--client-ca-file`. Empty: client certificates are not accepted.
    pub client_ca: String,
    /// The front proxy, if any: `--requestheader-*`.
    pub front_proxy: Option<RequestHeaders>,
    /// Content of `--token-auth-file`: lines `token,user,uid,"group,group"`. Empty: none.
    pub static_tokens: String,
    /// `--enable-bootstrap-token-auth`.
    pub bootstrap_tokens: bool,
    /// Who comes without a credential.
    pub anonymous: Anonymous,
    /// Issuers from flags: `--oidc-*`.
    pub jwt: Vec<JwtConfig>,
    /// `--authentication-config`: issuers and anonymous requests, in place of the flags. May change while the server runs.
    pub file: Option<ConfigFile>,
    /// The webhook that is asked last.
    pub webhook: Option<TokenWebhookConfig>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum AuthnConfigError {
    #[error("{what}: no usable CA certificate in PEM: {why}")]
    Ca { what: &'static str, why: String },
    #[error("token file line {line}: {why}")]
    TokenFile { line: usize, why: &'static str },
    #[error("authentication configuration: {0}")]
    File(String),
    #[error("issuer {issuer}: {why}")]
    Issuer { issuer: String, why: String },
    #[error("token webhook: {0}")]
    Webhook(String),
}

/// Why a credential does not count. For the log.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Rejected(pub(crate) String);

/// What may change while the server runs.
#[derive(Default)]
struct Changing {
    jwt: jwt::JwtAuthenticator,
    anonymous: Anonymous,
}

impl Changing {
    fn new(config: &AuthnConfig) -> Result<Self, AuthnConfigError> {
        let (issuers, anonymous) = match &config.file {
            None => (config.jwt.clone(), config.anonymous.clone()),
            Some(file) => {
                let text = file.read().map_err(|e| AuthnConfigError::File(e.to_string()))?;
                let read = config::parse(&text)?;
                (read.jwt, read.anonymous.unwrap_or_else(|| config.anonymous.clone()))
            }
        };
        Ok(Changing { jwt: jwt::JwtAuthenticator::start(issuers)?, anonymous })
    }
}

/// Whose client certificates count.
struct Trusted {
    client_ca: Option<x509::CaPool>,
    front_proxy: Option<front_proxy::FrontProxy>,
}

impl Trusted {
    fn new(client_ca: &str, front_proxy: Option<RequestHeaders>) -> Result<Self, AuthnConfigError> {
        let client_ca = if client_ca.is_empty() { None } else { Some(x509::CaPool::from_pem("client CA", client_ca)?) };
        Ok(Trusted { client_ca, front_proxy: front_proxy.map(front_proxy::FrontProxy::new).transpose()? })
    }
}

/// The authenticator of the server.
pub struct Authenticator {
    objects: Arc<dyn Objects>,
    tokens: Arc<ServiceAccountTokens>,
    trusted: ArcSwap<Trusted>,
    static_tokens: HashMap<String, UserInfo>,
    bootstrap_tokens: bool,
    verified: service_account::VerifiedTokens,
    legacy_uses: legacy::Uses,
    changing: ArcSwap<Changing>,
    webhook: Option<webhook::TokenWebhook>,
    /// Requests that proved an identity or came as nobody, and requests that did not.
    attempts: [AtomicU64; 2],
}

/// An accepted token: its user and the audiences (of those asked for) that it is for.
#[derive(Clone, Debug)]
pub struct TokenIdentity {
    /// Who.
    pub user: UserInfo,
    /// Audiences of the token among those asked for; empty for tokens without audience.
    pub audiences: Vec<String>,
}

/// What the credentials of a request say without asking anybody else.
enum Said {
    Known(UserInfo),
    Nothing,
    /// Not acceptable here; others may know the token.
    Doubt(Rejected, Option<String>),
}

impl Authenticator {
    /// Reads the configuration.
    pub fn new(config: AuthnConfig, tokens: Arc<ServiceAccountTokens>, objects: Arc<dyn Objects>) -> Result<Self, AuthnConfigError> {
        Ok(Authenticator {
            objects,
            tokens,
            trusted: ArcSwap::from_pointee(Trusted::new(&config.client_ca, config.front_proxy.clone())?),
            changing: ArcSwap::from_pointee(Changing::new(&config)?),
            webhook: config.webhook.as_ref().map(webhook::TokenWebhook::new).transpose()?,
            static_tokens: bearer::static_tokens(&config.static_tokens)?,
            bootstrap_tokens: config.bootstrap_tokens,
            verified: service_account::VerifiedTokens::default(),
            legacy_uses: legacy::Uses::default(),
            attempts: Default::default(),
        })
    }

    /// Reads the configuration file again; what cannot be used leaves everything as it is.
    pub fn reload(&self, config: &AuthnConfig) -> Result<(), AuthnConfigError> {
        self.changing.store(Arc::new(Changing::new(config)?));
        Ok(())
    }

    /// Believes client certificates of these CAs from the next request on, on connections that stand too. What cannot be used leaves
    /// everything as it is.
    pub(crate) fn trust(&self, client_ca: &str, front_proxy: Option<RequestHeaders>) -> Result<(), AuthnConfigError> {
        self.trusted.store(Arc::new(Trusted::new(client_ca, front_proxy)?));
        Ok(())
    }

    /// The tokens this authenticator accepts.
    pub fn tokens(&self) -> &Arc<ServiceAccountTokens> {
        &self.tokens
    }

    /// Uses of tokens in Secrets that are to be written down.
    pub(crate) fn legacy_uses(&self) -> &legacy::Uses {
        &self.legacy_uses
    }

    /// Finds out who sends the request. `peer` is `None` on a connection without client certificate.
    pub async fn authenticate(&self, parts: &http::request::Parts, peer: Option<&PeerCertificates>) -> Result<UserInfo, Status> {
        let answer = self.find_out(parts, peer).await;
        self.attempts[usize::from(answer.is_err())].fetch_add(1, Ordering::Relaxed);
        answer
    }

    /// `authentication_attempts`.
    pub(crate) fn metrics(&self, out: &mut String) {
        head(out, "authentication_attempts", "counter", "[ALPHA] Counter of authenticated attempts.");
        for (result, count) in ["success", "failure"].into_iter().zip(&self.attempts) {
            let _ = writeln!(out, "authentication_attempts{{result=\"{result}\"}} {}", count.load(Ordering::Relaxed));
        }
        self.verified.metrics(out);
        self.legacy_uses.metrics(out);
    }

    async fn find_out(&self, parts: &http::request::Parts, peer: Option<&PeerCertificates>) -> Result<UserInfo, Status> {
        let now = jiff::Timestamp::now().as_second();
        let path = parts.uri.path();
        let why = match self.identify(parts, peer, now) {
            Said::Known(user) => return Ok(authenticated(user)),
            Said::Nothing if self.changing.load().anonymous.allows(path) => return Ok(anonymous()),
            Said::Nothing => return Err(Status::unauthorized()),
            Said::Doubt(why, None) => why,
            Said::Doubt(why, Some(token)) => match Box::pin(self.ask_others(&token, self.tokens.api_audiences(), now, why)).await {
                Ok(identity) => return Ok(authenticated(identity.user)),
                Err(why) => why,
            },
        };
        tracing::debug!(path, %why, "Unable to authenticate the request");
        Err(Status::unauthorized())
    }

    /// The first credential that counts.
    fn identify(&self, parts: &http::request::Parts, peer: Option<&PeerCertificates>, now: i64) -> Said {
        let mut rejected = None;
        let trusted = self.trusted.load();
        if let (Some(proxy), Some(peer)) = (&trusted.front_proxy, peer)
            && let Some(user) = proxy.identify(&parts.headers, peer, now)
        {
            return Said::Known(user);
        }
        if let (Some(ca), Some(peer)) = (&trusted.client_ca, peer) {
            match peer.client_identity(ca, now) {
                Ok(user) => return Said::Known(user),
                Err(why) => rejected = Some(why),
            }
        }
        match bearer::from_header(&parts.headers).or_else(|| bearer::from_websocket(&parts.headers)) {
            Some(token) => match self.authenticate_token(&token, &[], now) {
                Ok(identity) => Said::Known(identity.user),
                Err(why) => Said::Doubt(why, Some(token)),
            },
            None => rejected.map_or(Said::Nothing, |why| Said::Doubt(why, None)),
        }
    }

    /// Issuers and webhook, in this order; `why` says why nobody here accepted the token.
    async fn ask_others(&self, token: &str, audiences: &[String], now: i64, why: Rejected) -> Result<TokenIdentity, Rejected> {
        let changing = self.changing.load_full();
        let mut reasons = vec![why.0];
        if !changing.jwt.is_empty()
            && let Some(answer) = changing.jwt.identify(token, now).await
        {
            // Tokens of issuers are for this server: their audiences were checked against its configuration.
            match answer {
                Ok(user) => {
                    let own = self.tokens.api_audiences();
                    return Ok(TokenIdentity { user, audiences: audiences.iter().filter(|a| own.contains(a)).cloned().collect() });
                }
                Err(why) => reasons.push(why.0),
            }
        }
        if let Some(webhook) = &self.webhook {
            match webhook.identify(token, audiences).await {
                Ok(identity) => return Ok(identity),
                Err(why) => reasons.push(why.0),
            }
        }
        Err(Rejected(reasons.join(", ")))
    }

    /// Checks a token for TokenReview; an empty `audiences` means the API server's. `now` in seconds since the epoch.
    pub async fn review_token(&self, token: &str, audiences: &[String], now: i64) -> Result<TokenIdentity, String> {
        let answer = match self.authenticate_token(token, audiences, now) {
            Ok(identity) => Ok(identity),
            Err(why) => {
                let wanted = if audiences.is_empty() { self.tokens.api_audiences() } else { audiences };
                self.ask_others(token, wanted, now, why).await
            }
        };
        let mut identity = answer.map_err(|why| why.0)?;
        identity.user = authenticated(identity.user);
        Ok(identity)
    }

    fn authenticate_token(&self, token: &str, audiences: &[String], now: i64) -> Result<TokenIdentity, Rejected> {
        if let Some(user) = self.static_tokens.get(token) {
            return Ok(TokenIdentity { user: user.clone(), audiences: Vec::new() });
        }
        if bootstrap_token::looks_like(token) {
            if !self.bootstrap_tokens {
                return Err(Rejected("bootstrap token authentication is off".into()));
            }
            let user = bootstrap_token::identify(&*self.objects, token, now)?;
            return Ok(TokenIdentity { user, audiences: Vec::new() });
        }
        match self.verified.identify(&self.tokens, &*self.objects, token, audiences, now) {
            Err(why) => legacy::identify(&self.tokens, &*self.objects, &self.legacy_uses, token, audiences, now).unwrap_or(Err(why)),
            identity => identity,
        }
    }
}

/// Adds `system:authenticated`.
fn authenticated(mut user: UserInfo) -> UserInfo {
    if user.groups.iter().all(|g| g != AUTHENTICATED && g != UNAUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// Nobody.
pub fn anonymous() -> UserInfo {
    UserInfo { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..UserInfo::default() }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
