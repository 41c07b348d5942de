//! From stored bytes to an [`Object`]: one pass over the JSON that keeps only what selection needs.
//!
//! Bytes of our own begin `{"kind":...,"apiVersion":...,"metadata":{` and carry no `resourceVersion`: the revision the store
//! gave is spliced in as the first key of `metadata`. Nothing here builds a tree.

use bytes::{Bytes, BytesMut};
use ferrokube_api::kinds::SelectableField;
use ferrokube_api::object::{Labels, shared, shared_labels};
use ferrokube_api::{Object, ObjectKey};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

const META: &[u8] = b"\"metadata\":{";
const VERSION: &[u8] = b"\"resourceVersion\":\"";

/// Why stored bytes cannot be an object.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Not JSON, or not shaped like an object.
    #[error("stored value is not an object: {0}")]
    Json(#[from] serde_json::Error),
    /// No `metadata` where the encoder puts it.
    #[error("stored value has no metadata")]
    NoMetadata,
    /// Of another API server, and not known here.
    #[error(transparent)]
    Foreign(#[from] crate::foreign::Unknown),
}

/// The metadata of an encoded object, as it stands there. It comes first, so nothing behind it is looked at.
pub fn metadata(json: &[u8]) -> Result<&[u8], Unreadable> {
    let start = memchr::memmem::find(json, META).ok_or(Unreadable::NoMetadata)? + META.len() - 1;
    let end = ferrokube_api::scan::value_end(json, start).ok_or(Unreadable::NoMetadata)?;
    Ok(&json[start..end])
}

/// Puts the revision into stored bytes.
pub fn splice(stored: &[u8], revision: u64) -> Result<Bytes, Unreadable> {
    let at = memchr::memmem::find(stored, META).ok_or(Unreadable::NoMetadata)? + META.len();
    let mut digits = itoa_buffer(revision);
    let text = digits.text();
    let mut out = BytesMut::with_capacity(stored.len() + VERSION.len() + text.len() + 2);
    out.extend_from_slice(&stored[..at]);
    out.extend_from_slice(VERSION);
    out.extend_from_slice(text);
    out.extend_from_slice(if stored.get(at) == Some(&b'}') { b"\"" } else { b"\"," });
    out.extend_from_slice(&stored[at..]);
    Ok(out.freeze())
}

/// Takes the revision out again: the bytes as they are stored.
pub fn unsplice(json: &[u8]) -> Vec<u8> {
    let Some(at) = memchr::memmem::find(json, META).map(|at| at + META.len()) else { return json.to_vec() };
    let rest = &json[at..];
    let Some(value) = rest.strip_prefix(VERSION) else { return json.to_vec() };
    let end = value.iter().position(|b| *b == b'"').map_or(value.len(), |end| end + 1);
    let tail = &value[end..];
    let mut out = Vec::with_capacity(json.len());
    out.extend_from_slice(&json[..at]);
    out.extend_from_slice(tail.strip_prefix(b",").unwrap_or(tail));
    out
}

/// The same object under another revision, as delete events show it.
pub fn at_revision(object: &Object, revision: u64) -> Result<Object, Unreadable> {
    Ok(Object {
        key: object.key.clone(),
        uid: object.uid.clone(),
        revision,
        labels: object.labels.clone(),
        fields: object.fields.clone(),
        json: splice(&unsplice(&object.json()), revision)?.into(),
    })
}

/// Reads stored bytes, those of other API servers too. Text that stands in the same place of `like` is shared with it: neighbours
/// have most of it in common.
pub fn object(fields: &[SelectableField], stored: &[u8], revision: u64, like: Option<&Object>) -> Result<Object, Unreadable> {
    let stored = &*crate::foreign::native(stored)?;
    let mut outline = Outline { fields: vec![None; fields.len()], like, ..Outline::default() };
    let mut de = serde_json::Deserializer::from_slice(stored);
    let active = if fields.is_empty() { 0 } else { u64::MAX >> (64 - fields.len().min(64)) };
    Walk { rows: fields, depth: 0, active, out: &mut outline }.deserialize(&mut de)?;
    let known = |at: usize| like.and_then(|like| like.fields.get(at));
    let values = outline.fields.into_iter().enumerate();
    let values: Vec<_> = values.map(|(at, found)| found.unwrap_or_else(|| shared(&fields[at].absent, known(at)))).collect();
    Ok(Object {
        fields: like.map(|like| &like.fields).filter(|known| ***known == *values).cloned().unwrap_or_else(|| values.into()),
        key: ObjectKey { namespace: outline.namespace, name: outline.name },
        uid: outline.uid,
        revision,
        labels: outline.labels,
        json: splice(stored, revision)?.into(),
    })
}

struct Digits([u8; 20], usize);

fn itoa_buffer(mut n: u64) -> Digits {
    let mut digits = Digits([0; 20], 20);
    loop {
        digits.1 -= 1;
        digits.0[digits.1] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return digits;
        }
    }
}

impl Digits {
    fn text(&mut self) -> &[u8] {
        &self.0[self.1..]
    }
}

#[derive(Default)]
struct Outline<'l> {
    namespace: Arc<str>,
    name: Arc<str>,
    uid: Arc<str>,
    labels: Labels,
    fields: Vec<Option<Arc<str>>>,
    like: Option<&'l Object>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct MapKey<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(borrow, default)]
    labels: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
}

/// One level of the descent towards the selectable fields whose bits are set in `active`.
struct Walk<'r, 'o, 'l> {
    rows: &'r [SelectableField],
    depth: usize,
    active: u64,
    out: &'o mut Outline<'l>,
}

impl Walk<'_, '_, '_> {
    fn narrowed(&self, key: &str) -> u64 {
        let mut mask = 0;
        for (bit, row) in self.rows.iter().enumerate().take(64) {
            let on_path = self.active & (1 << bit) != 0 && row.path.get(self.depth).is_some_and(|step| step == key);
            mask |= u64::from(on_path) << bit;
        }
        mask
    }

    fn capture(self, text: &str) {
        if text.is_empty() {
            return; // reads as the absent value
        }
        for (bit, row) in self.rows.iter().enumerate().take(64) {
            if self.active & (1 << bit) != 0 && row.path.len() == self.depth {
                self.out.fields[bit] = Some(shared(text, self.out.like.and_then(|like| like.fields.get(bit))));
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(MapKey(key)) = map.next_key::<MapKey<'de>>()? {
            if self.depth == 0 && key == "metadata" {
                let meta: Meta<'de> = map.next_value()?;
                let like = self.out.like;
                self.out.name = shared(&meta.name, like.map(|like| &like.key.name));
                self.out.namespace = shared(&meta.namespace, like.map(|like| &like.key.namespace));
                self.out.uid = shared(&meta.uid, like.map(|like| &like.uid));
                self.out.labels = shared_labels(&meta.labels.unwrap_or_default(), like.map(|like| &like.labels));
                for (bit, row) in self.rows.iter().enumerate().take(64) {
                    if row.path.len() == 2 && row.path[0] == "metadata" && row.path[1] == "name" {
                        self.out.fields[bit] = Some(self.out.name.clone());
                    }
                }
                continue;
            }
            match self.narrowed(&key) {
                0 => drop(map.next_value::<IgnoredAny>()?),
                active => map.next_value_seed(Walk { rows: self.rows, depth: self.depth + 1, active, out: self.out })?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.capture(text);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.capture(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.capture(&value.to_string());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.capture(&value.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.capture(&value.to_string());
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(label: &'static str, path: &'static [&'static str], absent: &'static str) -> SelectableField {
        SelectableField { label: label.into(), path: path.iter().map(|p| (*p).into()).collect::<Vec<_>>().into(), absent: absent.into() }
    }

    #[test]
    fn an_object_is_read_in_one_pass_with_its_selectable_fields() {
        let rows = [
            field("spec.nodeName", &["spec", "nodeName"], ""),
            field("spec.unschedulable", &["spec", "unschedulable"], "false"),
            field("status.replicas", &["status", "replicas"], "0"),
            field("name", &["metadata", "name"], ""),
        ];
        let stored = br#"{"kind":"Pod","apiVersion":"v1","metadata":{"labels":{"b":"2","a":"1"},"name":"p","namespace":"ns","uid":"u"},"spec":{"x":[{"nodeName":"no"}],"nodeName":"n\u0031"},"status":{"replicas":3}}"#;
        let object = object(&rows, stored, 42, None).expect("an object");
        assert_eq!(object.fields.iter().map(|f| &**f).collect::<Vec<_>>(), ["n1", "false", "3", "p"]);
        assert_eq!(object.label("a"), Some("1"));
        assert_eq!(object.key.to_string(), "ns/p");
        assert_eq!(object.revision, 42);
        let value: serde_json::Value = object.decode().expect("JSON");
        assert_eq!(value["metadata"]["resourceVersion"], "42");
        assert_eq!(unsplice(&object.json()), stored);
    }

    #[test]
    fn what_neighbours_have_in_common_is_there_once() {
        let rows = [
            field("spec.nodeName", &["spec", "nodeName"], ""),
            field("spec.x", &["spec", "x"], "none"),
            field("n", &["metadata", "name"], ""),
        ];
        let pod = |name: &str, app: &str, node: &str| {
            format!(
                r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"labels":{{"app":"{app}","b":"c"}},"name":"{name}","namespace":"ns"}},"spec":{{"nodeName":"{node}"}}}}"#
            )
        };
        let read = |text: String, like: Option<&Object>| object(&rows, text.as_bytes(), 1, like).expect("an object");
        let first = read(pod("p", "web", "n1"), None);
        let next = read(pod("q", "web", "n1"), Some(&first));
        assert!(Arc::ptr_eq(&first.labels, &next.labels) && Arc::ptr_eq(&first.key.namespace, &next.key.namespace));
        assert!(Arc::ptr_eq(&first.fields[0], &next.fields[0]) && Arc::ptr_eq(&first.fields[1], &next.fields[1]));
        assert!(Arc::ptr_eq(&next.fields[2], &next.key.name));
        let other = read(pod("q", "db", "n2"), Some(&next));
        assert_eq!((&*other.fields[0], other.label("app"), other.label("b"), &*other.key.name), ("n2", Some("db"), Some("c"), "q"));
        assert!(Arc::ptr_eq(&other.labels[1].1, &next.labels[1].1));
    }

    #[test]
    fn metadata_is_found_without_reading_on() {
        let json =
            br#"{"kind":"A","apiVersion":"v1","metadata":{"name":"a","annotations":{"x":"}\\\"{","y":"\\\\"},"f":{}},"spec":{"broken"#;
        let found = metadata(json).expect("metadata");
        assert_eq!(found, br#"{"name":"a","annotations":{"x":"}\\\"{","y":"\\\\"},"f":{}}"#);
        for cut in [0, 35, 40, 70, 95] {
            assert!(metadata(&json[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_delete_shows_the_revision_of_the_deletion() {
        let first = object(&[], br#"{"kind":"A","apiVersion":"v1","metadata":{}}"#, 7, None).expect("an object");
        assert_eq!(&first.json()[..], br#"{"kind":"A","apiVersion":"v1","metadata":{"resourceVersion":"7"}}"#);
        let gone = at_revision(&first, 18_446_744_073_709_551_615).expect("an object");
        assert_eq!(&gone.json()[..], br#"{"kind":"A","apiVersion":"v1","metadata":{"resourceVersion":"18446744073709551615"}}"#);
    }
}
