//! ServiceAccount: every pod runs as an account of its namespace, and gets its token unless somebody said no.

use super::{Context, Operation, Outcome};
use crate::authz::PodReferences;
use ferrokube_api::{Object, Status};
use rand::Rng;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// The account of pods that name none.
pub(super) const DEFAULT: &str = "default";
/// Annotation of pods that mirror a static pod of their node.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Life of the token: one hour and a bit, by which the token endpoint recognises tokens of old clients.
const TOKEN_SECONDS: i64 = 3607;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Account {
    #[serde(default)]
    metadata: Meta,
    automount_service_account_token: Option<bool>,
    image_pull_secrets: Option<Vec<Value>>,
    secrets: Option<Vec<Named>>,
}

#[derive(Deserialize, Default)]
struct Meta {
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

fn applies(c: &Context<'_>) -> bool {
    c.is("", "pods", &["ephemeralcontainers"]) && matches!(c.operation, Operation::Create | Operation::Update)
}

fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get(MIRROR).is_some()
}

pub(super) fn mutate(c: &Context<'_>, pod: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    if !c.creates("", "pods") || is_mirror(pod) {
        return Ok(());
    }
    let spec = &mut pod["spec"];
    let given = ["serviceAccountName", "serviceAccount"].iter().find_map(|f| spec[f].as_str().filter(|n| !n.is_empty()));
    let name = given.unwrap_or(DEFAULT).to_owned();
    spec["serviceAccountName"] = json!(name);
    // The deprecated field always shows the same.
    spec["serviceAccount"] = json!(name);
    let account: Account = find(c, pod, &name)?.decode().map_err(|e| Status::internal(format_args!("unreadable service account: {e}")))?;
    let spec = &mut pod["spec"];
    let automount = spec["automountServiceAccountToken"].as_bool().or(account.automount_service_account_token).unwrap_or(true);
    if automount {
        mount_token(spec);
    }
    let pull = account.image_pull_secrets.unwrap_or_default();
    if spec["imagePullSecrets"].as_array().is_none_or(Vec::is_empty) && !pull.is_empty() {
        spec["imagePullSecrets"] = json!(pull);
    }
    Ok(())
}

fn find(c: &Context<'_>, pod: &Value, name: &str) -> Result<Arc<Object>, Status> {
    c.objects.get("", "serviceaccounts", c.namespace, name).ok_or_else(|| {
        c.forbidden(Some(pod), format!("error looking up service account {}/{name}: serviceaccount {name:?} not found", c.namespace))
    })
}

fn mount_token(spec: &mut Value) {
    let names = spec["volumes"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str());
    let existing = names.filter(|n| n.starts_with(VOLUME_PREFIX)).map(str::to_owned).next();
    let name = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", suffix()));
    let mount = json!({ "name": name, "readOnly": true, "mountPath": MOUNT_PATH });
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = &mut container["volumeMounts"];
            if !mounts.is_array() {
                *mounts = json!([]);
            }
            let mounts = mounts.as_array_mut().expect("made an array above");
            if mounts.iter().all(|m| m["mountPath"].as_str() != Some(MOUNT_PATH)) {
                mounts.push(mount.clone());
                needed = true;
            }
        }
    }
    if needed && existing.is_none() {
        if !spec["volumes"].is_array() {
            spec["volumes"] = json!([]);
        }
        spec["volumes"].as_array_mut().expect("made an array above").push(token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }] } },
            ],
        },
    })
}

/// Five letters and digits that make no words, as generated names have them.
fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..5).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

pub(super) fn validate(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let Some(pod) = object.filter(|_| applies(c)) else { return Ok(()) };
    let refuse = |why: &str| Err(c.forbidden(Some(pod), why));
    let name = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    if is_mirror(pod) {
        if c.operation != Operation::Create {
            return Ok(());
        }
        if !name.is_empty() {
            return refuse("a mirror pod may not reference service accounts");
        }
        if PodReferences(pod).secrets().next().is_some() {
            return refuse("a mirror pod may not reference secrets");
        }
        if PodReferences(pod).projected().any(|s| s["serviceAccountToken"].is_object()) {
            return refuse("a mirror pod may not use ServiceAccountToken volume projections");
        }
        return Ok(());
    }
    let ephemeral = c.operation == Operation::Update && c.subresource == "ephemeralcontainers";
    if c.operation == Operation::Update && !ephemeral {
        return Ok(());
    }
    if name.is_empty() {
        let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
        return refuse(&format!("no service account specified for pod {}/{pod_name}", c.namespace));
    }
    let account: Account = find(c, pod, name)?.decode().map_err(|e| Status::internal(format_args!("unreadable service account: {e}")))?;
    let enforce = account.metadata.annotations.iter().flatten().any(|(k, v)| k == "kubernetes.io/enforce-mountable-secrets" && v == "true");
    if enforce { mountable_only(c, pod, name, &account) } else { Ok(()) }
}

/// The deprecated annotation: only secrets listed in the account may be used.
fn mountable_only(c: &Context<'_>, pod: &Value, name: &str, account: &Account) -> Result<(), Status> {
    let listed: Vec<&str> = account.secrets.iter().flatten().map(|s| s.name.as_str()).collect();
    let pull: Vec<&str> = account.image_pull_secrets.iter().flatten().filter_map(|s| s["name"].as_str()).collect();
    let refuse = |why: String| Err(c.forbidden(Some(pod), why));
    let array = |v: &Value, f: &str| v[f].as_array().cloned().unwrap_or_default();
    for volume in array(&pod["spec"], "volumes") {
        if let Some(secret) = volume["secret"]["secretName"].as_str().filter(|s| !listed.contains(s)) {
            let v = volume["name"].as_str().unwrap_or_default();
            return refuse(format!(
                "volume with secret.secretName={secret:?} is not allowed because service account {name} does not reference that secret (volume {v:?})"
            ));
        }
    }
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for container in array(&pod["spec"], kind) {
            let in_container = container["name"].as_str().unwrap_or_default();
            for env in array(&container, "env") {
                if let Some(secret) = env["valueFrom"]["secretKeyRef"]["name"].as_str().filter(|s| !listed.contains(s)) {
                    let variable = env["name"].as_str().unwrap_or_default();
                    return refuse(format!(
                        "container {in_container} with envVar {variable} referencing secret.secretName={secret:?} is not allowed because service account {name} does not reference that secret"
                    ));
                }
            }
        }
    }
    for reference in array(&pod["spec"], "imagePullSecrets") {
        if let Some(secret) = reference["name"].as_str().filter(|s| !pull.contains(s)) {
            return refuse(format!(
                "imagePullSecrets[].name={secret:?} is not allowed because service account {name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}
