//! Text: the standard functions and the strings extension in version 2. Positions count characters.

use super::{Def, ONE, Price, Site, Sized, TEXT, f, sized};
use crate::value::{EvalError, Evaluated, Value};

pub(super) const TABLE: &[Def] = &[
    f("contains", "string.(string) -> bool", Price::Contains, contains),
    f("startsWith", "string.(string) -> bool", Price::Text(1, 1), starts_with),
    f("endsWith", "string.(string) -> bool", Price::Text(1, 1), ends_with),
    sized(f("charAt", "string.(int) -> string", ONE, char_at), Sized::AtMost(1)),
    f("indexOf", "string.(string) -> int", TEXT, index_of),
    f("indexOf", "string.(string, int) -> int", TEXT, index_of),
    f("lastIndexOf", "string.(string) -> int", TEXT, last_index_of),
    f("lastIndexOf", "string.(string, int) -> int", TEXT, last_index_of),
    f("join", "list(string).() -> string", Price::Result, join),
    f("join", "list(string).(string) -> string", Price::Result, join),
    sized(f("lowerAscii", "string.() -> string", TEXT, lower), Sized::Within(0)),
    sized(f("upperAscii", "string.() -> string", TEXT, upper), Sized::Within(0)),
    sized(f("trim", "string.() -> string", TEXT, trim), Sized::Within(0)),
    sized(f("substring", "string.(int) -> string", TEXT, substring), Sized::Within(0)),
    sized(f("substring", "string.(int, int) -> string", TEXT, substring), Sized::Within(0)),
    sized(f("replace", "string.(string, string) -> string", Price::Text(0, 2), replace), Sized::Replaced),
    sized(f("replace", "string.(string, string, int) -> string", Price::Text(0, 2), replace), Sized::Replaced),
    sized(f("split", "string.(string) -> list(string)", Price::Text(0, 2), split), Sized::Within(0)),
    sized(f("split", "string.(string, int) -> list(string)", Price::Text(0, 2), split), Sized::Within(0)),
    f("strings.quote", "(string) -> string", TEXT, quote),
    sized(f("reverse", "string.() -> string", TEXT, reverse), Sized::Within(0)),
    sized(f("jsonpatch.escapeKey", "(string) -> string", TEXT, escape_key), Sized::Within(0)),
];

fn contains<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s), Value::String(part)] => Ok(Value::Bool(s.contains(&**part))),
        _ => Err(EvalError::overload()),
    }
}

fn starts_with<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s), Value::String(part)] => Ok(Value::Bool(s.starts_with(&**part))),
        _ => Err(EvalError::overload()),
    }
}

fn ends_with<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s), Value::String(part)] => Ok(Value::Bool(s.ends_with(&**part))),
        _ => Err(EvalError::overload()),
    }
}

fn out_of_range(at: i64) -> EvalError {
    EvalError::new(format!("index out of range: {at}"))
}

/// The byte where a character starts; the end for the number of characters.
fn offset(s: &str, at: i64) -> Result<usize, EvalError> {
    let wanted = usize::try_from(at).map_err(|_| out_of_range(at))?;
    let mut starts = s.char_indices().map(|(i, _)| i).chain([s.len()]);
    starts.nth(wanted).ok_or_else(|| out_of_range(at))
}

fn char_at<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(s), Value::Int(at)] = args else { return Err(EvalError::overload()) };
    let rest = &s[offset(s, *at)?..];
    Ok(Value::text(rest.chars().next().map(String::from).unwrap_or_default()))
}

fn position<'a>(s: &str, byte: Option<usize>) -> Evaluated<'a> {
    Ok(Value::Int(byte.map_or(-1, |b| s[..b].chars().count() as i64)))
}

fn index_of<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s), Value::String(part)] => position(s, s.find(&**part)),
        [Value::String(s), Value::String(part), Value::Int(from)] => {
            let start = offset(s, *from)?;
            position(s, s[start..].find(&**part).map(|i| i + start))
        }
        _ => Err(EvalError::overload()),
    }
}

fn last_index_of<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s), Value::String(part)] => position(s, s.rfind(&**part)),
        [Value::String(s), Value::String(part), Value::Int(from)] => {
            let end = (offset(s, *from)? + part.len()).min(s.len());
            let end = (0..=end).rev().find(|e| s.is_char_boundary(*e)).unwrap_or(0);
            position(s, s[..end].rfind(&**part))
        }
        _ => Err(EvalError::overload()),
    }
}

fn join<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return Err(EvalError::overload()),
    };
    let mut out = String::new();
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(item.as_str().ok_or_else(EvalError::overload)?);
    }
    Ok(Value::text(out))
}

fn lower<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s)] => Ok(Value::text(s.to_ascii_lowercase())),
        _ => Err(EvalError::overload()),
    }
}

fn upper<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s)] => Ok(Value::text(s.to_ascii_uppercase())),
        _ => Err(EvalError::overload()),
    }
}

fn trim<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s)] => Ok(Value::text(s.trim())),
        _ => Err(EvalError::overload()),
    }
}

fn substring<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s), Value::Int(start)] => Ok(Value::text(&s[offset(s, *start)?..])),
        [Value::String(s), Value::Int(start), Value::Int(end)] => {
            if start > end {
                return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
            }
            Ok(Value::text(&s[offset(s, *start)?..offset(s, *end)?]))
        }
        _ => Err(EvalError::overload()),
    }
}

/// Longest text that an expression may make: what a request may hold, many times over.
const LONGEST: usize = 64 << 20;

fn replace<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (s, from, to, count) = match args {
        [Value::String(s), Value::String(from), Value::String(to)] => (s, from, to, -1),
        [Value::String(s), Value::String(from), Value::String(to), Value::Int(n)] => (s, from, to, *n),
        _ => return Err(EvalError::overload()),
    };
    if to.len() > from.len() && (s.len() + 1).saturating_mul(to.len()) > LONGEST {
        return Err(EvalError::new("the result of replace is too long"));
    }
    Ok(Value::text(match usize::try_from(count) {
        Ok(n) => s.replacen(&**from, to, n),
        Err(_) => s.replace(&**from, to),
    }))
}

fn split<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (s, separator, count) = match args {
        [Value::String(s), Value::String(separator)] => (s, separator, -1),
        [Value::String(s), Value::String(separator), Value::Int(n)] => (s, separator, *n),
        _ => return Err(EvalError::overload()),
    };
    if count == 0 {
        return Ok(Value::list(Vec::new()));
    }
    let limit = usize::try_from(count).unwrap_or(usize::MAX);
    let parts: Vec<Value<'a>> = if separator.is_empty() {
        let starts: Vec<usize> = s.char_indices().map(|(i, _)| i).take(limit).collect();
        let ends = starts.iter().skip(1).copied().chain([s.len()]);
        starts.iter().zip(ends).map(|(a, b)| Value::text(&s[*a..b])).collect()
    } else {
        s.splitn(limit, &**separator).map(Value::text).collect()
    };
    Ok(Value::list(parts))
}

fn quote<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(s)] = args else { return Err(EvalError::overload()) };
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(Value::text(out))
}

fn reverse<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s)] => Ok(Value::text(s.chars().rev().collect::<String>())),
        _ => Err(EvalError::overload()),
    }
}

fn escape_key<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(s)] => Ok(Value::text(s.replace('~', "~0").replace('/', "~1"))),
        _ => Err(EvalError::overload()),
    }
}
