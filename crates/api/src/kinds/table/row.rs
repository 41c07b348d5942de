//! The small language in which rows are written: a group names what its rows share, each call adds one fact.

use crate::kinds::{Column, HookContext, Hooks, Kind, Scope, SelectableField, Subresource, SubresourceKind, Text, Verbs};
use serde_json::Value;
use std::borrow::Cow;

/// One column: name, OpenAPI type, priority, description.
#[derive(Clone, Copy)]
pub(super) struct Col(pub &'static str, pub &'static str, pub u8, pub &'static str);

/// A column of text.
pub(super) const fn text(name: &'static str, description: &'static str) -> Col {
    Col(name, "string", 0, description)
}

/// A column of whole numbers.
pub(super) const fn int(name: &'static str, description: &'static str) -> Col {
    Col(name, "integer", 0, description)
}

/// A column of text that only `-o wide` shows.
pub(super) const fn wide(name: &'static str, description: &'static str) -> Col {
    Col(name, "string", 1, description)
}

pub(super) const NAME: Col = text("Name", "Name of the object, unique in its namespace (or in the cluster).");
pub(super) const AGE: Col = text("Age", "Time since the server created the object.");

impl Col {
    fn column(self) -> Column {
        let format = if self.0 == "Name" { "name" } else { "" };
        Column { name: self.0.into(), kind: self.1.into(), format: format.into(), description: self.3.into(), priority: self.2 }
    }
}

/// What the rows of a group and version share: group, version, prefix of type names.
pub(super) struct Group(pub &'static str, pub &'static str, pub &'static str);

/// A row being written.
pub(super) struct Row(Kind);

fn texts(list: &[&'static str]) -> Cow<'static, [Text]> {
    list.iter().map(|t| Text::Borrowed(t)).collect::<Vec<_>>().into()
}

impl Group {
    /// A row of namespaced objects.
    pub fn namespaced(&self, kind: &'static str, resource: &'static str) -> Row {
        self.row(kind, resource, Scope::Namespaced)
    }

    /// A row of cluster-wide objects.
    pub fn cluster(&self, kind: &'static str, resource: &'static str) -> Row {
        self.row(kind, resource, Scope::Cluster)
    }

    fn row(&self, kind: &'static str, resource: &'static str, scope: Scope) -> Row {
        Row(Kind {
            group: self.0.into(),
            version: self.1.into(),
            kind: kind.into(),
            resource: resource.into(),
            singular: kind.to_ascii_lowercase().into(),
            short_names: Cow::default(),
            categories: Cow::default(),
            scope,
            verbs: Verbs::ALL,
            subresources: Cow::default(),
            storage_prefix: Some(resource.into()),
            stored_as: None,
            schema: format!("{}.{kind}", self.2).into(),
            fields: Cow::default(),
            columns: Cow::default(),
            hooks: Hooks::NONE,
        })
    }
}

impl Row {
    pub fn short(mut self, names: &[&'static str]) -> Self {
        self.0.short_names = texts(names);
        self
    }

    pub fn category(mut self, name: &'static str) -> Self {
        self.0.categories = texts(&[name]);
        self
    }

    pub fn verbs(mut self, verbs: Verbs) -> Self {
        self.0.verbs = verbs;
        self
    }

    /// Objects of this row are never stored: the row answers requests.
    pub fn review(mut self) -> Self {
        self.0.storage_prefix = None;
        self.verbs(Verbs::CREATE)
    }

    /// Stored below another segment than the plural.
    pub fn at(mut self, prefix: &'static str) -> Self {
        self.0.storage_prefix = Some(prefix.into());
        self
    }

    pub fn stored_as(mut self, group: &'static str, version: &'static str) -> Self {
        self.0.stored_as = Some((group.into(), version.into()));
        self
    }

    fn sub(
        mut self,
        name: &'static str,
        behaviour: SubresourceKind,
        verbs: Verbs,
        kind: Option<(&'static str, &'static str, &'static str)>,
    ) -> Self {
        let kind = kind.map(|(g, v, k)| (g.into(), v.into(), k.into()));
        self.0.subresources.to_mut().push(Subresource { name: name.into(), behaviour, verbs, kind });
        self
    }

    pub fn status(self) -> Self {
        self.sub("status", SubresourceKind::Status, Verbs::GET_PATCH_UPDATE, None)
    }

    pub fn scale(self) -> Self {
        self.sub("scale", SubresourceKind::Scale, Verbs::GET_PATCH_UPDATE, Some(("autoscaling", "v1", "Scale")))
    }

    pub fn view(self, name: &'static str, verbs: Verbs) -> Self {
        self.sub(name, SubresourceKind::View, verbs, None)
    }

    /// A subresource to which an object of another kind is posted.
    pub fn action(self, name: &'static str, kind: (&'static str, &'static str, &'static str)) -> Self {
        self.sub(name, SubresourceKind::Action, Verbs::CREATE, Some(kind))
    }

    /// A stream whose options are a kind of the row's own group.
    pub fn connect(self, name: &'static str, verbs: Verbs, options: Option<&'static str>) -> Self {
        self.sub(name, SubresourceKind::Connect, verbs, options.map(|o| ("", "v1", o)))
    }

    /// Selectable fields that stand where their label says: label and what absence reads as.
    pub fn select(mut self, fields: &[(&'static str, &'static str)]) -> Self {
        for (label, absent) in fields {
            let path: Vec<Text> = label.split('.').map(Text::Borrowed).collect();
            self.0.fields.to_mut().push(SelectableField { label: (*label).into(), path: path.into(), absent: (*absent).into() });
        }
        self
    }

    /// A selectable field that stands elsewhere than its label says.
    pub fn select_at(mut self, label: &'static str, path: &[&'static str], absent: &'static str) -> Self {
        self.0.fields.to_mut().push(SelectableField { label: label.into(), path: texts(path), absent: absent.into() });
        self
    }

    /// Columns of the Table and the function that fills them.
    pub fn table(mut self, columns: &[Col], cells: fn(&Value, &HookContext) -> Vec<Value>) -> Self {
        self.0.columns = columns.iter().map(|c| c.column()).collect::<Vec<_>>().into();
        self.0.hooks.cells = Some(cells);
        self
    }

    /// What the function that fills the columns looks at: for kinds with large objects.
    pub fn looks_at(mut self, paths: &'static [&'static str]) -> Self {
        self.0.hooks.cell_paths = paths;
        self
    }

    /// Behaviour; the cells stay those of the table.
    pub fn hooks(mut self, hooks: Hooks) -> Self {
        self.0.hooks = Hooks { cells: self.0.hooks.cells, cell_paths: self.0.hooks.cell_paths, ..hooks };
        self
    }

    pub fn done(mut self) -> Kind {
        self.0.subresources.to_mut().sort_by(|a, b| a.name.cmp(&b.name));
        self.0
    }
}
