//! The kinds that are served right now: the built-in rows, and those that CRDs added at run time.
//!
//! Readers take an immutable table and keep it for the whole request; a CRD swaps in a new table. There is one table and
//! one code path: whether a row is built in only decides where its schema came from.

use arc_swap::ArcSwap;
use ferrokube_api::kinds::{Kind, SubresourceKind};
use ferrokube_api::schema::Schema;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// A served row with what serving it needs.
#[derive(Debug)]
pub struct Entry {
    /// The row.
    pub kind: Arc<Kind>,
    /// The type of its objects.
    pub schema: Schema,
    /// What is special about a custom resource; `None` for built-in kinds.
    pub custom: Option<Custom>,
    /// Bytes of `{"kind":"...","apiVersion":"...",` at the start of every encoded object.
    pub head: Box<str>,
}

/// What a CRD says about a version besides the row.
#[derive(Debug)]
pub struct Custom {
    /// `listKind`.
    pub list_kind: String,
    /// Name of the CRD.
    pub crd: String,
    /// The structural schema of this version.
    pub openapi: Option<Arc<serde_json::Value>>,
    /// Its CEL rules, when it has some.
    pub rules: Option<Arc<crate::crd::rules::Node>>,
    /// Whether its selectable fields are others than those of the version in the store, or stand elsewhere in objects of that version:
    /// selectors then look at objects in this version.
    pub own_fields: bool,
    /// The webhook that converts between its versions, when they differ in more than name.
    pub conversion: Option<crate::crd::Converter>,
    /// JSON paths of the scale subresource: replicas in spec, replicas in status, selector in status.
    pub scale: Option<(String, String, Option<String>)>,
    /// JSON paths of the columns, in their order.
    pub columns: Vec<String>,
    /// A warning for every request, when the version is deprecated.
    pub deprecation: Option<String>,
    /// Whether the CRD is being deleted: nothing new may come.
    pub terminating: bool,
}

impl Entry {
    /// From a row.
    pub fn new(kind: Arc<Kind>, schema: Schema, custom: Option<Custom>) -> Self {
        let head = format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", kind.kind, kind.api_version()).into();
        Entry { kind, schema, custom, head }
    }

    /// Kind of the list.
    pub fn list_kind(&self) -> String {
        self.custom.as_ref().map_or_else(|| format!("{}List", self.kind.kind), |c| c.list_kind.clone())
    }

    /// The warning that every request is answered with, when the version or the kind is deprecated.
    pub fn deprecation(&self) -> Option<&str> {
        match &self.custom {
            Some(custom) => custom.deprecation.as_deref(),
            None => self.kind.deprecation(),
        }
    }

    /// What a subresource does, if there is one of that name.
    pub fn behaviour(&self, subresource: &str) -> Option<SubresourceKind> {
        self.kind.subresource(subresource).map(|s| s.behaviour)
    }

    /// `group/resource`, for tables of exceptions: `apps/deployments`, `/pods`.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.kind.group == group && self.kind.resource == resource
    }
}

/// A hash that stays the same while the process runs.
pub fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The table at one moment.
#[derive(Debug, Default)]
pub struct Table {
    entries: Vec<Arc<Entry>>,
    /// Rows by the hash of group, version and resource: looked up for every request, without allocating.
    by_path: HashMap<u64, Vec<usize>>,
    /// Counts the tables of this process: a change means that discovery changed.
    pub generation: u64,
}

impl Table {
    fn of(entries: Vec<Arc<Entry>>, generation: u64) -> Self {
        let mut by_path: HashMap<u64, Vec<usize>> = HashMap::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            by_path.entry(hash_of((&*entry.kind.group, &*entry.kind.version, &*entry.kind.resource))).or_default().push(at);
        }
        Table { entries, by_path, generation }
    }

    /// The row that serves a path.
    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Entry>> {
        let candidates = self.by_path.get(&hash_of((group, version, resource)))?;
        candidates.iter().map(|at| &self.entries[*at]).find(|e| e.is(group, resource) && e.kind.version == version)
    }

    /// Any version of a resource; the first served one.
    pub fn any_version(&self, group: &str, resource: &str) -> Option<&Arc<Entry>> {
        self.entries.iter().find(|e| e.is(group, resource))
    }

    /// The row of a kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Entry>> {
        self.entries.iter().find(|e| e.kind.group == group && e.kind.version == version && e.kind.kind == kind)
    }

    /// All rows, in discovery's order.
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// Whether a group and version is served.
    pub fn serves(&self, group: &str, version: &str) -> bool {
        self.entries.iter().any(|e| e.kind.group == group && e.kind.version == version)
    }
}

/// The table of now, swappable.
#[derive(Debug)]
pub struct Registry {
    table: ArcSwap<Table>,
    builtin: Vec<Arc<Entry>>,
}

impl Registry {
    /// These built-in rows.
    pub fn serving(rows: impl Iterator<Item = &'static Kind>) -> Self {
        let entry = |kind: &Kind| match Schema::builtin(&kind.schema) {
            Some(schema) => Some(Arc::new(Entry::new(Arc::new(kind.clone()), schema, None))),
            None => {
                tracing::error!(kind = %kind.kind, schema = %kind.schema, "a row names a type that the type table lacks; it is not served");
                None
            }
        };
        let builtin: Vec<_> = rows.filter_map(entry).collect();
        Registry { table: ArcSwap::from_pointee(Table::of(builtin.clone(), 1)), builtin }
    }

    /// The table of now.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Serves these rows besides the built-in ones.
    pub fn set_custom(&self, custom: Vec<Arc<Entry>>) {
        let generation = self.table.load().generation + 1;
        let entries = self.builtin.iter().cloned().chain(custom).collect();
        self.table.store(Arc::new(Table::of(entries, generation)));
    }
}
