//! Tokens of service accounts for a component that acts as several of them (`--use-service-account-credentials`).
//!
//! An account that is missing is made, a token is asked for when one is needed, and again before it runs out or when the
//! server does not believe it any more.

use crate::transport::TransportError;
use crate::{Client, Result, Target};
use futures_util::future::BoxFuture;
use http::Method;
use serde_json::json;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Where a transport gets the bearer token of each request from.
pub trait Tokens: Send + Sync {
    /// The token to use now.
    fn token(&self) -> BoxFuture<'_, std::result::Result<String, TransportError>>;

    /// The server did not accept this one.
    fn refused<'a>(&'a self, token: &'a str) -> BoxFuture<'a, ()>;
}

/// What is asked for; the server may give less.
const LIFE: Duration = Duration::from_secs(3600);

struct Held {
    token: String,
    renew: Instant,
}

/// The tokens of one account.
pub struct AccountTokens {
    client: Client,
    namespace: String,
    name: String,
    held: Mutex<Option<Held>>,
}

impl AccountTokens {
    /// Asks through `client`, whose user may make accounts and tokens there.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        AccountTokens { client, namespace: namespace.to_owned(), name: name.to_owned(), held: Mutex::new(None) }
    }

    async fn ask(&self) -> Result<Held> {
        let accounts =
            Target { version: "v1".into(), resource: "serviceaccounts".into(), namespace: self.namespace.clone(), ..Target::default() };
        let target = Target { name: self.name.clone(), ..accounts.clone() }.sub("token");
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": LIFE.as_secs()}});
        let asked = Instant::now();
        let answer = match self.client.request(Method::POST, &target, "", Some(&body)).await {
            Err(e) if e.is_not_found() => {
                let account =
                    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": self.namespace, "name": self.name}});
                match self.client.request(Method::POST, &accounts, "", Some(&account)).await {
                    Err(e) if !e.is_already_exists() => return Err(e),
                    _ => self.client.request(Method::POST, &target, "", Some(&body)).await?,
                }
            }
            other => other?,
        };
        let given = answer["spec"]["expirationSeconds"].as_u64().map_or(LIFE, Duration::from_secs);
        let token = answer["status"]["token"].as_str().unwrap_or_default().to_owned();
        Ok(Held { token, renew: asked + given.mul_f64(0.8) })
    }
}

impl Tokens for AccountTokens {
    fn token(&self) -> BoxFuture<'_, std::result::Result<String, TransportError>> {
        Box::pin(async move {
            // The lock is held over the question so that many requests at once ask one time.
            let mut held = self.held.lock().await;
            if let Some(held) = held.as_ref().filter(|h| h.renew > Instant::now()) {
                return Ok(held.token.clone());
            }
            match self.ask().await {
                Ok(fresh) => Ok(held.insert(fresh).token.clone()),
                // The old one is good for a while yet.
                Err(e) => held.as_ref().map(|h| h.token.clone()).ok_or_else(|| TransportError::new(e)),
            }
        })
    }

    fn refused<'a>(&'a self, token: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move { drop(self.held.lock().await.take_if(|h| h.token == token)) })
    }
}
