//! `resource.Quantity`.

use super::{Def, ONE, Site, TEXT, f};
use crate::value::{EvalError, Evaluated, Value};
use ferrokube_api::quantity::{Format, Quantity};
use std::cmp::Ordering;

pub(super) const TABLE: &[Def] = &[
    f("quantity", "(string) -> quantity", TEXT, quantity),
    f("isQuantity", "(string) -> bool", TEXT, is_quantity),
    f("sign", "quantity.() -> int", ONE, sign),
    f("isInteger", "quantity.() -> bool", ONE, is_integer),
    f("asInteger", "quantity.() -> int", ONE, as_integer),
    f("asApproximateFloat", "quantity.() -> double", ONE, as_float),
    f("add", "quantity.(quantity) -> quantity", ONE, add),
    f("add", "quantity.(int) -> quantity", ONE, add),
    f("sub", "quantity.(quantity) -> quantity", ONE, sub),
    f("sub", "quantity.(int) -> quantity", ONE, sub),
    f("isLessThan", "quantity.(quantity) -> bool", ONE, is_less),
    f("isGreaterThan", "quantity.(quantity) -> bool", ONE, is_greater),
    f("compareTo", "quantity.(quantity) -> int", ONE, compare_to),
];

fn text<'v>(args: &'v [Value<'_>]) -> Result<&'v str, EvalError> {
    args.first().and_then(Value::as_str).ok_or_else(EvalError::overload)
}

fn quantity<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Quantity::parse(text(args)?).map(Value::Quantity).map_err(|e| EvalError::new(e.to_string()))
}

fn is_quantity<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(Quantity::parse(text(args)?).is_ok()))
}

fn one(args: &[Value<'_>]) -> Result<Quantity, EvalError> {
    match args {
        [Value::Quantity(q)] => Ok(*q),
        _ => Err(EvalError::overload()),
    }
}

fn two(args: &[Value<'_>]) -> Result<(Quantity, Quantity), EvalError> {
    match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok((*a, *b)),
        [Value::Quantity(a), Value::Int(n)] => Ok((*a, Quantity::units(*n, Format::DecimalSI))),
        _ => Err(EvalError::overload()),
    }
}

fn sign<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Int(one(args)?.cmp(&Quantity::ZERO) as i64))
}

fn is_integer<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(one(args)?.is_whole()))
}

fn as_integer<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let q = one(args)?;
    if !q.is_whole() {
        return Err(EvalError::new("cannot convert value to integer"));
    }
    Ok(Value::Int(q.value()))
}

fn as_float<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Double(one(args)?.as_f64()))
}

fn add<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (a, b) = two(args)?;
    Ok(Value::Quantity(a + b))
}

fn sub<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (a, b) = two(args)?;
    Ok(Value::Quantity(a - b))
}

fn is_less<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (a, b) = two(args)?;
    Ok(Value::Bool(a.cmp(&b) == Ordering::Less))
}

fn is_greater<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (a, b) = two(args)?;
    Ok(Value::Bool(a.cmp(&b) == Ordering::Greater))
}

fn compare_to<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (a, b) = two(args)?;
    Ok(Value::Int(a.cmp(&b) as i64))
}
