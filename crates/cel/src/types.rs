//! Types of expressions, and the notation in which functions declare theirs.

use crate::schema::ObjectDecl;
use std::fmt;
use std::sync::Arc;

/// A type as the checker sees it.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names are those of CEL")]
pub enum Type {
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<(Type, Type)>),
    Optional(Arc<Type>),
    /// The type of a type.
    Type(Arc<Type>),
    /// An object with declared fields.
    Object(Arc<ObjectDecl>),
    /// A type made by naming it: `Object.spec{...}` of a mutation.
    Named(Arc<str>),
    /// A type of a library, such as `kubernetes.Quantity`.
    Opaque(&'static str),
    /// A parameter of a signature (`A`), or a variable of the checker.
    Param(usize),
    /// Of an expression that is in error; fits everywhere.
    Error,
}

impl Type {
    /// `list(inner)`.
    pub fn list(inner: Type) -> Type {
        Type::List(Arc::new(inner))
    }

    /// `map(key, value)`.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    /// `optional_type(inner)`.
    pub fn optional(inner: Type) -> Type {
        Type::Optional(Arc::new(inner))
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// Whether values of the type have a fixed size.
    pub(crate) fn is_scalar(&self) -> bool {
        matches!(self, Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Timestamp | Type::Duration | Type::Type(_))
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) | (Type::Type(a), Type::Type(b)) => a == b,
            (Type::Map(a), Type::Map(b)) => a == b,
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            (Type::Named(a), Type::Named(b)) => a == b,
            (Type::Opaque(a), Type::Opaque(b)) => a == b,
            (Type::Param(a), Type::Param(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b) && a.is_simple(),
        }
    }
}

impl Type {
    fn is_simple(&self) -> bool {
        !matches!(
            self,
            Type::List(_)
                | Type::Map(_)
                | Type::Optional(_)
                | Type::Type(_)
                | Type::Object(_)
                | Type::Named(_)
                | Type::Opaque(_)
                | Type::Param(_)
        )
    }
}

/// As cel-go prints types in messages.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Dyn => "dyn",
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "timestamp",
            Type::Duration => "duration",
            Type::List(inner) => return write!(f, "list({inner})"),
            Type::Map(inner) => return write!(f, "map({}, {})", inner.0, inner.1),
            Type::Optional(inner) => return write!(f, "optional_type({inner})"),
            Type::Type(inner) => return write!(f, "type({inner})"),
            Type::Object(object) => &object.name,
            Type::Named(name) => name,
            Type::Opaque(name) => name,
            Type::Param(_) => "dyn",
            Type::Error => "!error!",
        })
    }
}

/// Names of opaque types in signatures, and as CEL prints them.
pub(crate) const OPAQUE: [(&str, &str); 11] = [
    ("url", "kubernetes.URL"),
    ("ip", "net.IP"),
    ("cidr", "net.CIDR"),
    ("quantity", "kubernetes.Quantity"),
    ("semver", "kubernetes.Semver"),
    ("format", "kubernetes.NamedFormat"),
    ("authorizer", "kubernetes.authorization.Authorizer"),
    ("path_check", "kubernetes.authorization.PathCheck"),
    ("group_check", "kubernetes.authorization.GroupCheck"),
    ("resource_check", "kubernetes.authorization.ResourceCheck"),
    ("decision", "kubernetes.authorization.Decision"),
];

/// A type that an expression may name: `int`, `net.IP`.
pub(crate) fn named(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "null_type" => Type::Null,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "type" => Type::Type(Arc::new(Type::Dyn)),
        "optional_type" => Type::optional(Type::Dyn),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        other => Type::Opaque(OPAQUE.iter().find(|(_, n)| *n == other)?.1),
    })
}

/// A signature: `string.(int) -> string`, `(list(A), A) -> bool`.
#[derive(Debug)]
pub(crate) struct Signature {
    pub member: bool,
    /// The target first, when there is one.
    pub args: Vec<Type>,
    pub result: Type,
}

impl Signature {
    /// Reads a signature of our own tables; a mistake in one is found by the test that reads them all.
    pub fn parse(text: &str) -> Option<Signature> {
        let (call, result) = text.split_once(" -> ")?;
        let open = if call.starts_with('(') { 0 } else { call.find(".(")? + 1 };
        let mut args = Vec::new();
        if open > 0 {
            args.push(read(&call[..open - 1])?);
        }
        for arg in split(call[open + 1..].strip_suffix(')')?) {
            args.push(read(arg)?);
        }
        Some(Signature { member: open > 0, args, result: read(result)? })
    }
}

/// Splits at the commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    if !text.trim().is_empty() {
        parts.push(text[start..].trim());
    }
    parts
}

fn read(text: &str) -> Option<Type> {
    if let Some((head, rest)) = text.split_once('(') {
        let inner = split(rest.strip_suffix(')')?);
        return Some(match (head, inner.as_slice()) {
            ("list", [a]) => Type::list(read(a)?),
            ("map", [k, v]) => Type::map(read(k)?, read(v)?),
            ("optional", [a]) => Type::optional(read(a)?),
            ("type", [a]) => Type::Type(Arc::new(read(a)?)),
            _ => return None,
        });
    }
    Some(match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "A" => Type::Param(0),
        "B" => Type::Param(1),
        _ => match OPAQUE.iter().find(|(short, _)| *short == text) {
            Some((_, name)) => Type::Opaque(name),
            None => named(text)?,
        },
    })
}
