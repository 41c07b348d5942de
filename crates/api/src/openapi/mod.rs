//! The API description: `/openapi/v3` with a document per group and version, and `/openapi/v2` as one.
//!
//! Everything is derived from rows and the type table; a custom kind brings its own schema. Nothing is made before somebody
//! asks, and nothing is kept: clients hold documents by their hash, so each is asked for rarely. The hash says what the
//! document is made from and is known without making it.

mod enums;
mod paths;
mod prose;
mod schemas;
#[cfg(test)]
mod tests;
mod v2;
mod v2_proto;

use crate::kinds::Kind;
use bytes::Bytes;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// A row, and the published schema where the row is not built in.
#[derive(Clone, Debug)]
pub struct Served {
    /// The row.
    pub kind: Arc<Kind>,
    /// `openAPIV3Schema` of a CRD version; `None` for built-in kinds and for custom ones without a schema.
    pub schema: Option<Arc<Value>>,
}

/// A document as it is served.
#[derive(Clone, Debug)]
pub struct Document {
    /// JSON (or protobuf, from [`OpenApi::v2_protobuf`]).
    pub json: Bytes,
    /// For `ETag` and the `hash` of the index.
    pub hash: Arc<str>,
}

/// The kinds of one group and version.
#[derive(Debug)]
struct Part {
    rows: Vec<Served>,
    hash: Arc<str>,
}

/// The description of a set of kinds. Made anew when the set changes, which is cheap.
#[derive(Debug)]
pub struct OpenApi {
    /// By path below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
    parts: BTreeMap<String, Part>,
    hash: Arc<str>,
}

/// `api/v1` or `apis/apps/v1`.
fn part_path(kind: &Kind) -> String {
    if kind.group.is_empty() { format!("api/{}", kind.version) } else { format!("apis/{}/{}", kind.group, kind.version) }
}

/// A hash that is the same in every process of the same build.
fn hash_of(value: impl Hash) -> Arc<str> {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, env!("CARGO_PKG_VERSION"), include_str!("../../data/types.tsv").len(), enums::TABLE, prose::size()).hash(&mut hasher);
        value.hash(&mut hasher);
        hasher.finish()
    };
    format!("{:016X}{:016X}", half(0), half(1)).into()
}

impl OpenApi {
    /// Describes these kinds.
    pub fn new(rows: impl IntoIterator<Item = Served>) -> Self {
        let mut by_path: BTreeMap<String, Vec<Served>> = BTreeMap::new();
        for row in rows {
            by_path.entry(part_path(&row.kind)).or_default().push(row);
        }
        let part = |(path, rows): (String, Vec<Served>)| {
            let facts: Vec<String> = rows.iter().map(|r| format!("{:?}{:?}", r.kind, r.schema)).collect();
            let hash = hash_of(facts);
            (path, Part { rows, hash })
        };
        let parts: BTreeMap<String, Part> = by_path.into_iter().map(part).collect();
        let hash = hash_of(parts.values().map(|p| &*p.hash).collect::<Vec<_>>());
        OpenApi { parts, hash }
    }

    /// `/openapi/v3`.
    pub fn index(&self) -> Document {
        let entry = |(path, part): (&String, &Part)| {
            let url = format!("/openapi/v3/{path}?hash={}", part.hash);
            (path.clone(), serde_json::json!({ "serverRelativeURL": url }))
        };
        let paths: serde_json::Map<String, Value> = self.parts.iter().map(entry).collect();
        Document { json: serde_json::json!({ "paths": paths }).to_string().into(), hash: self.hash.clone() }
    }

    /// The hash of `/openapi/v3/<path>` without making the document; `None` when nothing is served there.
    pub fn hash(&self, path: &str) -> Option<Arc<str>> {
        self.parts.get(path).map(|p| p.hash.clone())
    }

    /// `/openapi/v3/<path>`: `api/v1`, `apis/apps/v1`.
    pub fn v3(&self, path: &str) -> Option<Document> {
        let part = self.parts.get(path)?;
        let mut writer = Writer::new(r#"{"openapi":"3.0.0","info":{"title":"Kubernetes","version":"v1.36.0"},"paths":{"#);
        let mut needed = schemas::Needed::default();
        for row in &part.rows {
            paths::of(row, &mut needed, &mut |path, item| writer.entry(path, &item));
        }
        paths::resources(&part.rows[0].kind, &mut needed, &mut |path, item| writer.entry(path, &item));
        writer.raw(r#"},"components":{"schemas":{"#);
        let home = (&*part.rows[0].kind.group, &*part.rows[0].kind.version);
        schemas::write(needed, &part.rows, Some(home), &mut |name, schema| writer.entry(name, &schema));
        writer.raw(r#"},"securitySchemes":{"BearerToken":{"type":"apiKey","name":"authorization","in":"header","description":"Bearer Token authentication"}}}}"#);
        Some(Document { json: writer.out.into(), hash: part.hash.clone() })
    }

    /// The hash of this server's own part of `/openapi/v2` without making the document.
    pub fn v2_hash(&self) -> Arc<str> {
        self.hash.clone()
    }

    /// `/openapi/v2` as JSON, with the paths and definitions of others.
    pub fn v2(&self, others: &[Arc<Value>]) -> Document {
        let mut writer = Writer::new(r#"{"swagger":"2.0","info":{"title":"Kubernetes","version":"v1.36.0"},"paths":{"#);
        let mut needed = schemas::Needed::default();
        let rows: Vec<Served> = self.parts.values().flat_map(|p| p.rows.iter().cloned()).collect();
        for part in self.parts.values() {
            for row in &part.rows {
                paths::of(row, &mut needed, &mut |path, item| writer.entry(path, &v2::path_item(item)));
            }
            paths::resources(&part.rows[0].kind, &mut needed, &mut |path, item| writer.entry(path, &v2::path_item(item)));
        }
        others_of(others, "paths", &BTreeSet::new(), &mut |path, item| writer.entry(path, item));
        writer.raw(r#"},"definitions":{"#);
        let mut own = BTreeSet::new();
        schemas::write(needed, &rows, None, &mut |name, schema| {
            writer.entry(name, &v2::definition(schema));
            own.insert(name.to_owned());
        });
        others_of(others, "definitions", &own, &mut |name, schema| writer.entry(name, schema));
        writer.raw(concat!(
            r#"},"securityDefinitions":{"BearerToken":{"type":"apiKey","name":"authorization","in":"header","description":"Bearer Token authentication"}},"#,
            r#""security":[{"BearerToken":[]}]}"#
        ));
        Document { json: writer.out.into(), hash: self.hash.clone() }
    }
}

/// What others add to a section, each name once: what is known already is the same type of the same package.
fn others_of(others: &[Arc<Value>], section: &str, own: &BTreeSet<String>, out: &mut dyn FnMut(&str, &Value)) {
    let mut seen = BTreeSet::new();
    let all = others.iter().flat_map(|other| other[section].as_object().into_iter().flatten());
    for (name, value) in all.filter(|(name, _)| !own.contains(*name)) {
        if seen.insert(name.as_str()) {
            out(name, value);
        }
    }
}

/// Writes a document piece by piece, so that no tree of the whole ever exists.
struct Writer {
    out: Vec<u8>,
}

impl Writer {
    fn new(head: &str) -> Self {
        let mut out = Vec::with_capacity(256 * 1024);
        out.extend_from_slice(head.as_bytes());
        Writer { out }
    }

    fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    /// A member of the object that is open.
    fn entry(&mut self, name: &str, value: &Value) {
        if self.out.last() != Some(&b'{') {
            self.out.push(b',');
        }
        let text = format!("{}:{value}", Value::from(name));
        self.out.extend_from_slice(text.as_bytes());
    }
}
