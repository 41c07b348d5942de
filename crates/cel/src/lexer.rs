//! Tokens of CEL.

use crate::ast::Literal;
use crate::issue::Issue;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Literal(Literal),
    Ident(Arc<str>),
    /// A name in backquotes, for fields only.
    Quoted(Arc<str>),
    /// Operators and punctuation, `in`.
    Sign(&'static str),
    End,
}

/// A token with the bytes it covers.
#[derive(Clone, Debug)]
pub(crate) struct Spanned {
    pub token: Token,
    pub at: usize,
    pub end: usize,
}

/// Longest first.
const SIGNS: [&str; 26] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]", "{", "}", "=", ";",
];

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    issues: Vec<Issue>,
}

/// All tokens, ending with [`Token::End`].
pub(crate) fn tokens(source: &str) -> (Vec<Spanned>, Vec<Issue>) {
    let mut lexer = Lexer { source, at: 0, issues: Vec::new() };
    let mut out = Vec::new();
    loop {
        lexer.skip();
        let at = lexer.at;
        let Some(token) = lexer.next() else { continue };
        let end = token == Token::End;
        out.push(Spanned { token, at, end: lexer.at });
        if end {
            return (out, lexer.issues);
        }
    }
}

fn word(rest: &str) -> usize {
    rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count()
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn issue(&mut self, at: usize, message: String) {
        self.issues.push(Issue { at, message });
    }

    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n', '\u{c}']).len();
            self.at += blank;
            if !self.rest().starts_with("//") {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    /// `None` when the text was no token and has been reported.
    fn next(&mut self) -> Option<Token> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Some(Token::End) };
        if let Some((prefix, raw, bytes)) = string_prefix(rest) {
            return self.string(prefix, raw, bytes);
        }
        if first.is_ascii_digit() || (first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit())) {
            return self.number();
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let text = &rest[..word(rest)];
            self.at += text.len();
            return Some(match text {
                "true" => Token::Literal(Literal::Bool(true)),
                "false" => Token::Literal(Literal::Bool(false)),
                "null" => Token::Literal(Literal::Null),
                "in" => Token::Sign("in"),
                _ => Token::Ident(text.into()),
            });
        }
        if first == '`'
            && let Some(end) = rest[1..].find('`')
        {
            let name = &rest[1..=end];
            if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-/ ".contains(c)) {
                self.at += name.len() + 2;
                return Some(Token::Quoted(name.into()));
            }
        }
        if let Some(sign) = SIGNS.iter().find(|s| rest.starts_with(**s)) {
            self.at += sign.len();
            if !matches!(*sign, "=" | ";") {
                return Some(Token::Sign(sign));
            }
            self.at -= sign.len();
        }
        self.issue(self.at, format!("Syntax error: token recognition error at: '{}'", first.escape_debug()));
        self.at += first.len_utf8();
        None
    }

    fn number(&mut self) -> Option<Token> {
        let (at, rest) = (self.at, self.rest());
        if let Some(hex) = rest.strip_prefix("0x") {
            let digits = hex.bytes().take_while(u8::is_ascii_hexdigit).count();
            if digits > 0 {
                self.at += 2 + digits;
                return self.integer(at, &hex[..digits], 16);
            }
        }
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let whole = digits(rest);
        let mut length = whole;
        let after = &rest[length..];
        let fraction = after.strip_prefix('.').map_or(0, digits);
        if fraction > 0 {
            length += 1 + fraction;
        }
        let after = &rest[length..];
        let mut exponent = 0;
        if let Some(tail) = after.strip_prefix(['e', 'E']) {
            let sign = usize::from(tail.starts_with(['+', '-']));
            let count = digits(&tail[sign..]);
            exponent = if count > 0 { 1 + sign + count } else { 0 };
        }
        self.at += length + exponent;
        if fraction == 0 && exponent == 0 {
            return self.integer(at, &rest[..whole], 10);
        }
        let value = rest[..length + exponent].parse::<f64>().ok().filter(|f| f.is_finite());
        if value.is_none() {
            self.issue(at, "invalid double literal".into());
        }
        Some(Token::Literal(Literal::Double(value.unwrap_or_default())))
    }

    fn integer(&mut self, at: usize, digits: &str, radix: u32) -> Option<Token> {
        if self.rest().starts_with(['u', 'U']) {
            self.at += 1;
            let value = u64::from_str_radix(digits, radix);
            if value.is_err() {
                self.issue(at, "invalid uint literal".into());
            }
            return Some(Token::Literal(Literal::Uint(value.unwrap_or_default())));
        }
        match u64::from_str_radix(digits, radix) {
            Ok(n) if n <= i64::MAX as u64 => Some(Token::Literal(Literal::Int(n as i64))),
            // Only with a minus before it; the parser looks for this.
            Ok(n) if n == 1 << 63 => Some(Token::Literal(Literal::Int(i64::MIN))),
            _ => {
                self.issue(at, "invalid int literal".into());
                Some(Token::Literal(Literal::Int(0)))
            }
        }
    }

    fn string(&mut self, prefix: usize, raw: bool, bytes: bool) -> Option<Token> {
        let start = self.at;
        let body = &self.rest()[prefix..];
        let quote = &body[..1];
        let triple = quote.repeat(3);
        let delimiter = if body.starts_with(&triple) { triple.as_str() } else { quote };
        let text = &body[delimiter.len()..];
        let Some(end) = closing(text, delimiter, raw) else {
            let shown: String = self.rest().chars().take(40).collect();
            self.issue(start, format!("Syntax error: token recognition error at: '{shown}'"));
            self.at = self.source.len();
            return None;
        };
        self.at += prefix + 2 * delimiter.len() + end;
        let text = &text[..end];
        let text = if delimiter.len() == 3 { text.replace("\r\n", "\n").replace('\r', "\n") } else { text.to_owned() };
        let decoded = if raw { Ok(text.into_bytes()) } else { unescape(&text, bytes) };
        let decoded = decoded.unwrap_or_else(|why| {
            self.issue(start, why);
            Vec::new()
        });
        if bytes {
            return Some(Token::Literal(Literal::Bytes(decoded.into())));
        }
        let text = String::from_utf8(decoded).unwrap_or_default();
        Some(Token::Literal(Literal::String(text.into())))
    }
}

/// Length of the prefix of a string literal, whether raw, whether bytes.
fn string_prefix(rest: &str) -> Option<(usize, bool, bool)> {
    let letters = rest.bytes().take(3).take_while(|b| b"rRbB".contains(b)).count();
    let prefix = rest[..letters].to_ascii_lowercase();
    let known = matches!(prefix.as_str(), "" | "r" | "b" | "br" | "rb");
    (known && rest[letters..].starts_with(['"', '\''])).then(|| (letters, prefix.contains('r'), prefix.contains('b')))
}

fn closing(text: &str, delimiter: &str, raw: bool) -> Option<usize> {
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with(delimiter) {
            return Some(at);
        }
        let c = rest.chars().next()?;
        if delimiter.len() == 1 && matches!(c, '\n' | '\r') {
            return None;
        }
        at += c.len_utf8();
        if c == '\\' && !raw {
            at += text[at..].chars().next()?.len_utf8();
        }
    }
    None
}

fn unescape(text: &str, bytes: bool) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    let mut buffer = [0; 4];
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        let e = rest.chars().next().ok_or("unable to unescape string, found '\\' as last character")?;
        rest = &rest[e.len_utf8()..];
        let simple = match e {
            'a' => Some('\u{7}'),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            '\\' | '\'' | '"' | '`' | '?' => Some(e),
            _ => None,
        };
        if let Some(c) = simple {
            out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        let (digits, radix) = match e {
            'x' | 'X' => (2, 16),
            'u' if !bytes => (4, 16),
            'U' if !bytes => (8, 16),
            '0'..='3' => (3, 8),
            _ => return Err("unable to unescape string".into()),
        };
        let number = if radix == 8 {
            format!("{e}{}", rest.get(..2).unwrap_or_default())
        } else {
            rest.get(..digits).unwrap_or_default().to_owned()
        };
        let valid = number.len() == digits && number.bytes().all(|b| char::from(b).is_digit(radix));
        let code = if valid { u32::from_str_radix(&number, radix).ok() } else { None };
        let code = code.ok_or("unable to unescape string")?;
        rest = &rest[if radix == 8 { 2 } else { digits }..];
        if bytes {
            out.push(code as u8);
        } else {
            let c = char::from_u32(code).ok_or("invalid unicode code point")?;
            out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
        }
    }
    Ok(out)
}
