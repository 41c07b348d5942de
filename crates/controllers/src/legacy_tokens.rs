//! Tokens that were once made for every service account: those that nobody has used for a year are first marked invalid, and
//! after another year deleted.
//!
//! Reads Secrets of that type, service accounts and pods; writes the label `kubernetes.io/legacy-token-invalid-since` and deletes
//! Secrets. It does nothing until the API server has kept track of the use of tokens for long enough (a ConfigMap says since when).
//! A Secret that a pod mounts, or that is not in its account's list, is never touched.
//! Source: `pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go`.

use crate::Context;
use ferrokube_client::cache::decoded;
use ferrokube_client::{Cache, DeleteOptions, Error, Named, Optional, Patch, Selection};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::core::v1::{ConfigMap, EnvVar, Pod, Secret, ServiceAccount};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const TYPE: &str = "kubernetes.io/service-account-token";
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Time between two rounds.
const PERIOD: Duration = Duration::from_secs(24 * 3600);

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let accounts: Cache<ServiceAccount> = context.caches.of();
    let secrets: Cache<Secret> = context.caches.select(Selection { fields: format!("type={TYPE}"), ..Selection::default() });
    let pods: Cache<Pod> = context.caches.of();
    tokio::join!(accounts.synced(), secrets.synced(), pods.synced());
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        ticks.tick().await;
        if let Err(e) = round(&context, &accounts, &secrets, &pods).await {
            tracing::debug!("legacy service account tokens not looked at: {e}");
        }
    }
}

async fn round(context: &Context, accounts: &Cache<ServiceAccount>, secrets: &Cache<Secret>, pods: &Cache<Pod>) -> Result<(), Error> {
    let client = &context.client;
    let tracking: Option<ConfigMap> = client.get("kube-system", TRACKING).await.optional()?;
    let since = tracking.and_then(|m| m.data?.remove("since")).and_then(|s| s.parse::<Date>().ok());
    let now = Timestamp::now();
    // A period beyond the beginning of time is never over.
    let Ok(limit) = now.checked_sub(context.config.settings.legacy_tokens.unused) else { return Ok(()) };
    let Some(since) = since.filter(|since| is_tracked_for_long(*since, limit)) else { return Ok(()) };
    tracing::debug!(%since, "looking at legacy service account tokens");
    let mut mounted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for secret in secrets.list() {
        let account = secret.metadata.annotations.as_ref().and_then(|a| a.get(ACCOUNT_NAME));
        let account = account.and_then(|name| accounts.get(secret.namespace(), name));
        let used = mounted.entry(secret.namespace().to_owned()).or_insert_with(|| {
            pods.objects_in(secret.namespace()).iter().filter_map(|o| decoded::<Pod>(o)).flat_map(|p| mounts(&p)).collect()
        });
        match plan(&secret, account.as_ref(), used, now, limit) {
            Action::Keep => {}
            Action::Invalidate(day) => {
                let patch = json!({"metadata": {"uid": secret.uid(), "labels": {INVALID_SINCE: day}}});
                client.patch::<Secret>(secret.namespace(), secret.name(), &Patch::Merge(patch)).await.optional()?;
            }
            Action::Delete => {
                let options = DeleteOptions::of_uid(secret.uid());
                client.delete::<Secret>(secret.namespace(), secret.name(), &options).await.optional()?;
            }
        }
    }
    Ok(())
}

fn day(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

/// Use is known since before `limit`, counted from the end of the day on which tracking began.
fn is_tracked_for_long(since: Date, limit: Timestamp) -> bool {
    let from = since.checked_add(1.day()).and_then(|next| next.to_zoned(TimeZone::UTC));
    from.is_ok_and(|from| from.timestamp() <= limit)
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Keep,
    /// Marked as invalid since this day.
    Invalidate(String),
    Delete,
}

/// What was made or used after `limit` stays.
fn plan(secret: &Secret, account: Option<&ServiceAccount>, mounted: &BTreeSet<String>, now: Timestamp, limit: Timestamp) -> Action {
    let last_day = day(limit);
    let label = |key: &str| secret.metadata.labels.as_ref().and_then(|l| l.get(key));
    let is_young = secret.metadata.creation_timestamp.as_ref().is_none_or(|t| t.0 > limit);
    // A label that cannot be read says nothing about the use.
    let was_used = label(LAST_USED).is_some_and(|text| text.parse::<Date>().map_or(true, |used| used >= last_day));
    if is_young || was_used || secret.metadata.deletion_timestamp.is_some() {
        return Action::Keep;
    }
    let uid = secret.metadata.annotations.as_ref().and_then(|a| a.get(ACCOUNT_UID)).map_or("", String::as_str);
    let listed = |a: &&ServiceAccount| a.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(secret.name()));
    let generated = account.filter(|a| uid.is_empty() || a.uid() == uid).is_some_and(|a| listed(&a));
    if !generated || mounted.contains(secret.name()) {
        return Action::Keep;
    }
    match label(INVALID_SINCE).and_then(|text| text.parse::<Date>().ok()) {
        None => Action::Invalidate(day(now).to_string()),
        Some(since) if since >= last_day => Action::Keep,
        Some(_) => Action::Delete,
    }
}

/// Names of the Secrets that a pod refers to.
fn mounts(pod: &Pod) -> BTreeSet<String> {
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    let mut names: BTreeSet<String> = spec.image_pull_secrets.iter().flatten().map(|s| s.name.clone()).collect();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let of_variable = |v: &EnvVar| Some(v.value_from.as_ref()?.secret_key_ref.as_ref()?.name.clone());
    for container in containers {
        names.extend(container.env_from.iter().flatten().filter_map(|e| Some(e.secret_ref.as_ref()?.name.clone())));
        names.extend(container.env.iter().flatten().filter_map(of_variable));
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        names.extend(container.env_from.iter().flatten().filter_map(|e| Some(e.secret_ref.as_ref()?.name.clone())));
        names.extend(container.env.iter().flatten().filter_map(of_variable));
    }
    // Every kind of volume names Secrets in its own way; what they are called is the same in all of them.
    for volume in spec.volumes.iter().flatten() {
        collect(&serde_json::to_value(volume).unwrap_or_default(), &mut names);
    }
    names
}

/// Names in `secret`, `secretRef` and their like, at any depth.
fn collect(value: &serde_json::Value, into: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, inner) in map {
                if key == "secretName" {
                    into.extend(inner.as_str().map(str::to_owned));
                } else if key == "secret" || key.ends_with("SecretRef") || key == "secretRef" {
                    into.extend(inner["name"].as_str().map(str::to_owned));
                }
                collect(inner, into);
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|inner| collect(inner, into)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn secret(created: &str, labels: Value) -> Secret {
        serde_json::from_value(json!({"metadata": {"name": "t", "namespace": "a", "creationTimestamp": created, "labels": labels,
            "annotations": {ACCOUNT_NAME: "x", ACCOUNT_UID: "x"}}, "type": TYPE}))
        .unwrap()
    }

    /// A year before the noon of 1 June 2026.
    fn limit() -> Timestamp {
        "2025-06-01T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_token_that_nobody_uses_is_invalidated_and_a_year_later_deleted() {
        let now: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "x", "uid": "x"}, "secrets": [{"name": "t"}]})).unwrap();
        let cases = [
            ("2026-01-01T00:00:00Z", json!({}), Action::Keep),
            ("2024-01-01T00:00:00Z", json!({}), Action::Invalidate("2026-06-01".into())),
            ("2024-01-01T00:00:00Z", json!({LAST_USED: "2026-05-01"}), Action::Keep),
            ("2024-01-01T00:00:00Z", json!({LAST_USED: "yesterday"}), Action::Keep),
            ("2024-01-01T00:00:00Z", json!({LAST_USED: "2025-05-01"}), Action::Invalidate("2026-06-01".into())),
            ("2024-01-01T00:00:00Z", json!({INVALID_SINCE: "2025-12-01"}), Action::Keep),
            ("2024-01-01T00:00:00Z", json!({INVALID_SINCE: "2025-05-01"}), Action::Delete),
        ];
        let planned = |secret: &Secret, account, mounted: &BTreeSet<String>| plan(secret, account, mounted, now, limit());
        let nothing = BTreeSet::new();
        for (created, labels, expected) in cases {
            assert_eq!(planned(&secret(created, labels.clone()), Some(&account), &nothing), expected, "{created} {labels}");
        }
        let old = secret("2024-01-01T00:00:00Z", json!({}));
        assert_eq!(planned(&old, Some(&account), &BTreeSet::from(["t".to_owned()])), Action::Keep, "a pod mounts it");
        assert_eq!(planned(&old, None, &nothing), Action::Keep, "it may be somebody's own");
    }

    #[test]
    fn nothing_happens_before_use_was_tracked_for_a_year() {
        for (since, expected) in [("2025-06-02", false), ("2025-06-01", false), ("2025-05-31", true)] {
            assert_eq!(is_tracked_for_long(since.parse().unwrap(), limit()), expected, "{since}");
        }
    }

    #[test]
    fn a_pod_refers_to_secrets_in_many_ways() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}], "envFrom": [{"secretRef": {"name": "all"}}]}],
            "volumes": [{"name": "1", "secret": {"secretName": "plain"}}, {"name": "2", "projected": {"sources": [{"secret": {"name": "part"}}]}},
                {"name": "3", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}}, {"name": "4", "azureFile": {"secretName": "azure", "shareName": "s"}}]}}))
        .unwrap();
        assert_eq!(mounts(&pod).into_iter().collect::<Vec<_>>(), ["all", "azure", "csi", "env", "part", "plain", "pull"]);
    }
}
