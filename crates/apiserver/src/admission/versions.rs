//! `matchPolicy: Equivalent`: who names another version of a resource in his rules sees the objects of requests in that version.
//!
//! Built-in kinds convert by the hooks of their rows, custom ones by their webhook, or by name only where they have none.

use super::constraints::Seen;
use super::{Context, list};
use crate::crd::Converter;
use ferrokube_api::Status;
use ferrokube_api::kinds::{self, Kind};
use ferrokube_api::schema::{Gvk, Schema};
use parking_lot::Mutex;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// Another version of the resource of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Other {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
}

impl Other {
    fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// A version under which a resource is served.
#[derive(Debug)]
struct Version {
    named: Other,
    /// Empty: those of all versions are the same, or nobody says.
    subresources: Option<Vec<&'static str>>,
    schema: Option<Schema>,
}

/// All versions under which the objects of one resource are served.
#[derive(Debug, Default)]
pub(super) struct Family {
    versions: Vec<Version>,
    converter: Option<Converter>,
}

impl Family {
    /// Those that are not the one of the request and have its subresource.
    pub fn others(&self, c: &Context<'_>) -> impl Iterator<Item = &Other> {
        let has = |v: &Version| v.subresources.as_ref().is_none_or(|all| c.subresource.is_empty() || all.contains(&c.subresource));
        self.versions.iter().filter(move |v| has(v)).map(|v| &v.named).filter(|o| o.group != c.group || o.version != c.version)
    }

    /// The type of objects in a version.
    fn schema(&self, wanted: &Other) -> Option<&Schema> {
        self.versions.iter().find(|v| v.named == *wanted)?.schema.as_ref()
    }
}

/// Group and resource, and the revision of the CRD that says it (0: built in).
type Known = HashMap<(String, String), (u64, Arc<Family>)>;

/// The families that were asked for.
#[derive(Debug, Default)]
pub(super) struct Versions(Mutex<Known>);

impl Versions {
    /// The family of the resource of a request.
    pub fn family(&self, c: &Context<'_>) -> Arc<Family> {
        let stored = match kinds::lookup(c.group, c.version, c.resource) {
            Some(_) => None,
            None => {
                let name = format!("{}.{}", c.resource, c.group);
                c.objects.get("apiextensions.k8s.io", "customresourcedefinitions", "", &name)
            }
        };
        let (key, seen) = ((c.group.to_owned(), c.resource.to_owned()), stored.as_ref().map_or(0, |o| o.revision));
        let mut known = self.0.lock();
        if let Some((_, family)) = known.get(&key).filter(|(at, _)| *at == seen) {
            return family.clone();
        }
        let family = Arc::new(match stored {
            None => built_in(c),
            Some(definition) => definition.decode().map(|d| custom(&d)).unwrap_or_default(),
        });
        known.insert(key, (seen, family.clone()));
        family
    }
}

fn built_in(c: &Context<'_>) -> Family {
    let Some(own) = kinds::lookup(c.group, c.version, c.resource) else { return Family::default() };
    let same = |row: &&Kind| row.resource == own.resource && row.storage_prefix == own.storage_prefix && own.storage_prefix.is_some();
    let version = |row: &Kind| Version {
        named: Other { group: row.group.to_string(), version: row.version.to_string(), kind: row.kind.to_string() },
        subresources: None,
        schema: Schema::builtin(&row.schema),
    };
    Family { versions: kinds::known().filter(|row| same(row)).map(version).collect(), converter: None }
}

fn custom(definition: &Value) -> Family {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, kind) = (text(&spec["group"]), text(&spec["names"]["kind"]));
    let version = |v: &Value| {
        let named = Other { group: group.clone(), version: text(&v["name"]), kind: kind.clone() };
        let gvk = Gvk { group: group.clone().into(), version: named.version.clone().into(), kind: kind.clone().into() };
        let has = |sub: &str| !v["subresources"][sub].is_null();
        let schema = v["schema"].get("openAPIV3Schema").filter(|s| !s.is_null());
        Version {
            named,
            subresources: Some(["status", "scale"].into_iter().filter(|sub| has(sub)).collect()),
            schema: Schema::custom(gvk, schema).ok(),
        }
    };
    Family { versions: list(spec, "versions").filter(|v| v["served"] == true).map(version).collect(), converter: Converter::of(definition) }
}

impl Seen {
    /// The version in which objects are seen; `None` when they are seen as they are, as those of subresources with kinds of their own.
    pub fn converts<'a>(&'a self, c: &Context<'_>) -> Option<&'a Other> {
        match self {
            Seen::As(other) if c.kind.0 == c.group => Some(other),
            _ => None,
        }
    }

    /// The object, and the one before it, as they are seen.
    pub async fn view<'o>(&self, c: &Context<'_>, object: Option<&'o Value>, old: Option<&'o Value>) -> Result<View<'o>, Status> {
        let Some(other) = self.converts(c) else {
            return Ok(View { object: object.map(Cow::Borrowed), old: old.map(Cow::Borrowed) });
        };
        let both = [object, old].into_iter().flatten().cloned().collect();
        let mut made = convert(c, both, other).await?.into_iter().map(Cow::Owned);
        let object = object.and_then(|_| made.next());
        Ok(View { object, old: old.and_then(|_| made.next()) })
    }

    /// An object that was seen, in the version of the request.
    pub async fn back(&self, c: &Context<'_>, object: Value) -> Result<Value, Status> {
        if self.converts(c).is_none() {
            return Ok(object);
        }
        let own = Other { group: c.group.to_owned(), version: c.version.to_owned(), kind: c.kind.1.to_owned() };
        let made = convert(c, vec![object], &own).await?;
        made.into_iter().next().ok_or_else(|| Status::internal("nothing was converted"))
    }

    /// The type of the objects that are seen.
    pub fn schema(&self, c: &Context<'_>) -> Option<Schema> {
        match self.converts(c) {
            None => c.review.schema.cloned(),
            Some(other) => c.versions.family(c).schema(other).cloned(),
        }
    }
}

/// What somebody sees of a request.
#[derive(Debug, Default)]
pub(super) struct View<'o> {
    pub object: Option<Cow<'o, Value>>,
    pub old: Option<Cow<'o, Value>>,
}

async fn convert(c: &Context<'_>, objects: Vec<Value>, to: &Other) -> Result<Vec<Value>, Status> {
    let family = c.versions.family(c);
    match &family.converter {
        Some(converter) => converter.convert(c.objects, &to.api_version(), objects).await.map_err(|s| Status::internal(s.message)),
        None => Ok(objects.into_iter().map(|object| renamed(object, c.resource, to)).collect()),
    }
}

/// The object in another version: by the hooks of built-in kinds, else by its name.
fn renamed(mut value: Value, resource: &str, to: &Other) -> Value {
    let said = value["apiVersion"].as_str().unwrap_or_default().to_owned();
    let (group, version) = said.split_once('/').unwrap_or(("", &said));
    if let (Some(from), Some(to)) = (kinds::lookup(group, version, resource), kinds::lookup(&to.group, &to.version, resource)) {
        if let Some(convert) = from.hooks.to_storage {
            convert(&mut value);
        }
        if let Some(convert) = to.hooks.from_storage {
            convert(&mut value);
        }
        value["kind"] = to.kind.as_ref().into();
    }
    value["apiVersion"] = to.api_version().into();
    value
}
