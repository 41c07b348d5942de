//! The query syntax of label selectors: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.

use super::{Operator, Requirement, key_error, requirement};

/// Every special character is a symbol of its own, so cutting cannot fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    End,
    Word,
    In,
    NotIn,
    Symbol(&'static str),
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    text: String,
}

const SPECIAL: &[u8] = b"=!(),><";
const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];
const OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

/// Cuts the text into tokens; the last one is `End`.
fn tokens(text: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if rest.is_empty() {
            break;
        }
        let (kind, len) = match SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            Some(symbol) => (Kind::Symbol(symbol), symbol.len()),
            None => {
                let end = |b: &u8| SPECIAL.contains(b) || b" \t\r\n".contains(b);
                let len = rest.bytes().position(|b| end(&b)).unwrap_or(rest.len());
                let kind = match &rest[..len] {
                    "in" => Kind::In,
                    "notin" => Kind::NotIn,
                    _ => Kind::Word,
                };
                (kind, len)
            }
        };
        out.push(Token { kind, text: rest[..len].to_owned() });
        rest = &rest[len..];
    }
    out.push(Token { kind: Kind::End, text: String::new() });
    out
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    /// The next token where `in` and `notin` are plain words.
    fn peek(&self) -> Kind {
        match self.tokens[self.at].kind {
            Kind::In | Kind::NotIn => Kind::Word,
            kind => kind,
        }
    }

    fn text(&self) -> &str {
        &self.tokens[self.at].text
    }

    /// Takes the next token; the end is never passed.
    fn take(&mut self) -> Token {
        let token = self.tokens[self.at].clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn take_word(&mut self) -> Result<String, String> {
        let is_word = self.peek() == Kind::Word;
        let token = self.take();
        if is_word { Ok(token.text) } else { Err(format!("found '{}', expected: identifier", token.text)) }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.peek() == Kind::Symbol("!");
        if absent {
            self.take();
        }
        let key = self.take_word()?;
        if let Some(error) = key_error("<nil>", &key) {
            return Err(error);
        }
        if absent {
            return requirement(&key, Operator::DoesNotExist, &[]);
        }
        if matches!(self.peek(), Kind::End | Kind::Symbol(",")) {
            return requirement(&key, Operator::Exists, &[]);
        }
        let token = self.take();
        let (operator, set) = match token.kind {
            Kind::In => (Operator::In, true),
            Kind::NotIn => (Operator::NotIn, true),
            Kind::Symbol("=" | "==") => (Operator::In, false),
            Kind::Symbol("!=") => (Operator::NotIn, false),
            Kind::Symbol(">") => (Operator::Gt, false),
            Kind::Symbol("<") => (Operator::Lt, false),
            _ => return Err(format!("found '{}', expected: {OPERATORS}", token.text)),
        };
        let values = if set { self.set()? } else { self.exact()? };
        requirement(&key, operator, &values.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// One value; nothing at all is the empty value.
    fn exact(&mut self) -> Result<Vec<String>, String> {
        if matches!(self.peek(), Kind::End | Kind::Symbol(",")) {
            return Ok(vec![String::new()]);
        }
        Ok(vec![self.take_word()?])
    }

    /// `(a,b,,c)`; nothing between commas is the empty value, nothing between the parentheses is no value.
    fn set(&mut self) -> Result<Vec<String>, String> {
        if self.peek() != Kind::Symbol("(") {
            return Err(format!("found '{}' expected: '('", self.take().text));
        }
        self.take();
        let mut values = Vec::new();
        match self.peek() {
            Kind::Symbol(")") => {
                self.take();
                return Ok(values);
            }
            Kind::Word | Kind::Symbol(",") => {}
            _ => return Err(format!("found '{}', expected: ',', ')' or identifier", self.text())),
        }
        loop {
            let word = if self.peek() == Kind::Word { self.take().text } else { String::new() };
            values.push(word);
            let kind = self.peek();
            let token = self.take();
            match kind {
                Kind::Symbol(")") => return Ok(values),
                Kind::Symbol(",") => {}
                _ => return Err(format!("found '{}', expected: ',' or ')'", token.text)),
            }
        }
    }
}

/// All requirements of a selector, sorted by key.
pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser { tokens: tokens(text), at: 0 };
    let mut out = Vec::new();
    loop {
        match parser.peek() {
            Kind::Word | Kind::Symbol("!") => {
                out.push(parser.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
            }
            Kind::End => break,
            _ => return Err(format!("found '{}', expected: !, identifier, or 'end of string'", parser.text())),
        }
        let kind = parser.peek();
        let token = parser.take();
        match kind {
            Kind::End => break,
            Kind::Symbol(",") if !matches!(parser.peek(), Kind::Word | Kind::Symbol("!")) => {
                return Err(format!("found '{}', expected: identifier after ','", parser.text()));
            }
            Kind::Symbol(",") => {}
            _ => return Err(format!("found '{}', expected: ',' or 'end of string'", token.text)),
        }
    }
    out.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(out)
}
