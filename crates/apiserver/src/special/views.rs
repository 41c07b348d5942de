//! Views of an object: from the stored object and what a client sent to the object that results. What `scale` may touch
//! is decided here; the other views are limited by the hooks of their kind.

use crate::output::jsonpath;
use crate::registry::Entry;
use crate::write::View;
use crate::write::prepare;
use ferrokube_api::field::{Errors, Path};
use ferrokube_api::labels::Selector;
use ferrokube_api::{Reason, Status};
use serde_json::{Map, Value, json};

/// The new object when `body` is put through a view. What the kind's hooks limit (`Hooks::view`) passes as it came.
pub fn replace(entry: &Entry, view: View, old: &Value, body: Value) -> Result<Value, Status> {
    match view {
        View::Scale => rescale(entry, old, &body),
        View::Binding => Err(Status::method_not_allowed()),
        View::Main | View::Status | View::Finalize | View::Approval | View::EphemeralContainers | View::Resize => Ok(body),
    }
}

/// The version that the client based its change on goes along.
fn adopt_version(new: &mut Value, body: &Value) {
    let meta = prepare::meta(new);
    for key in ["resourceVersion", "uid"] {
        match body["metadata"].get(key).and_then(Value::as_str).filter(|v| !v.is_empty()) {
            Some(value) => _ = meta.insert(key.into(), value.into()),
            None if key == "resourceVersion" => _ = meta.remove(key),
            None => {}
        }
    }
}

/// A copy with the value at a path replaced, or removed.
fn with(object: &Value, path: &[&str], value: Option<&Value>) -> Value {
    let mut copy = object.clone();
    let (last, parents) = path.split_last().expect("a path has a last step");
    let mut at = &mut copy;
    for key in parents {
        if !at[*key].is_object() {
            at[*key] = json!({});
        }
        at = &mut at[*key];
    }
    if let Some(map) = at.as_object_mut() {
        match value {
            Some(value) => _ = map.insert((*last).to_owned(), value.clone()),
            None => _ = map.remove(*last),
        }
    }
    copy
}

/// Where an object keeps replicas wanted, replicas had, and its selector.
struct Paths {
    wanted: Vec<String>,
    had: Vec<String>,
    selector: Option<Vec<String>>,
}

fn paths(entry: &Entry) -> Result<Paths, Status> {
    let fixed = |path: &str| path.split('.').map(str::to_owned).collect::<Vec<_>>();
    match entry.custom.as_ref().map(|c| c.scale.as_ref()) {
        None => Ok(Paths { wanted: fixed("spec.replicas"), had: fixed("status.replicas"), selector: None }),
        Some(Some((wanted, had, selector))) => Ok(Paths {
            wanted: jsonpath::plain(wanted).unwrap_or_default(),
            had: jsonpath::plain(had).unwrap_or_default(),
            selector: selector.as_ref().and_then(|s| jsonpath::plain(s)),
        }),
        Some(None) => Err(Status::failure(404, Reason::NotFound, "the server could not find the requested resource")),
    }
}

fn at<'v>(object: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(object, |at, key| at.get(key))
}

/// `autoscaling/v1 Scale` of an object.
pub fn scale_of(entry: &Entry, object: &Value) -> Result<Value, Status> {
    let paths = paths(entry)?;
    let count = |path: &[String]| at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let selector = match &paths.selector {
        Some(path) => at(object, path).and_then(Value::as_str).unwrap_or_default().to_owned(),
        None if entry.custom.is_some() => String::new(),
        None if entry.kind.resource == "replicationcontrollers" => Selector::from_map(object["spec"].get("selector")).to_string(),
        None => Selector::from_label_selector(object["spec"].get("selector")).map(|s| s.to_string()).unwrap_or_default(),
    };
    let mut meta = Map::new();
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(key) {
            meta.insert(key.to_owned(), value.clone());
        }
    }
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {}, "status": {"replicas": count(&paths.had)},
    });
    if count(&paths.wanted) != 0 {
        scale["spec"]["replicas"] = json!(count(&paths.wanted));
    }
    if !selector.is_empty() {
        scale["status"]["selector"] = json!(selector);
    }
    Ok(scale)
}

/// The configuration of the object that an applied Scale stands for: its replicas where the object keeps them.
pub fn scale_configuration(entry: &Entry, scale: &Value) -> Result<Value, Status> {
    if scale["metadata"]["managedFields"].as_array().is_some_and(|m| !m.is_empty()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let (version, kind) = (scale["apiVersion"].as_str().unwrap_or_default(), scale["kind"].as_str().unwrap_or_default());
    if (version, kind) != ("autoscaling/v1", "Scale") {
        let text = format!("Incorrect version specified in apply patch. Specified patch version: {version}, expected: autoscaling/v1");
        return Err(Status::bad_request(text));
    }
    let mut meta = Map::new();
    for key in ["name", "namespace", "uid", "resourceVersion"] {
        meta.extend(scale["metadata"].get(key).map(|value| (key.to_owned(), value.clone())));
    }
    let configuration = json!({"apiVersion": entry.kind.api_version(), "kind": entry.kind.kind, "metadata": meta});
    let paths = paths(entry)?;
    let path: Vec<&str> = paths.wanted.iter().map(String::as_str).collect();
    match scale["spec"].get("replicas").filter(|r| !r.is_null() && !path.is_empty()) {
        Some(replicas) => Ok(with(&configuration, &path, Some(replicas))),
        None => Ok(configuration),
    }
}

/// The object with the replicas that a Scale asks for.
pub fn rescale(entry: &Entry, old: &Value, scale: &Value) -> Result<Value, Status> {
    let paths = paths(entry)?;
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let mut errors = Errors::default();
        let why = "must be greater than or equal to 0";
        errors.invalid(&Path::new("spec").child("replicas"), &replicas.into(), why);
        return Err(Status::invalid("autoscaling", "Scale", prepare::text(old, "name"), errors.into_causes()));
    }
    let path: Vec<&str> = paths.wanted.iter().map(String::as_str).collect();
    if path.is_empty() {
        return Err(Status::no_such_path());
    }
    let mut new = with(old, &path, Some(&json!(replicas)));
    adopt_version(&mut new, scale);
    Ok(new)
}
