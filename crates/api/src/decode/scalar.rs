//! Canonical forms of the scalars that are code in Go: quantities, times, base64.

use crate::quantity::Quantity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The canonical text of a quantity.
pub(super) fn quantity(text: &str) -> Result<String, String> {
    Quantity::parse(text).map(|q| q.to_string()).map_err(|e| e.to_string())
}

/// `None` when the text is canonical base64 already.
pub(super) fn base64(text: &str) -> Result<Option<String>, String> {
    if !text.contains(['\n', '\r']) {
        return check_base64(text).map(|()| None);
    }
    let plain: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    check_base64(&plain).map(|()| Some(plain))
}

fn check_base64(text: &str) -> Result<(), String> {
    let at = match STANDARD.decode(text) {
        Ok(_) => return Ok(()),
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => at,
        // Go names the byte where the incomplete group begins.
        Err(_) => text.len() / 4 * 4,
    };
    Err(format!("illegal base64 data at input byte {at}"))
}

/// Brings a time into UTC and whole seconds (or microseconds); `None` when it is so already.
pub(super) fn time(text: &str, micro: bool) -> Result<Option<String>, String> {
    let bytes = text.as_bytes();
    if !micro && is_canonical_time(bytes) {
        return Ok(None);
    }
    explain_layout(text, micro)?;
    let at: jiff::Timestamp = text.parse().map_err(|_| format!("parsing time {text:?}: day out of range"))?;
    let shown = if micro { crate::time::format_micro_time(at) } else { crate::time::format_time(at) };
    Ok((shown != text).then_some(shown))
}

/// `2026-01-02T15:04:05Z` with a day that every month has.
fn is_canonical_time(text: &[u8]) -> bool {
    const SHAPE: &[u8; 20] = b"0000-00-00T00:00:00Z";
    let same = text.len() == 20 && text.iter().zip(SHAPE).all(|(b, s)| if *s == b'0' { b.is_ascii_digit() } else { b == s });
    let two = |at: usize| u32::from(text[at] - b'0') * 10 + u32::from(text[at + 1] - b'0');
    same && (1..=12).contains(&two(5)) && (1..=28).contains(&two(8)) && two(11) < 24 && two(14) < 60 && two(17) < 60
}

/// The error of Go's `time.Parse` for the first part of RFC 3339 that is missing.
fn explain_layout(text: &str, micro: bool) -> Result<(), String> {
    const PARTS: [(&str, usize); 11] =
        [("2006", 4), ("-", 0), ("01", 2), ("-", 0), ("02", 2), ("T", 0), ("15", 2), (":", 0), ("04", 2), (":", 0), ("05", 2)];
    let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    let cannot = |rest: &str, part: &str| Err(format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {part:?}"));
    let mut rest = text;
    for (part, digits) in PARTS {
        let length = if digits == 0 { part.len() } else { digits };
        match rest.get(..length) {
            Some(head) if digits == 0 && head == part => {}
            Some(head) if digits > 0 && head.bytes().all(|b| b.is_ascii_digit()) => {}
            _ => return cannot(rest, part),
        }
        rest = &rest[length..];
    }
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let offset = zone.len() == 6 && zone.starts_with(['+', '-']) && zone.as_bytes()[3] == b':';
    if zone == "Z" || offset { Ok(()) } else { cannot(zone, "Z07:00") }
}
