//! patch: the four kinds of patch, each a function from the stored object to the new one, handed to the transaction of
//! update.

use super::Answer;
use super::update::Change;
use crate::output::negotiate;
use crate::pipeline::Request;
use crate::registry::Entry;
use crate::special::views;
use crate::write::{View, WriteOptions, managed, prepare};
use ferrokube_api::decode::{self, ContentType, Strictness};
use ferrokube_api::schema::Schema;
use ferrokube_api::{Status, patch};
use http::header::CONTENT_TYPE;
use serde_json::Value;

/// The media types, in the words of a 415.
const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
const ACCEPTED_BUILTIN: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Request<'_> {
    fn flavour(&self) -> Result<Flavour, Status> {
        let media = self.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match media.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(Flavour::Json),
            "application/merge-patch+json" => Ok(Flavour::Merge),
            "application/strategic-merge-patch+json" if self.entry.custom.is_none() => Ok(Flavour::Strategic),
            "application/apply-patch+yaml" => Ok(Flavour::Apply),
            _ => Err(negotiate::unsupported(if self.entry.custom.is_some() { ACCEPTED } else { ACCEPTED_BUILTIN })),
        }
    }

    /// PATCH of an object or of a view of it.
    pub async fn patch(&self) -> Result<Answer, Status> {
        let view = View::of(&self.info.subresource).ok_or_else(Status::method_not_allowed)?;
        let flavour = self.flavour()?;
        let options = WriteOptions::parse(&self.query, &self.headers, "PatchOptions", flavour == Flavour::Apply)?;
        let body = self.take_body().await?;
        let content = if flavour == Flavour::Apply { ContentType::Yaml } else { ContentType::Json };
        let (document, duplicates) = decode::parse(&body, content)?;
        self.judge_duplicates(duplicates, &options)?;
        if flavour == Flavour::Apply {
            return self.apply(document, view, &options).await;
        }
        let schema = if view == View::Scale { scale_schema()? } else { self.entry.schema.clone() };
        let make = |old: &Value| {
            let mut new = if view == View::Scale { views::scale_of(&self.entry, old)? } else { old.clone() };
            match flavour {
                Flavour::Json => patch::json_patch(&mut new, document.clone())?,
                Flavour::Merge => patch::merge_patch(&mut new, &document)?,
                _ => patch::strategic_merge(&mut new, document.clone(), &schema)?,
            }
            let decoded = decode::normalize(new, &schema, options.strictness)?;
            decoded.warnings.into_iter().for_each(|w| self.warn_once(w));
            self.same_name(&decoded.value)?;
            views::replace(&self.entry, view, old, decoded.value)
        };
        let change = Change { view, options: &options, make: &make, applied: false };
        let stored = self.transact(&change).await?;
        self.shown(view, stored)
    }

    fn judge_duplicates(&self, duplicates: Vec<String>, options: &WriteOptions) -> Result<(), Status> {
        match options.strictness {
            Strictness::Strict if !duplicates.is_empty() => Err(Status::bad_request(format!("strict decoding error: {}", duplicates.join(", ")))),
            Strictness::Ignore | Strictness::Strict => Ok(()),
            Strictness::Warn => {
                duplicates.into_iter().for_each(|w| self.warn_once(w));
                Ok(())
            }
        }
    }

    /// A patch may not rename.
    fn same_name(&self, new: &Value) -> Result<(), Status> {
        let name = prepare::text(new, "name");
        if !name.is_empty() && name != self.info.name {
            let text = format!("the name of the object ({name}) does not match the name on the URL ({})", self.info.name);
            return Err(Status::bad_request(text));
        }
        Ok(())
    }

    async fn apply(&self, configuration: Value, view: View, options: &WriteOptions) -> Result<Answer, Status> {
        if view == View::Scale {
            return Err(negotiate::unsupported("application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"));
        }
        // What the configuration itself gets wrong is found once, before it is merged.
        let checked = decode::normalize(configuration.clone(), &self.entry.schema, options.strictness)?;
        checked.warnings.into_iter().for_each(|w| self.warn_once(w));
        self.same_name(&configuration)?;
        loop {
            let make = |old: &Value| {
                let mut live = old.clone();
                self.default_object(&mut live);
                let merged = managed::applied(self, Some(&live), configuration.clone(), options, view)?;
                Ok(decode::normalize(merged, &self.entry.schema, Strictness::Ignore)?.value)
            };
            let change = Change { view, options, make: &make, applied: true };
            match self.transact(&change).await {
                Ok(stored) => return self.shown(view, stored),
                Err(status) if status.code == 404 && view == View::Main => {}
                Err(status) => return Err(status),
            }
            let wants_uid = prepare::text(&configuration, "uid");
            if !wants_uid.is_empty() {
                let why = format!("uid mismatch: the provided object specified uid {wants_uid}, and no existing object was found");
                return Err(Status::conflict(&self.info.group, &self.info.resource, &self.info.name, &why));
            }
            let mut fresh = managed::applied(self, None, configuration.clone(), options, view)?;
            prepare::meta(&mut fresh).insert("name".into(), self.info.name.as_str().into());
            let fresh = decode::normalize(fresh, &self.entry.schema, Strictness::Ignore)?.value;
            self.may_create()?;
            match self.insert(fresh, options, true).await {
                Ok(stored) => return Ok(Answer::One(201, stored)),
                Err(status) if status.is(ferrokube_api::Reason::AlreadyExists) => {}
                Err(status) => return Err(status),
            }
        }
    }

    /// An apply that creates needs the permission to create.
    fn may_create(&self) -> Result<(), Status> {
        let mut attributes = self.info.attributes(&self.user, &self.query);
        attributes.verb = "create".to_owned();
        self.server.authorizer.check(&attributes)
    }
}

/// The type of `autoscaling/v1 Scale`.
pub fn scale_schema() -> Result<Schema, Status> {
    Schema::builtin("io.k8s.api.autoscaling.v1.Scale").ok_or_else(|| Status::internal("no type for Scale"))
}

impl Entry {
    /// Group, version and kind, as the decoder wants it.
    pub fn gvk(&self) -> ferrokube_api::schema::Gvk {
        let kind = &self.kind;
        ferrokube_api::schema::Gvk { group: kind.group.clone(), version: kind.version.clone(), kind: kind.kind.clone() }
    }
}
