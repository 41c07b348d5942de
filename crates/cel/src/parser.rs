//! Recursive descent over the grammar of CEL. Macros are expanded while parsing; positions are those that cel-go reports.
//!
//! Whatever the input, the parser ends with a tree of bounded depth or with errors: everything after it may recurse.

use crate::ast::{Expr, Kind, Literal};
use crate::issue::{Issue, Issues};
use crate::lexer::{self, Spanned, Token};
use crate::macros;
use std::sync::Arc;

/// Longest expression, in characters.
const MAX_LENGTH: usize = 100_000;
/// Deepest nesting that is parsed.
const MAX_NESTING: usize = 250;
/// Deepest tree after macros.
const MAX_DEPTH: u16 = 300;
/// Words that are no names, though the language does not use them.
pub(crate) const RESERVED: [&str; 16] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
];
const EXPECTED: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// A parsed expression: its root, and how many ids were given out.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub root: Expr,
    pub ids: usize,
}

/// Stops the descent; the error has been noted.
pub(crate) struct Stop;
type Parse<T> = Result<T, Stop>;

pub(crate) struct Parser<'s> {
    source: &'s str,
    tokens: Vec<Spanned>,
    at: usize,
    ids: usize,
    nesting: usize,
    issues: Vec<Issue>,
}

/// Parses an expression.
pub(crate) fn parse(source: &str) -> Result<Parsed, Issues> {
    let length = source.chars().count();
    if length > MAX_LENGTH {
        let message = format!("expression code point size exceeds limit: size: {length}, limit {MAX_LENGTH}");
        return Err(Issues::new("", vec![Issue { at: 0, message }]));
    }
    let (tokens, issues) = lexer::tokens(source);
    let mut parser = Parser { source, tokens, at: 0, ids: 0, nesting: 0, issues };
    let root = parser.whole();
    match root {
        Ok(root) if parser.issues.is_empty() => Ok(Parsed { root, ids: parser.ids }),
        _ => Err(Issues::new(source, parser.issues)),
    }
}

fn too_deep(at: usize) -> Issue {
    Issue { at, message: format!("expression recursion limit exceeded: {MAX_NESTING}") }
}

/// How strongly a binary operator binds.
fn strength(sign: &str) -> Option<u8> {
    Some(match sign {
        "||" => 1,
        "&&" => 2,
        "<" | "<=" | ">" | ">=" | "==" | "!=" | "in" => 3,
        "+" | "-" => 4,
        "*" | "/" | "%" => 5,
        _ => return None,
    })
}

pub(crate) fn operator(sign: &str) -> Arc<str> {
    match sign {
        "in" => "@in".into(),
        "!" => "!_".into(),
        other => format!("_{other}_").into(),
    }
}

impl<'s> Parser<'s> {
    fn peek(&self) -> &Spanned {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn is(&self, sign: &str) -> bool {
        matches!(&self.peek().token, Token::Sign(s) if *s == sign)
    }

    fn is_next(&self, sign: &str) -> bool {
        matches!(self.tokens.get(self.at + 1).map(|t| &t.token), Some(Token::Sign(s)) if *s == sign)
    }

    fn advance(&mut self) -> Spanned {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn eat(&mut self, sign: &str) -> Option<usize> {
        self.is(sign).then(|| self.advance().at)
    }

    pub fn node(&mut self, at: usize, kind: Kind) -> Expr {
        self.ids += 1;
        let expr = Expr::new(self.ids - 1, at, kind);
        if expr.depth <= MAX_DEPTH {
            return expr;
        }
        self.issues.push(too_deep(at));
        Expr::new(self.ids - 1, at, Kind::Literal(Literal::Null))
    }

    pub fn fail<T>(&mut self, at: usize, message: impl Into<String>) -> Parse<T> {
        self.issues.push(Issue { at, message: message.into() });
        Err(Stop)
    }

    pub fn call(&mut self, at: usize, function: impl Into<Arc<str>>, args: Vec<Expr>) -> Expr {
        self.node(at, Kind::Call { function: function.into(), target: None, args })
    }

    fn shown(&self) -> String {
        let token = self.peek();
        if token.token == Token::End { "<EOF>".to_owned() } else { self.source[token.at..token.end].to_owned() }
    }

    fn unexpected<T>(&mut self, expected: &str) -> Parse<T> {
        let (at, shown) = (self.peek().at, self.shown());
        let follows = self.tokens.get(self.at + 1).map(|t| &t.token);
        let starts = match follows {
            Some(Token::Sign(s)) => expected.len() > 8 && matches!(*s, "[" | "{" | "(" | "." | "-" | "!"),
            Some(Token::End) => expected == "<EOF>",
            Some(_) => expected.len() > 8,
            None => false,
        };
        let word = if starts { "extraneous" } else { "mismatched" };
        self.fail(at, format!("Syntax error: {word} input '{shown}' expecting {expected}"))
    }

    fn expect(&mut self, sign: &'static str) -> Parse<usize> {
        match self.eat(sign) {
            Some(at) => Ok(at),
            None if self.peek().token == Token::End => {
                let at = self.peek().at;
                self.fail(at, format!("Syntax error: missing '{sign}' at '<EOF>'"))
            }
            None => self.unexpected(&format!("'{sign}'")),
        }
    }

    fn whole(&mut self) -> Parse<Expr> {
        let root = self.expression()?;
        if self.peek().token != Token::End {
            return self.unexpected("<EOF>");
        }
        Ok(root)
    }

    fn expression(&mut self) -> Parse<Expr> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            let issue = too_deep(self.peek().at);
            return self.fail(issue.at, issue.message);
        }
        let condition = self.operators(1)?;
        let result = match self.eat("?") {
            None => condition,
            Some(at) => {
                let yes = self.operators(1)?;
                self.expect(":")?;
                let no = self.expression()?;
                self.call(at, "_?_:_", vec![condition, yes, no])
            }
        };
        self.nesting -= 1;
        Ok(result)
    }

    /// Operators that bind at least as strongly as `floor`. Chains of `&&` and `||` become balanced trees, so that long ones
    /// stay shallow.
    fn operators(&mut self, floor: u8) -> Parse<Expr> {
        let mut left = self.unary()?;
        while let Token::Sign(sign) = self.peek().token
            && let Some(strength) = strength(sign).filter(|s| *s >= floor)
        {
            if matches!(sign, "&&" | "||") {
                let (mut terms, mut signs) = (vec![left], Vec::new());
                while let Some(at) = self.eat(sign) {
                    signs.push(at);
                    terms.push(self.operators(strength + 1)?);
                }
                left = self.balance(sign, terms, &signs);
            } else {
                let at = self.advance().at;
                let right = self.operators(strength + 1)?;
                left = self.call(at, operator(sign), vec![left, right]);
            }
        }
        Ok(left)
    }

    fn balance(&mut self, sign: &str, mut terms: Vec<Expr>, signs: &[usize]) -> Expr {
        if terms.len() == 1 {
            return terms.remove(0);
        }
        let middle = terms.len().div_ceil(2);
        let right = terms.split_off(middle);
        let left = self.balance(sign, terms, &signs[..middle - 1]);
        let right = self.balance(sign, right, &signs[middle..]);
        self.call(signs[middle - 1], operator(sign), vec![left, right])
    }

    fn unary(&mut self) -> Parse<Expr> {
        let start = self.peek().at;
        let mut nots = 0;
        while self.eat("!").is_some() {
            nots += 1;
        }
        if nots > 0 {
            let inner = self.member()?;
            return Ok(if nots % 2 == 0 { inner } else { self.call(start, operator("!"), vec![inner]) });
        }
        let mut minuses = 0;
        while self.is("-") {
            let literal =
                matches!(self.tokens.get(self.at + 1).map(|t| &t.token), Some(Token::Literal(Literal::Int(_) | Literal::Double(_))));
            if literal && minuses % 2 == 0 {
                break;
            }
            self.advance();
            minuses += 1;
        }
        let inner = self.member()?;
        Ok(if minuses % 2 == 0 { inner } else { self.call(start, "-_", vec![inner]) })
    }

    fn member(&mut self) -> Parse<Expr> {
        let mut left = self.primary()?;
        loop {
            if let Some(at) = self.eat(".") {
                let optional = self.eat("?").is_some();
                let (name, quoted) = self.field_name()?;
                left = if !optional && !quoted && self.is("(") {
                    self.method(left, name)?
                } else {
                    self.node(at, Kind::Select { operand: Box::new(left), field: name, test: false, optional })
                };
            } else if let Some(at) = self.eat("[") {
                let optional = self.eat("?").is_some();
                let index = self.expression()?;
                self.expect("]")?;
                left = self.call(at, if optional { "_[?_]" } else { "_[_]" }, vec![left, index]);
            } else if self.is("{")
                && let Some(name) = dotted(&left)
            {
                left = self.structure(name.into())?;
            } else {
                return Ok(left);
            }
        }
    }

    fn field_name(&mut self) -> Parse<(Arc<str>, bool)> {
        match self.peek().token.clone() {
            Token::Ident(name) => {
                self.advance();
                Ok((name, false))
            }
            Token::Quoted(name) => {
                self.advance();
                Ok((name, true))
            }
            Token::Sign("in") => {
                let at = self.peek().at;
                self.fail(at, "Syntax error: no viable alternative at input '.in'")
            }
            _ => self.unexpected("{IDENTIFIER, ESC_IDENTIFIER}"),
        }
    }

    fn method(&mut self, target: Expr, name: Arc<str>) -> Parse<Expr> {
        let at = self.peek().at;
        let args = self.arguments()?;
        macros::method(self, at, target, name, args)
    }

    fn arguments(&mut self) -> Parse<Vec<Expr>> {
        self.expect("(")?;
        let mut args = Vec::new();
        while !self.is(")") {
            args.push(self.expression()?);
            if self.eat(",").is_none() {
                break;
            }
        }
        self.expect(")")?;
        Ok(args)
    }

    fn primary(&mut self) -> Parse<Expr> {
        let Spanned { token, at, .. } = self.peek().clone();
        match token {
            Token::Literal(literal) => {
                self.advance();
                if literal == Literal::Int(i64::MIN) {
                    return self.fail(at, "invalid int literal");
                }
                Ok(self.node(at, Kind::Literal(literal)))
            }
            Token::Ident(_) | Token::Sign(".") => self.name(),
            Token::Sign("-") => self.negative(),
            Token::Sign("(") => {
                self.advance();
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign("[") => self.list(),
            Token::Sign("{") => self.map(),
            _ => self.unexpected(EXPECTED),
        }
    }

    fn negative(&mut self) -> Parse<Expr> {
        let at = self.advance().at;
        match self.peek().token.clone() {
            Token::Literal(Literal::Int(n)) => {
                self.advance();
                Ok(self.node(at, Kind::Literal(Literal::Int(n.wrapping_neg()))))
            }
            Token::Literal(Literal::Double(n)) => {
                self.advance();
                Ok(self.node(at, Kind::Literal(Literal::Double(-n))))
            }
            _ => self.unexpected(EXPECTED),
        }
    }

    fn name(&mut self) -> Parse<Expr> {
        self.eat(".");
        let Spanned { token, at, .. } = self.peek().clone();
        let Token::Ident(name) = token else { return self.unexpected("IDENTIFIER") };
        self.advance();
        if RESERVED.contains(&&*name) {
            return self.fail(at, format!("reserved identifier: {name}"));
        }
        if !self.is("(") {
            return Ok(self.node(at, Kind::Ident(name)));
        }
        let open = self.peek().at;
        let args = self.arguments()?;
        macros::global(self, open, name, args)
    }

    fn list(&mut self) -> Parse<Expr> {
        let at = self.advance().at;
        let mut items = Vec::new();
        while !self.is("]") {
            let optional = self.eat("?").is_some();
            items.push((self.expression()?, optional));
            if self.eat(",").is_none() {
                break;
            }
        }
        self.expect("]")?;
        Ok(self.node(at, Kind::List(items)))
    }

    fn map(&mut self) -> Parse<Expr> {
        let at = self.advance().at;
        let mut entries = Vec::new();
        while !self.is("}") {
            let optional = self.eat("?").is_some();
            let key = self.expression()?;
            self.expect(":")?;
            entries.push((key, self.expression()?, optional));
            if self.eat(",").is_none() {
                break;
            }
        }
        self.expect("}")?;
        Ok(self.node(at, Kind::Map(entries)))
    }

    fn structure(&mut self, name: Arc<str>) -> Parse<Expr> {
        let at = self.advance().at;
        let mut fields = Vec::new();
        while !self.is("}") {
            let optional = self.eat("?").is_some();
            let (field, _) = self.field_name()?;
            // A missing colon before `}` or a comma is told at that place.
            if !self.is(":") && self.is_next(":") {
                return self.unexpected("':'");
            }
            self.expect(":")?;
            fields.push((field, self.expression()?, optional));
            if self.eat(",").is_none() {
                break;
            }
        }
        self.expect("}")?;
        Ok(self.node(at, Kind::Struct(name, fields)))
    }
}

/// `a.b.c` as text; `None` for anything else.
pub(crate) fn dotted(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Ident(name) => Some(name.to_string()),
        Kind::Select { operand, field, test: false, optional: false } => Some(format!("{}.{field}", dotted(operand)?)),
        _ => None,
    }
}
