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
use ferrokube_api::field::{Errors, Path};
use ferrokube_api::schema::Schema;
use ferrokube_api::{Status, patch};
use http::header::CONTENT_TYPE;
use serde_json::Value;

/// What a custom resource is patched with, in the words of a 415. For a built-in kind the route has looked already.
const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

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
            _ => Err(negotiate::unsupported(ACCEPTED)),
        }
    }

    /// PATCH of an object or of a view of it.
    pub async fn patch(&self) -> Result<Answer, Status> {
        let view = View::of(&self.info.subresource).ok_or_else(Status::method_not_allowed)?;
        let flavour = self.flavour()?;
        let options = WriteOptions::parse(&self.query, &self.headers, "PatchOptions", flavour == Flavour::Apply)?;
        let body = self.take_body().await?;
        let content = if flavour == Flavour::Apply { ContentType::Yaml } else { ContentType::Json };
        let parsed = decode::parse(&body, content);
        if flavour == Flavour::Apply {
            let (document, duplicates) = parsed?;
            self.judge_duplicates(duplicates, &options)?;
            return self.apply(document, view, &options).await;
        }
        let parsed = parsed.map(|(document, findings)| {
            let findings = if flavour == Flavour::Json { strange_operations(&document, findings) } else { findings };
            (document, findings)
        });
        let schema = if view == View::Scale { scale_schema()? } else { self.entry.schema.clone() };
        let make = |old: &Value| {
            // A patch of nothing is told so before anybody reads it.
            let (document, duplicates) = parsed.as_ref().map_err(|status| unread(status, flavour))?;
            // Upstream has the patch as a Go map when it is strategic, else as the bytes it came in.
            let shown = || if flavour == Flavour::Strategic { go_print(document) } else { String::from_utf8_lossy(&body).into_owned() };
            let mut new = if view == View::Scale { views::scale_of(&self.entry, old)? } else { old.clone() };
            match flavour {
                Flavour::Json => patch::json_patch(&mut new, document)?,
                Flavour::Merge => patch::merge_patch(&mut new, document)?,
                _ => patch::strategic_merge(&mut new, document.clone(), &schema)?,
            }
            let decoded = decode::patched(new, &schema, options.strictness, &shown, duplicates.clone())?;
            decoded.warnings.into_iter().for_each(|w| self.warn_once(w));
            let new = same_kind(decoded.value, old_kind(view, &self.entry), &shown)?;
            self.same_name(&new)?;
            views::replace(&self.entry, view, old, new)
        };
        let change = Change { view, options: &options, make: &make, applied: false };
        let stored = self.transact(&change).await?;
        self.shown(view, stored)
    }

    fn judge_duplicates(&self, duplicates: Vec<String>, options: &WriteOptions) -> Result<(), Status> {
        match options.strictness {
            Strictness::Strict if !duplicates.is_empty() => {
                Err(Status::bad_request(format!("strict decoding error: {}", duplicates.join(", "))))
            }
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
        let configuration = if view == View::Scale { views::scale_configuration(&self.entry, &configuration)? } else { configuration };
        // What does not fit the type is refused when the configuration is applied, in the words of apply.
        if let Ok(checked) = decode::normalize(configuration.clone(), &self.entry.schema, options.strictness) {
            checked.warnings.into_iter().for_each(|w| self.warn_once(w));
        }
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
            self.may_create().await?;
            match self.insert(fresh, options, true).await {
                Ok(stored) => return Ok(Answer::One(201, stored)),
                Err(status) if status.is(ferrokube_api::Reason::AlreadyExists) => {}
                Err(status) => return Err(status),
            }
        }
    }

    /// An apply that creates needs the permission to create.
    async fn may_create(&self) -> Result<(), Status> {
        let mut attributes = self.info.attributes(&self.user, &self.query);
        attributes.verb = "create".to_owned();
        self.server.authorizer.check(&attributes).await
    }
}

/// What the strict decoder finds in a JSON patch, said of the patch.
fn strange_operations(document: &Value, duplicates: Vec<String>) -> Vec<String> {
    let unknown = patch::unknown_fields(document);
    duplicates.into_iter().chain(unknown).map(|finding| format!("json patch {finding}")).collect()
}

/// Why a patch could not be read; of a strategic one without a word about patches, as upstream has it.
fn unread(status: &Status, flavour: Flavour) -> Status {
    let mut status = status.clone();
    if flavour == Flavour::Strategic {
        status.message = status.message.trim_start_matches("error decoding patch: ").to_owned();
    }
    status
}

/// Kind and version of what a patch through a view is applied to.
fn old_kind(view: View, entry: &Entry) -> [(&'static str, String); 2] {
    match view {
        View::Scale => [("kind", "Scale".to_owned()), ("apiVersion", "autoscaling/v1".to_owned())],
        _ => [("kind", entry.kind.kind.to_string()), ("apiVersion", entry.kind.api_version())],
    }
}

/// A patch can neither take the kind away nor make another of it.
fn same_kind(mut value: Value, expected: [(&'static str, String); 2], patch: &dyn Fn() -> String) -> Result<Value, Status> {
    if value.is_null() {
        value = Value::Object(serde_json::Map::new());
    }
    for (key, wanted) in expected {
        match value.get(key).and_then(Value::as_str).unwrap_or_default() {
            "" => value[key] = wanted.into(),
            same if same == wanted => {}
            other => {
                let mut errors = Errors::default();
                errors.invalid(
                    &Path::new("patch"),
                    &patch().into(),
                    &format!("the {key} in the data ({other}) does not match the expected {key} ({wanted})"),
                );
                return Err(Status::invalid("", "", "", errors.into_causes()));
            }
        }
    }
    Ok(value)
}

/// A value as Go's `%+v` prints what it decodes to.
fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(go_print).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            format!("map[{}]", entries.into_iter().map(|(k, v)| format!("{k}:{}", go_print(v))).collect::<Vec<_>>().join(" "))
        }
        plain => plain.to_string(),
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
