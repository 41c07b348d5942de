//! Semantic versions (`kubernetes.Semver`), strict or normalized.

use super::{Def, ONE, Site, TEXT, f};
use crate::value::{EvalError, Evaluated, Value};
use std::cmp::Ordering;
use std::rc::Rc;

pub(super) const TABLE: &[Def] = &[
    f("semver", "(string) -> semver", TEXT, semver),
    f("semver", "(string, bool) -> semver", TEXT, semver),
    f("isSemver", "(string) -> bool", TEXT, is_semver),
    f("isSemver", "(string, bool) -> bool", TEXT, is_semver),
    f("major", "semver.() -> int", ONE, major),
    f("minor", "semver.() -> int", ONE, minor),
    f("patch", "semver.() -> int", ONE, patch),
    f("isLessThan", "semver.(semver) -> bool", ONE, is_less),
    f("isGreaterThan", "semver.(semver) -> bool", ONE, is_greater),
    f("compareTo", "semver.(semver) -> int", ONE, compare_to),
];

/// A version; build metadata has no part in the order.
#[derive(Clone, Debug)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<String>,
}

fn identifiers(text: &str, numeric_rules: bool) -> Result<Vec<String>, String> {
    text.split('.')
        .map(|part| {
            if part.is_empty() {
                return Err("Prerelease is empty".to_owned());
            }
            if !part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                return Err(format!("Invalid character(s) found in prerelease {part:?}"));
            }
            if numeric_rules && part.len() > 1 && part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(format!("Numeric PreRelease version must not contain leading zeroes {part:?}"));
            }
            Ok(part.to_owned())
        })
        .collect()
}

impl Semver {
    pub(crate) fn parse(text: &str, normalize: bool) -> Result<Semver, String> {
        let text = if normalize { text.strip_prefix('v').unwrap_or(text) } else { text };
        let (rest, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
        let (core, pre) = rest.split_once('-').map_or((rest, None), |(a, b)| (a, Some(b)));
        let mut parts: Vec<&str> = core.split('.').collect();
        while normalize && parts.len() < 3 && !core.is_empty() {
            parts.push("0");
        }
        let [major, minor, patch] = parts[..] else { return Err("No Major.Minor.Patch elements found".into()) };
        let number = |part: &str| {
            let part = if normalize {
                Some(part.trim_start_matches('0')).filter(|p| !p.is_empty()).unwrap_or(if part.is_empty() { "" } else { "0" })
            } else {
                part
            };
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(format!("Invalid character(s) found in major number {part:?}"));
            }
            if part.len() > 1 && part.starts_with('0') {
                return Err(format!("Major number must not contain leading zeroes {part:?}"));
            }
            part.parse::<u64>().map_err(|_| format!("number {part:?} is out of range"))
        };
        let numbers = [number(major)?, number(minor)?, number(patch)?];
        if let Some(build) = build {
            identifiers(build, false)?;
        }
        Ok(Semver { numbers, pre: pre.map(|p| identifiers(p, true)).transpose()?.unwrap_or_default() })
    }

    pub(crate) fn cmp(&self, other: &Semver) -> Ordering {
        let pre = || match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let each = self.pre.iter().zip(&other.pre).map(|(a, b)| match (a.parse::<u64>(), b.parse::<u64>()) {
                    (Ok(a), Ok(b)) => a.cmp(&b),
                    (Ok(_), Err(_)) => Ordering::Less,
                    (Err(_), Ok(_)) => Ordering::Greater,
                    _ => a.cmp(b),
                });
                each.fold(Ordering::Equal, Ordering::then).then(self.pre.len().cmp(&other.pre.len()))
            }
        };
        self.numbers.cmp(&other.numbers).then_with(pre)
    }
}

fn read(args: &[Value<'_>]) -> Result<Result<Semver, String>, EvalError> {
    match args {
        [Value::String(s)] => Ok(Semver::parse(s, false)),
        [Value::String(s), Value::Bool(normalize)] => Ok(Semver::parse(s, *normalize)),
        _ => Err(EvalError::overload()),
    }
}

fn semver<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    read(args)?.map(|v| Value::Semver(Rc::new(v))).map_err(EvalError::new)
}

fn is_semver<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(read(args)?.is_ok()))
}

fn number<'a>(args: &[Value<'a>], at: usize) -> Evaluated<'a> {
    match args {
        [Value::Semver(v)] => Ok(Value::Int(v.numbers[at] as i64)),
        _ => Err(EvalError::overload()),
    }
}

fn major<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    number(args, 0)
}

fn minor<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    number(args, 1)
}

fn patch<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    number(args, 2)
}

fn order(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    match args {
        [Value::Semver(a), Value::Semver(b)] => Ok(a.cmp(b)),
        _ => Err(EvalError::overload()),
    }
}

fn is_less<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(order(args)?.is_lt()))
}

fn is_greater<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(order(args)?.is_gt()))
}

fn compare_to<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Int(order(args)? as i64))
}
