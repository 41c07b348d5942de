//! Bootstrap tokens: `<id>.<secret>`, kept as Secret `kube-system/bootstrap-token-<id>`, for nodes that join.

use super::Rejected;
use crate::attributes::UserInfo;
use crate::objects::Objects;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;

const GROUP: &str = "system:bootstrappers";

#[derive(Deserialize)]
struct Secret {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
    metadata: Meta,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "deletionTimestamp")]
    deleted: Option<String>,
}

fn is_token_text(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
}

/// Whether the text has the form of a bootstrap token.
pub(super) fn looks_like(token: &str) -> bool {
    token.split_once('.').is_some_and(|(id, secret)| is_token_text(id, 6) && is_token_text(secret, 16))
}

pub(super) fn identify(objects: &dyn Objects, token: &str, now: i64) -> Result<UserInfo, Rejected> {
    let reject = |why: &str| Rejected(format!("bootstrap token: {why}"));
    let (id, secret) = token.split_once('.').ok_or_else(|| reject("malformed"))?;
    let name = format!("bootstrap-token-{id}");
    let object = objects.get("", "secrets", "kube-system", &name).ok_or_else(|| reject("no such secret"))?;
    let stored: Secret = object.decode().map_err(|_| reject("unreadable secret"))?;
    if stored.metadata.deleted.is_some() || stored.kind != "bootstrap.kubernetes.io/token" {
        return Err(reject("secret is deleted or of another type"));
    }
    let data = stored.data.unwrap_or_default();
    let value = |key: &str| {
        let bytes = data.get(key).and_then(|v| STANDARD.decode(v).ok()).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    if value("token-id") != id || !same(value("token-secret").as_bytes(), secret.as_bytes()) {
        return Err(reject("wrong secret"));
    }
    if expired(&value("expiration"), now) {
        return Err(reject("expired"));
    }
    if value("usage-bootstrap-authentication") != "true" {
        return Err(reject("not usable for authentication"));
    }
    Ok(UserInfo { name: format!("system:bootstrap:{id}"), groups: groups(&value("auth-extra-groups"))?, ..UserInfo::default() })
}

/// Compares in a time that does not tell how much was right.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

/// No expiration means never; an unreadable one means now.
fn expired(expiration: &str, now: i64) -> bool {
    !expiration.is_empty() && expiration.parse::<jiff::Timestamp>().map_or(true, |end| end.as_second() <= now)
}

fn groups(extra: &str) -> Result<Vec<String>, Rejected> {
    let mut groups = vec![GROUP.to_owned()];
    for group in extra.split(',').map(str::trim).filter(|g| !g.is_empty()) {
        let ok = group.strip_prefix("system:bootstrappers:").is_some_and(|rest| {
            let body = rest.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b':' || b == b'-');
            body && rest.len() <= 256 && rest.ends_with(|c: char| c.is_ascii_digit() || c.is_ascii_lowercase())
        });
        if !ok {
            return Err(Rejected(format!("bootstrap token: bootstrap group {group:?} is invalid")));
        }
        groups.push(group.to_owned());
    }
    Ok(groups)
}
