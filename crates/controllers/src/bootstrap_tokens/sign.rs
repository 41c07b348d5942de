//! Signs `kube-public/cluster-info` with every bootstrap token that may sign.
//!
//! Reads bootstrap tokens and that ConfigMap; owns its keys `jws-kubeconfig-<token id>`, each a detached JWS (HS256) over the
//! kubeconfig.

use super::{NAME_PREFIX, NAMESPACE, TYPE, field, is_token, time_left};
use crate::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Named, Optional, Selection};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use ring::hmac;
use std::collections::BTreeMap;

const PUBLIC: &str = "kube-public";
const INFO: &str = "cluster-info";
const KUBECONFIG: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<()> = context.queue("bootstrap_signer_queue");
    let secrets: Cache<Secret> =
        context.caches.select(Selection { namespace: NAMESPACE.into(), fields: format!("type={TYPE}"), ..Selection::default() });
    let infos: Cache<ConfigMap> =
        context.caches.select(Selection { namespace: PUBLIC.into(), fields: format!("metadata.name={INFO}"), ..Selection::default() });
    let add = queue.clone();
    secrets.on_change(move |_| add.add(()));
    let add = queue.clone();
    infos.on_change(move |_| add.add(()));
    tokio::join!(secrets.synced(), infos.synced());
    let reconcile = |()| {
        let (context, secrets, infos) = (&context, &secrets, &infos);
        async move {
            let Some(mut info) = infos.read(PUBLIC, INFO)? else { return Ok(Next::Wait) };
            let data = info.data.clone().unwrap_or_default();
            let wanted = signed(&data, &secrets.list(), Timestamp::now());
            if wanted != data {
                info.data = Some(wanted);
                context.client.update(&info).await.optional()?;
            }
            Ok(Next::Wait)
        }
    };
    controller::run::<_, Error, _, _>("bootstrap-signer", queue, 1, reconcile).await;
}

/// The data with a signature of each token that may sign, and no others.
fn signed(data: &BTreeMap<String, String>, secrets: &[Secret], now: Timestamp) -> BTreeMap<String, String> {
    let mut wanted = data.clone();
    wanted.retain(|key, _| !key.starts_with(SIGNATURE));
    let Some(content) = data.get(KUBECONFIG) else { return wanted };
    for (id, secret) in secrets.iter().filter_map(|s| signer(s, now)) {
        wanted.insert(format!("{SIGNATURE}{id}"), detached(content, id, secret));
    }
    wanted
}

/// Id and secret of a token that may sign.
fn signer(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let (id, text) = (field(secret, "token-id")?, field(secret, "token-secret")?);
    let named_after_it = secret.name().strip_prefix(NAME_PREFIX) == Some(id);
    let alive = time_left(secret, now).is_none_or(|left| left > 0);
    let usable = is_token(secret) && named_after_it && alive && !text.is_empty() && secret.metadata.deletion_timestamp.is_none();
    (usable && field(secret, "usage-bootstrap-signing") == Some("true")).then_some((id, text))
}

/// A JWS without its payload, which the reader has: `header..signature`.
fn detached(content: &str, id: &str, secret: &str) -> String {
    let header = B64.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hmac::sign(&key, format!("{header}.{}", B64.encode(content)).as_bytes());
    format!("{header}..{}", B64.encode(signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn token(id: &str, expiration: &str, signing: &str) -> Secret {
        let text = |t: &str| base64::engine::general_purpose::STANDARD.encode(t);
        serde_json::from_value(json!({"metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"}, "type": TYPE,
            "data": {"token-id": text(id), "token-secret": text("0123456789abcdef"), "expiration": text(expiration), "usage-bootstrap-signing": text(signing)}}))
        .unwrap()
    }

    #[test]
    fn tokens_that_may_sign_do_and_signatures_of_others_go() {
        let data = BTreeMap::from([
            (KUBECONFIG.into(), "clusters: []".into()),
            ("jws-kubeconfig-gone00".into(), "x".into()),
            ("other".into(), "y".into()),
        ]);
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let secrets = [
            token("abcdef", "2026-01-02T00:00:00Z", "true"),
            token("late00", "2025-12-31T00:00:00Z", "true"),
            token("silent", "", "false"),
            token("lasts0", "", "true"),
        ];
        let wanted = signed(&data, &secrets, now);
        assert_eq!(
            wanted.keys().map(String::as_str).collect::<Vec<_>>(),
            ["jws-kubeconfig-abcdef", "jws-kubeconfig-lasts0", KUBECONFIG, "other"]
        );
        let jws = &wanted["jws-kubeconfig-abcdef"];
        let (header, signature) = jws.split_once("..").unwrap();
        assert_eq!(B64.decode(header).unwrap(), br#"{"alg":"HS256","kid":"abcdef"}"#);
        let message = format!("{header}.{}", B64.encode("clusters: []"));
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef"), message.as_bytes(), &B64.decode(signature).unwrap()).unwrap();
    }
}
