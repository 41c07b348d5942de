//! Cells of the Tables that `kubectl get` shows, one function for each kind, in the order of the row's columns.
//!
//! All columns are always filled, also those that only `-o wide` shows. Source of the rules: `pkg/printers`.

mod cluster;
mod network;
mod pods;
mod storage;
mod workloads;

pub use cluster::*;
pub use network::*;
pub use pods::*;
pub use storage::*;
pub use workloads::*;

use super::HookContext;
use super::json::*;
use crate::labels::Selector;
use crate::time;
use serde_json::Value;

type Cells = Vec<Value>;

const NONE: &str = "<none>";
const UNSET: &str = "<unset>";
const UNKNOWN: &str = "<unknown>";

/// A row of cells from anything that is JSON.
macro_rules! cells {
    ($($cell:expr),* $(,)?) => { vec![$(Value::from($cell)),*] };
}
use cells;

fn name(o: &Value) -> &str {
    text_at(o, &["metadata", "name"])
}

fn age(o: &Value, c: &HookContext) -> String {
    time::age(at(o, &["metadata", "creationTimestamp"]).and_then(Value::as_str), c.now)
}

/// Time since a moment in a field, `<unknown>` when it is not set.
fn since(v: &Value, key: &str, c: &HookContext) -> String {
    time::age(get(v, key).and_then(Value::as_str), c.now)
}

/// A text, or something else where there is none.
fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

/// Anything as text: numbers and texts as they are, the rest as JSON.
fn shown(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
}

/// Labels as `a=b,c=d`.
fn labels(map: Option<&Value>) -> String {
    let pairs = map.and_then(Value::as_object).into_iter().flatten();
    let list: Vec<String> = pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    if list.is_empty() { NONE.to_owned() } else { list.join(",") }
}

/// A label selector in query syntax.
fn selector(selector: Option<&Value>) -> String {
    match Selector::from_label_selector(selector) {
        Ok(s) if s.is_nothing() || s.is_everything() => NONE.to_owned(),
        Ok(s) => s.to_string(),
        Err(_) => "<error>".to_owned(),
    }
}

/// The first few of a list, and how many more there are.
fn some_of(list: &[String], most: usize, nothing: &str) -> String {
    if list.len() > most {
        return format!("{} + {} more...", list[..most].join(","), list.len() - most);
    }
    if list.is_empty() { nothing.to_owned() } else { list.join(",") }
}

/// Names and images of the containers of a pod spec.
fn containers(spec: Option<&Value>) -> (String, String) {
    let all = spec.map_or(&[][..], |s| list(s, "containers"));
    let join = |key: &str| all.iter().map(|c| text(c, key)).collect::<Vec<_>>().join(",");
    (join("name"), join("image"))
}

/// The status of a condition, if the object has one of that type.
fn condition<'a>(o: &'a Value, kind: &str) -> Option<&'a str> {
    let all = list_at(o, &["status", "conditions"]);
    all.iter().find(|c| text(c, "type") == kind).map(|c| text(c, "status"))
}

fn deleted(o: &Value) -> bool {
    at(o, &["metadata", "deletionTimestamp"]).is_some()
}

/// Kinds that show nothing but their age.
pub fn name_age(o: &Value, c: &HookContext) -> Cells {
    cells![name(o), age(o, c)]
}

/// Kinds without columns of their own: when they were created.
pub fn name_created(o: &Value, _: &HookContext) -> Cells {
    cells![name(o), text_at(o, &["metadata", "creationTimestamp"])]
}
