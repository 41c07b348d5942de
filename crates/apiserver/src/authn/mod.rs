//! Authentication: who is asking. Front proxy, client certificate, bearer token, or nobody, in that order.
//!
//! Credentials are checked here and nowhere else. A bad credential is 401 without a reason for the client; the reason
//! goes to the log. No credential is `system:anonymous`, and only for the few paths that anybody may read.

mod bearer;
mod bootstrap_token;
mod front_proxy;
mod impersonation;
mod service_account;
mod x509;

pub use front_proxy::RequestHeaders;
pub use impersonation::impersonate;
pub use x509::{PeerCertificates, client_certificate_verifier};

use crate::attributes::UserInfo;
use crate::objects::Objects;
use crate::tokens::ServiceAccountTokens;
use ferrokube_api::Status;
use std::collections::HashMap;
use std::sync::Arc;

/// Group of everybody who proved an identity.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everybody who did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Name of everybody who did not.
pub const ANONYMOUS: &str = "system:anonymous";

/// Paths that need no credential: health, version, and the discovery of the cluster's CA.
pub const ANONYMOUS_PATHS: &[&str] =
    &["/healthz", "/livez", "/readyz", "/version", "/version/", "/api/v1/namespaces/kube-public/configmaps/cluster-info"];

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
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum AuthnConfigError {
    #[error("{what}: no usable CA certificate in PEM: {why}")]
    Ca { what: &'static str, why: String },
    #[error("token file line {line}: {why}")]
    TokenFile { line: usize, why: &'static str },
}

/// Why a credential does not count. For the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Rejected(pub(crate) String);

/// The authenticator of the server.
pub struct Authenticator {
    objects: Arc<dyn Objects>,
    tokens: Arc<ServiceAccountTokens>,
    client_ca: Option<x509::CaPool>,
    front_proxy: Option<front_proxy::FrontProxy>,
    static_tokens: HashMap<String, UserInfo>,
    bootstrap_tokens: bool,
    verified: service_account::VerifiedTokens,
}

/// An accepted token: its user and the audiences (of those asked for) that it is for.
#[derive(Clone, Debug)]
pub struct TokenIdentity {
    /// Who.
    pub user: UserInfo,
    /// Audiences of the token among those asked for; empty for tokens without audience.
    pub audiences: Vec<String>,
}

impl Authenticator {
    /// Reads the configuration.
    pub fn new(config: AuthnConfig, tokens: Arc<ServiceAccountTokens>, objects: Arc<dyn Objects>) -> Result<Self, AuthnConfigError> {
        let client_ca = if config.client_ca.is_empty() { None } else { Some(x509::CaPool::from_pem("client CA", &config.client_ca)?) };
        Ok(Authenticator {
            objects,
            tokens,
            client_ca,
            front_proxy: config.front_proxy.map(front_proxy::FrontProxy::new).transpose()?,
            static_tokens: bearer::static_tokens(&config.static_tokens)?,
            bootstrap_tokens: config.bootstrap_tokens,
            verified: service_account::VerifiedTokens::default(),
        })
    }

    /// The tokens this authenticator accepts.
    pub fn tokens(&self) -> &Arc<ServiceAccountTokens> {
        &self.tokens
    }

    /// Finds out who sends the request. `peer` is `None` on a connection without client certificate.
    pub async fn authenticate(&self, parts: &http::request::Parts, peer: Option<&PeerCertificates>) -> Result<UserInfo, Status> {
        let now = jiff::Timestamp::now().as_second();
        match self.identify(parts, peer, now) {
            Ok(Some(user)) => Ok(authenticated(user)),
            Ok(None) if ANONYMOUS_PATHS.contains(&parts.uri.path()) => Ok(anonymous()),
            Ok(None) => Err(Status::unauthorized()),
            Err(why) => {
                tracing::debug!(path = parts.uri.path(), %why, "Unable to authenticate the request");
                Err(Status::unauthorized())
            }
        }
    }

    /// The first credential that counts; an error when there are only credentials that do not.
    fn identify(&self, parts: &http::request::Parts, peer: Option<&PeerCertificates>, now: i64) -> Result<Option<UserInfo>, Rejected> {
        let mut rejected = None;
        if let (Some(proxy), Some(peer)) = (&self.front_proxy, peer)
            && let Some(user) = proxy.identify(&parts.headers, peer, now)
        {
            return Ok(Some(user));
        }
        if let (Some(ca), Some(peer)) = (&self.client_ca, peer) {
            match peer.client_identity(ca, now) {
                Ok(user) => return Ok(Some(user)),
                Err(why) => rejected = Some(why),
            }
        }
        let token = bearer::from_header(&parts.headers).or_else(|| bearer::from_websocket(&parts.headers));
        if let Some(token) = token {
            match self.authenticate_token(&token, &[], now) {
                Ok(identity) => return Ok(Some(identity.user)),
                Err(why) => rejected = Some(why),
            }
        }
        rejected.map_or(Ok(None), Err)
    }

    /// Checks a token for TokenReview; an empty `audiences` means the API server's. `now` in seconds since the epoch.
    pub fn review_token(&self, token: &str, audiences: &[String], now: i64) -> Result<TokenIdentity, String> {
        let mut identity = self.authenticate_token(token, audiences, now).map_err(|why| why.0)?;
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
        self.verified.identify(&self.tokens, &*self.objects, token, audiences, now)
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
mod tests;
