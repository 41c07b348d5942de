//! What changed between two versions of an object, as sets of paths.
//!
//! On the way of every write, so equal branches are skipped before anything is built.

use super::set::Set;
use super::shape::{Merge, Type, child, element, indexed, key, merge_of};
use serde_json::{Map, Value};

/// The difference between two values.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

impl Difference {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    fn attach(&mut self, element: &str, below: Difference) {
        for (mine, theirs) in [(&mut self.added, below.added), (&mut self.modified, below.modified), (&mut self.removed, below.removed)] {
            if !theirs.is_empty() {
                mine.attach(element.to_owned(), theirs);
            }
        }
    }

    /// All of a value that stands on one side only.
    fn lone(before: Option<&Value>, after: Option<&Value>, ty: Type<'_>) -> Difference {
        let all = |value: Option<&Value>| value.map(|v| all(v, ty)).unwrap_or_default();
        Difference { added: all(after), removed: all(before), modified: Set::default() }
    }
}

/// Every path of a value, the places on the way included. Most of what is created, and what a create costs here.
fn all(value: &Value, ty: Type<'_>) -> Set {
    let mut set = Set::leaf();
    match (merge_of(ty, value), value) {
        (Merge::Fields, Value::Object(map)) => {
            for (name, inner) in map {
                set.attach(key(name), all(inner, child(ty, name)));
            }
        }
        (how @ (Merge::Set | Merge::Keyed(_)), Value::Array(list)) => {
            // Elements that cannot be told apart: the list is one thing.
            for (name, item) in indexed(list, how, ty).unwrap_or_default() {
                set.attach(name, all(item, element(ty)));
            }
        }
        _ => {}
    }
    set
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Compares two values of a type; `None` is an absent value.
pub(super) fn compare(before: Option<&Value>, after: Option<&Value>, ty: Type<'_>) -> Difference {
    let mut difference = Difference::default();
    if before == after {
        return difference;
    }
    let (Some(b), Some(a)) = (before, after) else { return Difference::lone(before, after, ty) };
    // `null` takes the form of the other side.
    let form = if a.is_null() { b } else { a };
    let same_form = [b, a].into_iter().all(|v| v.is_null() || std::mem::discriminant(v) == std::mem::discriminant(form));
    let how = if same_form { merge_of(ty, form) } else { Merge::Leaf };
    let leaf = match how {
        Merge::Leaf => true,
        Merge::Fields => [b, a].into_iter().all(|v| v.as_object().is_none_or(Map::is_empty)),
        Merge::Set | Merge::Keyed(_) => items(before).is_empty() && items(after).is_empty(),
    };
    if leaf {
        difference.modified.member = true;
        return difference;
    }
    match how {
        Merge::Fields => fields(before, after, ty, &mut difference),
        _ => {
            if elements(items(before), items(after), how, ty, &mut difference).is_err() {
                // Elements that cannot be told apart: the list changed as a whole.
                difference = Difference::default();
                difference.modified.member = true;
            }
        }
    }
    difference
}

fn fields(before: Option<&Value>, after: Option<&Value>, ty: Type<'_>, difference: &mut Difference) {
    let (before, after) = (before.and_then(Value::as_object), after.and_then(Value::as_object));
    for (name, new) in after.into_iter().flatten() {
        let old = before.and_then(|b| b.get(name));
        if old != Some(new) {
            difference.attach(&key(name), compare(old, Some(new), child(ty, name)));
        }
    }
    for (name, old) in before.into_iter().flatten() {
        if !after.is_some_and(|a| a.contains_key(name)) {
            difference.attach(&key(name), compare(Some(old), None, child(ty, name)));
        }
    }
}

fn elements(before: &[Value], after: &[Value], how: Merge<'_>, ty: Type<'_>, difference: &mut Difference) -> Result<(), String> {
    let inner = element(ty);
    let (old, new) = (indexed(before, how, ty)?, indexed(after, how, ty)?);
    // Lists are short and mostly in the same order: look at the same place first.
    let find = |list: &[(String, &Value)], hint: usize, element: &str| -> Option<usize> {
        if list.get(hint).is_some_and(|(e, _)| e == element) { Some(hint) } else { list.iter().position(|(e, _)| e == element) }
    };
    for (at, (element, value)) in new.iter().enumerate() {
        let twin = find(&old, at, element).map(|i| old[i].1);
        if twin != Some(*value) {
            difference.attach(element, compare(twin, Some(value), inner));
        }
    }
    for (at, (element, value)) in old.iter().enumerate() {
        if find(&new, at, element).is_none() {
            difference.attach(element, compare(Some(value), None, inner));
        }
    }
    Ok(())
}
