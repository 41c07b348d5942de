//! The order of objects inside a kind: that of their keys in the store, without storing a key twice.
//!
//! Pages served from memory and pages served from the store must meet without a gap, so both sort `namespace/name` as
//! bytes (`a-b/x` before `a/x`), not as a pair.

use ferrokube_api::Object;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;

/// Something with a namespace (empty for cluster-scoped kinds) and a name.
pub(super) trait Keyed {
    fn parts(&self) -> (&str, &str);
}

pub(super) fn compare((ns_a, name_a): (&str, &str), (ns_b, name_b): (&str, &str)) -> Ordering {
    if ns_a == ns_b {
        return name_a.cmp(name_b);
    }
    ns_a.bytes().chain([b'/']).cmp(ns_b.bytes().chain([b'/']))
}

impl PartialEq for dyn Keyed + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}
impl Eq for dyn Keyed + '_ {}
impl PartialOrd for dyn Keyed + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for dyn Keyed + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.parts(), other.parts())
    }
}

/// An object in the ordered set.
#[derive(Debug)]
pub(super) struct Slot(pub Arc<Object>);

impl Keyed for Slot {
    fn parts(&self) -> (&str, &str) {
        (&self.0.key.namespace, &self.0.key.name)
    }
}
impl<'a> Borrow<dyn Keyed + 'a> for Slot {
    fn borrow(&self) -> &(dyn Keyed + 'a) {
        self
    }
}
impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}
impl Eq for Slot {}
impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Slot {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.parts(), other.parts())
    }
}

/// A key to look up with.
pub(super) struct Key<'a>(pub &'a str, pub &'a str);

impl Keyed for Key<'_> {
    fn parts(&self) -> (&str, &str) {
        (self.0, self.1)
    }
}

/// Whether key `a` sorts after key `b`.
pub(super) fn after(a: (&str, &str), b: (&str, &str)) -> bool {
    compare(a, b) == Ordering::Greater
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_bytes_in_the_store() {
        let mut keys = vec![("a", "x"), ("a-b", "x"), ("a", "a"), ("b", ""), ("a.b", "z"), ("", "n")];
        keys.sort_by(|a, b| compare(*a, *b));
        let mut texts: Vec<String> = keys.iter().map(|(ns, n)| format!("{ns}/{n}")).collect();
        let as_found = texts.clone();
        texts.sort();
        assert_eq!(as_found, texts);
    }
}
