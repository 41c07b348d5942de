//! The request-header front proxy: an aggregator that authenticated the user and says so in headers.
//!
//! The headers count only on a connection whose client certificate is signed by the proxy's own CA.

use super::x509::CaPool;
use super::{AuthnConfigError, PeerCertificates};
use crate::attributes::UserInfo;
use http::HeaderMap;
use std::collections::BTreeMap;

/// `--requestheader-*`.
#[derive(Clone, Debug)]
pub struct RequestHeaders {
    /// PEM of the CA that signs proxies.
    pub ca: String,
    /// Common names of proxies; empty allows any that the CA signed.
    pub allowed_names: Vec<String>,
    /// Headers that carry the user name, in order of preference.
    pub username: Vec<String>,
    /// Headers that carry the uid.
    pub uid: Vec<String>,
    /// Headers that carry groups.
    pub group: Vec<String>,
    /// Prefixes of headers that carry extra.
    pub extra_prefix: Vec<String>,
}

impl RequestHeaders {
    /// As kubeadm sets it: `X-Remote-User`, `X-Remote-Group`, `X-Remote-Extra-`, common name `front-proxy-client`.
    pub fn standard(ca: String) -> Self {
        let one = |s: &str| vec![s.to_owned()];
        RequestHeaders {
            ca,
            allowed_names: one("front-proxy-client"),
            username: one("X-Remote-User"),
            uid: one("X-Remote-Uid"),
            group: one("X-Remote-Group"),
            extra_prefix: one("X-Remote-Extra-"),
        }
    }
}

pub(super) struct FrontProxy {
    ca: CaPool,
    headers: RequestHeaders,
}

impl FrontProxy {
    pub(super) fn new(headers: RequestHeaders) -> Result<Self, AuthnConfigError> {
        Ok(FrontProxy { ca: CaPool::from_pem("requestheader client CA", &headers.ca)?, headers })
    }

    /// The user the headers name, when the connection is a proxy's.
    pub(super) fn identify(&self, headers: &HeaderMap, peer: &PeerCertificates, now: i64) -> Option<UserInfo> {
        let name = first(headers, &self.headers.username)?;
        let proxy = peer.proxy_identity(&self.ca, now).ok()?;
        if !self.headers.allowed_names.is_empty() && !self.headers.allowed_names.contains(&proxy.name) {
            return None;
        }
        let groups = self.headers.group.iter().flat_map(|h| texts(headers, h)).collect();
        let uid = first(headers, &self.headers.uid).unwrap_or_default();
        Some(UserInfo { name, uid, groups, extra: extra(headers, &self.headers.extra_prefix) })
    }
}

fn texts<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = String> + 'a {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .filter(|v| !v.is_empty())
        .map(str::to_owned)
        .collect::<Vec<_>>()
        .into_iter()
}

fn first(headers: &HeaderMap, names: &[String]) -> Option<String> {
    names.iter().find_map(|name| texts(headers, name).next())
}

/// Headers with one of the prefixes, by the rest of their name, unescaped.
pub(super) fn extra(headers: &HeaderMap, prefixes: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for prefix in prefixes {
        let prefix = prefix.to_ascii_lowercase();
        for (name, value) in headers {
            if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(&prefix), value.to_str()) {
                extra.entry(unescape(key)).or_default().push(value.to_owned());
            }
        }
    }
    extra
}

/// `%2f` and its like; text that is not an escape stays.
pub(super) fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3).and_then(|h| u8::from_str_radix(h, 16).ok())).flatten();
        match escape {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}
