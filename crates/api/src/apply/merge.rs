//! Structured merge: laying an applied configuration over the live object, the set of fields a configuration names, and removal of paths.

use super::set::Set;
use super::shape::{Merge, Type, child, element, indexed, is_declared, key, merge_of};
use crate::schema::Shape;
use serde_json::{Map, Value};

/// The paths that a configuration names (upstream `ToFieldSet`).
pub(super) fn field_set(value: &Value, ty: Type<'_>) -> Set {
    match (merge_of(ty, value), value) {
        (Merge::Fields, Value::Object(map)) => {
            let mut set = Set::default();
            for (name, inner) in map {
                let mut below = field_set(inner, child(ty, name));
                below.member |= inner.is_null() || inner.as_object().is_some_and(Map::is_empty) || !is_declared(ty, name);
                set.attach(key(name), below);
            }
            set
        }
        (how @ (Merge::Set | Merge::Keyed(_)), Value::Array(list)) => {
            let mut set = Set::default();
            for (element_key, item) in indexed(list, how, ty).unwrap_or_default() {
                let mut below = field_set(item, element(ty));
                below.member = true;
                set.attach(element_key, below);
            }
            set
        }
        _ => Set::leaf(),
    }
}

/// Notes every list, map and struct of a configuration that is replaced as a whole.
pub(super) fn check_granular(value: &Value, ty: Type<'_>, path: &mut String, errors: &mut Vec<String>) {
    match (merge_of(ty, value), value) {
        (Merge::Fields, Value::Object(map)) => {
            for (name, inner) in map {
                let length = path.len();
                path.push('.');
                path.push_str(name);
                check_granular(inner, child(ty, name), path, errors);
                path.truncate(length);
            }
        }
        (Merge::Set | Merge::Keyed(_), Value::Array(list)) => list.iter().for_each(|item| check_granular(item, element(ty), path, errors)),
        (_, Value::Array(_) | Value::Object(_)) => errors.push(format!("{path}: may not mutate atomic arrays, maps or structs")),
        _ => {}
    }
}

/// What is wrong with a configuration: undeclared fields, wrong types, elements without keys or twice. Empty when it fits.
pub(super) fn check(value: &Value, ty: Type<'_>, path: &mut String, errors: &mut Vec<String>) {
    let Some(typed) = ty else { return };
    let mut error = |what: String| errors.push(format!("{}: {what}", if path.is_empty() { "." } else { path.as_str() }));
    match (typed.shape(), value) {
        (_, Value::Null) | (Shape::Any | Shape::Free, _) => {}
        (Shape::Struct(..), Value::Object(map)) => {
            for (name, inner) in map {
                let length = path.len();
                path.push('.');
                path.push_str(name);
                match typed.child(name) {
                    Some(below) => check(inner, Some(below), path, errors),
                    None if typed.node().preserve_unknown => {}
                    None => errors.push(format!("{path}: field not declared in schema")),
                }
                path.truncate(length);
            }
        }
        (Shape::Map(_), Value::Object(map)) => {
            for (name, inner) in map {
                let length = path.len();
                path.push('.');
                path.push_str(name);
                check(inner, typed.element(), path, errors);
                path.truncate(length);
            }
        }
        (Shape::List(_), Value::Array(list)) => check_list(list, ty, path, errors),
        (Shape::Struct(..) | Shape::Map(_), other) => error(format!("expected map, got {}", described(other))),
        (Shape::List(_), other) => error(format!("expected list, got {}", described(other))),
        (Shape::Int32 | Shape::Int64 | Shape::Double, v) if !v.is_number() => {
            error(format!("expected numeric (int or float), got {}", go_type(v)))
        }
        (Shape::Bool, v) if !v.is_boolean() => error(format!("expected boolean, got {}", go_type(v))),
        (Shape::String | Shape::Bytes, v) if !v.is_string() => error(format!("expected string, got {}", described(v))),
        (Shape::IntOrString | Shape::Quantity | Shape::Time | Shape::MicroTime, v) if v.is_object() || v.is_array() => {
            error(format!("expected scalar, got {}", described(v)));
        }
        _ => {}
    }
}

fn check_list(list: &[Value], ty: Type<'_>, path: &mut String, errors: &mut Vec<String>) {
    let how = merge_of(ty, &Value::Array(Vec::new()));
    let mut seen = Vec::with_capacity(list.len());
    for (at, item) in list.iter().enumerate() {
        let length = path.len();
        match how {
            Merge::Set | Merge::Keyed(_) => match super::shape::path_element(item, how, element(ty)) {
                Ok(name) => {
                    let mut shown = Set::default();
                    shown.attach(name.clone(), Set::leaf());
                    let shown = shown.paths().pop().unwrap_or_default();
                    if seen.contains(&name) {
                        errors.push(format!("{path}: duplicate entries for key {shown}"));
                    }
                    seen.push(name);
                    path.push_str(&shown);
                }
                Err(why) => {
                    errors.push(format!("{path}: element {at}: {why}"));
                    continue;
                }
            },
            _ => path.push_str(&format!("[{at}]")),
        }
        check(item, element(ty), path, errors);
        path.truncate(length);
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn described(value: &Value) -> String {
    format!("&{{{value}}}")
}

/// Lays `config` over `live` (upstream `Merge`): what the configuration does not name stays.
pub(super) fn merge(live: Option<&Value>, config: Option<&Value>, ty: Type<'_>) -> Option<Value> {
    let (live, config) = match (live, config) {
        (live, None) => return live.cloned(),
        (None, Some(config)) => return Some(config.clone()),
        (Some(live), Some(config)) => (live, config),
    };
    match (live, config, merge_of(ty, config)) {
        (Value::Object(old), Value::Object(new), Merge::Fields) => {
            let mut map = old.clone();
            for (name, value) in new {
                if let Some(merged) = merge(old.get(name), Some(value), child(ty, name)) {
                    map.insert(name.clone(), merged);
                }
            }
            Some(Value::Object(map))
        }
        (Value::Array(old), Value::Array(new), how @ (Merge::Set | Merge::Keyed(_))) => {
            match (indexed(old, how, ty), indexed(new, how, ty)) {
                (Ok(old), Ok(new)) => Some(Value::Array(merge_lists(&old, &new, element(ty)))),
                _ => Some(config.clone()),
            }
        }
        // A null in a configuration does not remove what merges field by field.
        (Value::Object(_) | Value::Array(_), Value::Null, _) if !matches!(merge_of(ty, live), Merge::Leaf) => Some(live.clone()),
        _ => Some(config.clone()),
    }
}

/// Elements of the configuration in its order, the live object's own where they stood among them.
fn merge_lists(old: &[(String, &Value)], new: &[(String, &Value)], ty: Type<'_>) -> Vec<Value> {
    let has = |list: &[(String, &Value)], name: &str| list.iter().any(|(n, _)| n == name);
    let of = |name: &str| old.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
    let mut shared = new.iter().map(|(n, _)| n.as_str()).filter(|n| has(old, n)).peekable();
    let mut out = Vec::with_capacity(old.len() + new.len());
    let (mut l, mut r) = (0, 0);
    while l < old.len() || r < new.len() {
        if let (Some((left, value)), Some((right, config))) = (old.get(l), new.get(r)) {
            if left == right {
                out.extend(merge(Some(value), Some(config), ty));
                (l, r) = (l + 1, r + 1);
                shared.next();
                continue;
            }
            if has(new, left) && shared.peek().is_some_and(|next| next != left) {
                // Shared, but the configuration wants it later or had it before.
                l += 1;
                continue;
            }
        }
        if let Some((left, value)) = old.get(l) {
            if !has(new, left) {
                out.push((*value).clone());
                l += 1;
                continue;
            }
            if new[..r].iter().any(|(n, _)| n == left) {
                l += 1;
            }
        }
        if let Some((right, config)) = new.get(r) {
            out.extend(merge(of(right), Some(config), ty));
            r += 1;
            if shared.peek() == Some(&right.as_str()) {
                shared.next();
            }
        }
    }
    out
}

/// Makes the declared fields on the way to a member members too, so that an emptied parent can go (upstream `EnsureNamedFieldsAreMembers`).
pub(super) fn ensure_named(set: &Set) -> Set {
    let mut out = Set { member: set.member, children: Default::default() };
    for (element, below) in &set.children {
        let mut below = ensure_named(below);
        below.member |= element.starts_with("f:");
        out.children.insert(element.clone(), below);
    }
    out
}

/// The value without the paths of the set; `None` when nothing is left of a container.
pub(super) fn without(value: &Value, remove: &Set, ty: Type<'_>) -> Option<Value> {
    match (merge_of(ty, value), value) {
        (Merge::Fields, Value::Object(map)) if !map.is_empty() => {
            let mut left = Map::new();
            for (name, inner) in map {
                match remove.children.get(&key(name)) {
                    None => _ = left.insert(name.clone(), inner.clone()),
                    Some(set) if set.member => {}
                    Some(set) => left.extend(without(inner, set, child(ty, name)).map(|v| (name.clone(), v))),
                }
            }
            (!left.is_empty()).then_some(Value::Object(left))
        }
        (how @ (Merge::Set | Merge::Keyed(_)), Value::Array(list)) if !list.is_empty() => {
            let Ok(items) = indexed(list, how, ty) else { return Some(value.clone()) };
            let left: Vec<Value> = items
                .into_iter()
                .filter_map(|(name, item)| match remove.children.get(&name) {
                    None => Some(item.clone()),
                    Some(set) if set.member => None,
                    Some(set) => without(item, set, element(ty)),
                })
                .collect();
            (!left.is_empty()).then_some(Value::Array(left))
        }
        _ => Some(value.clone()),
    }
}
