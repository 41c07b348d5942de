//! `kubernetes.URL`: an absolute URI or an absolute path, taken apart.

use super::{Def, ONE, Site, TEXT, f};
use crate::value::{EvalError, Evaluated, Key, Map, Str, Value};
use std::collections::BTreeMap;
use std::rc::Rc;

pub(super) const TABLE: &[Def] = &[
    f("url", "(string) -> url", TEXT, url),
    f("isURL", "(string) -> bool", TEXT, is_url),
    f("getScheme", "url.() -> string", ONE, scheme),
    f("getHost", "url.() -> string", ONE, host),
    f("getHostname", "url.() -> string", ONE, hostname),
    f("getPort", "url.() -> string", ONE, port),
    f("getEscapedPath", "url.() -> string", ONE, path),
    f("getQuery", "url.() -> map(string, list(string))", ONE, query),
];

/// The parts, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    /// With the port.
    host: String,
    path: String,
    query: String,
}

fn decoded(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            b'+' if plus => out.push(b' '),
            b => out.push(b),
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

impl Url {
    fn parse(text: &str) -> Result<Url, String> {
        let bad = |why: &str| format!("URL parse error during conversion from string: parse {text:?}: {why}");
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err(bad("net/url: invalid control character in URL"));
        }
        if text.is_empty() {
            return Err(bad("empty url"));
        }
        let (scheme, rest) = match text.find(':') {
            Some(end) if text[..end].starts_with(|c: char| c.is_ascii_alphabetic()) && scheme_ok(&text[..end]) => {
                (&text[..end], &text[end + 1..])
            }
            _ if text.starts_with('/') => ("", text),
            _ => return Err(bad("invalid URI for request")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None if rest.starts_with('/') => ("", rest),
            // An opaque URI has no path.
            None => ("", ""),
        };
        let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
        let port = if let Some(end) = host.find(']') { host[end + 1..].strip_prefix(':') } else { host.rsplit_once(':').map(|(_, p)| p) };
        if let Some(port) = port.filter(|p| !p.bytes().all(|b| b.is_ascii_digit())) {
            return Err(bad(&format!("invalid port {:?} after host", format!(":{port}"))));
        }
        if host.contains([' ', '"', '<', '>', '\\', '^', '`', '{', '|', '}']) {
            return Err(bad("invalid character in host name"));
        }
        if decoded(path, false).is_none() {
            return Err(bad("invalid URL escape"));
        }
        Ok(Url { scheme: scheme.to_ascii_lowercase(), host: host.into(), path: path.into(), query: query.into() })
    }
}

fn scheme_ok(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

fn read(args: &[Value<'_>]) -> Result<Result<Url, String>, EvalError> {
    args.first().and_then(Value::as_str).map(Url::parse).ok_or_else(EvalError::overload)
}

fn url<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    read(args)?.map(|u| Value::Url(Rc::new(u))).map_err(EvalError::new)
}

fn is_url<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(read(args)?.is_ok()))
}

fn part<'a>(args: &[Value<'a>], take: impl FnOnce(&Url) -> &str) -> Evaluated<'a> {
    match args {
        [Value::Url(u)] => Ok(Value::text(take(u))),
        _ => Err(EvalError::overload()),
    }
}

fn scheme<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |u| &u.scheme)
}

fn host<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |u| &u.host)
}

fn split_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    }
}

fn hostname<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |u| split_port(&u.host).0.trim_start_matches('[').trim_end_matches(']'))
}

fn port<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |u| split_port(&u.host).1)
}

fn path<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |u| &u.path)
}

fn query<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::Url(u)] = args else { return Err(EvalError::overload()) };
    let mut map: BTreeMap<Key<'a>, Vec<Value<'a>>> = BTreeMap::new();
    for pair in u.query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Some(key), Some(value)) = (decoded(key, true), decoded(value, true)) {
            map.entry(Key::String(Str::Shared(key.into()))).or_default().push(Value::text(value));
        }
    }
    Ok(Value::Map(Map::of(map.into_iter().map(|(k, v)| (k, Value::list(v))).collect())))
}
