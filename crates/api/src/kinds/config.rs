//! ConfigMaps, Secrets and ServiceAccounts.

use super::json::*;
use super::{Hooks, meta};
use crate::field::{At, Errors};
use crate::names;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

pub(super) const CONFIG_MAP: Hooks = Hooks { validate_create: Some(config_map), validate_update: Some(config_map_update), ..Hooks::NONE };
pub(super) const SECRET: Hooks =
    Hooks { default: Some(default_secret), validate_create: Some(secret), validate_update: Some(secret_update), ..Hooks::NONE };

/// Values of a ConfigMap or Secret may not be larger than this together (bytes).
const SIZE_MAX: usize = 1 << 20;
const FROZEN: &str = "field is immutable when `immutable` is set";

fn keys(o: &Value, key: &str, e: &mut Errors) {
    let path = At::field(key);
    for (name, _) in entries(o, key) {
        e.invalid_each(&path.key(name), name, names::config_map_key(name));
    }
}

fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count().min(text.len() / 4 * 3)
}

fn config_map(o: &Value, e: &mut Errors) {
    keys(o, "data", e);
    keys(o, "binaryData", e);
    for (name, _) in entries(o, "binaryData").filter(|(name, _)| at(o, &["data", name]).is_some()) {
        let path = At::field("data");
        e.invalid(&path.key(name), &name.into(), "duplicate of key present in binaryData");
    }
    let size: usize = entries(o, "data").map(|(_, v)| v.as_str().map_or(0, str::len)).sum::<usize>()
        + entries(o, "binaryData").map(|(_, v)| decoded_len(v)).sum::<usize>();
    if size > SIZE_MAX {
        e.too_long(&At::field("[]"), SIZE_MAX);
    }
}

/// An object once declared immutable stays so, with its data.
fn frozen(new: &Value, old: &Value, parts: &[&str], e: &mut Errors) {
    if !flag(old, "immutable") {
        return;
    }
    if !flag(new, "immutable") {
        e.forbidden(&At::field("immutable"), FROZEN);
    }
    for key in parts.iter().filter(|key| !same(new.get(**key), old.get(**key))) {
        e.forbidden(&At::field(key), FROZEN);
    }
}

fn config_map_update(new: &Value, old: &Value, e: &mut Errors) {
    frozen(new, old, &["data", "binaryData"], e);
    config_map(new, e);
}

/// `stringData` is written into `data`; `type` defaults to `Opaque`.
fn default_secret(o: &mut Value) {
    fill_text(o, "type", "Opaque");
    let Some(Value::Object(plain)) = remove(o, "stringData") else { return };
    let data = object(o, "data");
    for (key, value) in plain {
        set(data, &key, STANDARD.encode(value.as_str().unwrap_or_default()));
    }
}

fn secret(o: &Value, e: &mut Errors) {
    keys(o, "data", e);
    if entries(o, "data").map(|(_, v)| decoded_len(v)).sum::<usize>() > SIZE_MAX {
        e.too_long(&At::field("data"), SIZE_MAX);
    }
    let missing = |key: &str| at(o, &["data", key]).is_none();
    match text(o, "type") {
        "kubernetes.io/service-account-token" => names_its_account(o, e),
        "kubernetes.io/dockercfg" => docker_config(o, ".dockercfg", e),
        "kubernetes.io/dockerconfigjson" => docker_config(o, ".dockerconfigjson", e),
        "kubernetes.io/basic-auth" if missing("username") && missing("password") => {
            need(&["username", "password"], missing, e);
        }
        "kubernetes.io/ssh-auth" => {
            need(&["ssh-privatekey"], |key| text_at(o, &["data", key]).is_empty(), e);
        }
        "kubernetes.io/tls" => need(&["tls.crt", "tls.key"], missing, e),
        _ => {}
    }
}

fn need(keys: &[&str], missing: impl Fn(&str) -> bool, e: &mut Errors) {
    let path = At::field("data");
    keys.iter().filter(|key| missing(key)).for_each(|key| e.required(&path.key(key), ""));
}

fn names_its_account(o: &Value, e: &mut Errors) {
    const ACCOUNT: &str = "kubernetes.io/service-account.name";
    if text_at(o, &["metadata", "annotations", ACCOUNT]).is_empty() {
        let path = At::field("metadata");
        let path = path.child("annotations");
        e.required(&path.key(ACCOUNT), "");
    }
}

fn docker_config(o: &Value, key: &str, e: &mut Errors) {
    let path = At::field("data");
    let Some(data) = at(o, &["data", key]).and_then(Value::as_str) else {
        return e.required(&path.key(key), "");
    };
    let parsed = STANDARD.decode(data).map(|bytes| serde_json::from_slice::<Value>(&bytes));
    if !matches!(parsed, Ok(Ok(Value::Object(_)))) {
        e.invalid(&path.key(key), &"<secret contents redacted>".into(), "invalid character looking for beginning of value");
    }
}

fn secret_update(new: &Value, old: &Value, e: &mut Errors) {
    meta::immutable_value(new.get("type"), old.get("type"), &At::field("type"), e);
    frozen(new, old, &["data"], e);
    secret(new, e);
}
