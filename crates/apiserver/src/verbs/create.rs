//! create: from the body of a POST to a stored object.

use super::Answer;
use crate::admission::Operation;
use crate::cache::KindCache;
use crate::pipeline::Request;
use crate::special::{devices, requestor, services, signing};
use crate::write::admit::Act;
use crate::write::commit::Lost;
use crate::write::{View, WriteOptions, managed, prepare};
use ferrokube_api::field::Errors;
use ferrokube_api::status::Details;
use ferrokube_api::{Object, Reason, Status};
use ferrokube_store::Expect;
use serde_json::Value;
use std::sync::Arc;

/// How often a generated name is tried (RetryGenerateName).
const GENERATE_TRIES: usize = 8;

impl Request<'_> {
    /// POST to a collection.
    pub async fn create(&self) -> Result<Answer, Status> {
        if self.entry.custom.as_ref().is_some_and(|c| c.terminating) {
            let text = "create not allowed while custom resource definition is terminating";
            let mut status = Status { message: text.into(), ..Status::method_not_allowed() };
            let kind = &self.entry.kind;
            status.details = Some(Details { group: kind.group.to_string(), kind: kind.resource.to_string(), ..Details::default() });
            return Err(status);
        }
        let options = WriteOptions::parse(&self.query, &self.headers, "CreateOptions", false)?;
        let object = self.decode_own(options.strictness).await?;
        Ok(Answer::One(201, self.insert(object, &options, false).await?))
    }

    /// Stores a decoded object that must not exist yet. `applied` says that managed fields are set already.
    pub async fn insert(&self, mut object: Value, options: &WriteOptions, applied: bool) -> Result<Arc<Object>, Status> {
        self.place(&mut object)?;
        if !prepare::text(&object, "resourceVersion").is_empty() && prepare::text(&object, "resourceVersion") != "0" {
            let mut status = Status::failure(500, Reason::InternalError, "resourceVersion should not be set on objects to be created");
            status.reason = None;
            return Err(status);
        }
        let generate = prepare::text(&object, "name").is_empty() && !prepare::text(&object, "generateName").is_empty();
        let prefix = prepare::text(&object, "generateName").to_owned();
        let tries = if generate { GENERATE_TRIES } else { 1 };
        for _ in 1..tries {
            let mut draft = object.clone();
            prepare::meta(&mut draft).insert("name".into(), prepare::generated(&prefix).into());
            match self.store_new(draft, options, applied).await {
                Err(status) if status.is(Reason::AlreadyExists) => {}
                other => return other,
            }
        }
        if generate {
            prepare::meta(&mut object).insert("name".into(), prepare::generated(&prefix).into());
        }
        self.store_new(object, options, applied).await
    }

    /// Namespace of the path and of the object must agree.
    fn place(&self, object: &mut Value) -> Result<(), Status> {
        if !self.entry.kind.namespaced() {
            return Ok(());
        }
        let namespace = prepare::text(object, "namespace");
        if !namespace.is_empty() && namespace != self.info.namespace {
            return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
        }
        prepare::meta(object).insert("namespace".into(), Value::from(self.info.namespace.as_str()));
        Ok(())
    }

    async fn store_new(&self, mut object: Value, options: &WriteOptions, applied: bool) -> Result<Arc<Object>, Status> {
        let cache = self.cache()?;
        let kind = self.own_kind();
        self.default_object(&mut object);
        let name = prepare::text(&object, "name").to_owned();
        let act = Act { operation: Operation::Create, name: &name, old: None, options: &options.value, dry_run: options.dry_run };
        self.mutate(act, kind, &mut object).await?;

        let allocated = services::begin(self, &mut object, None, options.dry_run).await?;
        match self.store_prepared(&cache, object, act, options, applied).await {
            Ok(stored) if options.dry_run => Ok(stored),
            Ok(stored) => {
                allocated.commit().await;
                Ok(stored)
            }
            Err(status) => {
                // Who tries again finds free what this write had claimed.
                allocated.give_back().await;
                Err(status)
            }
        }
    }

    /// From an admitted object to a stored one.
    async fn store_prepared(
        &self,
        cache: &KindCache,
        mut object: Value,
        act: Act<'_>,
        options: &WriteOptions,
        applied: bool,
    ) -> Result<Arc<Object>, Status> {
        let (kind, name) = (self.own_kind(), act.name);
        prepare::create(&self.entry, &mut object, self.now);
        if let Some(prepare) = self.entry.kind.hooks.prepare_create {
            prepare(&mut object, &self.hook_context());
        }
        requestor::stamp(self, &mut object);
        self.default_object(&mut object);
        if !applied {
            managed::created(self, &mut object, options, View::Main);
        }

        let mut errors = Errors::default();
        ferrokube_api::kinds::meta::validate(&self.entry.kind, &object, &mut errors);
        if let Some(check) = self.entry.kind.hooks.validate_create {
            check(&object, &mut errors);
        }
        devices::check_admin_access(self, &object, &mut errors);
        devices::check_selectors(&self.entry, &object, None, &mut errors);
        signing::check(&self.entry, &object, None, &mut errors);
        crate::crd::validate(&self.entry, &object, None, &self.server.metrics.times, &mut errors);
        crate::admission::policy::check(&self.entry, &object, None, &mut errors);
        self.verdict(name, errors)?;
        self.check_escalation(&object, None).await?;
        let reservation = self.admit(act, kind, Some(&object)).await?;
        self.warn_about(&object);

        if options.dry_run {
            return self.dry_create(cache, &object, name);
        }
        match self.put(cache, &object, Expect::Absent).await {
            Ok(stored) => {
                reservation.commit(stored.revision);
                Ok(stored)
            }
            Err(Lost::Race(_)) => Err(Status::already_exists(&self.info.group, &self.info.resource, name)),
            Err(Lost::Refused(status)) => Err(status),
        }
    }

    fn dry_create(&self, cache: &KindCache, object: &Value, name: &str) -> Result<Arc<Object>, Status> {
        if cache.get(self.namespace(), name).is_some() {
            return Err(Status::already_exists(&self.info.group, &self.info.resource, name));
        }
        self.unstored(object, 0)
    }

    /// Warnings of the kind's strategy.
    fn warn_about(&self, object: &Value) {
        if let Some(warnings) = self.entry.kind.hooks.warnings {
            warnings(object).into_iter().for_each(|text| self.warn(text));
        }
    }

    /// Those about a change.
    pub fn warn_about_change(&self, new: &Value, old: &Value, view: View) {
        let hooks = &self.entry.kind.hooks;
        let warnings = match view {
            View::Main => hooks.update_warnings.map(|warnings| warnings(new, old)),
            View::Status => hooks.status_warnings.map(|warnings| warnings(new)),
            _ => None,
        };
        warnings.into_iter().flatten().for_each(|text| self.warn(text));
    }
}
