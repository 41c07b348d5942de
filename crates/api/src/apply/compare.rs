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

    /// Marks the place itself.
    fn mark(&mut self, before: Option<&Value>, after: Option<&Value>) {
        match (before, after) {
            (None, _) => self.added.member = true,
            (_, None) => self.removed.member = true,
            _ => self.modified.member = true,
        }
    }
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
    // `null` takes the form of the other side.
    let form = match (before, after) {
        (Some(b), Some(Value::Null)) => b,
        (_, Some(a)) => a,
        (Some(b), None) => b,
        (None, None) => return difference,
    };
    let same_form = [before, after].into_iter().flatten().all(|v| v.is_null() || std::mem::discriminant(v) == std::mem::discriminant(form));
    let how = if same_form { merge_of(ty, form) } else { Merge::Leaf };
    let leaf = match how {
        Merge::Leaf => true,
        Merge::Fields => [before, after].into_iter().flatten().all(|v| v.as_object().is_none_or(Map::is_empty)),
        Merge::Set | Merge::Keyed(_) => items(before).is_empty() && items(after).is_empty(),
    };
    if leaf {
        difference.mark(before, after);
        return difference;
    }
    match how {
        Merge::Fields => fields(before, after, ty, &mut difference),
        _ => {
            if elements(items(before), items(after), how, ty, &mut difference).is_err() {
                // Elements that cannot be told apart: the list changed as a whole.
                difference = Difference::default();
                difference.mark(before, after);
                return difference;
            }
        }
    }
    if before.is_none() || after.is_none() {
        difference.mark(before, after);
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
