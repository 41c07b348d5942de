//! Reads `data/types.tsv` (written by `examples/gen_types.rs`, format described there) into an arena.
//!
//! The table is part of the binary, so a malformed line is a bug of the build and not an input error: it is skipped, and
//! the tests hold that nothing is.
//!
//! Attributes: `gvk=group/version/kind`, `as=type` (the type is not an object with fields), `req`, `def=JSON`, `val` (held
//! by value with omitempty), `list=atomic|set|map:keys`, `map=atomic|granular`, `ps=` patch strategy, `mk=` merge key,
//! `p=` protobuf number, `unions=JSON`.

use super::{Absent, Field, Gvk, ListType, Node, Shape, Text, TypeId, Types, WirePath};

/// Types whose JSON form is code in Go, and so not told by the description.
const SPECIAL: [(&str, Shape); 7] = [
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", Shape::Quantity),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", Shape::IntOrString),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", Shape::Time),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", Shape::MicroTime),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", Shape::Free),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", Shape::Free),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Patch", Shape::Free),
];

fn attributes(columns: &[&'static str], mut each: impl FnMut(&'static str, &'static str)) {
    for column in columns {
        let (key, value) = column.split_once('=').unwrap_or((column, ""));
        each(key, value);
    }
}

fn list_type(text: &'static str) -> ListType {
    match text.split_once(':') {
        Some((_, keys)) => ListType::Map(keys.split(',').map(Text::Borrowed).collect()),
        None if text == "set" => ListType::Set,
        None => ListType::Atomic,
    }
}

fn wire_path(text: &str) -> WirePath {
    let mut path = WirePath::default();
    for (slot, part) in path.iter_mut().take(3).zip(text.split('.')) {
        *slot = part.parse().unwrap_or(0);
    }
    path
}

/// The arena as it grows.
struct Reader {
    types: Types,
    /// One shared node per scalar shape.
    scalars: Vec<(Shape, TypeId)>,
    /// Nodes that are another type with its own map semantics: (node, the type it stands for).
    aliases: Vec<(TypeId, TypeId)>,
    /// Fields of the type being read.
    pending: Vec<Field>,
}

/// Reads the whole table.
pub(super) fn read(text: &'static str) -> Types {
    let mut reader = Reader { types: Types::default(), scalars: Vec::new(), aliases: Vec::new(), pending: Vec::with_capacity(64) };
    reader.types.nodes.reserve(2200);
    reader.types.fields.reserve(3300);
    for line in text.lines().filter_map(|l| l.strip_prefix(':')) {
        let name = line.split('\t').next().unwrap_or(line);
        let id = reader.types.push(Node { name: Text::Borrowed(name), ..Node::of(Shape::Free) });
        reader.types.names.insert(Text::Borrowed(name), id);
    }
    let mut current = None;
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        match line.strip_prefix(':') {
            Some(header) => {
                reader.close(current.take());
                current = reader.open(header);
            }
            None => {
                let field = current.and_then(|owner| reader.field(owner, line));
                reader.pending.extend(field);
            }
        }
    }
    reader.close(current);
    for (node, target) in std::mem::take(&mut reader.aliases) {
        reader.types.nodes[node.0 as usize].shape = reader.types.nodes[target.0 as usize].shape;
    }
    reader.types
}

fn gvk(text: &'static str) -> Option<Gvk> {
    let mut parts = text.split('/').map(Text::Borrowed);
    Some(Gvk { group: parts.next()?, version: parts.next()?, kind: parts.next()? })
}

impl Reader {
    fn node(&mut self, id: TypeId) -> &mut Node {
        &mut self.types.nodes[id.0 as usize]
    }

    /// Gives the type its fields. A type without fields keeps the shape its header gave it.
    fn close(&mut self, owner: Option<TypeId>) {
        if let (Some(owner), false) = (owner, self.pending.is_empty()) {
            let shape = self.types.push_fields(std::mem::take(&mut self.pending));
            self.node(owner).shape = shape;
        }
    }

    fn open(&mut self, header: &'static str) -> Option<TypeId> {
        let columns: Vec<&str> = header.split('\t').collect();
        let (name, rest) = columns.split_first()?;
        let id = *self.types.names.get(*name)?;
        let special = SPECIAL.iter().find(|(n, _)| n == name).map(|(_, shape)| *shape);
        let node = self.node(id);
        let (mut gvks, mut alias) = (Vec::new(), None);
        attributes(rest, |key, value| match key {
            "gvk" => gvks.extend(gvk(value)),
            "as" => alias = Some(value),
            "map" => node.map_type = Some(Text::Borrowed(value)),
            "unions" => node.unions = Some(Text::Borrowed(value)),
            _ => {}
        });
        node.gvks = gvks.into();
        node.shape = match (special, alias) {
            (Some(shape), _) => shape,
            // A struct that has no fields yet in this release (`object`), or a value of any form (`any`).
            (None, Some("any")) => Shape::Any,
            (None, _) => Shape::Struct(0, 0),
        };
        Some(id)
    }

    fn field(&mut self, owner: TypeId, line: &'static str) -> Option<Field> {
        let mut columns = line.split('\t');
        let (name, expression) = (columns.next()?, columns.next()?);
        let (mut list, mut map_type, mut default) = (ListType::Unset, None, None);
        let mut field = Field::named(Text::Borrowed(name), self.expression(owner, expression)?);
        for column in columns {
            attributes(&[column], |key, value| match key {
                "req" => field.required = true,
                "val" => field.drop_zero = true,
                "def" => default = Some(value),
                "list" => list = list_type(value),
                "map" => map_type = Some(Text::Borrowed(value)),
                "ps" => field.patch_strategy = Some(Text::Borrowed(value)),
                "mk" => field.merge_key = Some(Text::Borrowed(value)),
                "p" => field.wire = wire_path(value),
                _ => {}
            });
        }
        field.absent = match default {
            None => Absent::Nothing,
            Some("\"\"" | "0" | "false") => Absent::Zero,
            Some("{}") => Absent::Struct,
            Some(json) => serde_json::from_str(json).map_or(Absent::Nothing, Absent::Value),
        };
        if list != ListType::Unset {
            // Scalars share their node (bytes may be said to be an atomic list): this use gets one of its own.
            if !matches!(self.node(field.ty).shape, Shape::List(_)) {
                let same = self.node(field.ty).clone();
                field.ty = self.types.push(same);
            }
            self.node(field.ty).list = list;
        }
        if map_type.is_some() {
            let same = self.node(field.ty).clone();
            let alias = self.types.push(Node { map_type, ..same });
            self.aliases.push((alias, field.ty));
            field.ty = alias;
        }
        Some(field)
    }

    /// The node of a type expression; lists and maps get a node of their own for each use.
    fn expression(&mut self, owner: TypeId, text: &'static str) -> Option<TypeId> {
        if let Some(inner) = text.strip_prefix("[]") {
            let inner = self.expression(owner, inner)?;
            return Some(self.types.push(Node::of(Shape::List(inner))));
        }
        if let Some(inner) = text.strip_prefix("{}") {
            let inner = self.expression(owner, inner)?;
            return Some(self.types.push(Node::of(Shape::Map(inner))));
        }
        let shape = match text {
            "string" => Shape::String,
            "bool" => Shape::Bool,
            "int32" => Shape::Int32,
            "int64" => Shape::Int64,
            "double" => Shape::Double,
            "bytes" => Shape::Bytes,
            "any" => Shape::Any,
            "object" => Shape::Free,
            name => return self.named(owner, name),
        };
        if let Some((_, id)) = self.scalars.iter().find(|(s, _)| *s == shape) {
            return Some(*id);
        }
        let id = self.types.push(Node::of(shape));
        self.scalars.push((shape, id));
        Some(id)
    }

    fn named(&self, owner: TypeId, name: &str) -> Option<TypeId> {
        if name.contains('.') {
            return self.types.names.get(name).copied();
        }
        let (package, _) = self.types.nodes[owner.0 as usize].name.rsplit_once('.')?;
        self.types.names.get(format!("{package}.{name}").as_str()).copied()
    }
}
