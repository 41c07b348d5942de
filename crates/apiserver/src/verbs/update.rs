//! update: PUT, and the transaction that every change of an existing object goes through.

use super::Answer;
use super::options::Freshness;
use crate::admission::Operation;
use crate::cache::KindCache;
use crate::output::present;
use crate::pipeline::Request;
use crate::special::{devices, services, views};
use crate::write::admit::Act;
use crate::write::commit::Lost;
use crate::write::{View, WriteOptions, managed, prepare, rules};
use ferrokube_api::field::{Errors, Path};
use ferrokube_api::{Object, Reason, Status};
use ferrokube_store::Expect;
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;

/// How often a write that lost a race is made again.
const TRIES: usize = 64;

/// Makes the new object from the stored one (in the row's version, `resourceVersion` included).
pub type Make<'m> = dyn Fn(&Value) -> Result<Value, Status> + Sync + 'm;

/// One change of one object.
pub struct Change<'c> {
    /// The door.
    pub view: View,
    /// Options of the write.
    pub options: &'c WriteOptions,
    /// From old to new.
    pub make: &'c Make<'c>,
    /// Managed fields are set by `make` (apply).
    pub applied: bool,
}

enum Turn {
    Done(Arc<Object>),
    Again(Option<u64>),
}

/// Whether two objects are the same but for `resourceVersion` and the times of managed fields.
fn same(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    let rest = |m: &serde_json::Map<String, Value>| m.len();
    if rest(new) != rest(old) || new.iter().any(|(k, v)| k != "metadata" && old.get(k) != Some(v)) {
        return false;
    }
    let (Some(Value::Object(new)), Some(Value::Object(old))) = (new.get("metadata"), old.get("metadata")) else { return false };
    let counted = |m: &serde_json::Map<String, Value>| m.keys().filter(|k| *k != "resourceVersion" && *k != "managedFields").count();
    let alike = |(k, v): (&String, &Value)| k == "resourceVersion" || k == "managedFields" || old.get(k) == Some(v);
    counted(new) == counted(old) && new.iter().all(alike) && same_managers(new.get("managedFields"), old.get("managedFields"))
}

fn same_managers(new: Option<&Value>, old: Option<&Value>) -> bool {
    fn list(managers: Option<&Value>) -> &[Value] {
        managers.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }
    fn timeless(entry: &Value) -> impl Iterator<Item = (&String, &Value)> {
        entry.as_object().into_iter().flatten().filter(|(key, _)| *key != "time")
    }
    let (new, old) = (list(new), list(old));
    new.len() == old.len() && new.iter().zip(old).all(|(new, old)| timeless(new).eq(timeless(old)))
}

/// Whether the last obstacle to a deletion is gone.
fn may_go(entry: &crate::registry::Entry, object: &Value) -> bool {
    let meta = &object["metadata"];
    let empty = |v: &Value| v.as_array().is_none_or(Vec::is_empty);
    meta.get("deletionTimestamp").is_some()
        && empty(&meta["finalizers"])
        && meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && (!entry.is("", "namespaces") || empty(&object["spec"]["finalizers"]))
}

impl Request<'_> {
    /// PUT of an object or of a view of it.
    pub async fn update(&self) -> Result<Answer, Status> {
        let view = View::of(&self.info.subresource).ok_or_else(Status::method_not_allowed)?;
        let options = WriteOptions::parse(&self.query, &self.headers, "UpdateOptions", false)?;
        let body = match view {
            View::Scale => self.decode_scale(options.strictness).await?,
            _ => self.decode_own(options.strictness).await?,
        };
        self.check_names(&body)?;
        let cache = self.cache()?;
        let wanted = prepare::text(&body, "uid").to_owned();
        if view == View::Main && rules::create_on_update(&self.entry) && self.is_absent().await? {
            self.must_be(&cache, "UID", &wanted, "")?;
            if prepare::text(&body, "resourceVersion").is_empty() {
                return Ok(Answer::One(201, self.insert(body, &options, false).await?));
            }
            return Err(self.not_found());
        }
        let based_on_revision = !matches!(prepare::text(&body, "resourceVersion"), "" | "0");
        let body = Mutex::new(Some(body));
        let make = |old: &Value| {
            self.must_be(&cache, "UID", &wanted, prepare::text(old, "uid"))?;
            let mut kept = body.lock();
            // A body that names the revision it was made from is good for one try: when somebody has written since, it is stale.
            let body = if based_on_revision { kept.take() } else { kept.clone() };
            let body = body.ok_or_else(|| Status::stale(&self.info.group, &self.info.resource, &self.info.name))?;
            views::replace(&self.entry, view, old, body)
        };
        let change = Change { view, options: &options, make: &make, applied: false };
        let stored = self.transact(&change).await?;
        self.shown(view, stored)
    }

    /// The answer to a write through a view.
    pub fn shown(&self, view: View, stored: Arc<Object>) -> Result<Answer, Status> {
        match view {
            View::Scale => Ok(Answer::Value(200, views::scale_of(&self.entry, &present::value(&self.entry, &stored)?)?)),
            _ => Ok(Answer::One(200, stored)),
        }
    }

    async fn is_absent(&self) -> Result<bool, Status> {
        self.fresh(Freshness::Latest).await?;
        Ok(self.cache()?.get(self.namespace(), &self.info.name).is_none())
    }

    /// Name and namespace of the body must be those of the path.
    pub fn check_names(&self, body: &Value) -> Result<(), Status> {
        let (name, namespace) = (prepare::text(body, "name"), prepare::text(body, "namespace"));
        if name.is_empty() {
            return Err(Status::bad_request("name must be provided"));
        }
        if name != self.info.name {
            let text = format!("the name of the object ({name}) does not match the name on the URL ({})", self.info.name);
            return Err(Status::bad_request(text));
        }
        if !namespace.is_empty() && namespace != self.namespace() {
            return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
        }
        Ok(())
    }

    /// Makes and stores a change, again and again while others write in between.
    pub async fn transact(&self, change: &Change<'_>) -> Result<Arc<Object>, Status> {
        let cache = self.cache()?;
        self.fresh(Freshness::Latest).await?;
        for _ in 0..TRIES {
            let stored = cache.get(self.namespace(), &self.info.name).ok_or_else(|| self.not_found())?;
            match self.attempt(&cache, &stored, change).await? {
                Turn::Done(object) => return Ok(object),
                Turn::Again(Some(revision)) => _ = self.server.caches.reach(revision).await,
                Turn::Again(None) => _ = self.fresh(Freshness::Latest).await?,
            }
        }
        Err(Status::stale(&self.info.group, &self.info.resource, &self.info.name))
    }

    async fn attempt(&self, cache: &KindCache, stored: &Arc<Object>, change: &Change<'_>) -> Result<Turn, Status> {
        let (view, options) = (change.view, change.options);
        let stored = &self.server.converted_one(&self.entry, stored.clone()).await?;
        let old = present::value(&self.entry, stored)?;
        let mut new = (change.make)(&old)?;
        self.preconditions(&new, stored)?;
        prepare::update(&self.entry, &mut new, &old, view);
        // Validation wants to see that there is one; it is never stored.
        prepare::meta(&mut new).insert("resourceVersion".into(), Value::from(stored.revision.to_string()));
        if self.entry.kind.namespaced() {
            prepare::meta(&mut new).insert("namespace".into(), Value::from(self.namespace()));
        }
        self.default_object(&mut new);
        let name = &self.info.name;
        let act = Act { operation: Operation::Update, name, old: Some(&old), options: &options.value, dry_run: options.dry_run };
        let kind = if view == View::Scale { ("autoscaling", "Scale") } else { self.own_kind() };
        // Admission of a scale sees the Scale, not the object behind it.
        let scaled = if view == View::Scale { Some(views::scale_of(&self.entry, &new)?) } else { None };
        match scaled.clone() {
            Some(mut scale) => self.mutate(act, kind, &mut scale).await?,
            None => self.mutate(act, kind, &mut new).await?,
        }
        let allocated = if view == View::Main {
            services::begin(self, &mut new, Some(&old), options.dry_run).await?
        } else {
            services::Allocated::nothing()
        };
        self.prepare_hooks(&mut new, &old, view);
        // Admission may have left something to default; owners are found in the object as it will be stored.
        self.default_object(&mut new);
        prepare::count_generation(&self.entry, &mut new, &old, view);
        if !change.applied {
            managed::updated(self, &mut new, &old, options, view);
        }
        self.validate_change(&new, &old, view)?;
        self.check_escalation(&new, Some(&old)).await?;
        devices::check_status(self, &new, &old).await?;
        let reservation = self.admit(act, kind, Some(scaled.as_ref().unwrap_or(&new))).await?;
        self.warn_about_change(&new, &old, view);

        if options.dry_run {
            return Ok(Turn::Done(self.unstored(&new, stored.revision)?));
        }
        if may_go(&self.entry, &new) {
            return match self.remove(cache, name, stored.revision).await {
                Ok(gone) => {
                    services::gone(self, &old).await;
                    Ok(Turn::Done(self.unstored(&new, gone.revision)?))
                }
                Err(Lost::Race(actual)) => Ok(Turn::Again(actual)),
                Err(Lost::Refused(status)) => Err(status),
            };
        }
        if same(&new, &old) && !self.is_stale_at_rest(cache, name).await? {
            return Ok(Turn::Done(present::object(&self.entry, stored)?));
        }
        match self.put(cache, &new, Expect::Revision(stored.revision)).await {
            Ok(object) => {
                reservation.commit(object.revision);
                allocated.commit().await;
                Ok(Turn::Done(object))
            }
            Err(Lost::Race(actual)) => Ok(Turn::Again(actual)),
            Err(Lost::Refused(status)) => Err(status),
        }
    }

    fn prepare_hooks(&self, new: &mut Value, old: &Value, view: View) {
        let hooks = &self.entry.kind.hooks;
        let hook = match view {
            View::Status => hooks.prepare_status,
            View::Main | View::Scale => hooks.prepare_update,
            _ => hooks.view(view.subresource()).map(|v| v.prepare),
        };
        if let Some(hook) = hook {
            hook(new, old, &self.hook_context());
        }
    }

    /// What a write says the stored object is, if it says so. In the words of upstream's store, key included.
    pub fn must_be(&self, cache: &KindCache, what: &str, wanted: &str, actual: &str) -> Result<(), Status> {
        if wanted.is_empty() || wanted == actual {
            return Ok(());
        }
        let name = &self.info.name;
        let key = cache.row().storage_key(self.namespace(), name).unwrap_or_default();
        let failed = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {actual}");
        let why = format!("StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {failed}");
        Err(Status::conflict(&self.info.group, &self.info.resource, name, &why))
    }

    /// The `resourceVersion` of the new object must fit what is stored. That its UID does is a rule of validation, as for every change that is
    /// not a PUT.
    fn preconditions(&self, new: &Value, stored: &Object) -> Result<(), Status> {
        let (group, resource, name) = (&self.info.group, &self.info.resource, &self.info.name);
        match prepare::text(new, "resourceVersion") {
            "" | "0" if rules::unconditional_update(&self.entry) => Ok(()),
            "" | "0" => {
                let mut errors = Errors::default();
                let path = Path::new("metadata").child("resourceVersion");
                errors.invalid(&path, &serde_json::json!(0), "must be specified for an update");
                self.verdict(name, errors)
            }
            version => match version.parse::<u64>() {
                Ok(version) if version == stored.revision => Ok(()),
                Ok(_) => Err(Status::stale(group, resource, name)),
                Err(_) => Err(Status::failure(400, Reason::BadRequest, format!("invalid resource version {version:?}"))),
            },
        }
    }
}
