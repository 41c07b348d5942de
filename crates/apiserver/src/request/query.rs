//! The query of a request: parameters as sent, and the options that upstream reads from them.

use ferrokube_api::Status;
use std::num::{IntErrorKind, ParseIntError};
use std::time::Duration;

/// Decoded query parameters, in order.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
    raw: String,
}

/// Whether every `%` begins an escape; Go's HTTP server answers no other path, and reads no other parameter.
pub fn well_escaped(text: &str) -> bool {
    let mut parts = text.split('%');
    parts.next();
    parts.all(|part| part.len() >= 2 && part.bytes().take(2).all(|b| b.is_ascii_hexdigit()))
}

/// Decodes `%xx` and `+`.
pub fn percent_decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|b| (*b as char).to_digit(16));
        match bytes[at] {
            b'%' => match (hex(at + 1), hex(at + 2)) {
                (Some(high), Some(low)) => {
                    out.push((high * 16 + low) as u8);
                    at += 2;
                }
                _ => out.push(b'%'),
            },
            b'+' if plus => out.push(b' '),
            other => out.push(other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Query {
    /// Parses the part after `?`. As in Go, a parameter that is not well-formed is as good as absent.
    pub fn parse(query: Option<&str>) -> Self {
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (percent_decode(key, true), percent_decode(value, true))
        };
        let raw = query.unwrap_or_default();
        Query {
            pairs: raw.split('&').filter(|p| !p.is_empty() && !p.contains(';') && well_escaped(p)).map(pair).collect(),
            raw: raw.to_owned(),
        }
    }

    /// As sent.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// The first value of a parameter; empty when absent.
    pub fn get(&self, name: &str) -> &str {
        self.find(name).unwrap_or_default()
    }

    /// The first value of a parameter.
    pub fn find(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A boolean as apimachinery converts it: absent is false, `false` and `0` are false, everything else is true.
    pub fn flag(&self, name: &str) -> bool {
        self.find(name).is_some_and(|v| !matches!(v.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    /// An integer.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.find(name) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|error: ParseIntError| {
                let why = match error.kind() {
                    IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
                    _ => "invalid syntax",
                };
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
            }),
        }
    }
}

/// Go's duration syntax without a sign: `10s`, `1m30s`, `500ms`, `0`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    read_duration(text).ok()
}

/// The same, with the reason in Go's words when it is none.
pub fn read_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(invalid());
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit_len] {
            "ns" => 1e-9,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        rest = &rest[unit_len..];
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| invalid())?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_flags_follow_go() {
        let query = Query::parse(Some("labelSelector=a%3Db%2Cc&watch=1&pretty&x=a+b&follow=false"));
        assert_eq!(query.get("labelSelector"), "a=b,c");
        assert!(query.flag("watch") && query.flag("pretty") && !query.flag("follow") && !query.flag("none"));
        assert_eq!(query.get("x"), "a b");
        let refused = |text: &str| Query::parse(Some(text)).number("n").expect_err("refused").message;
        assert_eq!(refused("n="), "strconv.ParseInt: parsing \"\": invalid syntax");
        assert_eq!(refused("n=9223372036854775808"), "strconv.ParseInt: parsing \"9223372036854775808\": value out of range");
        let odd = Query::parse(Some("a=%zz&b;c=1&d=%4&e=%41"));
        assert_eq!([odd.find("a"), odd.find("b;c"), odd.find("d"), odd.find("e")], [None, None, None, Some("A")]);
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let read = |text| read_duration(text);
        assert_eq!(read("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!((read("0"), read("1.5s")), (Ok(Duration::ZERO), Ok(Duration::from_millis(1500))));
        assert_eq!(read("10"), Err("time: missing unit in duration \"10\"".to_owned()));
        assert_eq!(read("3d"), Err("time: unknown unit \"d\" in duration \"3d\"".to_owned()));
        assert_eq!(read("soon"), Err("time: invalid duration \"soon\"".to_owned()));
    }
}
