//! `meta.k8s.io Table`: what `kubectl get` prints. Columns are the row's; cells come from the kind's hook or, for custom
//! resources, from JSON paths.

use super::jsonpath;
use super::present;
use crate::registry::Entry;
use bytes::Bytes;
use ferrokube_api::kinds::{Column, HookContext};
use ferrokube_api::project::project;
use ferrokube_api::{Object, Status, time};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

/// What `includeObject` asks to put beside the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`, the default.
    Metadata,
    /// The whole object.
    Object,
}

impl Include {
    /// Reads the query parameter.
    pub fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::None),
            "Object" => Ok(Include::Object),
            other => Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

fn definition(name: &str, kind: &str, format: &str, description: &str, priority: u8) -> Value {
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

/// `columnDefinitions`.
pub fn columns(entry: &Entry) -> Value {
    let of = |c: &Column| definition(&c.name, &c.kind, &c.format, &c.description, c.priority);
    if !entry.kind.columns.is_empty() {
        return entry.kind.columns.iter().map(of).collect();
    }
    let name = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically.";
    let created = "CreationTimestamp is a timestamp representing the server time when this object was created.";
    json!([definition("Name", "string", "name", name, 0), definition("Created At", "date", "", created, 0)])
}

fn custom_cells(entry: &Entry, paths: &[String], value: &Value, now: Timestamp) -> Vec<Value> {
    let cell = |(column, path): (&Column, &String)| match (jsonpath::first(value, path), column.kind.as_ref()) {
        (Some(Value::String(text)), "date") => match time::parse_time(&text) {
            Some(at) => Value::from(time::human_duration(time::seconds_since(at, now))),
            None => Value::from("<invalid>"),
        },
        (Some(found @ (Value::Object(_) | Value::Array(_))), _) => Value::from(found.to_string()),
        (Some(Value::String(text)), "string") => Value::from(text),
        (Some(found), "string") => Value::from(found.to_string()),
        (found, _) => found.unwrap_or(Value::Null),
    };
    let name = value["metadata"]["name"].clone();
    std::iter::once(name).chain(entry.kind.columns.iter().skip(1).zip(paths).map(cell)).collect()
}

fn plain_cells(entry: &Entry, value: &Value, now: Timestamp) -> Vec<Value> {
    let meta = &value["metadata"];
    let created = meta["creationTimestamp"].as_str().unwrap_or_default();
    if entry.kind.columns.is_empty() {
        return vec![meta["name"].clone(), Value::from(created)];
    }
    let age = || time::parse_time(created).map_or_else(|| "<unknown>".to_owned(), |at| time::human_duration(time::seconds_since(at, now)));
    let cell = |c: &Column| match c.name.as_ref() {
        "Name" => meta["name"].clone(),
        "Age" => Value::from(age()),
        _ => Value::Null,
    };
    entry.kind.columns.iter().map(cell).collect()
}

fn cells(entry: &Entry, object: &Object, now: Timestamp) -> Result<Vec<Value>, Status> {
    let value = if entry.kind.hooks.from_storage.is_some() {
        present::value(entry, object)?
    } else {
        project(&object.json(), entry.kind.hooks.cell_paths).map_err(Status::internal)?
    };
    Ok(match (&entry.custom, entry.kind.hooks.cells) {
        (Some(custom), _) => custom_cells(entry, &custom.columns, &value, now),
        (None, Some(cells)) => cells(&value, &HookContext { now }),
        (None, None) => plain_cells(entry, &value, now),
    })
}

/// Writes one row. Only its cells are decoded; the object beside them stays bytes.
pub fn row(out: &mut Vec<u8>, entry: &Entry, object: &Arc<Object>, include: Include, beta: bool, now: Timestamp) -> Result<(), Status> {
    out.extend_from_slice(b"{\"cells\":");
    serde_json::to_writer(&mut *out, &cells(entry, object, now)?).map_err(Status::internal)?;
    match include {
        Include::None => {}
        Include::Object => {
            out.extend_from_slice(b",\"object\":");
            out.extend_from_slice(&present::object(entry, object)?.json());
        }
        Include::Metadata => {
            out.extend_from_slice(b",\"object\":");
            present::write_partial(out, &object.json(), beta)?;
        }
    }
    out.push(b'}');
    Ok(())
}

/// Writes what stands before the rows. `columns` is null in all but the first event of a watch.
pub fn head(out: &mut Vec<u8>, metadata: &Value, columns: &Value, beta: bool) {
    let version = if beta { "v1beta1" } else { "v1" };
    let text = format!(
        "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":{metadata},\"columnDefinitions\":{columns},\"rows\":["
    );
    out.extend_from_slice(text.as_bytes());
}

/// What stands after the rows.
pub const TAIL: &[u8] = b"]}";

/// The Table of a Scale, of whatever kind it is a view.
pub fn scale(scale: &Value, beta: bool, now: Timestamp) -> Result<Bytes, Status> {
    let created = scale["metadata"]["creationTimestamp"].as_str().and_then(time::parse_time);
    let age = created.map_or_else(|| "<unknown>".to_owned(), |at| time::human_duration(time::seconds_since(at, now)));
    let count = |part: &str| scale[part]["replicas"].as_i64().unwrap_or(0);
    let columns = json!([
        definition("Name", "string", "", "Name of the object that is scaled.", 0),
        definition("Desired", "integer", "", "Replicas wanted.", 0),
        definition("Available", "integer", "", "Replicas there are.", 0),
        definition("Age", "string", "", "Time since it was created.", 0),
    ]);
    let mut out = Vec::with_capacity(1024);
    head(&mut out, &json!({"resourceVersion": scale["metadata"]["resourceVersion"]}), &columns, beta);
    let row = json!({"cells": [scale["metadata"]["name"], count("spec"), count("status"), age], "object": scale});
    serde_json::to_writer(&mut out, &row).map_err(Status::internal)?;
    out.extend_from_slice(TAIL);
    Ok(out.into())
}

/// A Table of one object.
pub fn single(entry: &Entry, object: &Arc<Object>, columns: &Value, include: Include, beta: bool, now: Timestamp) -> Result<Bytes, Status> {
    let mut out = Vec::with_capacity(1024);
    head(&mut out, &json!({"resourceVersion": object.revision.to_string()}), columns, beta);
    row(&mut out, entry, object, include, beta, now)?;
    out.extend_from_slice(TAIL);
    Ok(out.into())
}
