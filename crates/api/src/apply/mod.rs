//! Server-side apply: field ownership on every write, and the apply patch itself.
//!
//! Each manager owns the fields it last set. An apply may change only what it owns or nobody owns, takes away what it no
//! longer names, and is told of conflicts; other writes take over what they change. The merge is structured by the type
//! table; there is no knowledge of kinds here. Sources: apimachinery `managedfields`, structured-merge-diff `merge`.

mod compare;
mod conflict;
mod fields;
mod managed;
mod merge;
mod set;
mod shape;
#[cfg(test)]
mod tests;
mod versions;

use crate::schema::{Absent, Schema, Shape, TypeRef};
use crate::status::{Reason, Status};
use compare::{Difference, compare};
use conflict::Conflict;
use fields::Fields;
use jiff::Timestamp;
use managed::{Entry, Operation};
use serde_json::{Map, Value};
pub use set::Set;
pub use versions::Versions;
use versions::{Changed, Elsewhere};

/// The manager of what was there before the first apply to an object without managed fields.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// What `kubectl apply` without `--server-side` leaves.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who writes, through which view, when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// `fieldManager` of the request, or what stands before `/` in its user agent; empty is `unknown`.
    pub manager: &'a str,
    /// `apiVersion` of the request.
    pub api_version: &'a str,
    /// Empty for the object itself, else `status`, `scale`, ...
    pub subresource: &'a str,
    /// Whether the kind has a status view: then a write to the object does not own `status`, and a write to the status nothing else.
    pub has_status: bool,
    /// Fields of the metadata, as path elements, that a write to the status cannot write; `None`: the whole metadata.
    pub status_resets: Option<&'static [&'static str]>,
    /// The other versions of the kind, where managers may have written in them.
    pub versions: Option<&'a dyn Versions>,
    /// Now.
    pub now: Timestamp,
}

impl Writer<'_> {
    fn entry(&self, operation: Operation, set: Set) -> Entry {
        Entry {
            manager: if self.manager.is_empty() { "unknown".to_owned() } else { self.manager.to_owned() },
            operation,
            api_version: self.api_version.to_owned(),
            time: Some(crate::time::format_time(self.now)),
            subresource: self.subresource.to_owned(),
            fields: Fields::Set(set),
        }
    }

    /// Leaves out what this view cannot write (upstream: reset fields).
    fn reset(&self, set: &mut Set) {
        match self.subresource {
            "" if self.has_status => set.prune("f:status"),
            "status" => {
                set.children.retain(|k, _| k == "f:status" || (k == "f:metadata" && self.status_resets.is_some()));
                if let Some(metadata) = set.children.get_mut("f:metadata") {
                    let resets = self.status_resets.unwrap_or_default().iter();
                    resets.chain(&["f:ownerReferences", "f:deletionTimestamp"]).for_each(|name| metadata.prune(name));
                }
                set.children.retain(|_, below| !below.is_empty());
            }
            _ => {}
        }
    }
}

/// Leaves out what nobody owns: identity and what the server keeps.
fn strip_meta(set: &mut Set) {
    for name in ["f:apiVersion", "f:kind"] {
        set.remove_path(&[name]);
    }
    set.remove_path(&["f:metadata"]);
    const KEPT_BY_SERVER: [&str; 9] = [
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:clusterName",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
    ];
    for name in KEPT_BY_SERVER {
        set.remove_path(&["f:metadata", name]);
    }
}

/// The object of that type that a Go server compares a new one with: zeros of structs held by value, `null` where omitempty is missing.
fn empty_object(ty: TypeRef<'_>) -> Value {
    let mut map = Map::new();
    for field in ty.fields().iter().filter(|_| ty.node().typed) {
        let inner = ty.of(field);
        let value = match (&field.absent, inner.shape()) {
            (Absent::Struct, Shape::Struct(..)) => empty_object(inner),
            (Absent::Zero, Shape::Bool) => Value::Bool(false),
            (Absent::Zero, Shape::String) => Value::from(""),
            (Absent::Zero, _) => Value::from(0),
            (Absent::Nothing, _) if field.required => Value::Null,
            _ => continue,
        };
        map.insert(field.name.to_string(), value);
    }
    Value::Object(map)
}

/// Records in `new` who owns what after a create, update or patch. Call it with the object as it will be stored (decoded, defaulted, admitted).
///
/// `live` is the stored object, `None` for a create. Entries that the client sent count unless it writes through a subresource; none at all means
/// those of `live`; a single empty entry forgets all managers. When nothing changed, `new` gets the entries of `live` as they are.
pub fn track_update(live: Option<&Value>, new: &mut Value, schema: &Schema, writer: &Writer<'_>) {
    let before = live.map(managed::raw).unwrap_or_default();
    let given = managed::take(new);
    let unchanged_entries = live.is_some() && (given.is_empty() || given == before);
    let Some(mut entries) = current_entries(before, given, live.is_none(), writer) else {
        // The client asked to forget all managers, or nobody was tracked before.
        return;
    };
    let empty;
    let difference = match live {
        Some(live) => difference_without_managed(live, new, schema),
        None => {
            empty = empty_object(schema.root());
            compare(Some(&empty), Some(new), Some(schema.root()))
        }
    };
    if difference.is_empty() && unchanged_entries {
        if let (false, Some(Value::Object(metadata))) = (before.is_empty(), new.get_mut("metadata")) {
            metadata.insert("managedFields".into(), Value::Array(before.to_vec()));
        }
        return;
    }
    take_over(&mut entries, difference, writer, &mut Elsewhere::new(live, new, writer));
    managed::cap(&mut entries);
    managed::write(new, entries);
}

/// The entries to start from; `None` when there is nothing to track.
fn current_entries(before: &[Value], given: Vec<Value>, is_create: bool, writer: &Writer<'_>) -> Option<Vec<Entry>> {
    let of_live = || managed::read(before.to_vec()).unwrap_or_default();
    let entries = if !writer.subresource.is_empty() && given != before {
        of_live()
    } else if managed::is_reset(&given) {
        Vec::new()
    } else {
        managed::read(given).filter(|e| !e.is_empty()).unwrap_or_else(of_live)
    };
    (is_create || !entries.is_empty()).then_some(entries)
}

/// Compares everything but `managedFields`, which changes with every write and belongs to nobody.
fn difference_without_managed(live: &Value, new: &Value, schema: &Schema) -> Difference {
    let mut difference = compare(Some(live), Some(new), Some(schema.root()));
    for set in [&mut difference.added, &mut difference.modified, &mut difference.removed] {
        if let Some(metadata) = set.children.get_mut("f:metadata") {
            metadata.prune("f:managedFields");
            if metadata.is_empty() {
                set.prune("f:metadata");
            }
        }
    }
    difference
}

/// Gives the changed fields to the writer and takes them, and the removed ones, from everybody else.
fn take_over(entries: &mut Vec<Entry>, difference: Difference, writer: &Writer<'_>, elsewhere: &mut Elsewhere<'_>) {
    let own = Changed::of(difference, writer);
    let mut mine = writer.entry(Operation::Update, Set::default());
    if !entries.is_empty() {
        take_away(entries, &own, &mine, elsewhere);
    }
    let mut changed = own.set;
    strip_meta(&mut changed);
    if changed.is_empty() {
        return;
    }
    match entries.iter_mut().find(|e| e.is_same_manager(&mine)) {
        Some(entry) => {
            entry.fields.unite(&changed);
            entry.time = mine.time;
        }
        None => {
            mine.fields = Fields::Set(changed);
            entries.push(mine);
        }
    }
}

fn take_away(entries: &mut Vec<Entry>, own: &Changed, mine: &Entry, elsewhere: &mut Elsewhere<'_>) {
    let mut changed = own.set.clone();
    strip_meta(&mut changed);
    let mut nobodys = own.set.clone();
    nobodys.subtract(&changed);
    for entry in entries.iter_mut() {
        // What the writer changes again and owns already stays where it is.
        let keeps = entry.is_same_manager(mine) && entry.fields.hold(&changed);
        match elsewhere.of(entry, own) {
            Some(change) => {
                entry.fields.subtract(if keeps { &nobodys } else { &change.set });
                entry.fields.subtract(&change.removed);
            }
            None => entry.fields = Fields::default(),
        }
    }
    entries.retain(|e| !e.fields.is_empty());
}

/// Applies a configuration (an apply patch) to the live object, `None` when there is none yet. The result carries its managed fields; the caller reads it
/// by the schema, defaults and validates it, and stores it when it differs from `live`.
///
/// # Errors
/// 400 when the configuration has managed fields or another version, 409 with one cause per field that another manager owns (unless `force`),
/// 500 in Kubernetes' words when the configuration does not fit the schema.
pub fn apply(live: Option<&Value>, patch: Value, schema: &Schema, force: bool, writer: &Writer<'_>) -> Result<Value, Status> {
    check_configuration(&patch, schema, writer)?;
    let empty = Value::Object(Map::new());
    let base = live.unwrap_or(&empty);
    let entries = entries_before_apply(live, schema, writer);
    match apply_once(base, &patch, schema, force, writer, entries.clone()) {
        Err(conflicts) => match allowed_by_last_applied(base, &patch, schema, writer, &conflicts) {
            Some(left) if left.is_empty() => apply_once(base, &patch, schema, true, writer, entries)
                .map(|o| refresh_last_applied(o, &patch, writer))
                .map_err(|c| conflict::refusal(&c)),
            Some(left) => Err(conflict::refusal(&left)),
            None => Err(conflict::refusal(&conflicts)),
        },
        Ok(object) => Ok(refresh_last_applied(object, &patch, writer)),
    }
}

/// Lays a configuration over an object without owners and conflicts, as a MutatingAdmissionPolicy does. Lists, maps and
/// structs that are one whole by their schema cannot be changed in this way.
///
/// # Errors
/// In Kubernetes' words, when the configuration does not fit the schema or touches something atomic.
pub fn overlay(live: &Value, configuration: &Value, schema: &Schema) -> Result<Value, String> {
    let mut errors = Vec::new();
    merge::check(configuration, Some(schema.root()), &mut String::new(), &mut errors);
    merge::check_granular(configuration, Some(schema.root()), &mut String::new(), &mut errors);
    match errors.as_slice() {
        [] => merge::merge(Some(live), Some(configuration), Some(schema.root())).ok_or_else(|| "nothing is left of the object".to_owned()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter().try_fold(value, |v, key| v.get(*key)).and_then(Value::as_str).unwrap_or_default()
}

fn check_configuration(patch: &Value, schema: &Schema, writer: &Writer<'_>) -> Result<(), Status> {
    if !managed::raw(patch).is_empty() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let (version, kind) = (text(patch, &["apiVersion"]), text(patch, &["kind"]));
    if version != writer.api_version {
        let expected = writer.api_version;
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {expected}"
        )));
    }
    let mut errors = Vec::new();
    merge::check(patch, Some(schema.root()), &mut String::new(), &mut errors);
    let list = match errors.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let (namespace, name) = (text(patch, &["metadata", "namespace"]), text(patch, &["metadata", "name"]));
    let object = format!("{namespace}/{name}; {version}, Kind={kind}");
    Err(Status::failure(500, Reason::InternalError, format!("failed to create typed patch object ({object}): {list}")))
}

/// The managers of the live object. One without any, that apply now meets for the first time, is given to `before-first-apply`.
fn entries_before_apply(live: Option<&Value>, schema: &Schema, writer: &Writer<'_>) -> Vec<Entry> {
    let Some(live) = live else { return Vec::new() };
    let entries = managed::read(managed::raw(live).to_vec()).unwrap_or_default();
    if !entries.is_empty() {
        return entries;
    }
    let mut entries = Vec::new();
    let before = compare(Some(&empty_object(schema.root())), Some(live), Some(schema.root()));
    let first = Writer { manager: BEFORE_FIRST_APPLY, ..*writer };
    take_over(&mut entries, before, &first, &mut Elsewhere::new(None, live, &first));
    entries
}

fn apply_once(
    live: &Value,
    patch: &Value,
    schema: &Schema,
    force: bool,
    writer: &Writer<'_>,
    mut entries: Vec<Entry>,
) -> Result<Value, Vec<Conflict>> {
    let root = Some(schema.root());
    let merged = merge::merge(Some(live), Some(patch), root).unwrap_or_default();
    let mut set = merge::field_set(patch, root);
    writer.reset(&mut set);
    let mut mine = writer.entry(Operation::Apply, set);
    let last = entries.iter().position(|e| e.is_same_manager(&mine)).map(|at| entries.swap_remove(at));
    let mut object = match &last {
        Some(last) => match writer.versions.filter(|_| entries.iter().chain([last]).any(|e| e.api_version != writer.api_version)) {
            Some(versions) => versions::drop_abandoned(&merged, last, &mine, &entries, versions).unwrap_or(merged),
            None => drop_abandoned(merged, last, &mine, &entries, root),
        },
        None => merged,
    };
    managed::take(&mut object);
    let own = Changed::of(difference_without_managed(live, &object, schema), writer);
    let mut elsewhere = Elsewhere::new(Some(live), &object, writer);
    let mut conflicts = Vec::new();
    for entry in &mut entries {
        let Some(change) = elsewhere.of(entry, &own) else {
            entry.fields = Fields::default();
            continue;
        };
        let taken = entry.fields.intersection(&change.set);
        if !taken.is_empty() {
            let (manager, paths) = (entry.shown(), taken.paths());
            entry.fields.subtract(&taken);
            conflicts.extend(paths.into_iter().map(|path| Conflict { manager: manager.clone(), path }));
        }
        entry.fields.subtract(&change.removed);
    }
    if !force && !conflicts.is_empty() {
        return Err(conflicts);
    }
    strip_meta(mine.fields.make_set());
    if let Some(last) = last {
        // An apply that changes nothing leaves no trace.
        if own.set.is_empty() && own.removed.is_empty() && last.fields.set() == mine.fields.set() && last.api_version == mine.api_version {
            mine.time = last.time;
        }
    }
    entries.push(mine);
    managed::write(&mut object, entries);
    Ok(object)
}

/// Takes away what the manager applied before and no longer names, unless somebody else owns it.
fn drop_abandoned(merged: Value, last: &Entry, mine: &Entry, others: &[Entry], ty: shape::Type<'_>) -> Value {
    let abandoned = merge::ensure_named(&last.fields.set());
    let Some(pruned) = merge::without(&merged, &abandoned, ty) else { return merged };
    let mut owned = mine.fields.set().into_owned();
    for entry in others {
        owned.unite(&entry.fields.set());
    }
    // Add back what somebody owns ...
    let mut gone = merge::ensure_named(&merge::field_set(&merged, ty));
    let mut kept = merge::ensure_named(&merge::field_set(&pruned, ty));
    kept.unite(&merge::ensure_named(&owned));
    gone.subtract(&kept);
    let pruned = merge::without(&merged, &gone, ty).unwrap_or_default();
    // ... and what hung below something removed without having been applied.
    let mut gone = merge::ensure_named(&merge::field_set(&merged, ty));
    gone.subtract(&merge::ensure_named(&merge::field_set(&pruned, ty)));
    merge::without(&merged, &gone.intersection(&abandoned), ty).unwrap_or_default()
}

/// For `kubectl`, moving from client-side apply: conflicts over what its own last-applied annotation names are none.
/// `None` when that does not apply; else the conflicts that are left.
fn allowed_by_last_applied(
    live: &Value,
    patch: &Value,
    schema: &Schema,
    writer: &Writer<'_>,
    conflicts: &[Conflict],
) -> Option<Vec<Conflict>> {
    if writer.manager != "kubectl" || patch.is_null() {
        return None;
    }
    let annotation = text(live, &["metadata", "annotations", LAST_APPLIED]);
    let config: Value = serde_json::from_str(annotation).ok()?;
    let allowed = merge::field_set(&config, Some(schema.root()));
    let allowed_paths = allowed.paths();
    Some(conflicts.iter().filter(|c| !allowed_paths.contains(&c.path)).cloned().collect())
}

/// Keeps the annotation of client-side apply true as long as the object carries it and `kubectl` applies.
fn refresh_last_applied(mut object: Value, patch: &Value, writer: &Writer<'_>) -> Value {
    if writer.manager != "kubectl" || text(&object, &["metadata", "annotations", LAST_APPLIED]).is_empty() {
        return object;
    }
    let mut config = patch.clone();
    if let Some(Value::Object(annotations)) = config.pointer_mut("/metadata/annotations") {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{config}\n");
    if let Some(slot) = object.get_mut("metadata").and_then(|m| m.get_mut("annotations")).and_then(|a| a.get_mut(LAST_APPLIED)) {
        *slot = Value::from(text);
    }
    object
}
