//! An object at rest: its encoded JSON, plus the few facts that selection needs.
//!
//! The watch cache holds each object once as an `Arc<Object>`; lists splice [`Object::json`], watch events encode it
//! once, and a component in the same process sees the very same `Arc`. Decode a field only where it is needed.
//! An `Object` never changes: a new revision is a new `Object`. Only how its bytes are kept may change ([`Json::pack`]).

use crate::json::Json;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Namespace (empty for cluster-scoped) and name. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key from its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// An owner, as garbage collection and controllers need it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are those of metav1.OwnerReference")]
pub struct OwnerReference {
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub uid: String,
    #[serde(default)]
    pub controller: bool,
    #[serde(default)]
    pub block_owner_deletion: bool,
}

/// `metadata.labels`, sorted by key. Objects that have the same may share them.
pub type Labels = Arc<[(Arc<str>, Arc<str>)]>;

/// One revision of one object, encoded.
#[derive(Debug)]
pub struct Object {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// The revision that `metadata.resourceVersion` shows.
    pub revision: u64,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Values of the kind's selectable fields, in the order of its row. Empty where the row has none or the source did not say.
    pub fields: Arc<[Arc<str>]>,
    /// The JSON of the whole object, `kind`, `apiVersion` and `metadata.resourceVersion` included.
    pub json: Json,
}

/// Why bytes are not an object.
#[derive(Debug, thiserror::Error)]
#[error("not a Kubernetes object: {0}")]
pub struct NotAnObject(#[from] serde_json::Error);

#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow)]
    metadata: MetaOutline<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetaOutline<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(borrow, default)]
    resource_version: Cow<'a, str>,
    #[serde(borrow, default)]
    labels: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
}

impl Object {
    /// Reads the outline of an encoded object whose `metadata.resourceVersion` stands in the bytes.
    pub fn from_json(json: Bytes) -> Result<Self, NotAnObject> {
        Self::from_json_like(json, None)
    }

    /// The same; text that stands in the same place of `like` is shared with it.
    pub fn from_json_like(json: Bytes, like: Option<&Object>) -> Result<Self, NotAnObject> {
        let outline: Outline = serde_json::from_slice(&json)?;
        let meta = outline.metadata;
        Ok(Object {
            key: ObjectKey {
                namespace: shared(&meta.namespace, like.map(|like| &like.key.namespace)),
                name: shared(&meta.name, like.map(|like| &like.key.name)),
            },
            uid: shared(&meta.uid, like.map(|like| &like.uid)),
            revision: meta.resource_version.parse().unwrap_or(0),
            labels: shared_labels(&meta.labels.unwrap_or_default(), like.map(|like| &like.labels)),
            fields: Arc::default(),
            json: json.clone().into(),
        })
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(k, _)| (**k).cmp(name)).ok()?;
        Some(&self.labels[at].1)
    }

    /// Decodes the object, or just the fields that `T` names.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.json())
    }

    /// The JSON. To decode it borrowing from it, hold it.
    pub fn json(&self) -> Bytes {
        self.json.bytes()
    }

    /// Whether the bytes contain a word: far cheaper than decoding them, for what most objects do not have.
    pub fn mentions(&self, word: &[u8]) -> bool {
        memchr::memmem::find(&self.json(), word).is_some()
    }

    /// `metadata.ownerReferences`; empty when absent or unreadable. Indexes ask for it once for every object and index, so no more is
    /// read than must be.
    pub fn owners(&self) -> Vec<OwnerReference> {
        #[derive(Deserialize)]
        struct Metadata {
            #[serde(default, rename = "ownerReferences")]
            owners: Option<Vec<OwnerReference>>,
        }
        let json = self.json();
        if memchr::memmem::find(&json, b"\"ownerReferences\"").is_none() {
            return Vec::new();
        }
        metadata::<Metadata>(&json).ok().and_then(|m| m.owners).unwrap_or_default()
    }

    /// Decodes `metadata`, or just the fields of it that `T` names, without reading what follows.
    pub fn metadata<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        metadata(&self.json())
    }

    /// The owner whose `controller` is true.
    pub fn controller(&self) -> Option<OwnerReference> {
        self.owners().into_iter().find(|o| o.controller)
    }
}

/// A text as it is kept: `known` itself if that says the same.
pub fn shared(text: &str, known: Option<&Arc<str>>) -> Arc<str> {
    known.filter(|known| ***known == *text).cloned().unwrap_or_else(|| text.into())
}

/// Labels as they are kept: those of `like`, as far as they are the same. Neighbours have most in common.
pub fn shared_labels(labels: &BTreeMap<Cow<'_, str>, Cow<'_, str>>, like: Option<&Labels>) -> Labels {
    let known = |at: usize| like.and_then(|like| like.get(at));
    let same = |(at, (key, value)): (usize, (&Cow<'_, str>, &Cow<'_, str>))| known(at).is_some_and(|(k, v)| **k == **key && **v == **value);
    match like {
        Some(like) if like.len() == labels.len() && labels.iter().enumerate().all(same) => like.clone(),
        _ => {
            let pair = |(at, (key, value)): (usize, (&Cow<'_, str>, &Cow<'_, str>))| {
                (shared(key, known(at).map(|(k, _)| k)), shared(value, known(at).map(|(_, v)| v)))
            };
            labels.iter().enumerate().map(pair).collect()
        }
    }
}

fn metadata<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, serde_json::Error> {
    #[derive(Deserialize)]
    struct Outer<T> {
        metadata: T,
    }
    match leading_metadata(json) {
        Some(bytes) => serde_json::from_slice(bytes),
        None => serde_json::from_slice::<Outer<T>>(json).map(|o| o.metadata),
    }
}

/// The bytes of `metadata`, when nothing but plain values stands in front of it, as in everything that encoders of objects make.
fn leading_metadata(json: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"\"metadata\":{";
    let at = memchr::memmem::find(json, NAME)?;
    let front = json.get(1..at)?;
    if memchr::memchr3(b'{', b'[', b'\\', front).is_some() {
        return None;
    }
    let start = at + NAME.len() - 1;
    json.get(start..crate::scan::value_end(json, start)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(json: &str) -> Object {
        let (key, fields) = (ObjectKey::new("n", "o"), Arc::default());
        Object {
            key,
            uid: Arc::default(),
            revision: 1,
            labels: Arc::default(),
            fields,
            json: Bytes::copy_from_slice(json.as_bytes()).into(),
        }
    }

    #[test]
    fn owners_are_those_of_the_object_wherever_its_metadata_stands() {
        let own = r#""metadata":{"name":"o","managedFields":[{"f:metadata":{"f:ownerReferences":{}}}],"ownerReferences":[{"uid":"u","controller":true}]}"#;
        let template = r#""spec":{"template":{"metadata":{"ownerReferences":[{"uid":"t","controller":true}]}}}"#;
        let orders = [format!("{{\"kind\":\"A\",{own},{template}}}"), format!("{{{template},{own}}}"), format!("{{ {own} }}")];
        for json in orders {
            assert_eq!(object(&json).controller().map(|o| o.uid).as_deref(), Some("u"), "{json}");
        }
        for without in [format!("{{\"metadata\":{{}},{template}}}"), r#"{"metadata":{"name":"o"}}"#.to_owned(), "{".to_owned()] {
            assert!(object(&without).owners().is_empty(), "{without}");
        }
    }
}
