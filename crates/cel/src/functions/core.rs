//! Operators, `size`, `type`, `dyn`.

use super::{Def, ONE, Price, Site, f};
use crate::schema::ListKind;
use crate::value::{EvalError, Evaluated, Key, List, Map, Value, compare, compare_numbers, equal, same_keys};
use std::cmp::Ordering;
use std::rc::Rc;

pub(super) const TABLE: &[Def] = &[
    // The evaluator has code of its own for those that need not evaluate all their arguments.
    f("_?_:_", "(bool, A, A) -> A", Price::Fixed(0), lazily),
    f("_&&_", "(bool, bool) -> bool", Price::Fixed(0), lazily),
    f("_||_", "(bool, bool) -> bool", Price::Fixed(0), lazily),
    f("@not_strictly_false", "(bool) -> bool", ONE, lazily),
    f("_[_]", "(list(A), int) -> A", ONE, lazily),
    f("_[_]", "(map(A, B), A) -> B", ONE, lazily),
    f("_[_]", "(optional(list(A)), int) -> optional(A)", ONE, lazily),
    f("_[_]", "(optional(map(A, B)), A) -> optional(B)", ONE, lazily),
    f("_[?_]", "(list(A), int) -> optional(A)", ONE, lazily),
    f("_[?_]", "(map(A, B), A) -> optional(B)", ONE, lazily),
    f("_[?_]", "(optional(list(A)), int) -> optional(A)", ONE, lazily),
    f("_[?_]", "(optional(map(A, B)), A) -> optional(B)", ONE, lazily),
    f("cel.@mapInsert", "(map(A, B), A, B) -> map(A, B)", ONE, map_insert),
    f("cel.@mapInsert", "(map(A, B), map(A, B)) -> map(A, B)", ONE, map_insert),
    f("!_", "(bool) -> bool", ONE, not),
    f("_==_", "(A, A) -> bool", Price::Compare, equals),
    f("_!=_", "(A, A) -> bool", Price::Compare, differs),
    f("@in", "(A, list(A)) -> bool", Price::Elements(1), is_in),
    f("@in", "(A, map(A, B)) -> bool", ONE, is_in),
    f("_<_", "(bool, bool) -> bool", ONE, less),
    f("_<_", "(int, int) -> bool", ONE, less),
    f("_<_", "(int, double) -> bool", ONE, less),
    f("_<_", "(int, uint) -> bool", ONE, less),
    f("_<_", "(uint, uint) -> bool", ONE, less),
    f("_<_", "(uint, double) -> bool", ONE, less),
    f("_<_", "(uint, int) -> bool", ONE, less),
    f("_<_", "(double, double) -> bool", ONE, less),
    f("_<_", "(double, int) -> bool", ONE, less),
    f("_<_", "(double, uint) -> bool", ONE, less),
    f("_<_", "(string, string) -> bool", Price::Compare, less),
    f("_<_", "(bytes, bytes) -> bool", Price::Compare, less),
    f("_<_", "(timestamp, timestamp) -> bool", ONE, less),
    f("_<_", "(duration, duration) -> bool", ONE, less),
    f("_<=_", "(bool, bool) -> bool", ONE, less_equals),
    f("_<=_", "(int, int) -> bool", ONE, less_equals),
    f("_<=_", "(int, double) -> bool", ONE, less_equals),
    f("_<=_", "(int, uint) -> bool", ONE, less_equals),
    f("_<=_", "(uint, uint) -> bool", ONE, less_equals),
    f("_<=_", "(uint, double) -> bool", ONE, less_equals),
    f("_<=_", "(uint, int) -> bool", ONE, less_equals),
    f("_<=_", "(double, double) -> bool", ONE, less_equals),
    f("_<=_", "(double, int) -> bool", ONE, less_equals),
    f("_<=_", "(double, uint) -> bool", ONE, less_equals),
    f("_<=_", "(string, string) -> bool", Price::Compare, less_equals),
    f("_<=_", "(bytes, bytes) -> bool", Price::Compare, less_equals),
    f("_<=_", "(timestamp, timestamp) -> bool", ONE, less_equals),
    f("_<=_", "(duration, duration) -> bool", ONE, less_equals),
    f("_>_", "(bool, bool) -> bool", ONE, greater),
    f("_>_", "(int, int) -> bool", ONE, greater),
    f("_>_", "(int, double) -> bool", ONE, greater),
    f("_>_", "(int, uint) -> bool", ONE, greater),
    f("_>_", "(uint, uint) -> bool", ONE, greater),
    f("_>_", "(uint, double) -> bool", ONE, greater),
    f("_>_", "(uint, int) -> bool", ONE, greater),
    f("_>_", "(double, double) -> bool", ONE, greater),
    f("_>_", "(double, int) -> bool", ONE, greater),
    f("_>_", "(double, uint) -> bool", ONE, greater),
    f("_>_", "(string, string) -> bool", Price::Compare, greater),
    f("_>_", "(bytes, bytes) -> bool", Price::Compare, greater),
    f("_>_", "(timestamp, timestamp) -> bool", ONE, greater),
    f("_>_", "(duration, duration) -> bool", ONE, greater),
    f("_>=_", "(bool, bool) -> bool", ONE, greater_equals),
    f("_>=_", "(int, int) -> bool", ONE, greater_equals),
    f("_>=_", "(int, double) -> bool", ONE, greater_equals),
    f("_>=_", "(int, uint) -> bool", ONE, greater_equals),
    f("_>=_", "(uint, uint) -> bool", ONE, greater_equals),
    f("_>=_", "(uint, double) -> bool", ONE, greater_equals),
    f("_>=_", "(uint, int) -> bool", ONE, greater_equals),
    f("_>=_", "(double, double) -> bool", ONE, greater_equals),
    f("_>=_", "(double, int) -> bool", ONE, greater_equals),
    f("_>=_", "(double, uint) -> bool", ONE, greater_equals),
    f("_>=_", "(string, string) -> bool", Price::Compare, greater_equals),
    f("_>=_", "(bytes, bytes) -> bool", Price::Compare, greater_equals),
    f("_>=_", "(timestamp, timestamp) -> bool", ONE, greater_equals),
    f("_>=_", "(duration, duration) -> bool", ONE, greater_equals),
    f("_+_", "(int, int) -> int", ONE, add),
    f("_+_", "(uint, uint) -> uint", ONE, add),
    f("_+_", "(double, double) -> double", ONE, add),
    f("_+_", "(string, string) -> string", Price::Concat, add),
    f("_+_", "(bytes, bytes) -> bytes", Price::Concat, add),
    f("_+_", "(list(A), list(A)) -> list(A)", Price::ConcatLists, add),
    f("_+_", "(timestamp, duration) -> timestamp", ONE, add),
    f("_+_", "(duration, timestamp) -> timestamp", ONE, add),
    f("_+_", "(duration, duration) -> duration", ONE, add),
    f("_-_", "(int, int) -> int", ONE, subtract),
    f("_-_", "(uint, uint) -> uint", ONE, subtract),
    f("_-_", "(double, double) -> double", ONE, subtract),
    f("_-_", "(timestamp, timestamp) -> duration", ONE, subtract),
    f("_-_", "(timestamp, duration) -> timestamp", ONE, subtract),
    f("_-_", "(duration, duration) -> duration", ONE, subtract),
    f("_*_", "(int, int) -> int", ONE, multiply),
    f("_*_", "(uint, uint) -> uint", ONE, multiply),
    f("_*_", "(double, double) -> double", ONE, multiply),
    f("_/_", "(int, int) -> int", ONE, divide),
    f("_/_", "(uint, uint) -> uint", ONE, divide),
    f("_/_", "(double, double) -> double", ONE, divide),
    f("_%_", "(int, int) -> int", ONE, modulo),
    f("_%_", "(uint, uint) -> uint", ONE, modulo),
    f("-_", "(int) -> int", ONE, negate),
    f("-_", "(double) -> double", ONE, negate),
    f("size", "(string) -> int", ONE, size),
    f("size", "string.() -> int", ONE, size),
    f("size", "(bytes) -> int", ONE, size),
    f("size", "bytes.() -> int", ONE, size),
    f("size", "(list(A)) -> int", ONE, size),
    f("size", "list(A).() -> int", ONE, size),
    f("size", "(map(A, B)) -> int", ONE, size),
    f("size", "map(A, B).() -> int", ONE, size),
    f("type", "(A) -> type(A)", ONE, type_of),
    f("dyn", "(A) -> dyn", ONE, same),
];

fn lazily<'a>(_: &Site, _: &[Value<'a>]) -> Evaluated<'a> {
    Err(EvalError::overload())
}

fn same<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    args.first().cloned().ok_or_else(EvalError::overload)
}

fn type_of<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    args.first().map(|v| Value::Type(v.type_name())).ok_or_else(EvalError::overload)
}

fn size<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [v @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_))] => Ok(Value::Int(v.size() as i64)),
        _ => Err(EvalError::overload()),
    }
}

fn not<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(!b)),
        _ => Err(EvalError::overload()),
    }
}

fn equals<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [a, b] => Ok(Value::Bool(equal(a, b))),
        _ => Err(EvalError::overload()),
    }
}

fn differs<'a>(site: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match equals(site, args)? {
        Value::Bool(b) => Ok(Value::Bool(!b)),
        other => Ok(other),
    }
}

fn is_in<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [item, Value::List(list)] => Ok(Value::Bool(list.iter().any(|v| equal(item, &v)))),
        [key, Value::Map(map)] => Ok(Value::Bool(map.get(key).is_some())),
        _ => Err(EvalError::overload()),
    }
}

fn ordered<'a>(args: &[Value<'a>], wanted: fn(Ordering) -> bool) -> Evaluated<'a> {
    let [a, b] = args else { return Err(EvalError::overload()) };
    match compare(a, b) {
        Some(order) => Ok(Value::Bool(wanted(order))),
        // Not-a-number compares with nothing.
        None if compare_numbers(a, a).or(compare_numbers(b, b)).is_some() || both_doubles(a, b) => Ok(Value::Bool(false)),
        None => Err(EvalError::overload()),
    }
}

fn both_doubles(a: &Value<'_>, b: &Value<'_>) -> bool {
    matches!((a, b), (Value::Double(_), Value::Double(_)))
}

fn less<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    ordered(args, Ordering::is_lt)
}

fn less_equals<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    ordered(args, Ordering::is_le)
}

fn greater<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    ordered(args, Ordering::is_gt)
}

fn greater_equals<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    ordered(args, Ordering::is_ge)
}

fn overflow(what: &str) -> EvalError {
    EvalError::new(format!("{what} overflow"))
}

fn whole<'a>(n: Option<i64>) -> Evaluated<'a> {
    n.map(Value::Int).ok_or_else(|| overflow("integer"))
}

fn unsigned<'a>(n: Option<u64>) -> Evaluated<'a> {
    n.map(Value::Uint).ok_or_else(|| overflow("unsigned integer"))
}

fn add<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [a, b] = args else { return Err(EvalError::overload()) };
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => whole(a.checked_add(*b)),
        (Value::Uint(a), Value::Uint(b)) => unsigned(a.checked_add(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => Ok(Value::text(format!("{}{}", &**a, &**b))),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes([&a[..], &b[..]].concat().into())),
        (Value::List(a), Value::List(b)) => Ok(Value::List(join(a, b))),
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => super::time::shift(*t, i128::from(*d)),
        (Value::Duration(a), Value::Duration(b)) => a.checked_add(*b).map(Value::Duration).ok_or_else(|| overflow("duration")),
        _ => Err(EvalError::overload()),
    }
}

/// `+` of lists: sets become the union, list maps take the right entry at the place of the left one.
fn join<'a>(a: &List<'a>, b: &List<'a>) -> List<'a> {
    let mut items: Vec<Value<'a>> = a.iter().collect();
    match a.kind() {
        ListKind::Atomic => items.extend(b.iter()),
        ListKind::Set => {
            for item in b.iter() {
                if !items.iter().any(|known| equal(known, &item)) {
                    items.push(item);
                }
            }
        }
        ListKind::Map(keys) => {
            for item in b.iter() {
                match items.iter_mut().find(|known| same_keys(known, &item, keys)) {
                    Some(known) => *known = item,
                    None => items.push(item),
                }
            }
        }
    }
    List::of(items)
}

fn subtract<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [a, b] = args else { return Err(EvalError::overload()) };
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => whole(a.checked_sub(*b)),
        (Value::Uint(a), Value::Uint(b)) => unsigned(a.checked_sub(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
        (Value::Timestamp(t), Value::Duration(d)) => super::time::shift(*t, -i128::from(*d)),
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            let nanos = a.as_nanosecond() - b.as_nanosecond();
            i64::try_from(nanos).map(Value::Duration).map_err(|_| overflow("duration"))
        }
        (Value::Duration(a), Value::Duration(b)) => a.checked_sub(*b).map(Value::Duration).ok_or_else(|| overflow("duration")),
        _ => Err(EvalError::overload()),
    }
}

fn multiply<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => whole(a.checked_mul(*b)),
        [Value::Uint(a), Value::Uint(b)] => unsigned(a.checked_mul(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => Err(EvalError::overload()),
    }
}

fn divide<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(EvalError::new("division by zero")),
        [Value::Int(a), Value::Int(b)] => whole(a.checked_div(*b)),
        [Value::Uint(a), Value::Uint(b)] => unsigned(a.checked_div(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => Err(EvalError::overload()),
    }
}

fn modulo<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(EvalError::new("modulus by zero")),
        [Value::Int(a), Value::Int(b)] => whole(a.checked_rem(*b)),
        [Value::Uint(a), Value::Uint(b)] => unsigned(a.checked_rem(*b)),
        _ => Err(EvalError::overload()),
    }
}

fn negate<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Int(n)] => whole(n.checked_neg()),
        [Value::Double(n)] => Ok(Value::Double(-n)),
        _ => Err(EvalError::overload()),
    }
}

fn map_insert<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let Some(Value::Map(Map::Owned(map, _))) = args.first() else { return Err(EvalError::overload()) };
    let mut map = (**map).clone();
    let mut insert = |key: &Value<'a>, value: Value<'a>| {
        let key = Key::of(key).ok_or_else(|| EvalError::new(format!("unsupported key type: {}", key.type_name())))?;
        let shown = key.value();
        match map.insert(key, value) {
            None => Ok(()),
            Some(_) => Err(EvalError::new(format!("insert failed: key {} already exists", super::formatting::plain(&shown)))),
        }
    };
    match args {
        [_, Value::Map(more)] => {
            for key in more.keys() {
                if let Some(value) = more.get(&key) {
                    insert(&key, value)?;
                }
            }
        }
        [_, key, value] => insert(key, value.clone())?,
        _ => return Err(EvalError::overload()),
    }
    Ok(Value::Map(Map::Owned(Rc::new(map), None)))
}
