//! Managers that wrote in another version of the kind: what changed is compared in their version, by its schema.
//!
//! Most objects are only ever written in one version, and then nothing here is asked.

use super::compare::Difference;
use super::managed::Entry;
use super::merge::{ensure_named, field_set, without};
use super::set::Set;
use super::{Writer, difference_without_managed};
use crate::schema::Schema;
use serde_json::Value;
use std::collections::BTreeMap;

/// Converts objects of a kind between its versions.
pub trait Versions: Sync + std::fmt::Debug {
    /// The object in that version with the schema of the version; `None` when the version is not served (any more).
    fn convert(&self, object: &Value, api_version: &str) -> Option<(Value, Schema)>;
}

/// What changed, in one version.
pub(super) struct Changed {
    /// Added or modified.
    pub(super) set: Set,
    /// Gone.
    pub(super) removed: Set,
}

impl Changed {
    /// What a view cannot write does not count as changed.
    pub(super) fn of(difference: Difference, writer: &Writer<'_>) -> Self {
        let Difference { added: mut set, modified, mut removed } = difference;
        set.unite(&modified);
        writer.reset(&mut set);
        writer.reset(&mut removed);
        Changed { set, removed }
    }
}

/// The same change as managers of other versions see it, found out when one is met.
pub(super) struct Elsewhere<'a> {
    live: Option<&'a Value>,
    new: &'a Value,
    writer: &'a Writer<'a>,
    known: BTreeMap<String, Option<Changed>>,
}

impl<'a> Elsewhere<'a> {
    pub(super) fn new(live: Option<&'a Value>, new: &'a Value, writer: &'a Writer<'a>) -> Self {
        Elsewhere { live, new, writer, known: BTreeMap::new() }
    }

    /// The change in the version of an entry. `None`: nobody serves that version, its managers are forgotten.
    pub(super) fn of<'c>(&'c mut self, entry: &Entry, own: &'c Changed) -> Option<&'c Changed> {
        let Some(versions) = self.writer.versions.filter(|_| entry.api_version != self.writer.api_version) else { return Some(own) };
        let (live, new, writer) = (self.live, self.new, self.writer);
        let made = self.known.entry(entry.api_version.clone()).or_insert_with(|| {
            let (new, schema) = versions.convert(new, &entry.api_version)?;
            let live = match live {
                Some(live) => versions.convert(live, &entry.api_version)?.0,
                None => Value::Object(serde_json::Map::new()),
            };
            Some(Changed::of(difference_without_managed(&live, &new, &schema), writer))
        });
        made.as_ref()
    }
}

/// `drop_abandoned` where the configuration applied before, or an owner, is of another version: owners keep in their version.
pub(super) fn drop_abandoned(merged: &Value, last: &Entry, mine: &Entry, others: &[Entry], versions: &dyn Versions) -> Option<Value> {
    let (before, schema) = versions.convert(merged, &last.api_version)?;
    let ty = Some(schema.root());
    let abandoned = ensure_named(&last.fields.set());
    let mut pruned = without(&before, &abandoned, ty)?;
    let mut owned: BTreeMap<&str, Set> = BTreeMap::new();
    for entry in others.iter().chain([mine]) {
        owned.entry(&entry.api_version).or_default().unite(&entry.fields.set());
    }
    for (version, set) in owned {
        let (Some((all, schema)), Some((left, _))) = (versions.convert(merged, version), versions.convert(&pruned, version)) else {
            continue;
        };
        let ty = Some(schema.root());
        let mut gone = ensure_named(&field_set(&all, ty));
        let mut kept = ensure_named(&field_set(&left, ty));
        kept.unite(&ensure_named(&set));
        gone.subtract(&kept);
        pruned = without(&all, &gone, ty)?;
    }
    let (left, _) = versions.convert(&pruned, &last.api_version)?;
    let mut gone = ensure_named(&field_set(&before, ty));
    gone.subtract(&ensure_named(&field_set(&left, ty)));
    let left = without(&before, &gone.intersection(&abandoned), ty)?;
    versions.convert(&left, &mine.api_version).map(|(value, _)| value)
}
