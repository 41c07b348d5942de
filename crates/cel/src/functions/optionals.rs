//! Optional values.

use super::{Def, ONE, Site, f};
use crate::value::{EvalError, Evaluated, Value, equal};

pub(super) const TABLE: &[Def] = &[
    f("optional.of", "(A) -> optional(A)", ONE, of),
    f("optional.ofNonZeroValue", "(A) -> optional(A)", ONE, of_non_zero),
    f("optional.none", "() -> optional(A)", ONE, none),
    f("optional.unwrap", "(list(optional(A))) -> list(A)", ONE, unwrap),
    f("unwrapOpt", "list(optional(A)).() -> list(A)", ONE, unwrap),
    f("hasValue", "optional(A).() -> bool", ONE, has_value),
    f("value", "optional(A).() -> A", ONE, value),
    f("or", "optional(A).(optional(A)) -> optional(A)", ONE, or),
    f("orValue", "optional(A).(A) -> A", ONE, or_value),
];

fn of<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    args.first().cloned().map(Value::some).ok_or_else(EvalError::overload)
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Bool(false) | Value::Optional(None) => true,
        Value::Int(_) | Value::Uint(_) | Value::Double(_) => equal(value, &Value::Int(0)),
        Value::Duration(d) => *d == 0,
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => value.size() == 0,
        _ => false,
    }
}

fn of_non_zero<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [value] if is_zero(value) => Ok(Value::Optional(None)),
        [value] => Ok(Value::some(value.clone())),
        _ => Err(EvalError::overload()),
    }
}

fn none<'a>(_: &Site, _: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Optional(None))
}

fn unwrap<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return Err(EvalError::overload()) };
    let mut out = Vec::new();
    for item in list.iter() {
        match item {
            Value::Optional(Some(v)) => out.push((*v).clone()),
            Value::Optional(None) => {}
            _ => return Err(EvalError::overload()),
        }
    }
    Ok(Value::list(out))
}

fn has_value<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Optional(o)] => Ok(Value::Bool(o.is_some())),
        _ => Err(EvalError::overload()),
    }
}

fn value<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Optional(Some(v))] => Ok((**v).clone()),
        [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
        _ => Err(EvalError::overload()),
    }
}

fn or<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Optional(None), other] => Ok(other.clone()),
        [some @ Value::Optional(_), _] => Ok(some.clone()),
        _ => Err(EvalError::overload()),
    }
}

fn or_value<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Optional(None), other] => Ok(other.clone()),
        [Value::Optional(Some(v)), _] => Ok((**v).clone()),
        _ => Err(EvalError::overload()),
    }
}
