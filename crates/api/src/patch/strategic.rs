//! Strategic merge: lists of objects merge by a key, lists of scalars as sets, and directives say what to remove, replace or reorder.
//!
//! Follows apimachinery's `strategicpatch` with the options of the server (parallel lists are merged, unmatched nulls ignored). Types
//! come from the type table; a place without a type (a map of anything) merges as JSON does.

use crate::schema::{Field, TypeRef};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Why a strategic merge patch cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// `$retainKeys` is not a list, or misses a field of the patch.
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    /// `$deleteFromPrimitiveList` is not a list.
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    /// `$setElementOrder` is not a list.
    #[error("invalid patch format of setElementOrder list")]
    ElementOrder,
    /// The rest, in the words of the patch library.
    #[error("{0}")]
    Other(String),
}

type Object = Map<String, Value>;
type Result<T> = std::result::Result<T, PatchError>;

fn other(text: impl Into<String>) -> PatchError {
    PatchError::Other(text.into())
}

/// How a field merges.
#[derive(Clone, Copy, Default)]
struct Strategy<'s> {
    ty: Option<TypeRef<'s>>,
    merge: bool,
    replace: bool,
    key: Option<&'s str>,
}

fn strategy<'s>(ty: Option<TypeRef<'s>>, name: &str) -> Strategy<'s> {
    let Some(ty) = ty else { return Strategy::default() };
    match ty.field(name) {
        Some((_, field)) => of_field(ty, field),
        None => Strategy { ty: ty.child(name), ..Strategy::default() },
    }
}

fn of_field<'s>(owner: TypeRef<'s>, field: &'s Field) -> Strategy<'s> {
    let has = |word: &str| field.patch_strategy.as_deref().is_some_and(|s| s.split(',').any(|w| w == word));
    Strategy { ty: Some(owner.of(field)), merge: has("merge"), replace: has("replace"), key: field.merge_key.as_deref() }
}

fn bad_directive(directive: &Value, patch: &Object) -> PatchError {
    let shown = directive.as_str().map_or_else(|| directive.to_string(), str::to_owned);
    other(format!("unknown patch type {shown:?} in map: {}", Value::Object(patch.clone())))
}

fn no_merge_key(element: &Object, key: &str) -> PatchError {
    other(format!("map: {} does not contain declared merge key: {key}", Value::Object(element.clone())))
}

/// Merges `patch` into `original`, both objects of type `ty`.
pub(super) fn merge_objects(mut original: Object, mut patch: Object, ty: Option<TypeRef<'_>>) -> Result<Object> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => Err(bad_directive(directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    ordered_lists(&mut original, &mut patch, ty)?;
    for (name, value) in patch {
        match name.strip_prefix(DELETE_FROM) {
            Some(list) => delete_from(&mut original, list, &value)?,
            None => merge_field(&mut original, name, value, ty)?,
        }
    }
    Ok(original)
}

fn merge_field(original: &mut Object, name: String, value: Value, ty: Option<TypeRef<'_>>) -> Result<()> {
    if value.is_null() {
        original.remove(&name);
        return Ok(());
    }
    let merged = match (original.remove(&name), value) {
        (Some(Value::Object(live)), Value::Object(patch)) => {
            let how = strategy(ty, &name);
            Some(Value::Object(if how.replace { patch } else { merge_objects(live, patch, how.ty)? }))
        }
        (Some(Value::Array(live)), Value::Array(patch)) => {
            let how = strategy(ty, &name);
            Some(Value::Array(if how.merge { merge_lists(live, patch, how)? } else { patch }))
        }
        // Another form than before, or new: the patch's own value, without directives and nulls.
        (_, value) => without_directives(value),
    };
    if let Some(merged) = merged {
        original.insert(name, merged);
    }
    Ok(())
}

/// What is left of a patch value where there is nothing to merge into; `None` when it only deletes.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") => None,
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(k, v)| !is_directive(k) && !v.is_null());
            Some(Value::Object(kept.filter_map(|(k, v)| without_directives(v).map(|v| (k, v))).collect()))
        }
        Value::Array(list) => {
            let only_directive = |v: &Value| v.as_object().is_some_and(|m| m.len() == 1 && m.contains_key(DIRECTIVE));
            Some(Value::Array(list.into_iter().filter(|v| !only_directive(v)).filter_map(without_directives).collect()))
        }
        scalar => Some(scalar),
    }
}

fn is_directive(name: &str) -> bool {
    name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER)
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<()> {
    let keys = match patch.remove(RETAIN_KEYS) {
        None => return Ok(()),
        Some(Value::Array(keys)) => keys,
        Some(_) => return Err(PatchError::RetainKeys),
    };
    let retained = |name: &str| keys.iter().any(|k| k.as_str() == Some(name));
    for (name, value) in patch.iter() {
        if !value.is_null() && !is_directive(name) && !retained(name) {
            return Err(PatchError::RetainKeys);
        }
    }
    original.retain(|name, _| retained(name));
    Ok(())
}

fn delete_from(original: &mut Object, name: &str, items: &Value) -> Result<()> {
    let items = items.as_array().ok_or(PatchError::PrimitiveList)?;
    if let Some(Value::Array(list)) = original.get_mut(name) {
        list.retain(|v| !items.contains(v));
    }
    Ok(())
}

/// Merges the lists that carry `$setElementOrder`, and takes them and the directive out of the patch.
fn ordered_lists(original: &mut Object, patch: &mut Object, ty: Option<TypeRef<'_>>) -> Result<()> {
    let names: Vec<String> = patch.keys().filter_map(|k| k.strip_prefix(SET_ORDER)).map(str::to_owned).collect();
    for name in names {
        let Some(Value::Array(order)) = patch.remove(&format!("{SET_ORDER}{name}")) else { return Err(PatchError::ElementOrder) };
        let how = strategy(ty, &name);
        let changes = match patch.remove(&name) {
            None => None,
            Some(Value::Array(list)) => Some(list),
            // `null` deletes the list: nothing to order.
            Some(Value::Null) => {
                original.remove(&name);
                continue;
            }
            Some(_) => return Err(PatchError::ElementOrder),
        };
        check_order(changes.as_deref().unwrap_or_default(), &order, how.key)?;
        if let Some(Value::Array(deleted)) = patch.remove(&format!("{DELETE_FROM}{name}")) {
            delete_from(original, &name, &Value::Array(deleted))?;
        }
        let live = match original.remove(&name) {
            Some(Value::Array(list)) => Some(list),
            _ => None,
        };
        let merged = match (live.clone(), changes) {
            (None, None) => continue,
            (Some(live), None) => live,
            (None, Some(changes)) => match without_directives(Value::Array(changes)) {
                Some(Value::Array(list)) => list,
                _ => continue,
            },
            (Some(live), Some(changes)) if how.merge => merge_lists(live, changes, how)?,
            (Some(_), Some(changes)) => changes,
        };
        let live = live.unwrap_or_default();
        original.insert(name, Value::Array(in_order(merged, &order, &live, how.key)));
    }
    Ok(())
}

/// Every element of the patch must stand in the order list, in the same order.
fn check_order(changes: &[Value], order: &[Value], key: Option<&str>) -> Result<()> {
    let deletes = |v: &&Value| v.get(DIRECTIVE).and_then(Value::as_str) != Some("delete");
    let mut rest = order.iter();
    for change in changes.iter().filter(deletes) {
        if !rest.any(|o| same(o, change, key)) {
            let (list, order) = (Value::Array(changes.to_vec()), Value::Array(order.to_vec()));
            return Err(other(format!("The order in patch list:\n{list}\n doesn't match $setElementOrder list:\n{order}\n")));
        }
    }
    Ok(())
}

/// The same element: equal scalars, or objects with equal merge keys.
fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => matches!((a.get(key), b.get(key)), (Some(a), Some(b)) if a == b),
        None => a == b,
    }
}

fn merge_lists(live: Vec<Value>, patch: Vec<Value>, how: Strategy<'_>) -> Result<Vec<Value>> {
    let Some(first) = live.first().or(patch.first()) else { return Ok(live) };
    if live.iter().chain(&patch).any(Value::is_array) {
        return Err(other("lists of lists are not supported"));
    }
    if live.iter().chain(&patch).any(|v| v.is_object() != first.is_object()) {
        return Err(other("list element types are not identical"));
    }
    if !first.is_object() {
        let mut merged: Vec<Value> = Vec::with_capacity(live.len() + patch.len());
        for value in live.iter().chain(&patch) {
            if !merged.contains(value) {
                merged.push(value.clone());
            }
        }
        return Ok(in_order(merged, &patch, &live, None));
    }
    let key = how
        .key
        .ok_or_else(|| other(format!("cannot merge lists without merge key for {}", how.ty.map(TypeRef::go_name).unwrap_or_default())))?;
    let (live, patch) = special_elements(live, patch, key)?;
    let mut merged = live.clone();
    let element = how.ty.and_then(TypeRef::element);
    for change in &patch {
        let Value::Object(change) = change else { continue };
        let value = change.get(key).ok_or_else(|| no_merge_key(change, key))?;
        let found = merged.iter_mut().find(|m| m.get(key) == Some(value));
        match found {
            Some(Value::Object(map)) => *map = merge_objects(std::mem::take(map), change.clone(), element)?,
            _ => merged.extend(without_directives(Value::Object(change.clone()))),
        }
    }
    Ok(in_order(merged, &patch, &live, Some(key)))
}

/// Carries out `$patch: delete` and `$patch: replace` among the elements of a list.
fn special_elements(mut live: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let (mut rest, mut replace) = (Vec::with_capacity(patch.len()), false);
    for element in patch {
        let Value::Object(map) = &element else { continue };
        match map.get(DIRECTIVE).map(|d| (d, d.as_str())) {
            None => rest.push(element),
            Some((_, Some("delete"))) => {
                let value = map.get(key).ok_or_else(|| no_merge_key(map, key))?;
                live.retain(|l| l.get(key) != Some(value));
            }
            Some((_, Some("replace"))) => replace = true,
            Some((_, Some("merge"))) => return Err(other("merging lists cannot yet be specified in the patch")),
            Some((directive, _)) => return Err(bad_directive(directive, map)),
        }
    }
    if replace {
        live.clear();
    }
    Ok((live, rest))
}

/// Elements named by the patch in the patch's order; the server's own keep their place among them.
fn in_order(merged: Vec<Value>, order: &[Value], live: &[Value], key: Option<&str>) -> Vec<Value> {
    let place = |list: &[Value], v: &Value| list.iter().position(|o| same(o, v, key));
    let (mut named, mut own): (Vec<Value>, Vec<Value>) = merged.into_iter().partition(|v| place(order, v).is_some());
    named.sort_by_key(|v| place(order, v));
    own.sort_by_key(|v| place(live, v));
    let mut all = Vec::with_capacity(named.len() + own.len());
    let (mut own, mut named) = (own.into_iter().peekable(), named.into_iter().peekable());
    loop {
        let own_first = match (own.peek(), named.peek()) {
            (None, None) => return all,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(o), Some(n)) => matches!((place(live, o), place(live, n)), (Some(o), Some(n)) if o < n),
        };
        all.extend(if own_first { own.next() } else { named.next() });
    }
}
