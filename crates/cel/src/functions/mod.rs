//! The functions of CEL and of the Kubernetes libraries: one table per library, one row per overload.
//!
//! A row has the name, the signature, the price, and the code. The checker reads the signature, both cost models read the
//! price, the evaluator calls the code. Source of the prices: cel-go `checker/cost.go`, `interpreter/runtimecost.go`,
//! apiserver `cel/library/cost.go`.

mod authz;
mod convert;
mod core;
mod formatting;
mod lists;
pub(crate) mod named_formats;
pub(crate) mod net;
mod optionals;
mod quantity;
pub(crate) mod regex;
pub(crate) mod semver;
mod sets;
mod strings;
pub(crate) mod time;
pub(crate) mod url;

pub(crate) use formatting::plain;

use crate::types::{Signature, Type};
use crate::value::{Evaluated, Value};
use std::collections::HashMap;
use std::sync::LazyLock;

/// What a place in a program has prepared for the function that is called there.
#[derive(Debug, Default)]
pub(crate) struct Site {
    /// The pattern, compiled, when it is a literal.
    pub regex: Option<::regex::Regex>,
}

pub(crate) type Code = for<'a> fn(&Site, &[Value<'a>]) -> Evaluated<'a>;

/// What a call costs, in terms of its arguments (the target is argument 0).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Price {
    /// So much.
    Fixed(u64),
    /// A walk over text: `factor` tenths of the size of an argument.
    Text(usize, u64),
    /// A walk over the elements of an argument.
    Elements(usize),
    /// A walk over an argument and everything in it.
    Deep(usize),
    /// The smaller of two sizes, a tenth.
    Compare,
    /// The sum of two sizes, a tenth; the result is that long.
    Concat,
    /// Lists are joined without copying, but their lengths are counted.
    ConcatLists,
    /// A pattern over text.
    Pattern,
    /// Text in text.
    Contains,
    /// Every element against every element.
    Product,
    /// The result, twice.
    Result,
    /// The question to an authorizer.
    Authorize,
}

/// How large a result is, for the estimate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sized {
    Unknown,
    /// At most as large as an argument.
    Within(usize),
    /// At most this.
    AtMost(u64),
    /// Replacing text by text.
    Replaced,
}

#[derive(Debug)]
pub(crate) struct Def {
    pub name: &'static str,
    pub signature: &'static str,
    pub price: Price,
    pub sized: Sized,
    pub code: Code,
}

const fn f(name: &'static str, signature: &'static str, price: Price, code: Code) -> Def {
    Def { name, signature, price, sized: Sized::Unknown, code }
}

const fn sized(def: Def, sized: Sized) -> Def {
    Def { sized, ..def }
}

/// One walk over argument 0.
const TEXT: Price = Price::Text(0, 1);
const ONE: Price = Price::Fixed(1);

/// A row with its signature read.
#[derive(Debug)]
pub(crate) struct Overload {
    pub def: &'static Def,
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
}

const TABLES: [&[Def]; 14] = [
    core::TABLE,
    convert::TABLE,
    time::TABLE,
    strings::TABLE,
    formatting::TABLE,
    lists::TABLE,
    regex::TABLE,
    optionals::TABLE,
    sets::TABLE,
    net::TABLE,
    quantity::TABLE,
    semver::TABLE,
    url::TABLE,
    named_formats::TABLE,
];

static FUNCTIONS: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    let mut map: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    for def in TABLES.iter().copied().chain([authz::TABLE]).flatten() {
        let signature = Signature::parse(def.signature).unwrap_or_else(|| panic!("signature of {}: {}", def.name, def.signature));
        let Signature { member, args, result } = signature;
        map.entry(def.name).or_default().push(Overload { def, member, args, result });
    }
    map
});

/// The overloads of a function.
pub(crate) fn overloads(name: &str) -> Option<&'static [Overload]> {
    FUNCTIONS.get(name).map(Vec::as_slice)
}

/// Whether a value can be an argument of that type, for the choice among overloads while evaluating.
pub(crate) fn fits(ty: &Type, value: &Value<'_>) -> bool {
    match (ty, value) {
        (Type::Dyn | Type::Param(_) | Type::Error, _)
        | (Type::Null, Value::Null)
        | (Type::Bool, Value::Bool(_))
        | (Type::Int, Value::Int(_))
        | (Type::Uint, Value::Uint(_))
        | (Type::Double, Value::Double(_))
        | (Type::String, Value::String(_))
        | (Type::Bytes, Value::Bytes(_))
        | (Type::Timestamp, Value::Timestamp(_))
        | (Type::Duration, Value::Duration(_))
        | (Type::Map(_) | Type::Object(_) | Type::Named(_), Value::Map(_))
        | (Type::Optional(_), Value::Optional(_))
        | (Type::Type(_), Value::Type(_)) => true,
        (Type::List(inner), Value::List(list)) => list.get(0).is_none_or(|first| fits(inner, &first)),
        (Type::Opaque(name), value) => *value.type_name() == **name,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_of_the_tables_can_be_read() {
        assert!(FUNCTIONS.len() > 100, "{}", FUNCTIONS.len());
    }
}
