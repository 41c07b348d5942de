//! Lists as sets.

use super::{Def, Price, Site, f};
use crate::value::{EvalError, Evaluated, List, Value, equal};

pub(super) const TABLE: &[Def] = &[
    f("sets.contains", "(list(A), list(A)) -> bool", Price::Product, contains),
    f("sets.intersects", "(list(A), list(A)) -> bool", Price::Product, intersects),
    f("sets.equivalent", "(list(A), list(A)) -> bool", Price::Product, equivalent),
];

fn within(all: &List<'_>, part: &List<'_>) -> bool {
    part.iter().all(|p| all.iter().any(|a| equal(&a, &p)))
}

fn two<'v, 'a>(args: &'v [Value<'a>]) -> Result<(&'v List<'a>, &'v List<'a>), EvalError> {
    match args {
        [Value::List(a), Value::List(b)] => Ok((a, b)),
        _ => Err(EvalError::overload()),
    }
}

fn contains<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (a, b) = two(args)?;
    Ok(Value::Bool(within(a, b)))
}

fn intersects<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (a, b) = two(args)?;
    Ok(Value::Bool(a.iter().any(|x| b.iter().any(|y| equal(&x, &y)))))
}

fn equivalent<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (a, b) = two(args)?;
    Ok(Value::Bool(within(a, b) && within(b, a)))
}
