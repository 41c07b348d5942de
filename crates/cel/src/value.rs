//! Values. What comes from JSON stays there: a list or an object is a reference together with its declaration, and
//! becomes a value element by element, only where an expression looks.

use crate::ast::Literal;
use crate::authorizer::Authz;
use crate::functions::{net, semver, url};
use crate::schema::{DYN, Decl, ListKind, ObjectDecl, Shape};
use crate::types::Type;
use ferrokube_api::quantity::Quantity;
use jiff::Timestamp;
use serde_json::{Map as JsonMap, Value as Json};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Why an evaluation has no value; the words are cel-go's where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    /// For a person.
    pub message: String,
    /// The budget is spent: nothing may go on, not even past `||`.
    pub exhausted: bool,
}

impl EvalError {
    pub(crate) fn new(message: impl Into<String>) -> EvalError {
        EvalError { message: message.into(), exhausted: false }
    }

    pub(crate) fn overload() -> EvalError {
        EvalError::new("no such overload")
    }
}

/// What an evaluation yields.
pub type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// Text that is borrowed from JSON or from the program, or shared.
#[derive(Clone, Debug)]
pub enum Str<'a> {
    /// From outside.
    Borrowed(&'a str),
    /// Made by an expression.
    Shared(Rc<str>),
}

impl std::ops::Deref for Str<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Str::Borrowed(s) => s,
            Str::Shared(s) => s,
        }
    }
}

/// Nanoseconds; CEL's range is that of Go's `time.Duration`.
pub type Nanos = i64;

/// A value.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names are those of CEL")]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Str<'a>),
    Bytes(Rc<[u8]>),
    Timestamp(Timestamp),
    Duration(Nanos),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Rc<Value<'a>>>),
    Type(Rc<str>),
    /// Fields that are worked out when they are asked for.
    Lazy(&'a dyn Lazy<'a>),
    Url(Rc<url::Url>),
    Ip(net::Ip),
    Cidr(net::Cidr),
    Quantity(Quantity),
    Semver(Rc<semver::Semver>),
    /// A named format.
    Format(&'static crate::functions::named_formats::Format),
    Authz(Rc<Authz<'a>>),
}

/// An object whose fields are computed once, on first use: `variables` of a policy.
pub trait Lazy<'a>: std::fmt::Debug {
    /// The field; `None` when there is no such field.
    fn field(&'a self, name: &str) -> Option<Evaluated<'a>>;
}

/// A list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// From outside, with its declaration.
    Json(&'a [Json], &'a Decl),
    /// Made by an expression.
    Owned(Rc<Vec<Value<'a>>>),
}

/// A map or an object.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// From outside, with its declaration.
    Json(&'a JsonMap<String, Json>, &'a Decl),
    /// Made by an expression; the name is that of a struct type, when it was made as one.
    Owned(Rc<BTreeMap<Key<'a>, Value<'a>>>, Option<&'a str>),
}

/// A key of a map made by an expression. Numbers are the same key whatever their type.
#[derive(Clone, Debug)]
pub enum Key<'a> {
    /// `true`, `false`.
    Bool(bool),
    /// `int` and `uint` (second field true).
    Number(i128, bool),
    /// Text.
    String(Str<'a>),
}

impl Key<'_> {
    fn rank(&self) -> u8 {
        match self {
            Key::Bool(_) => 0,
            Key::Number(..) => 1,
            Key::String(_) => 2,
        }
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Key::Bool(a), Key::Bool(b)) => a.cmp(b),
            (Key::Number(a, _), Key::Number(b, _)) => a.cmp(b),
            (Key::String(a), Key::String(b)) => (**a).cmp(b),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key<'_> {}

impl<'a> Key<'a> {
    pub(crate) fn of(value: &Value<'a>) -> Option<Key<'a>> {
        Some(match value {
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(n) => Key::Number((*n).into(), false),
            Value::Uint(n) => Key::Number((*n).into(), true),
            Value::Double(n) if n.fract() == 0.0 && n.abs() < 1e18 => Key::Number(*n as i128, false),
            Value::String(s) => Key::String(s.clone()),
            _ => return None,
        })
    }

    /// For a lookup among values that live elsewhere.
    fn detached(value: &Value<'_>) -> Option<Key<'a>> {
        match value {
            Value::String(s) => Some(Key::String(Str::Shared((**s).into()))),
            Value::Bool(b) => Key::of(&Value::Bool(*b)),
            Value::Int(n) => Key::of(&Value::Int(*n)),
            Value::Uint(n) => Key::of(&Value::Uint(*n)),
            _ => None,
        }
    }

    pub(crate) fn value(&self) -> Value<'a> {
        match self {
            Key::Bool(b) => Value::Bool(*b),
            Key::Number(n, false) => Value::Int(*n as i64),
            Key::Number(n, true) => Value::Uint(*n as u64),
            Key::String(s) => Value::String(s.clone()),
        }
    }
}

impl<'a> From<&'a Literal> for Value<'a> {
    fn from(literal: &'a Literal) -> Self {
        match literal {
            Literal::Null => Value::Null,
            Literal::Bool(b) => Value::Bool(*b),
            Literal::Int(n) => Value::Int(*n),
            Literal::Uint(n) => Value::Uint(*n),
            Literal::Double(n) => Value::Double(*n),
            Literal::String(s) => Value::String(Str::Borrowed(s)),
            Literal::Bytes(b) => Value::Bytes(Rc::from(&b[..])),
        }
    }
}

/// Reads JSON as its declaration says; what does not fit it is read as what it looks like.
pub(crate) fn view<'a>(json: &'a Json, decl: &'a Decl) -> Value<'a> {
    match (json, &decl.shape) {
        (Json::Null, _) => Value::Null,
        (Json::Bool(b), _) => Value::Bool(*b),
        (Json::Number(n), Shape::Simple(Type::Double)) => Value::Double(n.as_f64().unwrap_or_default()),
        (Json::Number(n), shape) => match n.as_i64() {
            Some(n) => Value::Int(n),
            None => match (shape, n.as_f64()) {
                (Shape::Simple(Type::Int), Some(f)) if f.fract() == 0.0 && f.abs() < 9e18 => Value::Int(f as i64),
                (_, f) => Value::Double(f.unwrap_or_default()),
            },
        },
        (Json::String(s), Shape::Simple(ty)) => text(s, ty),
        (Json::String(s), _) => Value::String(Str::Borrowed(s)),
        (Json::Array(list), Shape::List(..)) => Value::List(List::Json(list, decl)),
        (Json::Array(list), _) => Value::List(List::Json(list, &DYN)),
        (Json::Object(map), Shape::Map(_) | Shape::Object(_)) => Value::Map(Map::Json(map, decl)),
        (Json::Object(map), _) => Value::Map(Map::Json(map, &DYN)),
    }
}

fn text<'a>(s: &'a str, ty: &Type) -> Value<'a> {
    let typed = match ty {
        Type::Timestamp => crate::functions::time::parse_lenient(s).map(Value::Timestamp),
        Type::Duration => ferrokube_api::time::parse_duration(s).map(Value::Duration),
        Type::Bytes => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(s).ok().map(|b| Value::Bytes(b.into()))
        }
        _ => None,
    };
    typed.unwrap_or(Value::String(Str::Borrowed(s)))
}

impl<'a> List<'a> {
    pub(crate) fn of(items: Vec<Value<'a>>) -> Self {
        List::Owned(Rc::new(items))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            List::Json(list, _) => list.len(),
            List::Owned(list) => list.len(),
        }
    }

    pub(crate) fn get(&self, at: usize) -> Option<Value<'a>> {
        match self {
            List::Json(list, decl) => list.get(at).map(|json| view(json, decl.element().unwrap_or(&DYN))),
            List::Owned(list) => list.get(at).cloned(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let list = self.clone();
        (0..list.len()).filter_map(move |i| list.get(i))
    }

    pub(crate) fn kind(&self) -> &ListKind {
        match self {
            List::Json(_, Decl { shape: Shape::List(_, kind), .. }) => kind,
            _ => &ListKind::Atomic,
        }
    }
}

impl<'a> Map<'a> {
    pub(crate) fn of(entries: BTreeMap<Key<'a>, Value<'a>>) -> Self {
        Map::Owned(Rc::new(entries), None)
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Map::Json(map, _) => map.len(),
            Map::Owned(map, _) => map.len(),
        }
    }

    /// The declared fields, for an object.
    pub(crate) fn object(&self) -> Option<&'a ObjectDecl> {
        match self {
            Map::Json(_, decl) => match &decl.shape {
                Shape::Object(object) => Some(object),
                _ => None,
            },
            Map::Owned(..) => None,
        }
    }

    /// A field as an expression names it.
    pub(crate) fn field(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Map::Json(map, decl) => match &decl.shape {
                Shape::Object(object) => {
                    let field = object.fields.get(name)?;
                    map.get(&*field.key).map(|json| view(json, &field.decl))
                }
                Shape::Map(value) => map.get(name).map(|json| view(json, value)),
                _ => map.get(name).map(|json| view(json, &DYN)),
            },
            Map::Owned(map, _) => map.get(&Key::String(Str::Shared(name.into()))).cloned(),
        }
    }

    pub(crate) fn get(&self, key: &Value<'a>) -> Option<Value<'a>> {
        match (self, key) {
            (Map::Json(..), Value::String(name)) => self.field(name),
            (Map::Json(..), _) => None,
            (Map::Owned(map, _), key) => map.get(&Key::of(key)?).cloned(),
        }
    }

    pub(crate) fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Json(map, decl) => match &decl.shape {
                Shape::Object(object) => {
                    let present = object.fields.iter().filter(|(_, f)| map.contains_key(&*f.key));
                    let mut names: Vec<&'a str> = present.map(|(name, _)| &**name).collect();
                    names.sort_unstable();
                    names.into_iter().map(|n| Value::String(Str::Borrowed(n))).collect()
                }
                _ => map.keys().map(|k| Value::String(Str::Borrowed(k))).collect(),
            },
            Map::Owned(map, _) => map.keys().map(Key::value).collect(),
        }
    }
}

impl<'a> Value<'a> {
    /// Text made by an expression.
    pub fn text(text: impl Into<Rc<str>>) -> Value<'a> {
        Value::String(Str::Shared(text.into()))
    }

    /// JSON of unknown type.
    pub fn json(json: &'a Json) -> Value<'a> {
        view(json, &DYN)
    }

    /// JSON as a declaration says.
    pub fn typed(json: &'a Json, decl: &'a Decl) -> Value<'a> {
        view(json, decl)
    }

    /// A map from names to values, some of which JSON may have no form for.
    pub fn map(entries: impl IntoIterator<Item = (&'a str, Value<'a>)>) -> Value<'a> {
        let key = |name: &'a str| Key::String(Str::Borrowed(name));
        Value::Map(Map::of(entries.into_iter().map(|(name, value)| (key(name), value)).collect()))
    }

    /// A semantic version; `None` when the text is none.
    pub fn semver(text: &str) -> Option<Value<'a>> {
        semver::Semver::parse(text, false).ok().map(|version| Value::Semver(Rc::new(version)))
    }

    pub(crate) fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::of(items))
    }

    pub(crate) fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Rc::new(value)))
    }

    /// Size as the cost of functions counts it: characters, bytes, elements; 1 for everything else.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Value::String(s) => s.chars().count() as u64,
            Value::Bytes(b) => b.len() as u64,
            Value::List(l) => l.len() as u64,
            Value::Map(m) => m.len() as u64,
            _ => 1,
        }
    }

    /// The name of its type.
    pub fn type_name(&self) -> Rc<str> {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(Map::Owned(_, Some(name))) => name,
            Value::Map(m) => m.object().map_or("map", |o| &o.name),
            Value::Optional(_) => "optional_type",
            Value::Type(_) => "type",
            Value::Lazy(_) => "kubernetes.variables",
            Value::Url(_) => "kubernetes.URL",
            Value::Ip(_) => "net.IP",
            Value::Cidr(_) => "net.CIDR",
            Value::Quantity(_) => "kubernetes.Quantity",
            Value::Semver(_) => "kubernetes.Semver",
            Value::Format(_) => "kubernetes.NamedFormat",
            Value::Authz(a) => a.type_name(),
        }
        .into()
    }

    /// As JSON; `None` for values that have no form there.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(n) => (*n).into(),
            Value::Uint(n) => (*n).into(),
            Value::Double(n) => Json::Number(serde_json::Number::from_f64(*n)?),
            Value::String(s) => Json::String(s.to_string()),
            Value::Bytes(b) => {
                use base64::Engine;
                Json::String(base64::engine::general_purpose::STANDARD.encode(b))
            }
            Value::Timestamp(t) => Json::String(crate::functions::time::show(t)),
            Value::Duration(d) => Json::String(crate::functions::time::show_duration(*d)),
            Value::List(List::Json(list, _)) => Json::Array(list.to_vec()),
            Value::List(list) => Json::Array(list.iter().map(|v| v.to_json()).collect::<Option<_>>()?),
            Value::Map(Map::Json(map, _)) => Json::Object((*map).clone()),
            Value::Map(Map::Owned(map, _)) => {
                let entry = |(k, v): (&Key<'a>, &Value<'a>)| match k {
                    Key::String(s) => Some((s.to_string(), v.to_json()?)),
                    _ => None,
                };
                Json::Object(map.iter().map(entry).collect::<Option<_>>()?)
            }
            Value::Optional(Some(v)) => v.to_json()?,
            Value::Quantity(q) => Json::String(q.to_string()),
            _ => return None,
        })
    }

    /// As text, when it is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s),
            _ => None,
        }
    }
}

/// Order of numbers across types; `None` when one is no number (or not comparable).
pub(crate) fn compare_numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    let whole = |v: &Value<'_>| match v {
        Value::Int(n) => Some(i128::from(*n)),
        Value::Uint(n) => Some(i128::from(*n)),
        _ => None,
    };
    match (a, b) {
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Double(a), b) => compare_mixed(*a, whole(b)?),
        (a, Value::Double(b)) => compare_mixed(*b, whole(a)?).map(Ordering::reverse),
        (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
    }
}

fn compare_mixed(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    if a.abs() >= 1e30 {
        return Some(if a > 0.0 { Ordering::Greater } else { Ordering::Less });
    }
    let floor = a.floor();
    Some((floor as i128).cmp(&b).then(if a > floor { Ordering::Greater } else { Ordering::Equal }))
}

/// Order of two values of one type; `None` when they have none.
pub(crate) fn compare(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some((**a).cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        _ => compare_numbers(a, b),
    }
}

/// Equality, deep, numbers across types.
pub(crate) fn equal(a: &Value<'_>, b: &Value<'_>) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::List(a), Value::List(b)) => equal_lists(a, b),
        (Value::Map(a), Value::Map(b)) => equal_maps(a, b),
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(a, b),
            (None, None) => true,
            _ => false,
        },
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::Url(a), Value::Url(b)) => a == b,
        (Value::Ip(a), Value::Ip(b)) => a == b,
        (Value::Cidr(a), Value::Cidr(b)) => a == b,
        (Value::Quantity(a), Value::Quantity(b)) => a == b,
        (Value::Semver(a), Value::Semver(b)) => a.cmp(b) == Ordering::Equal,
        (Value::Format(a), Value::Format(b)) => a.name == b.name,
        (a, b) => compare(a, b) == Some(Ordering::Equal),
    }
}

fn equal_lists(a: &List<'_>, b: &List<'_>) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match a.kind() {
        ListKind::Atomic => a.iter().zip(b.iter()).all(|(a, b)| equal(&a, &b)),
        ListKind::Set => a.iter().all(|a| b.iter().any(|b| equal(&a, &b))),
        ListKind::Map(keys) => a.iter().all(|a| b.iter().any(|b| same_keys(&a, &b, keys) && equal(&a, &b))),
    }
}

/// Whether two items of a list map are the same entry.
pub(crate) fn same_keys(a: &Value<'_>, b: &Value<'_>, keys: &[Arc<str>]) -> bool {
    let raw = |v: &Value<'_>, key: &str| match v {
        Value::Map(Map::Json(map, _)) => map.get(key).cloned(),
        Value::Map(map) => map.field(key).and_then(|v| v.to_json()),
        _ => None,
    };
    keys.iter().all(|key| raw(a, key) == raw(b, key))
}

fn equal_maps(a: &Map<'_>, b: &Map<'_>) -> bool {
    if a.object().is_none() && b.object().is_none() && a.len() != b.len() {
        return false;
    }
    let keys = a.keys();
    if keys.len() != b.keys().len() {
        return false;
    }
    keys.iter().all(|key| {
        let other = match (b, key) {
            (Map::Json(..), Value::String(name)) => b.field(name),
            (Map::Owned(map, _), key) => Key::detached(key).and_then(|key| map.get(&key).cloned()),
            _ => None,
        };
        match (a.get(key), other) {
            (Some(a), Some(b)) => equal(&a, &b),
            _ => false,
        }
    })
}
