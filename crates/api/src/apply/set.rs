//! Sets of field paths, and `FieldsV1`, their form in `metadata.managedFields`.
//!
//! A set is a tree keyed by path elements in their encoded form: `f:name` (field), `k:{"name":"a"}` (list element by keys),
//! `v:"x"` (list element by value), `i:0` (by index). A node may itself be a member besides having members below (`.`).

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// A set of paths; also the subtree of paths below one element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Whether the path that ends here is in the set. Meaningless at the root.
    pub member: bool,
    /// What is below, by encoded path element.
    pub children: BTreeMap<String, Set>,
}

/// A field as a path element.
pub(super) fn field(name: &str) -> String {
    let mut element = String::with_capacity(name.len() + 2);
    element.push_str("f:");
    element.push_str(name);
    element
}

impl Set {
    /// A set of one path, that of the place itself.
    pub(super) fn leaf() -> Self {
        Set { member: true, children: BTreeMap::new() }
    }

    /// Nothing here and nothing below.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Hangs a subtree under an element, unless it is empty.
    pub(super) fn attach(&mut self, element: String, below: Set) {
        if !below.is_empty() {
            self.children.insert(element, below);
        }
    }

    /// Reads `FieldsV1`.
    pub(super) fn from_fields_v1(value: &Value) -> Set {
        let Value::Object(map) = value else { return Set::default() };
        let mut set = Set { member: map.is_empty() || map.contains_key("."), children: BTreeMap::new() };
        for (element, below) in map.iter().filter(|(k, _)| *k != ".") {
            set.children.insert(element.clone(), Set::from_fields_v1(below));
        }
        set
    }

    /// Writes `FieldsV1`.
    pub(super) fn into_fields_v1(self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        // One by one: they come in order, and most are few.
        for (element, below) in self.children {
            map.insert(element, below.into_fields_v1());
        }
        Value::Object(map)
    }

    /// Whether every path of the other is here.
    pub(super) fn holds(&self, other: &Set) -> bool {
        let mut paths = other.children.iter();
        (self.member || !other.member) && paths.all(|(element, below)| self.children.get(element).is_some_and(|mine| mine.holds(below)))
    }

    /// Adds every path of the other.
    pub fn unite(&mut self, other: &Set) {
        self.member |= other.member;
        for (element, below) in &other.children {
            match self.children.entry(element.clone()) {
                Entry::Occupied(mut mine) => mine.get_mut().unite(below),
                Entry::Vacant(free) => _ = free.insert(below.clone()),
            }
        }
    }

    /// Removes the paths that the other holds; what is below a removed path stays.
    pub fn subtract(&mut self, other: &Set) {
        self.member &= !other.member;
        for (element, below) in &other.children {
            if let Entry::Occupied(mut mine) = self.children.entry(element.clone()) {
                mine.get_mut().subtract(below);
                if mine.get().is_empty() {
                    mine.remove();
                }
            }
        }
    }

    /// The paths that both hold.
    pub fn intersection(&self, other: &Set) -> Set {
        let mut both = Set { member: self.member && other.member, children: BTreeMap::new() };
        for (element, below) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                both.attach(element.clone(), below.intersection(theirs));
            }
        }
        both
    }

    /// Removes an element with everything below.
    pub(super) fn prune(&mut self, element: &str) {
        self.children.remove(element);
    }

    /// Removes one path, given by its elements; what is below stays.
    pub(super) fn remove_path(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else {
            self.member = false;
            return;
        };
        if let Some(below) = self.children.get_mut(*first) {
            below.remove_path(rest);
            if below.is_empty() {
                self.children.remove(*first);
            }
        }
    }

    /// Every path of the set as the API prints paths: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.collect(&mut String::new(), &mut all);
        all
    }

    fn collect(&self, path: &mut String, all: &mut Vec<String>) {
        if self.member && !path.is_empty() {
            all.push(path.clone());
        }
        for (element, below) in &self.children {
            let length = path.len();
            path.push_str(&shown(element));
            below.collect(path, all);
            path.truncate(length);
        }
    }
}

/// A path element as the API prints it.
fn shown(element: &str) -> String {
    let (kind, text) = element.split_once(':').unwrap_or(("", element));
    match kind {
        "f" => format!(".{text}"),
        "k" => match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(keys) => format!("[{}]", keys.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")),
            Err(_) => format!("[{text}]"),
        },
        "v" => format!("[={text}]"),
        _ => format!("[{text}]"),
    }
}
