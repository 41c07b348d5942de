//! One schema drives the machinery: decoding, unknown fields, patches, apply, OpenAPI all read the same compact type table.
//!
//! Built-in kinds come from `data/types.tsv`, custom ones from the structural schema of their CRD (`custom`); both become
//! a [`Types`] arena, so that there is no second code path. A table never changes once it is made, and nothing here knows
//! a kind by name.

mod custom;
mod table;
#[cfg(test)]
mod tests;

use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

pub use custom::{NotStructural, set_defaults};

/// Text of a table: static for built-in kinds, owned for custom ones.
pub type Text = Cow<'static, str>;

/// Index of a node in its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeId(pub(crate) u32);

/// Group, version and kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gvk {
    /// Empty for core.
    pub group: Text,
    /// Version.
    pub version: Text,
    /// Kind.
    pub kind: Text,
}

impl Gvk {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Anything at all, kept as it is.
    Any,
    /// `true` or `false`.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Floating point.
    Double,
    /// Text.
    String,
    /// Base64 text.
    Bytes,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `metav1.Time`: RFC 3339 to the second.
    Time,
    /// `metav1.MicroTime`: RFC 3339 to the microsecond.
    MicroTime,
    /// An object whose fields nobody declared (RawExtension, FieldsV1).
    Free,
    /// An object with declared fields: a range of the arena's fields, sorted by name.
    Struct(u32, u32),
    /// An object with values of one type.
    Map(TypeId),
    /// A list.
    List(TypeId),
}

/// How two versions of a list merge (`x-kubernetes-list-type`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Nothing is published; treated as atomic.
    Unset,
    /// Replaced as a whole.
    Atomic,
    /// Scalars, each at most once.
    Set,
    /// Objects told apart by the values of these fields.
    Map(Box<[Text]>),
}

/// A type.
#[derive(Clone, Debug)]
pub struct Node {
    /// What a value looks like.
    pub shape: Shape,
    /// Name in the API description; empty for anonymous types.
    pub name: Text,
    /// Merge semantics of a list.
    pub list: ListType,
    /// `x-kubernetes-map-type` as published: `atomic`, `granular` or nothing.
    pub map_type: Option<Text>,
    /// Undeclared fields are kept (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
    /// A whole object with `apiVersion`, `kind` and `metadata` (`x-kubernetes-embedded-resource`).
    pub embedded: bool,
    /// `null` is a value (custom types only).
    pub nullable: bool,
    /// Decoding turns the value into this type or fails, as a Go struct would. Custom types are checked by validation instead.
    pub typed: bool,
    /// Kinds served with this type; empty for inner types.
    pub gvks: Box<[Gvk]>,
    /// `x-kubernetes-unions` as published (JSON), for the API description.
    pub unions: Option<Text>,
}

impl Node {
    fn of(shape: Shape) -> Self {
        Node {
            shape,
            name: Text::Borrowed(""),
            list: ListType::Unset,
            map_type: None,
            preserve_unknown: false,
            embedded: false,
            nullable: false,
            typed: true,
            gvks: Box::default(),
            unions: None,
        }
    }

    /// Whether an object or map of this type is replaced as a whole by apply.
    pub fn is_atomic_map(&self) -> bool {
        self.map_type.as_deref() == Some("atomic")
    }
}

/// The number of a field on the protobuf wire, ended by 0: a path (`2.5`) through messages that JSON inlines; nothing but
/// zeros when the wire lacks the field.
pub type WirePath = [u8; 4];

/// What a field is when nobody sets it.
#[derive(Clone, Debug, PartialEq)]
pub enum Absent {
    /// It stays away.
    Nothing,
    /// The Go type has no omitempty: its zero is always shown.
    Zero,
    /// A struct held by value: shown as an object with the zeros of its fields.
    Struct,
    /// A default of the schema. Decoding does not set it (defaulting does); list keys use it.
    Value(Value),
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct Field {
    /// JSON name.
    pub name: Text,
    /// Type.
    pub ty: TypeId,
    /// Listed in `required`.
    pub required: bool,
    /// What it is when nobody sets it.
    pub absent: Absent,
    /// A zero that a client sends is dropped (held by value with omitempty).
    pub drop_zero: bool,
    /// `x-kubernetes-patch-strategy` as published: comma-separated `merge`, `replace`, `retainKeys`.
    pub patch_strategy: Option<Text>,
    /// `x-kubernetes-patch-merge-key`.
    pub merge_key: Option<Text>,
    /// Where the field stands on the protobuf wire.
    pub wire: WirePath,
}

impl Field {
    fn named(name: Text, ty: TypeId) -> Self {
        let wire = WirePath::default();
        Field { name, ty, required: false, absent: Absent::Nothing, drop_zero: false, patch_strategy: None, merge_key: None, wire }
    }
}

/// An arena of types.
#[derive(Debug, Default)]
pub struct Types {
    nodes: Vec<Node>,
    fields: Vec<Field>,
    names: HashMap<Text, TypeId>,
}

impl Types {
    /// The types of Kubernetes itself, read at first use.
    pub fn builtin() -> &'static Arc<Types> {
        static BUILTIN: OnceLock<Arc<Types>> = OnceLock::new();
        BUILTIN.get_or_init(|| Arc::new(table::read(include_str!("../../data/types.tsv"))))
    }

    /// The type with that name in the API description: `io.k8s.api.core.v1.Pod`.
    pub fn get(&self, name: &str) -> Option<TypeRef<'_>> {
        self.names.get(name).map(|id| TypeRef { types: self, id: *id })
    }

    /// The names of all named types, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(|n| &**n)
    }

    /// The name of the type that is served as that kind.
    pub fn name_of(&self, group: &str, version: &str, kind: &str) -> Option<&str> {
        let serves = |n: &&Node| n.gvks.iter().any(|g| g.kind == kind && g.version == version && g.group == group);
        self.nodes.iter().find(serves).map(|n| &*n.name)
    }

    /// Whether some type is served as that kind.
    pub fn serves(&self, group: &str, version: &str, kind: &str) -> bool {
        self.name_of(group, version, kind).is_some()
    }

    /// A node as a view.
    pub fn at(&self, id: TypeId) -> TypeRef<'_> {
        TypeRef { types: self, id }
    }

    fn push(&mut self, node: Node) -> TypeId {
        self.nodes.push(node);
        TypeId(self.nodes.len() as u32 - 1)
    }

    /// Appends fields (sorted here) and gives their range.
    fn push_fields(&mut self, mut fields: Vec<Field>) -> Shape {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let first = self.fields.len() as u32;
        self.fields.append(&mut fields);
        Shape::Struct(first, self.fields.len() as u32)
    }
}

/// A type together with its arena: what the algorithms walk.
#[derive(Clone, Copy, Debug)]
pub struct TypeRef<'a> {
    types: &'a Types,
    id: TypeId,
}

impl<'a> TypeRef<'a> {
    /// The node.
    pub fn node(self) -> &'a Node {
        &self.types.nodes[self.id.0 as usize]
    }

    /// Its shape.
    pub fn shape(self) -> Shape {
        self.node().shape
    }

    /// Its id in the arena.
    pub fn id(self) -> TypeId {
        self.id
    }

    /// The arena it lives in.
    pub fn types(self) -> &'a Types {
        self.types
    }

    /// The fields of an object type, sorted by name; empty for others.
    pub fn fields(self) -> &'a [Field] {
        match self.shape() {
            Shape::Struct(first, end) => &self.types.fields[first as usize..end as usize],
            _ => &[],
        }
    }

    /// The number of the field at this position among [`TypeRef::fields`], which no other field of the arena has.
    pub fn field_number(self, at: usize) -> u32 {
        match self.shape() {
            Shape::Struct(first, _) => first + at as u32,
            _ => u32::MAX,
        }
    }

    /// A field with its position among [`TypeRef::fields`].
    pub fn field(self, name: &str) -> Option<(usize, &'a Field)> {
        let fields = self.fields();
        let at = fields.binary_search_by(|f| (*f.name).cmp(name)).ok()?;
        Some((at, &fields[at]))
    }

    /// The type of what stands below `name` in an object or map of this type.
    pub fn child(self, name: &str) -> Option<TypeRef<'a>> {
        match self.shape() {
            Shape::Struct(..) => self.field(name).map(|(_, f)| self.types.at(f.ty)),
            Shape::Map(inner) => Some(self.types.at(inner)),
            _ => None,
        }
    }

    /// The type of the elements of a list or the values of a map.
    pub fn element(self) -> Option<TypeRef<'a>> {
        match self.shape() {
            Shape::List(inner) | Shape::Map(inner) => Some(self.types.at(inner)),
            _ => None,
        }
    }

    /// The type of a field of this type.
    pub fn of(self, field: &Field) -> TypeRef<'a> {
        self.types.at(field.ty)
    }

    /// The first kind served with this type.
    pub fn gvk(self) -> Option<&'a Gvk> {
        self.node().gvks.first()
    }

    /// The name of the Go type, as Go's JSON decoder prints it: `[]v1.Container`, `map[string]string`, `int32`.
    pub fn go_name(self) -> String {
        let node = self.node();
        match node.shape {
            Shape::Any => "interface {}".into(),
            Shape::Bool => "bool".into(),
            Shape::Int32 | Shape::IntOrString => "int32".into(),
            Shape::Int64 => "int64".into(),
            Shape::Double => "float64".into(),
            Shape::String | Shape::Time | Shape::MicroTime => "string".into(),
            Shape::Bytes => "[]uint8".into(),
            Shape::Quantity => "resource.Quantity".into(),
            Shape::Free | Shape::Struct(..) => short_go_name(&node.name),
            Shape::List(inner) => format!("[]{}", self.types.at(inner).go_name()),
            Shape::Map(inner) => match self.types.at(inner) {
                inner if inner.shape() == Shape::Quantity => "v1.ResourceList".into(),
                inner => format!("map[string]{}", inner.go_name()),
            },
        }
    }

    /// The bare name of the struct type (`PodSpec`).
    pub fn struct_name(self) -> &'a str {
        self.node().name.rsplit('.').next().unwrap_or_default()
    }
}

/// `io.k8s.api.core.v1.Container` → `v1.Container`.
fn short_go_name(name: &str) -> String {
    let mut parts = name.rsplitn(3, '.');
    match (parts.next(), parts.next()) {
        (Some(kind), Some(package)) => format!("{package}.{kind}"),
        (Some(kind), None) if !kind.is_empty() => kind.to_owned(),
        _ => "map[string]interface {}".to_owned(),
    }
}

/// A type that owns its arena: what a row, built in or custom, holds on to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Schema {
    types: Arc<Types>,
    id: TypeId,
}

impl Schema {
    /// A built-in type by its name.
    pub fn builtin(name: &str) -> Option<Schema> {
        let types = Types::builtin();
        types.get(name).map(|t| Schema { types: types.clone(), id: t.id })
    }

    /// A custom type from the `openAPIV3Schema` of a CRD version (structural, as validated by the CRD's own checks).
    /// Without a schema (`None`) everything below the root is kept.
    pub fn custom(gvk: Gvk, schema: Option<&Value>) -> Result<Schema, NotStructural> {
        custom::convert(gvk, schema)
    }

    /// As the algorithms walk it.
    pub fn root(&self) -> TypeRef<'_> {
        self.types.at(self.id)
    }

    /// The arena.
    pub fn types(&self) -> &Arc<Types> {
        &self.types
    }
}
