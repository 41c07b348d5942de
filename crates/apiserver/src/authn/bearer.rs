//! Where tokens come from: the Authorization header, a websocket subprotocol, the static token file.

use super::AuthnConfigError;
use crate::attributes::UserInfo;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};
use std::collections::HashMap;

/// Browsers cannot set headers on websockets; the token travels in the list of subprotocols.
const WEBSOCKET_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

pub(super) fn from_header(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once(' ')?;
    let token = token.split(' ').next().unwrap_or_default();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

pub(super) fn from_websocket(headers: &HeaderMap) -> Option<String> {
    let has = |name: header::HeaderName, word: &str| {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).any(|v| v.to_ascii_lowercase().split(',').any(|p| p.trim() == word))
    };
    if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        return None;
    }
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let encoded = protocols.flat_map(|v| v.split(',')).find_map(|p| p.trim().strip_prefix(WEBSOCKET_PREFIX))?;
    let token = URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok()?;
    String::from_utf8(token).ok().filter(|t| !t.is_empty())
}

/// Reads `token,user,uid,"group,group"` lines.
pub(super) fn static_tokens(csv: &str) -> Result<HashMap<String, UserInfo>, AuthnConfigError> {
    let mut users = HashMap::new();
    for (at, line) in csv.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#')) {
        let fail = |why| AuthnConfigError::TokenFile { line: at + 1, why };
        let mut fields = fields(line).into_iter();
        let (Some(token), Some(name), Some(uid)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(fail("needs at least token, user name and user uid"));
        };
        if token.is_empty() {
            return Err(fail("empty token"));
        }
        let groups = fields.next().unwrap_or_default();
        let groups = groups.split(',').map(str::trim).filter(|g| !g.is_empty()).map(str::to_owned).collect();
        users.insert(token, UserInfo { name, uid, groups, ..UserInfo::default() });
    }
    Ok(users)
}

/// Fields of a CSV line; quotes hold commas together, doubled quotes are one.
fn fields(line: &str) -> Vec<String> {
    let (mut out, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(std::mem::take(&mut field).trim().to_owned()),
            c => field.push(c),
        }
    }
    out.push(field.trim().to_owned());
    out
}
