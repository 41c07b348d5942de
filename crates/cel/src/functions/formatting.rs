//! `"...".format([...])`, and the plain text of values.

use super::{Def, Price, Site, f};
use crate::value::{EvalError, Evaluated, List, Value};

pub(super) const TABLE: &[Def] = &[f("format", "string.(list(dyn)) -> string", Price::Text(0, 1), format)];

/// A number as Go prints it with `%v`-like shortness.
fn number(n: f64) -> String {
    if n.is_nan() {
        return "NaN".into();
    }
    if n.is_infinite() {
        return if n > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    if n != 0.0 && !(1e-4..1e21).contains(&n.abs()) {
        return exponent(&format!("{n:e}"));
    }
    format!("{n}")
}

/// `1e5` → `1e+05`.
fn exponent(text: &str) -> String {
    let Some((mantissa, e)) = text.split_once('e') else { return text.to_owned() };
    let (sign, digits) = match e.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', e),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// The text of a value, as `%s` and `string()` show it.
pub(crate) fn plain(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(n) => number(*n),
        Value::String(s) => s.to_string(),
        Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Value::Timestamp(t) => super::time::show(t),
        Value::Duration(d) => super::time::show_duration(*d),
        Value::List(list) => format!("[{}]", list.iter().map(|v| plain(&v)).collect::<Vec<_>>().join(", ")),
        Value::Map(map) => {
            let mut entries: Vec<String> =
                map.keys().iter().map(|k| format!("{}: {}", plain(k), map.get(k).map(|v| plain(&v)).unwrap_or_default())).collect();
            entries.sort_unstable();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Optional(Some(v)) => format!("optional({})", plain(v)),
        Value::Optional(None) => "optional.none()".into(),
        Value::Type(name) => name.to_string(),
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(cidr) => cidr.to_string(),
        Value::Quantity(q) => q.to_string(),
        other => other.type_name().to_string(),
    }
}

fn format<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text), Value::List(values)] = args else { return Err(EvalError::overload()) };
    let mut out = String::new();
    let (mut rest, mut used) = (&**text, 0);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let precision = precision(&mut rest)?;
        let clause = rest.chars().next().ok_or_else(|| EvalError::new("unexpected end of format string"))?;
        rest = &rest[clause.len_utf8()..];
        let value = argument(values, used)?;
        used += 1;
        out.push_str(&one(clause, precision, &value)?);
    }
    out.push_str(rest);
    Ok(Value::text(out))
}

fn argument<'a>(values: &List<'a>, at: usize) -> Evaluated<'a> {
    values.get(at).ok_or_else(|| EvalError::new(format!("index {at} out of range")))
}

/// `.3` between the percent sign and the letter.
fn precision(rest: &mut &str) -> Result<Option<usize>, EvalError> {
    let Some(after) = rest.strip_prefix('.') else { return Ok(None) };
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    let number: usize = after[..digits].parse().map_err(|_| EvalError::new("unable to convert precision specifier to integer"))?;
    *rest = &after[digits..];
    if number > 100 {
        return Err(EvalError::new(format!("precision {number} is too large")));
    }
    Ok(Some(number))
}

fn one(clause: char, precision: Option<usize>, value: &Value<'_>) -> Result<String, EvalError> {
    let refused = |what: &str| {
        EvalError::new(format!("error during formatting: {what} clause can only be used on numbers, was given {}", value.type_name()))
    };
    let float = |v: &Value<'_>| match v {
        Value::Double(n) => Some(*n),
        Value::Int(n) => Some(*n as f64),
        Value::Uint(n) => Some(*n as f64),
        _ => None,
    };
    let signed = |n: i64, digits: String| if n < 0 { format!("-{digits}") } else { digits };
    Ok(match (clause, value) {
        ('s', v) => plain(v),
        ('d', Value::Double(n)) if n.is_nan() || n.is_infinite() => number(*n),
        ('d', Value::Int(_) | Value::Uint(_)) => plain(value),
        ('f', v) => format!("{:.*}", precision.unwrap_or(6), float(v).ok_or_else(|| refused("fixed-point"))?),
        ('e', v) => exponent(&format!("{:.*e}", precision.unwrap_or(6), float(v).ok_or_else(|| refused("scientific"))?)),
        ('b', Value::Int(n)) => signed(*n, format!("{:b}", n.unsigned_abs())),
        ('b', Value::Uint(n)) => format!("{n:b}"),
        ('b', Value::Bool(b)) => u8::from(*b).to_string(),
        ('o', Value::Int(n)) => signed(*n, format!("{:o}", n.unsigned_abs())),
        ('o', Value::Uint(n)) => format!("{n:o}"),
        ('x', Value::Int(n)) => signed(*n, format!("{:x}", n.unsigned_abs())),
        ('X', Value::Int(n)) => signed(*n, format!("{:X}", n.unsigned_abs())),
        ('x', Value::Uint(n)) => format!("{n:x}"),
        ('X', Value::Uint(n)) => format!("{n:X}"),
        ('x', Value::String(s)) => s.bytes().map(|b| format!("{b:02x}")).collect(),
        ('X', Value::String(s)) => s.bytes().map(|b| format!("{b:02X}")).collect(),
        ('x', Value::Bytes(s)) => s.iter().map(|b| format!("{b:02x}")).collect(),
        ('X', Value::Bytes(s)) => s.iter().map(|b| format!("{b:02X}")).collect(),
        ('d', _) => return Err(refused("decimal")),
        ('b', _) => return Err(refused("binary")),
        ('o', _) => return Err(refused("octal")),
        ('x' | 'X', _) => return Err(refused("hex")),
        (other, _) => return Err(EvalError::new(format!("could not parse formatting clause: unrecognized formatting clause \"{other}\""))),
    })
}
