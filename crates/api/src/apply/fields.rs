//! The fields of an entry: as they stand in the object until a write changes them. Most writes touch a field or two of what may be
//! hundreds, so making a set of `FieldsV1` and writing it back would be much of what an update costs.

use super::set::Set;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// What an entry owns, in either form.
#[derive(Clone, Debug)]
pub(super) enum Fields {
    /// `FieldsV1` just as a set would be written.
    Kept(Map<String, Value>),
    /// Read, or new.
    Set(Set),
}

impl Fields {
    /// Reads `FieldsV1`.
    pub(super) fn read(value: Value) -> Fields {
        match value {
            Value::Object(map) if !map.contains_key(".") && map.values().all(is_canonical) => Fields::Kept(map),
            other => Fields::Set(Set { member: false, ..Set::from_fields_v1(&other) }),
        }
    }

    /// Writes `FieldsV1`.
    pub(super) fn write(self) -> Value {
        match self {
            Fields::Kept(map) => Value::Object(map),
            Fields::Set(set) => set.into_fields_v1(),
        }
    }

    /// Whether nothing is owned.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Fields::Kept(map) => map.is_empty(),
            Fields::Set(set) => set.is_empty(),
        }
    }

    /// As a set.
    pub(super) fn set(&self) -> Cow<'_, Set> {
        match self {
            Fields::Kept(map) => Cow::Owned(root(map)),
            Fields::Set(set) => Cow::Borrowed(set),
        }
    }

    /// As a set that can be changed; it is kept as one from then on.
    pub(super) fn make_set(&mut self) -> &mut Set {
        if let Fields::Kept(map) = self {
            *self = Fields::Set(root(map));
        }
        match self {
            Fields::Set(set) => set,
            Fields::Kept(_) => unreachable!("made a set above"),
        }
    }

    /// Whether every path of the set is here.
    pub(super) fn hold(&self, set: &Set) -> bool {
        match self {
            Fields::Kept(map) => holds(map, set),
            Fields::Set(mine) => mine.holds(set),
        }
    }

    /// Whether any path of the set is here.
    fn touch(&self, set: &Set) -> bool {
        match self {
            Fields::Kept(map) => touches(map, set),
            Fields::Set(_) => true,
        }
    }

    /// Adds every path of the set.
    pub(super) fn unite(&mut self, set: &Set) {
        if !self.hold(set) {
            self.make_set().unite(set);
        }
    }

    /// Removes the paths that the set holds; what is below a removed path stays.
    pub(super) fn subtract(&mut self, set: &Set) {
        if self.touch(set) {
            self.make_set().subtract(set);
        }
    }

    /// The paths that both hold.
    pub(super) fn intersection(&self, set: &Set) -> Set {
        if self.touch(set) { self.set().intersection(set) } else { Set::default() }
    }
}

impl Default for Fields {
    fn default() -> Self {
        Fields::Set(Set::default())
    }
}

fn root(map: &Map<String, Value>) -> Set {
    let mut set = Set::default();
    for (element, below) in map {
        set.children.insert(element.clone(), Set::from_fields_v1(below));
    }
    set
}

/// Whether a set would be written just like this: maps all the way down, and `.` only where something stands beside it.
fn is_canonical(value: &Value) -> bool {
    let Value::Object(map) = value else { return false };
    map.iter().all(|(element, below)| match element.as_str() {
        "." => map.len() > 1 && below.as_object().is_some_and(Map::is_empty),
        _ => is_canonical(below),
    })
}

fn below<'m>(map: &'m Map<String, Value>, element: &str) -> Option<&'m Map<String, Value>> {
    map.get(element).and_then(Value::as_object)
}

fn is_member(map: &Map<String, Value>) -> bool {
    map.is_empty() || map.contains_key(".")
}

fn holds(map: &Map<String, Value>, set: &Set) -> bool {
    let mut paths = set.children.iter();
    paths.all(|(element, theirs)| below(map, element).is_some_and(|mine| (!theirs.member || is_member(mine)) && holds(mine, theirs)))
}

fn touches(map: &Map<String, Value>, set: &Set) -> bool {
    let mut paths = set.children.iter();
    paths.any(|(element, theirs)| below(map, element).is_some_and(|mine| (theirs.member && is_member(mine)) || touches(mine, theirs)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: &Value) -> Set {
        Set { member: false, ..Set::from_fields_v1(value) }
    }

    /// `FieldsV1` of many forms, proper and not.
    fn samples() -> Vec<Value> {
        vec![
            json!({}),
            json!({"f:a": {}}),
            json!({"f:a": {".": {}, "f:b": {}}}),
            json!({"f:a": {"f:b": {}}, "f:c": {}}),
            json!({"f:a": {"k:{\"name\":\"x\"}": {".": {}, "f:b": {}, "f:c": {}}}}),
            json!({".": {}, "f:a": {}}),
            json!({"f:a": {".": {}}}),
            json!({"f:a": {".": {"f:b": {}}, "f:c": {}}}),
            json!({"f:a": null, "f:b": {"f:c": 5}}),
            json!(null),
            json!("text"),
        ]
    }

    #[test]
    fn fields_as_they_stand_answer_as_the_set_that_they_are() {
        for (mine, theirs) in samples().iter().flat_map(|a| samples().into_iter().map(move |b| (a.clone(), b))) {
            let (fields, mine, theirs) = (Fields::read(mine.clone()), set(&mine), set(&theirs));
            let shown = format!("{mine:?} and {theirs:?}");
            assert_eq!(*fields.set(), mine, "{shown}");
            assert_eq!(fields.is_empty(), mine.is_empty(), "{shown}");
            assert_eq!(fields.clone().write(), mine.clone().into_fields_v1(), "{shown}");
            let (mut united, mut left) = (mine.clone(), mine.clone());
            united.unite(&theirs);
            left.subtract(&theirs);
            assert_eq!(fields.hold(&theirs), united == mine, "{shown}");
            assert_eq!(fields.intersection(&theirs), mine.intersection(&theirs), "{shown}");
            let (mut both, mut rest) = (fields.clone(), fields.clone());
            both.unite(&theirs);
            rest.subtract(&theirs);
            assert_eq!((&*both.set(), &*rest.set()), (&united, &left), "{shown}");
        }
    }

    #[test]
    fn fields_that_a_write_does_not_change_are_never_read() {
        let mut fields = Fields::read(json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:b": {}}}));
        fields.unite(&set(&json!({"f:metadata": {"f:labels": {"f:a": {}}}})));
        fields.subtract(&set(&json!({"f:metadata": {"f:labels": {"f:other": {}}}, "f:status": {}})));
        assert!(matches!(fields, Fields::Kept(_)));
        fields.subtract(&set(&json!({"f:spec": {"f:b": {}}})));
        assert!(matches!(fields, Fields::Set(_)));
    }
}
