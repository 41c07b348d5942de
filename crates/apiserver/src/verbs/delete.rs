//! delete and deletecollection: preconditions, grace, finalizers, and the removal itself. Source of the rules:
//! `rest.BeforeDelete` and the generic registry's `Delete`.

use super::Answer;
use super::list::{page_of, store_failure};
use super::options::{Freshness, ListOptions};
use crate::admission::Operation;
use crate::cache::{KindCache, Range};
use crate::crd;
use crate::output::list::Many;
use crate::output::present;
use crate::pipeline::Request;
use crate::request::Query;
use crate::request::content::Content;
use crate::special::{namespaces, services};
use crate::write::admit::Act;
use crate::write::commit::Lost;
use crate::write::options::dry_run;
use crate::write::{prepare, rules};
use bytes::Bytes;
use ferrokube_api::decode::{self, ContentType, Strictness};
use ferrokube_api::field::{Errors, Path};
use ferrokube_api::schema::Schema;
use ferrokube_api::status::Details;
use ferrokube_api::{Object, Status, time};
use ferrokube_store::Expect;
use futures_util::future::{BoxFuture, join_all};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

const OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// Where the options are registered, as an error about others says.
const SCHEME: &str = "pkg/apis/meta/internalversion/scheme/register.go:27";
/// The version of what says none.
const VERSION: &str = "meta.k8s.io/v1";
/// Kinds that are registered beside the options, in whatever version.
const UNVERSIONED: [&str; 7] = ["CreateOptions", "UpdateOptions", "Status", "APIVersions", "APIGroupList", "APIGroup", "APIResourceList"];
/// Kinds that are registered beside the options in [`VERSION`].
const VERSIONED: [&str; 8] = [
    "GetOptions",
    "ListOptions",
    "PatchOptions",
    "PartialObjectMetadata",
    "PartialObjectMetadataList",
    "Table",
    "TableOptions",
    "WatchEvent",
];
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const TRIES: usize = 64;

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    grace_period_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    orphan_dependents: Option<bool>,
    propagation_policy: Option<String>,
    dry_run: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl DeleteOptions {
    fn from_query(query: &Query) -> Result<Self, Status> {
        let flag = |name: &str| query.find(name).map(|_| query.flag(name));
        Ok(DeleteOptions {
            grace_period_seconds: query.number("gracePeriodSeconds")?,
            preconditions: None,
            orphan_dependents: flag("orphanDependents"),
            propagation_policy: query.find("propagationPolicy").map(str::to_owned),
            dry_run: Some(query.all("dryRun").map(str::to_owned).collect()),
        })
    }

    fn check(&self) -> Result<(), Status> {
        let mut errors = Errors::default();
        if self.orphan_dependents.is_some() && self.propagation_policy.is_some() {
            let shown = self.propagation_policy.clone().unwrap_or_default();
            errors.invalid(&Path::new("propagationPolicy"), &shown.into(), "orphanDependents and deletionPropagation cannot be both set");
        }
        if let Some(policy) = &self.propagation_policy
            && !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan")
        {
            errors.not_supported(&Path::new("propagationPolicy"), &policy.as_str().into(), &["Foreground", "Background", "Orphan", "nil"]);
        }
        dry_run(&self.dry_run.iter().flatten().map(String::as_str).collect::<Vec<_>>(), &mut errors);
        if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", errors.into_causes())) }
    }

    /// Whether the client named the version to delete.
    pub fn names_version(&self) -> bool {
        self.preconditions.as_ref().is_some_and(|p| p.resource_version.is_some())
    }

    /// The same, for the object at this revision only.
    pub fn at_revision(&self, revision: u64) -> Self {
        let mut options = self.clone();
        options.preconditions.get_or_insert_default().resource_version = Some(revision.to_string());
        options
    }

    /// `dryRun=All`.
    pub fn is_dry(&self) -> bool {
        self.dry_run.iter().flatten().any(|v| v == "All")
    }

    fn value(&self) -> Value {
        let mut value = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(seconds) = self.grace_period_seconds {
            value["gracePeriodSeconds"] = json!(seconds);
        }
        if let Some(policy) = &self.propagation_policy {
            value["propagationPolicy"] = json!(policy);
        }
        if self.is_dry() {
            value["dryRun"] = json!(["All"]);
        }
        value
    }

    /// The finalizers after this request (`deletionFinalizersForGarbageCollection`).
    fn finalizers(&self, had: &[String]) -> Vec<String> {
        let has = |name: &str| had.iter().any(|f| f == name);
        let (orphan, foreground) = match (self.orphan_dependents, self.propagation_policy.as_deref()) {
            (Some(orphan), _) => (orphan, false),
            (None, Some("Orphan")) => (true, false),
            (None, Some("Foreground")) => (false, true),
            (None, Some(_)) => (false, false),
            (None, None) => (has(ORPHAN), has(FOREGROUND)),
        };
        let mut out: Vec<String> = had.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
        out.extend(orphan.then(|| ORPHAN.to_owned()));
        out.extend(foreground.then(|| FOREGROUND.to_owned()));
        out
    }
}

/// Whether options call themselves what they are. Their group and version may be any.
fn of_kind(value: &Value) -> Result<(), Status> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (kind, version) = (text("kind").unwrap_or("DeleteOptions"), text("apiVersion").unwrap_or(VERSION));
    if kind == "DeleteOptions" {
        return Ok(());
    }
    Err(Status::bad_request(if UNVERSIONED.contains(&kind) || version == VERSION && VERSIONED.contains(&kind) {
        format!("converting (v1.{kind}) to (v1.DeleteOptions): unknown conversion")
    } else {
        format!("no kind {kind:?} is registered for version {version:?} in scheme {SCHEME:?}")
    }))
}

/// What to do with an object that shall go.
enum Plan {
    /// Take it out now.
    Remove,
    /// Mark it and wait for its finalizers or its grace.
    Mark(Value),
    /// It is marked already.
    Wait,
}

fn finalizers_of(object: &Value) -> Vec<String> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A deletion under way: the grace may only become shorter.
fn shorten(object: &Value, options: &DeleteOptions) -> Option<Plan> {
    let meta = &object["metadata"];
    let since = meta["deletionTimestamp"].as_str()?;
    let had = meta["deletionGracePeriodSeconds"].as_i64()?;
    match options.grace_period_seconds {
        Some(seconds) if seconds < had => {
            let until = time::parse_time(since)?.as_second() - had + seconds;
            let until = jiff::Timestamp::from_second(until).ok()?;
            let mut marked = object.clone();
            let meta = prepare::meta(&mut marked);
            meta.insert("deletionTimestamp".into(), time::format_time(until).into());
            meta.insert("deletionGracePeriodSeconds".into(), seconds.max(0).into());
            Some(Plan::Mark(marked))
        }
        // With finalizers and no grace left there is nothing to do either.
        _ if had > 0 => Some(Plan::Wait),
        _ => None,
    }
}

impl Request<'_> {
    /// The options of a DELETE: in the body, else in the query.
    async fn delete_options(&self) -> Result<DeleteOptions, Status> {
        let body = self.take_body().await?;
        let options = if body.is_empty() {
            DeleteOptions::from_query(&self.query)?
        } else {
            let mut options = self.options_of(&body)?;
            let query = DeleteOptions::from_query(&self.query)?;
            if query.is_dry() {
                options.dry_run = query.dry_run;
            }
            options
        };
        options.check()?;
        Ok(options)
    }

    /// The options, whatever they came in. What cannot be read is the client's mistake, in the words of the decoder.
    fn options_of(&self, body: &Bytes) -> Result<DeleteOptions, Status> {
        let schema = Schema::builtin(OPTIONS).ok_or_else(|| Status::internal("no type for DeleteOptions"))?;
        let instead = |before: &str, now: &str| {
            let (before, now) = (before.to_owned(), now.to_owned());
            move |status: Status| Status::bad_request(format!("{now}{}", status.message.trim_start_matches(&before)))
        };
        let value = match Content::of(&self.headers)? {
            Content::Json => {
                let unread = instead("error decoding patch: ", "couldn't get version/kind; json parse error: ");
                decode::parse(body, ContentType::Json).map_err(unread)?.0
            }
            Content::Yaml => {
                let unread = instead("error decoding YAML: ", "error converting YAML to JSON: ");
                decode::parse(body, ContentType::Yaml).map_err(unread)?.0
            }
            Content::Protobuf => ferrokube_api::protobuf::read(body, &schema).map_err(|e| Status::bad_request(e.to_string()))?,
        };
        of_kind(&value)?;
        // Upstream does not say here what could not be handled.
        let bare = |status: Status| {
            let why = status.message.split_once(" cannot be handled as a DeleteOptions: ").map_or(&*status.message, |(_, why)| why);
            Status::bad_request(why)
        };
        let typed = decode::normalize(value, &schema, Strictness::Ignore).map_err(bare)?.value;
        serde_json::from_value(typed).map_err(|e| Status::bad_request(e.to_string()))
    }

    /// DELETE of one object.
    pub async fn delete(&self) -> Result<Answer, Status> {
        let options = self.delete_options().await?;
        self.fresh(Freshness::Latest).await?;
        let (object, gone) = self.delete_one(&self.info.name, &options).await?;
        if gone && !rules::returns_deleted(&self.entry) {
            let kind = &self.entry.kind;
            let details = Details {
                name: self.info.name.clone(),
                group: kind.group.to_string(),
                kind: kind.resource.to_string(),
                uid: object.uid.to_string(),
                ..Details::default()
            };
            let status: Value = serde_json::from_slice(&Status::success(Some(details)).to_json()).map_err(Status::internal)?;
            return Ok(Answer::Value(200, without_code(status)));
        }
        let code = if !gone && options.orphan_dependents == Some(false) { 202 } else { 200 };
        Ok(Answer::One(code, object))
    }

    /// DELETE of a collection, or with `limit` and `continue` of a page of it.
    pub async fn delete_collection(&self) -> Result<Answer, Status> {
        let listing = ListOptions::parse(&self.query, &self.entry, &self.info)?;
        let options = self.delete_options().await?;
        let applied = self.fresh(Freshness::Latest).await?;
        let after = listing.position.as_ref().map(|p| (p.namespace.as_str(), p.name.as_str()));
        let range = Range { namespace: self.namespace(), after, limit: listing.cached_limit() };
        let mut snapshot = self.cache()?.snapshot(range, applied, |o: &Object| listing.selection.matches(o));
        if !listing.selection.shown.is_everything() {
            snapshot.objects = self.server.converted(&self.entry, snapshot.objects).await?;
            self.narrow(&mut snapshot, &listing);
        }
        let (page, found) = (page_of(&snapshot, &listing), std::mem::take(&mut snapshot.objects));
        // The store groups what is written at the same time.
        let mut objects = Vec::with_capacity(found.len());
        for some in found.chunks(64) {
            let mut each: Vec<BoxFuture<'_, _>> = Vec::with_capacity(some.len());
            for object in some {
                each.push(Box::pin(self.delete_listed(object, &options)));
            }
            for deleted in join_all(each).await {
                objects.extend(deleted?);
            }
        }
        Ok(Answer::Many(Many { objects, ..page }))
    }

    async fn delete_listed(&self, object: &Arc<Object>, options: &DeleteOptions) -> Result<Option<Arc<Object>>, Status> {
        let own;
        let request = if self.namespace() == &*object.key.namespace {
            self
        } else {
            own = self.within(&object.key.namespace);
            &own
        };
        match request.delete_one(&object.key.name, options).await {
            Ok((object, _)) => Ok(Some(object)),
            Err(status) if status.code == 404 => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Deletes or marks; the answer is the object and whether it is gone.
    pub async fn delete_one(&self, name: &str, options: &DeleteOptions) -> Result<(Arc<Object>, bool), Status> {
        let cache = self.cache()?;
        let options_value = options.value();
        for _ in 0..TRIES {
            let Some(stored) = cache.get(self.namespace(), name) else {
                return Err(Status::not_found(&self.info.group, &self.info.resource, name));
            };
            self.fits(name, options, &stored)?;
            let stored = self.server.converted_one(&self.entry, stored).await?;
            let old = present::value(&self.entry, &stored)?;
            let act = Act { operation: Operation::Delete, name, old: Some(&old), options: &options_value, dry_run: options.is_dry() };
            self.admit(act, self.own_kind(), None).await?;
            let done = self.carry_out(&cache, name, &stored, &old, options).await;
            match done {
                Ok(done) => return Ok(done),
                Err(Lost::Refused(status)) => return Err(status),
                Err(Lost::Race(Some(actual))) => _ = self.server.caches.reach(actual).await,
                Err(Lost::Race(None)) => _ = self.server.caches.consistent().await.map_err(|e| store_failure(&e))?,
            }
        }
        Err(Status::stale(&self.info.group, &self.info.resource, name))
    }

    async fn carry_out(
        &self,
        cache: &KindCache,
        name: &str,
        stored: &Arc<Object>,
        old: &Value,
        options: &DeleteOptions,
    ) -> Result<(Arc<Object>, bool), Lost> {
        let shown = |object: &Value, revision: u64| self.unstored(object, revision);
        match self.plan(old, options) {
            Plan::Wait => Ok((present::object(&self.entry, stored)?, false)),
            Plan::Mark(marked) if options.is_dry() => Ok((shown(&marked, stored.revision)?, false)),
            Plan::Mark(marked) => Ok((self.put(cache, &marked, Expect::Revision(stored.revision)).await?, false)),
            Plan::Remove if options.is_dry() => Ok((present::object(&self.entry, stored)?, true)),
            Plan::Remove => {
                let gone = self.remove(cache, name, stored.revision).await?;
                services::gone(self, old).await;
                let mut last = old.clone();
                present::take_version(&mut last);
                Ok((shown(&last, gone.revision)?, true))
            }
        }
    }

    fn fits(&self, name: &str, options: &DeleteOptions, stored: &Object) -> Result<(), Status> {
        let Some(wanted) = &options.preconditions else { return Ok(()) };
        // Upstream names the kind here, not the resource.
        let refuse = |what: &str, wanted: &str, actual: &str, since: &str| {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({actual}). The object might have been {since}"
            );
            Err(Status::conflict(&self.info.group, &self.entry.kind.kind, name, &why))
        };
        if let Some(uid) = wanted.uid.as_deref().filter(|uid| **uid != *stored.uid) {
            return refuse("UID", uid, &stored.uid, "deleted and then recreated");
        }
        let actual = stored.revision.to_string();
        if let Some(version) = wanted.resource_version.as_deref().filter(|v| *v != actual) {
            return refuse("ResourceVersion", version, &actual, "modified");
        }
        Ok(())
    }

    fn plan(&self, old: &Value, options: &DeleteOptions) -> Plan {
        if self.entry.is("", "namespaces")
            && let Some(marked) = namespaces::mark(old, self.now)
        {
            return marked.map_or(Plan::Wait, |m| self.mark(m, options, 0));
        }
        if let Some(plan) = shorten(old, options) {
            return match plan {
                Plan::Mark(mut marked) => {
                    present::take_version(&mut marked);
                    let zero = marked["metadata"]["deletionGracePeriodSeconds"] == 0;
                    if zero && finalizers_of(&marked).is_empty() { Plan::Remove } else { Plan::Mark(marked) }
                }
                other => other,
            };
        }
        let mut seconds = self.entry.kind.hooks.grace.map_or(0, |grace| grace(old));
        // A kind whose grace is 0 now (a pod that never ran) goes at once whatever was asked.
        if let (Some(asked), true) = (options.grace_period_seconds, seconds > 0) {
            seconds = if asked < 0 { 1 } else { asked };
        }
        let held;
        let old = if self.entry.is(crd::GROUP, crd::RESOURCE) && old["metadata"].get("deletionTimestamp").is_none() {
            held = crd::hold(old);
            &held
        } else {
            old
        };
        let had = finalizers_of(old);
        let finalizers = options.finalizers(&had);
        let marked_before = old["metadata"].get("deletionTimestamp").is_some();
        if finalizers.is_empty() && (seconds == 0 || marked_before) {
            return Plan::Remove;
        }
        if marked_before && finalizers == had {
            return Plan::Wait;
        }
        self.mark(old.clone(), options, seconds)
    }

    /// Sets deletion timestamp, grace and finalizers.
    fn mark(&self, mut object: Value, options: &DeleteOptions, seconds: i64) -> Plan {
        present::take_version(&mut object);
        let finalizers = options.finalizers(&finalizers_of(&object));
        let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
        let meta = prepare::meta(&mut object);
        if !meta.contains_key("deletionTimestamp") {
            let at = jiff::Timestamp::from_second(self.now.as_second().saturating_add(seconds)).unwrap_or(self.now);
            meta.insert("deletionTimestamp".into(), time::format_time(at).into());
            meta.insert("deletionGracePeriodSeconds".into(), seconds.into());
            if generation > 0 {
                meta.insert("generation".into(), (generation + 1).into());
            }
        }
        if finalizers.is_empty() {
            meta.remove("finalizers");
        } else {
            meta.insert("finalizers".into(), json!(finalizers));
        }
        Plan::Mark(object)
    }
}

/// A success carries no code on the wire.
fn without_code(mut status: Value) -> Value {
    status.as_object_mut().map(|m| m.remove("code"));
    status
}
