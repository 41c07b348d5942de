//! Patterns: `matches`, `find`, `findAll`. A literal pattern is compiled with the program.

use super::{Def, Price, Site, Sized, f, sized};
use crate::value::{EvalError, Evaluated, Value};
use ::regex::Regex;
use std::borrow::Cow;

pub(super) const TABLE: &[Def] = &[
    f("matches", "(string, string) -> bool", Price::Pattern, matches),
    f("matches", "string.(string) -> bool", Price::Pattern, matches),
    sized(f("find", "string.(string) -> string", Price::Pattern, find), Sized::Within(0)),
    sized(f("findAll", "string.(string) -> list(string)", Price::Pattern, find_all), Sized::Within(0)),
    sized(f("findAll", "string.(string, int) -> list(string)", Price::Pattern, find_all), Sized::Within(0)),
];

/// A pattern as RE2 reads it.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let built = ::regex::RegexBuilder::new(pattern).size_limit(4 << 20).build();
    built.map_err(|e| match e {
        ::regex::Error::CompiledTooBig(_) => format!("error parsing regexp: expression too large: `{pattern}`"),
        other => {
            let text = other.to_string();
            let why = text.rsplit("error: ").next().unwrap_or_default().trim().to_owned();
            format!("error parsing regexp: {why}: `{pattern}`")
        }
    })
}

fn pattern<'s>(site: &'s Site, text: &str) -> Result<Cow<'s, Regex>, EvalError> {
    match &site.regex {
        Some(regex) => Ok(Cow::Borrowed(regex)),
        None => compile(text).map(Cow::Owned).map_err(EvalError::new),
    }
}

fn matches<'a>(site: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(s), Value::String(p)] = args else { return Err(EvalError::overload()) };
    Ok(Value::Bool(pattern(site, p)?.is_match(s)))
}

fn find<'a>(site: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(s), Value::String(p)] = args else { return Err(EvalError::overload()) };
    Ok(Value::text(pattern(site, p)?.find(s).map_or("", |m| m.as_str())))
}

fn find_all<'a>(site: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (s, p, limit) = match args {
        [Value::String(s), Value::String(p)] => (s, p, -1),
        [Value::String(s), Value::String(p), Value::Int(n)] => (s, p, *n),
        _ => return Err(EvalError::overload()),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(Value::list(pattern(site, p)?.find_iter(s).take(limit).map(|m| Value::text(m.as_str())).collect()))
}
