//! Lists: the Kubernetes library (`isSorted`, `sum`, `min`, `max`, `indexOf`, `lastIndexOf`) and the lists extension.

use super::{Def, ONE, Price, Site, Sized, f, sized};
use crate::value::{EvalError, Evaluated, List, Value, compare, equal};
use std::cmp::Ordering;

const DEEP: Price = Price::Deep(0);

pub(super) const TABLE: &[Def] = &[
    f("isSorted", "list(int).() -> bool", DEEP, is_sorted),
    f("isSorted", "list(uint).() -> bool", DEEP, is_sorted),
    f("isSorted", "list(double).() -> bool", DEEP, is_sorted),
    f("isSorted", "list(bool).() -> bool", DEEP, is_sorted),
    f("isSorted", "list(duration).() -> bool", DEEP, is_sorted),
    f("isSorted", "list(timestamp).() -> bool", DEEP, is_sorted),
    f("isSorted", "list(string).() -> bool", DEEP, is_sorted),
    f("isSorted", "list(bytes).() -> bool", DEEP, is_sorted),
    f("min", "list(int).() -> int", DEEP, min),
    f("min", "list(uint).() -> uint", DEEP, min),
    f("min", "list(double).() -> double", DEEP, min),
    f("min", "list(bool).() -> bool", DEEP, min),
    f("min", "list(duration).() -> duration", DEEP, min),
    f("min", "list(timestamp).() -> timestamp", DEEP, min),
    f("min", "list(string).() -> string", DEEP, min),
    f("min", "list(bytes).() -> bytes", DEEP, min),
    f("max", "list(int).() -> int", DEEP, max),
    f("max", "list(uint).() -> uint", DEEP, max),
    f("max", "list(double).() -> double", DEEP, max),
    f("max", "list(bool).() -> bool", DEEP, max),
    f("max", "list(duration).() -> duration", DEEP, max),
    f("max", "list(timestamp).() -> timestamp", DEEP, max),
    f("max", "list(string).() -> string", DEEP, max),
    f("max", "list(bytes).() -> bytes", DEEP, max),
    f("sum", "list(int).() -> int", DEEP, sum),
    f("sum", "list(uint).() -> uint", DEEP, sum),
    f("sum", "list(double).() -> double", DEEP, sum),
    f("sum", "list(duration).() -> duration", DEEP, sum),
    f("indexOf", "list(A).(A) -> int", DEEP, index_of),
    f("lastIndexOf", "list(A).(A) -> int", DEEP, last_index_of),
    sized(f("slice", "list(A).(int, int) -> list(A)", Price::Elements(0), slice), Sized::Within(0)),
    f("flatten", "list(list(A)).() -> list(A)", Price::Elements(0), flatten),
    f("flatten", "list(dyn).(int) -> list(dyn)", Price::Elements(0), flatten),
    sized(f("sort", "list(A).() -> list(A)", Price::Product, sort), Sized::Within(0)),
    sized(f("@sortByAssociatedKeys", "list(A).(list(B)) -> list(A)", Price::Product, sort_by), Sized::Within(0)),
    f("lists.range", "(int) -> list(int)", ONE, range),
    sized(f("distinct", "list(A).() -> list(A)", Price::Product, distinct), Sized::Within(0)),
    sized(f("reverse", "list(A).() -> list(A)", Price::Elements(0), reverse), Sized::Within(0)),
    f("first", "list(A).() -> optional(A)", ONE, first),
    f("last", "list(A).() -> optional(A)", ONE, last),
];

fn is_sorted<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return Err(EvalError::overload()) };
    let mut before: Option<Value<'a>> = None;
    for item in list.iter() {
        if let Some(before) = &before
            && compare(before, &item).ok_or_else(EvalError::overload)? == Ordering::Greater
        {
            return Ok(Value::Bool(false));
        }
        before = Some(item);
    }
    Ok(Value::Bool(true))
}

fn best<'a>(args: &[Value<'a>], name: &str, wanted: Ordering) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return Err(EvalError::overload()) };
    let mut items = list.iter();
    let mut best = items.next().ok_or_else(|| EvalError::new(format!("{name} called on empty list")))?;
    for item in items {
        if compare(&item, &best).ok_or_else(EvalError::overload)? == wanted {
            best = item;
        }
    }
    Ok(best)
}

fn min<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    best(args, "min", Ordering::Less)
}

fn max<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    best(args, "max", Ordering::Greater)
}

fn sum<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return Err(EvalError::overload()) };
    let overflow = || EvalError::new("integer overflow");
    let mut total: Option<Value<'a>> = None;
    for item in list.iter() {
        total = Some(match (total, item) {
            (None, item @ (Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_))) => item,
            (Some(Value::Int(a)), Value::Int(b)) => Value::Int(a.checked_add(b).ok_or_else(overflow)?),
            (Some(Value::Uint(a)), Value::Uint(b)) => Value::Uint(a.checked_add(b).ok_or_else(overflow)?),
            (Some(Value::Double(a)), Value::Double(b)) => Value::Double(a + b),
            (Some(Value::Duration(a)), Value::Duration(b)) => Value::Duration(a.checked_add(b).ok_or_else(overflow)?),
            _ => return Err(EvalError::overload()),
        });
    }
    Ok(total.unwrap_or(Value::Int(0)))
}

fn found<'a>(at: Option<usize>) -> Evaluated<'a> {
    Ok(Value::Int(at.map_or(-1, |i| i as i64)))
}

fn index_of<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list), wanted] = args else { return Err(EvalError::overload()) };
    found(list.iter().position(|v| equal(&v, wanted)))
}

fn last_index_of<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list), wanted] = args else { return Err(EvalError::overload()) };
    found((0..list.len()).rev().find(|i| list.get(*i).is_some_and(|v| equal(&v, wanted))))
}

fn slice<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else { return Err(EvalError::overload()) };
    let bad = |why: &str| EvalError::new(format!("cannot slice({start}, {end}), {why}"));
    let (Ok(from), Ok(to)) = (usize::try_from(*start), usize::try_from(*end)) else { return Err(bad("negative indexes not supported")) };
    if from > to {
        return Err(bad("start index must be less than or equal to end index"));
    }
    if to > list.len() {
        return Err(bad(&format!("list is length {}", list.len())));
    }
    Ok(Value::list((from..to).filter_map(|i| list.get(i)).collect()))
}

fn flatten<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (list, depth) = match args {
        [Value::List(list)] => (list, 1),
        [Value::List(list), Value::Int(depth)] => (list, *depth),
        _ => return Err(EvalError::overload()),
    };
    let depth = u32::try_from(depth).map_err(|_| EvalError::new("level must be non-negative"))?;
    let mut out = Vec::new();
    flat(list, depth, &mut out);
    Ok(Value::list(out))
}

fn flat<'a>(list: &List<'a>, depth: u32, out: &mut Vec<Value<'a>>) {
    for item in list.iter() {
        match item {
            Value::List(inner) if depth > 0 => flat(&inner, depth - 1, out),
            other => out.push(other),
        }
    }
}

/// Sorts by keys; an error when two keys have no order.
fn sorted<'a>(mut pairs: Vec<(Value<'a>, Value<'a>)>) -> Evaluated<'a> {
    let comparable = pairs.windows(2).all(|w| compare(&w[0].0, &w[1].0).is_some());
    if !comparable {
        return Err(EvalError::new("list elements must have the same type and be comparable"));
    }
    pairs.sort_by(|a, b| compare(&a.0, &b.0).unwrap_or(Ordering::Equal));
    Ok(Value::list(pairs.into_iter().map(|(_, v)| v).collect()))
}

fn sort<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return Err(EvalError::overload()) };
    sorted(list.iter().map(|v| (v.clone(), v)).collect())
}

fn sort_by<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list), Value::List(keys)] = args else { return Err(EvalError::overload()) };
    sorted(keys.iter().zip(list.iter()).collect())
}

/// Longest range that is made.
const LONGEST: i64 = 1_000_000;

fn range<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::Int(n)] = args else { return Err(EvalError::overload()) };
    if *n > LONGEST {
        return Err(EvalError::new(format!("lists.range({n}) is too long")));
    }
    Ok(Value::list((0..*n).map(Value::Int).collect()))
}

fn distinct<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return Err(EvalError::overload()) };
    let mut out: Vec<Value<'a>> = Vec::new();
    for item in list.iter() {
        if !out.iter().any(|known| equal(known, &item)) {
            out.push(item);
        }
    }
    Ok(Value::list(out))
}

fn reverse<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return Err(EvalError::overload()) };
    Ok(Value::list((0..list.len()).rev().filter_map(|i| list.get(i)).collect()))
}

fn optional<'a>(value: Option<Value<'a>>) -> Evaluated<'a> {
    Ok(value.map_or(Value::Optional(None), Value::some))
}

fn first<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return Err(EvalError::overload()) };
    optional(list.get(0))
}

fn last<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return Err(EvalError::overload()) };
    optional(list.len().checked_sub(1).and_then(|i| list.get(i)))
}
