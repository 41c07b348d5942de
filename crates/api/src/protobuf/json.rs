//! JSON bytes read forward, piece by piece and without a tree: what [`super::encode`] walks.
//!
//! Stored objects are well-formed. Anything else is an error, never a panic.

use super::{Malformed, Read};
use crate::scan::{text_end, value_end};
use std::borrow::Cow;

const BAD: Malformed = Malformed::Value("the object is not well-formed JSON");

/// A position in JSON text.
pub(super) struct Json<'j> {
    bytes: &'j [u8],
    at: usize,
}

impl<'j> Json<'j> {
    pub fn new(bytes: &'j [u8]) -> Self {
        Json { bytes, at: 0 }
    }

    /// The first byte of what comes next; 0 at the end.
    pub fn peek(&mut self) -> u8 {
        while let Some(byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return *byte;
            }
            self.at += 1;
        }
        0
    }

    /// Steps over a byte that must come next.
    pub fn expect(&mut self, byte: u8) -> Read<()> {
        if self.peek() != byte {
            return Err(BAD);
        }
        self.at += 1;
        Ok(())
    }

    /// Whether another member of the object or list follows; steps over the comma or the closing bracket.
    pub fn more(&mut self, close: u8, first: &mut bool) -> Read<bool> {
        let next = self.peek();
        if next == close {
            self.at += 1;
            return Ok(false);
        }
        if !std::mem::take(first) {
            self.expect(b',')?;
        }
        Ok(true)
    }

    /// How far it was read.
    pub fn at(&self) -> usize {
        self.at
    }

    /// What was read since `from`.
    pub fn since(&self, from: usize) -> &'j [u8] {
        &self.bytes[from..self.at]
    }

    /// Steps over `text` when it comes next.
    pub fn take(&mut self, text: &[u8]) -> bool {
        let taken = self.bytes[self.at..].starts_with(text);
        if taken {
            self.at += text.len();
        }
        taken
    }

    /// A member's name, with the colon.
    pub fn key(&mut self) -> Read<Cow<'j, [u8]>> {
        let key = self.string()?;
        self.expect(b':')?;
        Ok(key)
    }

    /// Steps over a member's name, with the colon, when it is `name` as it stands; `name` has nothing to escape.
    #[inline]
    pub fn take_key(&mut self, name: &[u8]) -> bool {
        let rest = &self.bytes[self.at..];
        let end = name.len() + 1;
        let taken = rest.get(end..end + 2) == Some(b"\":") && rest[0] == b'"' && rest[1..end] == *name;
        if taken {
            self.at += end + 2;
        }
        taken
    }

    #[inline]
    pub fn string(&mut self) -> Read<Cow<'j, [u8]>> {
        self.expect(b'"')?;
        let rest = &self.bytes[self.at..];
        let end = text_end(rest).ok_or(BAD)?;
        if rest[end] == b'"' {
            self.at += end + 1;
            return Ok(Cow::Borrowed(&rest[..end]));
        }
        self.escaped().map(Cow::Owned)
    }

    /// The rest of a text that holds escapes.
    fn escaped(&mut self) -> Read<Vec<u8>> {
        let mut out = Vec::new();
        loop {
            let rest = &self.bytes[self.at..];
            let end = text_end(rest).ok_or(BAD)?;
            out.extend_from_slice(&rest[..end]);
            self.at += end + 1;
            if rest[end] == b'"' {
                return Ok(out);
            }
            let escape = *self.bytes.get(self.at).ok_or(BAD)?;
            self.at += 1;
            match escape {
                b'"' | b'\\' | b'/' => out.push(escape),
                b'b' => out.push(8),
                b'f' => out.push(12),
                b'n' => out.push(b'\n'),
                b'r' => out.push(b'\r'),
                b't' => out.push(b'\t'),
                b'u' => {
                    let c = self.unicode()?;
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => return Err(BAD),
            }
        }
    }

    fn hex(&mut self) -> Read<u32> {
        let digits = self.bytes.get(self.at..self.at + 4).ok_or(BAD)?;
        self.at += 4;
        digits.iter().try_fold(0, |n, d| Ok(n << 4 | (*d as char).to_digit(16).ok_or(BAD)?))
    }

    /// What follows `\u`. Half of a pair without the other half reads as U+FFFD, as Go reads it.
    fn unicode(&mut self) -> Read<char> {
        let high = self.hex()?;
        if (0xd800..0xdc00).contains(&high) && self.bytes[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 2;
            let low = self.hex()?;
            if (0xdc00..0xe000).contains(&low) {
                return Ok(char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    /// The text of a number, `true`, `false` or `null`.
    pub fn scalar(&mut self) -> Read<&'j [u8]> {
        self.peek();
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.'))).unwrap_or(rest.len());
        if end == 0 {
            return Err(BAD);
        }
        self.at += end;
        Ok(&rest[..end])
    }

    pub fn integer(&mut self) -> Read<i64> {
        let text = std::str::from_utf8(self.scalar()?).map_err(|_| BAD)?;
        text.parse().or_else(|_| text.parse::<f64>().map(|f| f as i64)).map_err(|_| BAD)
    }

    pub fn double(&mut self) -> Read<f64> {
        std::str::from_utf8(self.scalar()?).ok().and_then(|t| t.parse().ok()).ok_or(BAD)
    }

    /// Steps over a value of any form; its text.
    pub fn skip(&mut self) -> Read<&'j [u8]> {
        let first = self.peek();
        let start = self.at;
        if !matches!(first, b'"' | b'{' | b'[') {
            return self.scalar();
        }
        self.at = value_end(self.bytes, start).ok_or(BAD)?;
        Ok(&self.bytes[start..self.at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_unescaped_as_a_json_parser_does() {
        for text in [r#""plain""#, r#""a\"b\\c\/d\b\f\n\r\t""#, r#""\u00e9\ud83d\ude00\u0041""#, "\"é😀\""] {
            let wanted: String = serde_json::from_str(text).expect("JSON");
            assert_eq!(&*Json::new(text.as_bytes()).string().expect("a string"), wanted.as_bytes(), "{text}");
        }
        assert_eq!(&*Json::new(br#""\ud800x""#).string().expect("a string"), "\u{fffd}x".as_bytes());
    }

    #[test]
    fn a_value_is_stepped_over_as_a_whole() {
        for text in [r#"{"a":[1,{"b":"}]\""}],"c":"\\"}"#, "[]", "-1.5e3", "null", r#""x\\""#] {
            let mut json = Json::new(text.as_bytes());
            assert_eq!(json.skip().expect("a value"), text.as_bytes());
            assert_eq!(json.peek(), 0, "{text}");
        }
        for text in ["{\"a", "[1", "\"\\", "", "]"] {
            assert!(Json::new(text.as_bytes()).skip().is_err(), "{text}");
        }
    }
}
