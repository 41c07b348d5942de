//! Tokens that live in Secrets of type `kubernetes.io/service-account-token`, the older way to be a service account.
//!
//! Reads service accounts and those Secrets; fills in a Secret's `token`, `ca.crt` and `namespace`, deletes Secrets whose
//! account is gone, and takes deleted Secrets out of their account's list. It runs as the controller manager itself.
//! Source: `pkg/controller/serviceaccount/tokens_controller.go`.

use crate::Context;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, DeleteOptions, Error, Index, Named, Object, ObjectKey, Optional, Selection};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::json;
use std::sync::Arc;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// `iss` of these tokens.
const ISSUER: &str = "kubernetes/serviceaccount";
/// Retries of one key (`maxRetries`).
const TRIES: u32 = 10;

struct Tokens {
    context: Context,
    accounts: Cache<ServiceAccount>,
    secrets: Cache<Secret>,
    by_account: Arc<Index>,
}

/// Runs the controller; without the key it does nothing, as when kube-controller-manager is not given one.
pub(crate) async fn run(context: Context) {
    if context.config.sign_token.is_none() {
        return std::future::pending().await;
    }
    let accounts: Cache<ServiceAccount> = context.caches.of();
    let secrets: Cache<Secret> = context.caches.select(Selection { fields: format!("type={TYPE}"), ..Selection::default() });
    let by_account = secrets.index(|o| account_of(o).into_iter().collect());
    let changed_secrets: Queue<ObjectKey> = context.queue("serviceaccount_tokens_secret").giving_up_after(TRIES);
    let changed_accounts: Queue<ObjectKey> = context.queue("serviceaccount_tokens_service").giving_up_after(TRIES);
    let (add, add_account) = (changed_secrets.clone(), changed_accounts.clone());
    secrets.on_change(move |d| {
        add.add(d.key().clone());
        if let (None, Some(account)) = (d.new, account_of(d.latest())) {
            // The account may list the Secret that is gone.
            add_account.add(ObjectKey::new(&d.key().namespace, account.split_once('/').map_or("", |(_, name)| name)));
        }
    });
    let (add, add_secrets, of_account) = (changed_accounts.clone(), changed_secrets.clone(), by_account.clone());
    accounts.on_change(move |d| {
        for secret in of_account.get(&d.key().to_string()) {
            add_secrets.add(secret.key.clone());
        }
        if d.new.is_some() {
            add.add(d.key().clone());
        }
    });
    tokio::join!(accounts.synced(), secrets.synced());
    let tokens = Tokens { context, accounts, secrets, by_account };
    tokio::join!(
        controller::run::<_, Error, _, _>("serviceaccount-token", changed_secrets, 5, |key| tokens.secret(key)),
        controller::run::<_, Error, _, _>("serviceaccount-token", changed_accounts, 5, |key| tokens.account(key)),
    );
}

/// `namespace/name` of the account that a Secret is for.
fn account_of(secret: &Object) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Outer {
        metadata: Inner,
    }
    #[derive(serde::Deserialize)]
    struct Inner {
        #[serde(default)]
        annotations: std::collections::HashMap<String, String>,
    }
    let name = secret.decode::<Outer>().ok()?.metadata.annotations.remove(ACCOUNT_NAME)?;
    Some(format!("{}/{name}", secret.key.namespace))
}

fn annotation<'a>(secret: &'a Secret, name: &str) -> Option<&'a str> {
    secret.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// What to do about a Secret.
#[derive(Debug, PartialEq)]
enum Action {
    Nothing,
    /// Its account is gone, or another one of that name has come.
    Delete,
    Write(Box<Secret>),
}

impl Tokens {
    async fn secret(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(secret) = self.secrets.read(&key.namespace, &key.name)? else { return Ok(Next::Wait) };
        let name = annotation(&secret, ACCOUNT_NAME).unwrap_or_default();
        let mut account = self.accounts.read(&key.namespace, name)?;
        if account.is_none() && !name.is_empty() {
            // Deleting takes certainty: the cache may be behind.
            account = self.context.client.get(&key.namespace, name).await.optional()?;
        }
        match plan(&secret, account.as_ref(), &self.context.config.root_ca, |claims| {
            self.context.config.sign_token.as_ref().and_then(|sign| sign(claims))
        }) {
            Action::Nothing => {}
            Action::Delete => {
                let options = DeleteOptions::of_uid(secret.uid());
                self.context.client.delete::<Secret>(secret.namespace(), secret.name(), &options).await.optional()?;
            }
            Action::Write(filled) => drop(self.context.client.update(&*filled).await.optional()?),
        }
        Ok(Next::Wait)
    }

    /// Takes Secrets that are gone out of an account's list of tokens.
    async fn account(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(mut account) = self.accounts.read(&key.namespace, &key.name)? else { return Ok(Next::Wait) };
        let known = self.by_account.get(&key.to_string());
        let Some(listed) = account.secrets.clone().filter(|l| !l.is_empty()) else { return Ok(Next::Wait) };
        let mut kept = Vec::new();
        for reference in listed {
            let name = reference.name.clone().unwrap_or_default();
            // Secrets of other types may be listed too: only what is surely gone goes.
            let is_token = name.starts_with(&format!("{}-token-", account.name()));
            let there = !is_token || known.iter().any(|o| *o.key.name == name);
            if there || self.context.client.get::<Secret>(&key.namespace, &name).await.optional()?.is_some() {
                kept.push(reference);
            }
        }
        if Some(&kept) != account.secrets.as_ref() {
            account.secrets = Some(kept).filter(|k| !k.is_empty());
            self.context.client.update(&account).await.optional()?;
        }
        Ok(Next::Wait)
    }
}

fn plan(secret: &Secret, account: Option<&ServiceAccount>, root_ca: &str, sign: impl Fn(&serde_json::Value) -> Option<String>) -> Action {
    if secret.type_.as_deref() != Some(TYPE) || secret.metadata.deletion_timestamp.is_some() {
        return Action::Nothing;
    }
    let wanted_uid = annotation(secret, ACCOUNT_UID).filter(|u| !u.is_empty());
    let Some(account) = account.filter(|a| wanted_uid.is_none_or(|uid| uid == a.uid())) else { return Action::Delete };
    let mut filled = secret.clone();
    let data = filled.data.get_or_insert_default();
    let put = |data: &mut std::collections::BTreeMap<String, ByteString>, key: &str, value: &str| {
        data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
    };
    if !root_ca.is_empty() && data.get("ca.crt").is_none_or(|c| c.0 != root_ca.as_bytes()) {
        put(data, "ca.crt", root_ca);
    }
    if data.get("namespace").is_none_or(|n| n.0.is_empty()) {
        put(data, "namespace", secret.namespace());
    }
    if data.get("token").is_none_or(|t| t.0.is_empty()) {
        let Some(token) = sign(&claims(secret, account)) else { return Action::Nothing };
        put(data, "token", &token);
    }
    let annotations = filled.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT_NAME.to_owned(), account.name().to_owned());
    annotations.insert(ACCOUNT_UID.to_owned(), account.uid().to_owned());
    if filled == *secret { Action::Nothing } else { Action::Write(Box::new(filled)) }
}

fn claims(secret: &Secret, account: &ServiceAccount) -> serde_json::Value {
    json!({
        "iss": ISSUER,
        "sub": format!("system:serviceaccount:{}:{}", account.namespace(), account.name()),
        "kubernetes.io/serviceaccount/namespace": account.namespace(),
        "kubernetes.io/serviceaccount/secret.name": secret.name(),
        "kubernetes.io/serviceaccount/service-account.name": account.name(),
        "kubernetes.io/serviceaccount/service-account.uid": account.uid(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(uid: Option<&str>) -> Secret {
        let mut annotations = json!({ACCOUNT_NAME: "robot"});
        if let Some(uid) = uid {
            annotations[ACCOUNT_UID] = json!(uid);
        }
        serde_json::from_value(json!({"metadata": {"name": "t", "namespace": "a", "annotations": annotations}, "type": TYPE})).unwrap()
    }

    #[test]
    fn a_secret_is_filled_once_and_goes_with_its_account() {
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "robot", "namespace": "a", "uid": "u"}})).unwrap();
        let sign = |claims: &serde_json::Value| Some(format!("signed for {}", claims["sub"].as_str().unwrap()));
        let Action::Write(filled) = plan(&secret(None), Some(&account), "CA", sign) else { panic!("nothing written") };
        let data = filled.data.clone().unwrap();
        assert_eq!(data["token"].0, b"signed for system:serviceaccount:a:robot");
        assert_eq!((&data["ca.crt"].0[..], &data["namespace"].0[..]), (&b"CA"[..], &b"a"[..]));
        assert_eq!(annotation(&filled, ACCOUNT_UID), Some("u"));
        assert_eq!(plan(&filled, Some(&account), "CA", |_| panic!("signed twice")), Action::Nothing);
        assert_eq!(plan(&secret(None), None, "CA", sign), Action::Delete);
        assert_eq!(plan(&secret(Some("another")), Some(&account), "CA", sign), Action::Delete);
    }
}
