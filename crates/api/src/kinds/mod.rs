//! A kind is a row: the declarative table of everything the API serves.
//!
//! Discovery, OpenAPI paths, storage keys, routing and Table output are derived from the rows; a CRD adds a row at
//! run time. Behaviour that a kind really has lives in `kinds/<kind>.rs` and hangs on its row as [`Hooks`].
//! Adding a plain kind touches one row and its goldens, nothing else.

mod admission;
mod apps;
mod attachment;
mod autoscaling;
mod batch;
mod cells;
mod certificates;
mod check;
mod claim;
mod common;
mod config;
mod csi;
mod devices;
mod endpoints;
mod event;
mod extension;
mod flow;
mod json;
pub mod meta;
mod namespace;
mod networking;
mod node;
mod pod;
mod policy;
mod rbac;
mod served;
pub mod service;
mod storage;
mod storage_migration;
pub mod storage_version;
mod table;
mod warnings;

pub use extension::{TEXT_FORMATS, approval};
pub use flow::{mandatory_level, mandatory_schema};
pub use pod::resources::{is_extended as is_extended_resource, qos_class};
pub use served::{RuntimeConfig, in_vain, served};
pub use table::{
    GROUP_VERSIONS, GroupVersion, OPTIONAL_GROUP_VERSIONS, Optional, builtin, group_versions, known, lookup, lookup_kind, optional,
};

use serde_json::Value;
use std::borrow::Cow;

/// Text of a row: static for built-in kinds, owned for custom ones.
pub type Text = Cow<'static, str>;

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// Cluster-wide.
    Cluster,
}

/// A set of verbs, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verbs(pub u16);

#[allow(missing_docs, reason = "the names are the verbs of discovery")]
impl Verbs {
    pub const CREATE: Verbs = Verbs(1);
    pub const DELETE: Verbs = Verbs(2);
    pub const DELETECOLLECTION: Verbs = Verbs(4);
    pub const GET: Verbs = Verbs(8);
    pub const LIST: Verbs = Verbs(16);
    pub const PATCH: Verbs = Verbs(32);
    pub const UPDATE: Verbs = Verbs(64);
    pub const WATCH: Verbs = Verbs(128);
    pub const ALL: Verbs = Verbs(255);
    pub const GET_PATCH_UPDATE: Verbs = Verbs(8 | 32 | 64);

    /// Union.
    pub const fn with(self, other: Verbs) -> Verbs {
        Verbs(self.0 | other.0)
    }

    /// Difference.
    pub const fn without(self, other: Verbs) -> Verbs {
        Verbs(self.0 & !other.0)
    }

    /// Whether every verb of `other` is in this set.
    pub const fn has(self, other: Verbs) -> bool {
        self.0 & other.0 == other.0
    }

    /// Names in the order of discovery documents (alphabetical).
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        NAMES.into_iter().enumerate().filter(move |(bit, _)| self.0 & (1 << bit) != 0).map(|(_, name)| name)
    }
}

/// What a subresource does; the pipeline has one branch for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubresourceKind {
    /// Another view for writing the same object: only `status` (and its managed metadata) changes.
    Status,
    /// `autoscaling/v1 Scale` over the object's replica fields.
    Scale,
    /// Another view for writing the same object, with its own rules in the kind's hooks (approval, finalize, resize, ephemeralcontainers).
    View,
    /// Handled by code of its own in the API server: binding, eviction, token.
    Action,
    /// A stream to or through a node: log, exec, attach, portforward, proxy.
    Connect,
}

/// A subresource of a row.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// `status`, `scale`, `log`, ...
    pub name: Text,
    /// What it does.
    pub behaviour: SubresourceKind,
    /// Verbs it serves.
    pub verbs: Verbs,
    /// Kind that discovery names, when it is not the row's own: (group, version, kind).
    pub kind: Option<(Text, Text, Text)>,
}

/// A field usable in field selectors besides `metadata.name` and `metadata.namespace`.
#[derive(Clone, Debug)]
pub struct SelectableField {
    /// The label in the selector: `spec.nodeName`.
    pub label: Text,
    /// Where the value stands: keys from the root of the object.
    pub path: Cow<'static, [Text]>,
    /// What an absent value reads as (`""`, `"false"`, `"0"`).
    pub absent: Text,
}

/// A column of the kind's Table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Header.
    pub name: Text,
    /// OpenAPI type: string, integer, number, boolean, date.
    pub kind: Text,
    /// OpenAPI format: `name` for the first column, else mostly empty.
    pub format: Text,
    /// For people.
    pub description: Text,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: u8,
}

/// What a hook may know besides the object.
#[derive(Clone, Copy, Debug)]
pub struct HookContext {
    /// Now, for timestamps that the server sets (seconds since the epoch).
    pub now: jiff::Timestamp,
}

/// Behaviour of a kind, as pure functions over the decoded object. Absent hooks mean the generic behaviour.
///
/// Order for a create: `prepare_create` → `default` → `validate_create`. For an update: `default` → `prepare_update` →
/// `validate_update`. A write to the `status` view copies everything but `status` from the stored object first, then runs
/// `prepare_status` and `validate_status`. A plain update of a row with a status subresource keeps the stored `status`
/// (generic, not a hook), and bumps `metadata.generation` when anything outside `metadata` and `status` changed.
#[derive(Clone, Copy, Default)]
pub struct Hooks {
    /// Sets what 1.36 defaults, in place. Must be idempotent.
    pub default: Option<fn(&mut Value)>,
    /// The strategy's PrepareForCreate.
    pub prepare_create: Option<fn(&mut Value, &HookContext)>,
    /// The strategy's PrepareForUpdate: (new, old).
    pub prepare_update: Option<fn(&mut Value, &Value, &HookContext)>,
    /// PrepareForUpdate of the status view: (new, old).
    pub prepare_status: Option<fn(&mut Value, &Value, &HookContext)>,
    /// Validation of a new object (metadata is validated generically before).
    pub validate_create: Option<fn(&Value, &mut crate::field::Errors)>,
    /// Validation of a change: (new, old). When absent, `validate_create` runs on the new object.
    pub validate_update: Option<fn(&Value, &Value, &mut crate::field::Errors)>,
    /// Validation of a change through the status view: (new, old).
    pub validate_status: Option<fn(&Value, &Value, &mut crate::field::Errors)>,
    /// How names are checked; DNS subdomain when absent.
    pub validate_name: Option<fn(&str) -> Vec<String>>,
    /// Cells of the Table, one per column. `None` as a cell is shown as `<none>`/null by the printer.
    pub cells: Option<fn(&Value, &HookContext) -> Vec<Value>>,
    /// What `cells` looks at, as paths for [`crate::project`]; empty: it may look at anything but managed fields.
    pub cell_paths: &'static [&'static str],
    /// Converts from the storage version to this row's version and back, for rows that are stored as another version.
    pub from_storage: Option<fn(&mut Value)>,
    /// The way back.
    pub to_storage: Option<fn(&mut Value)>,
    /// Default seconds of grace on delete: (object) → seconds. Absent: the kind is deleted at once.
    pub grace: Option<fn(&Value) -> i64>,
    /// Warnings about a new object, as the strategy's WarningsOnCreate gives them.
    pub warnings: Option<fn(&Value) -> Vec<String>>,
    /// Warnings about a change: (new, old).
    pub update_warnings: Option<fn(&Value, &Value) -> Vec<String>>,
    /// Warnings about a change of the status, for the new object.
    pub status_warnings: Option<fn(&Value) -> Vec<String>>,
    /// Rules of the row's [`SubresourceKind::View`] subresources. A view's `prepare` runs instead of
    /// `prepare_update`, after `default`; its `validate` instead of `validate_update`.
    pub views: &'static [View],
}

/// A view for writing part of an object (approval, finalize, resize, ephemeralcontainers).
#[derive(Clone, Copy)]
pub struct View {
    /// Name of the subresource.
    pub name: &'static str,
    /// Makes of (new, old) what may be stored: everything but the view's part comes from the old object.
    pub prepare: fn(&mut Value, &Value, &HookContext),
    /// Validates the change: (new, old).
    pub validate: fn(&Value, &Value, &mut crate::field::Errors),
}

impl Hooks {
    /// No behaviour beyond the generic one.
    pub const NONE: Hooks = Hooks {
        default: None,
        prepare_create: None,
        prepare_update: None,
        prepare_status: None,
        validate_create: None,
        validate_update: None,
        validate_status: None,
        validate_name: None,
        cells: None,
        cell_paths: &[],
        from_storage: None,
        to_storage: None,
        grace: None,
        warnings: None,
        update_warnings: None,
        status_warnings: None,
        views: &[],
    };

    /// The rules of the view of that name.
    pub fn view(&self, name: &str) -> Option<&'static View> {
        self.views.iter().find(|v| v.name == name)
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooks")
    }
}

/// A row: one resource in one served version.
#[derive(Clone, Debug)]
pub struct Kind {
    /// API group; empty for core.
    pub group: Text,
    /// Served version.
    pub version: Text,
    /// Kind.
    pub kind: Text,
    /// Plural, the resource name in paths.
    pub resource: Text,
    /// Singular (lower-case kind).
    pub singular: Text,
    /// Short names.
    pub short_names: Cow<'static, [Text]>,
    /// Categories.
    pub categories: Cow<'static, [Text]>,
    /// Namespaced or not.
    pub scope: Scope,
    /// Verbs of the main resource.
    pub verbs: Verbs,
    /// Subresources, in discovery's (alphabetical) order.
    pub subresources: Cow<'static, [Subresource]>,
    /// Path segment below `/registry/` under which objects are stored; `None` when the kind is not persisted (reviews, bindings).
    pub storage_prefix: Option<Text>,
    /// `(group, version)` in which objects are stored, when it is not the row's own.
    pub stored_as: Option<(Text, Text)>,
    /// Name of the type in the type table.
    pub schema: Text,
    /// Fields usable in selectors.
    pub fields: Cow<'static, [SelectableField]>,
    /// Columns of the Table; empty means Name and Age (Created At).
    pub columns: Cow<'static, [Column]>,
    /// Behaviour.
    pub hooks: Hooks,
}

impl Kind {
    /// The warning every request to a deprecated kind is answered with.
    pub fn deprecation(&self) -> Option<&'static str> {
        match (self.group.as_ref(), self.kind.as_ref()) {
            ("", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+"),
            ("", "Endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
            _ => None,
        }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether objects live in a namespace.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// `/registry/<prefix>/[<namespace>/]<name>`; with an empty name, the prefix of all objects (of the namespace).
    pub fn storage_key(&self, namespace: &str, name: &str) -> Option<String> {
        let prefix = self.storage_prefix.as_ref()?;
        Some(match (namespace.is_empty(), name.is_empty()) {
            (true, _) => format!("/registry/{prefix}/{name}"),
            (false, _) => format!("/registry/{prefix}/{namespace}/{name}"),
        })
    }
}
