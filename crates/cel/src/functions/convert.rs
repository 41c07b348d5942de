//! Conversions: `int`, `uint`, `double`, `string`, `bytes`, `bool`.

use super::{Def, ONE, Price, Site, Sized, f, sized, time};
use crate::value::{EvalError, Evaluated, Str, Value};

pub(super) const TABLE: &[Def] = &[
    f("int", "(int) -> int", ONE, int),
    f("int", "(uint) -> int", ONE, int),
    f("int", "(double) -> int", ONE, int),
    f("int", "(string) -> int", ONE, int),
    f("int", "(timestamp) -> int", ONE, int),
    f("int", "(duration) -> int", ONE, int),
    f("uint", "(uint) -> uint", ONE, uint),
    f("uint", "(int) -> uint", ONE, uint),
    f("uint", "(double) -> uint", ONE, uint),
    f("uint", "(string) -> uint", ONE, uint),
    f("double", "(double) -> double", ONE, double),
    f("double", "(int) -> double", ONE, double),
    f("double", "(uint) -> double", ONE, double),
    f("double", "(string) -> double", ONE, double),
    sized(f("string", "(string) -> string", ONE, string), Sized::Within(0)),
    sized(f("string", "(bool) -> string", ONE, string), Sized::AtMost(40)),
    sized(f("string", "(int) -> string", ONE, string), Sized::AtMost(40)),
    sized(f("string", "(uint) -> string", ONE, string), Sized::AtMost(40)),
    sized(f("string", "(double) -> string", ONE, string), Sized::AtMost(40)),
    sized(f("string", "(bytes) -> string", Price::Text(0, 1), string), Sized::Within(0)),
    sized(f("string", "(timestamp) -> string", ONE, string), Sized::AtMost(40)),
    sized(f("string", "(duration) -> string", ONE, string), Sized::AtMost(40)),
    sized(f("string", "(ip) -> string", ONE, string), Sized::AtMost(64)),
    sized(f("string", "(cidr) -> string", ONE, string), Sized::AtMost(64)),
    f("bytes", "(bytes) -> bytes", ONE, bytes),
    sized(f("bytes", "(string) -> bytes", Price::Text(0, 1), bytes), Sized::Within(0)),
    f("bool", "(bool) -> bool", ONE, boolean),
    f("bool", "(string) -> bool", ONE, boolean),
    f("timestamp", "(timestamp) -> timestamp", ONE, timestamp),
    f("timestamp", "(string) -> timestamp", ONE, timestamp),
    f("timestamp", "(int) -> timestamp", ONE, timestamp),
    f("duration", "(duration) -> duration", ONE, duration),
    f("duration", "(string) -> duration", ONE, duration),
    f("duration", "(int) -> duration", ONE, duration),
];

fn range(kind: &str) -> EvalError {
    EvalError::new(format!("{kind} overflow"))
}

fn int<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Int(match args {
        [Value::Int(n)] => *n,
        [Value::Uint(n)] => i64::try_from(*n).map_err(|_| range("integer"))?,
        [Value::Double(n)] if n.is_finite() && *n > -9.223372036854775e18 && *n < 9.223372036854775e18 => *n as i64,
        [Value::Double(_)] => return Err(range("integer")),
        [Value::String(s)] => s.parse().map_err(|_| EvalError::new(format!("strconv.ParseInt: parsing {:?}: invalid syntax", &**s)))?,
        [Value::Timestamp(t)] => t.as_second(),
        [Value::Duration(d)] => *d,
        _ => return Err(EvalError::overload()),
    }))
}

fn uint<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Uint(match args {
        [Value::Uint(n)] => *n,
        [Value::Int(n)] => u64::try_from(*n).map_err(|_| range("unsigned integer"))?,
        [Value::Double(n)] if *n >= 0.0 && *n < 1.8446744073709552e19 => *n as u64,
        [Value::Double(_)] => return Err(range("unsigned integer")),
        [Value::String(s)] => s.parse().map_err(|_| EvalError::new(format!("strconv.ParseUint: parsing {:?}: invalid syntax", &**s)))?,
        _ => return Err(EvalError::overload()),
    }))
}

fn double<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Double(match args {
        [Value::Double(n)] => *n,
        [Value::Int(n)] => *n as f64,
        [Value::Uint(n)] => *n as f64,
        [Value::String(s)] => s.parse().map_err(|_| EvalError::new(format!("strconv.ParseFloat: parsing {:?}: invalid syntax", &**s)))?,
        _ => return Err(EvalError::overload()),
    }))
}

fn string<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(match args {
        [Value::String(s)] => Value::String(s.clone()),
        [Value::Bytes(b)] => {
            Value::text(std::str::from_utf8(b).map_err(|_| EvalError::new("invalid UTF-8 in bytes, cannot convert to string"))?)
        }
        [Value::Bool(true)] => Value::String(Str::Borrowed("true")),
        [Value::Bool(false)] => Value::String(Str::Borrowed("false")),
        [Value::Ip(ip)] => Value::text(ip.to_string()),
        [Value::Cidr(cidr)] => Value::text(cidr.to_string()),
        [v @ (Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Timestamp(_) | Value::Duration(_))] => {
            Value::text(super::formatting::plain(v))
        }
        _ => return Err(EvalError::overload()),
    })
}

fn bytes<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Bytes(b)] => Ok(Value::Bytes(b.clone())),
        [Value::String(s)] => Ok(Value::Bytes(s.as_bytes().into())),
        _ => Err(EvalError::overload()),
    }
}

fn boolean<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(*b)),
        [Value::String(s)] => match &**s {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            other => Err(EvalError::new(format!("strconv.ParseBool: parsing {other:?}: invalid syntax"))),
        },
        _ => Err(EvalError::overload()),
    }
}

fn timestamp<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Timestamp(t)] => Ok(Value::Timestamp(*t)),
        [Value::String(s)] => time::parse(s).map(Value::Timestamp).ok_or_else(|| {
            EvalError::new(format!("parsing time {0:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {0:?} as a timestamp", &**s))
        }),
        [Value::Int(n)] => jiff::Timestamp::from_second(*n).map(Value::Timestamp).map_err(|_| range("timestamp")),
        _ => Err(EvalError::overload()),
    }
}

fn duration<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Duration(d)] => Ok(Value::Duration(*d)),
        [Value::String(s)] => ferrokube_api::time::parse_duration(s)
            .map(Value::Duration)
            .ok_or_else(|| EvalError::new(format!("time: invalid duration {:?}", &**s))),
        [Value::Int(n)] => Ok(Value::Duration(*n)),
        _ => Err(EvalError::overload()),
    }
}
