//! The objects of a kind in the order of their keys in the store, without storing a key twice.
//!
//! It serves the watch cache and the caches of clients alike. Pages served from memory and pages served from the store must meet without a gap, so both sort `namespace/name` as
//! bytes (`a-b/x` before `a/x`), not as a pair.
//!
//! They stand in chunks of pointers: a chunk is found by the first object of each, an object in it by halving. What is read
//! in order lies together in memory, and how many objects lie between two places is known without visiting them, which a tree
//! does not offer: a page of a million objects must not cost a walk over all that follow it.

use crate::Object;
use std::cmp::Ordering;
use std::sync::Arc;

/// Objects in one chunk at most.
const FULL: usize = 512;

/// Namespace (empty for cluster-scoped kinds) and name.
pub type Parts<'a> = (&'a str, &'a str);

/// The parts of an object's key.
pub fn parts(object: &Object) -> Parts<'_> {
    (&object.key.namespace, &object.key.name)
}

/// How two keys sort.
pub fn compare((ns_a, name_a): Parts<'_>, (ns_b, name_b): Parts<'_>) -> Ordering {
    compare_namespaces(ns_a, ns_b).then_with(|| name_a.cmp(name_b))
}

/// How the keys of two namespaces sort: each with the slash behind it.
fn compare_namespaces(a: &str, b: &str) -> Ordering {
    if a == b { Ordering::Equal } else { a.bytes().chain([b'/']).cmp(b.bytes().chain([b'/'])) }
}

/// Whether key `a` sorts after key `b`.
pub fn after(a: Parts<'_>, b: Parts<'_>) -> bool {
    compare(a, b) == Ordering::Greater
}

/// Chunk, and place in it. May lie one behind the last object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(usize, usize);

/// See the module. No chunk is empty.
#[derive(Debug, Default)]
pub struct Ordered {
    chunks: Vec<Vec<Arc<Object>>>,
    len: usize,
}

/// Objects that stand next to each other.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    set: &'a Ordered,
    from: Place,
    /// How many.
    pub len: usize,
}

impl<'a> Run<'a> {
    /// In order.
    pub fn iter(self) -> impl Iterator<Item = &'a Arc<Object>> {
        let Place(chunk, at) = self.from;
        let chunks = self.set.chunks.get(chunk..).unwrap_or_default().iter().flatten();
        chunks.skip(at).take(self.len)
    }
}

impl Ordered {
    /// Of objects that are in order, as stores give them; others are brought into it. Of two with one key the later one counts.
    pub fn new(mut objects: Vec<Arc<Object>>) -> Ordered {
        if !objects.is_sorted_by(|a, b| after(parts(b), parts(a))) {
            objects.reverse();
            objects.sort_by(|a, b| compare(parts(a), parts(b)));
            objects.dedup_by(|next, kept| parts(next) == parts(kept));
        }
        let len = objects.len();
        let mut objects = objects.into_iter();
        let chunks = std::iter::from_fn(|| Some(objects.by_ref().take(FULL).collect::<Vec<_>>()).filter(|chunk| !chunk.is_empty()));
        Ordered { chunks: chunks.collect(), len }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The objects of a namespace (all when it is empty) behind `start`.
    pub fn range(&self, namespace: &str, start: Option<Parts<'_>>) -> Run<'_> {
        let from = match start {
            Some(start) if after(start, (namespace, "")) => self.place(|o| !after(parts(o), start)),
            _ if namespace.is_empty() => Place(0, 0),
            _ => self.place(|o| compare(parts(o), (namespace, "")).is_lt()),
        };
        let end = match namespace {
            "" => self.len,
            namespace => self.rank(self.place(|o| compare_namespaces(&o.key.namespace, namespace).is_le())),
        };
        Run { set: self, from, len: end.saturating_sub(self.rank(from)) }
    }

    /// The object with a key.
    pub fn get(&self, key: Parts<'_>) -> Option<&Arc<Object>> {
        let place = self.place(|o| compare(parts(o), key).is_lt());
        self.at(place).filter(|o| parts(o) == key)
    }

    /// The object with a key, or one next to its place.
    pub fn nearest(&self, key: Parts<'_>) -> Option<&Arc<Object>> {
        self.get(key).or_else(|| self.neighbour(key))
    }

    /// The object next to the place of a key, in front of it if there is one.
    pub fn neighbour(&self, key: Parts<'_>) -> Option<&Arc<Object>> {
        let Place(chunk, at) = self.place(|o| compare(parts(o), key).is_lt());
        let in_front = match at.checked_sub(1) {
            Some(before) => self.at(Place(chunk, before)),
            None => chunk.checked_sub(1).and_then(|before| self.chunks.get(before)?.last()),
        };
        in_front.or_else(|| self.at(Place(chunk, at)).filter(|o| parts(o) != key)).or_else(|| self.at(Place(chunk, at + 1)))
    }

    /// Puts an object in; returns the one that stood there.
    pub fn replace(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let Place(chunk, at) = self.place(|o| compare(parts(o), parts(&object)).is_lt());
        if let Some(known) = self.chunks.get_mut(chunk).and_then(|c| c.get_mut(at))
            && parts(known) == parts(&object)
        {
            return Some(std::mem::replace(known, object));
        }
        self.len += 1;
        // What belongs in front of a chunk may as well go behind the one before it.
        let Place(chunk, at) = match chunk.checked_sub(1) {
            Some(before) if at == 0 => Place(before, self.chunks[before].len()),
            _ => Place(chunk, at),
        };
        match self.chunks.get_mut(chunk) {
            Some(objects) if objects.len() < FULL => objects.insert(at, object),
            // Names that grow are common: their chunks stay full.
            Some(_) if at == FULL => self.chunks.insert(chunk + 1, vec![object]),
            Some(objects) => {
                let mut rest = objects.split_off(FULL / 2);
                match at.checked_sub(FULL / 2) {
                    Some(at) => rest.insert(at, object),
                    None => objects.insert(at, object),
                }
                self.chunks.insert(chunk + 1, rest);
            }
            None => self.chunks.push(vec![object]),
        }
        None
    }

    /// Takes an object out.
    pub fn take(&mut self, key: Parts<'_>) -> Option<Arc<Object>> {
        let place = self.place(|o| compare(parts(o), key).is_lt());
        self.at(place).filter(|o| parts(o) == key)?;
        let Place(chunk, at) = place;
        self.len -= 1;
        let taken = self.chunks[chunk].remove(at);
        match self.chunks[chunk].len() {
            0 => drop(self.chunks.remove(chunk)),
            few if few < FULL / 4 => self.join(chunk),
            _ => {}
        }
        Some(taken)
    }

    /// Makes one chunk of two small neighbours.
    fn join(&mut self, chunk: usize) {
        let fits = |a: usize| self.chunks.get(a + 1).is_some_and(|next| self.chunks[a].len() + next.len() <= FULL / 2);
        let first = [Some(chunk), chunk.checked_sub(1)].into_iter().flatten().find(|a| fits(*a));
        if let Some(first) = first {
            let next = self.chunks.remove(first + 1);
            self.chunks[first].extend(next);
            self.chunks[first].shrink_to(FULL / 2);
        }
    }

    fn at(&self, Place(chunk, at): Place) -> Option<&Arc<Object>> {
        self.chunks.get(chunk)?.get(at)
    }

    /// The place of the first object that is not `before`, when those that are come first.
    fn place(&self, before: impl Fn(&Object) -> bool) -> Place {
        // The chunk that starts with the first such object, or the one before it holds it.
        let next = self.chunks.partition_point(|chunk| before(&chunk[0]));
        let Some(chunk) = next.checked_sub(1) else { return Place(0, 0) };
        match self.chunks[chunk].partition_point(|o| before(o)) {
            at if at == self.chunks[chunk].len() => Place(next, 0),
            at => Place(chunk, at),
        }
    }

    /// How many objects are in front of a place.
    fn rank(&self, Place(chunk, at): Place) -> usize {
        self.chunks[..chunk].iter().map(Vec::len).sum::<usize>() + at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeMap;
    use std::ops::Bound::{Excluded, Unbounded};

    fn object(namespace: &str, name: &str, revision: u64) -> Arc<Object> {
        Arc::new(Object {
            key: crate::ObjectKey::new(namespace, name),
            uid: Arc::default(),
            revision,
            labels: Arc::default(),
            fields: Arc::default(),
            json: bytes::Bytes::new().into(),
        })
    }

    fn key(object: &Arc<Object>) -> String {
        format!("{}/{}", object.key.namespace, object.key.name)
    }

    #[test]
    fn keys_sort_as_their_bytes_in_the_store() {
        let mut keys = vec![("a", "x"), ("a-b", "x"), ("a", "a"), ("b", ""), ("a.b", "z"), ("", "n")];
        keys.sort_by(|a, b| compare(*a, *b));
        let mut texts: Vec<String> = keys.iter().map(|(ns, n)| format!("{ns}/{n}")).collect();
        let as_found = texts.clone();
        texts.sort();
        assert_eq!(as_found, texts);
    }

    #[test]
    fn a_set_filled_at_once_is_in_order_and_the_later_of_two_counts() {
        let given = vec![object("b", "x", 1), object("a", "x", 2), object("a-b", "x", 3), object("b", "x", 4)];
        let set = Ordered::new(given);
        let found: Vec<_> = set.range("", None).iter().map(|o| (key(o), o.revision)).collect();
        assert_eq!(found, [("a-b/x".to_owned(), 3), ("a/x".to_owned(), 2), ("b/x".to_owned(), 4)]);
        assert_eq!(set.len(), 3);
    }

    /// Everything that can be asked, compared with a plain map of keys as the store has them.
    #[test]
    fn whatever_is_put_in_and_taken_out_the_set_reads_like_a_map_of_keys() {
        let mut random = StdRng::seed_from_u64(7);
        let namespaces = ["a", "a-b", "a.b", "b"];
        let (mut set, mut map) = (Ordered::default(), BTreeMap::new());
        for step in 0..60_000u64 {
            // It grows first and shrinks to nearly nothing at the end.
            let grow = random.random_range(0..60_000) > step;
            let (ns, name) = (namespaces[random.random_range(0..4)], format!("n{}", random.random_range(0..3_000)));
            let text = format!("{ns}/{name}");
            if grow {
                let old = set.replace(object(ns, &name, step)).map(|o| o.revision);
                assert_eq!(old, map.insert(text.clone(), step));
            } else {
                assert_eq!(set.take((ns, &name)).map(|o| o.revision), map.remove(&text));
            }
            assert_eq!(set.get((ns, &name)).map(|o| o.revision), map.get(&text).copied());
            let in_front = map.range(..text.clone()).next_back();
            let next = in_front.or_else(|| map.range((Excluded(text), Unbounded)).next());
            assert_eq!(set.neighbour((ns, &name)).map(|o| o.revision), next.map(|(_, step)| *step));
            if step % 997 == 0 {
                compare_ranges(&set, &map, ns, &name);
            }
        }
    }

    fn compare_ranges(set: &Ordered, map: &BTreeMap<String, u64>, ns: &str, name: &str) {
        assert!(set.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= FULL));
        assert_eq!(set.len(), map.len());
        let start = format!("{ns}/{name}");
        for namespace in ["", "a", "a-b", "a.b", "b", "c"] {
            for start in [None, Some(start.as_str())] {
                let run = set.range(namespace, start.and_then(|s| s.split_once('/')));
                let found: Vec<_> = run.iter().map(key).collect();
                let wanted: Vec<_> = map
                    .keys()
                    .filter(|k| namespace.is_empty() || k.starts_with(&format!("{namespace}/")))
                    .filter(|k| start.is_none_or(|start| k.as_str() > start))
                    .cloned()
                    .collect();
                assert_eq!(found, wanted, "{namespace} {start:?}");
                assert_eq!(run.len, wanted.len());
            }
        }
    }
}
