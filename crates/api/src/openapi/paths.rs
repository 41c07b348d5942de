//! The paths of a row: one item per path with its operations, as OpenAPI v3.
//!
//! Parameters that all operations of a path share stand on the path, the others on their operation, as the Go server puts them.

use super::Served;
use super::schemas::{Needed, name_by_gvk, name_of};
use crate::kinds::{Kind, Subresource, SubresourceKind, Verbs};
use crate::schema::Types;
use serde_json::{Map, Value, json};

/// What the server speaks about objects.
const MEDIA: [&str; 2] = ["application/json", "application/yaml"];
/// The same for what can be watched.
const STREAMS: [&str; 3] = ["application/json", "application/json;stream=watch", "application/yaml"];
const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

const LIST: [&str; 10] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const PATCH: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE: [&str; 5] =
    ["dryRun", "gracePeriodSeconds", "ignoreStoreReadErrorWithClusterBreakingPotential", "orphanDependents", "propagationPolicy"];
const DELETE_COLLECTION: [&str; 13] = [
    "continue",
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "labelSelector",
    "limit",
    "orphanDependents",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
];
const CONNECT_METHODS: [(&str, &str); 7] =
    [("delete", "Delete"), ("get", "Get"), ("head", "Head"), ("options", "Options"), ("patch", "Patch"), ("post", "Post"), ("put", "Put")];

/// Parameters of the streaming views, by name of the view.
fn connect_parameters(view: &str) -> &'static [&'static str] {
    match view {
        "exec" => &["command", "container", "stderr", "stdin", "stdout", "tty"],
        "attach" => &["container", "stderr", "stdin", "stdout", "tty"],
        "portforward" => &["ports"],
        "proxy" => &["path"],
        _ => &[],
    }
}

const LOG: [&str; 9] =
    ["container", "follow", "insecureSkipTLSVerifyBackend", "limitBytes", "previous", "sinceSeconds", "stream", "tailLines", "timestamps"];

/// OpenAPI type of a query parameter.
fn parameter_type(name: &str) -> &'static str {
    match name {
        "allowWatchBookmarks"
        | "sendInitialEvents"
        | "watch"
        | "force"
        | "orphanDependents"
        | "ignoreStoreReadErrorWithClusterBreakingPotential" => "boolean",
        "stderr" | "stdin" | "stdout" | "tty" | "follow" | "insecureSkipTLSVerifyBackend" | "previous" | "timestamps" => "boolean",
        "limit" | "timeoutSeconds" | "gracePeriodSeconds" | "limitBytes" | "sinceSeconds" | "tailLines" | "ports" => "integer",
        _ => "string",
    }
}

fn query(name: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": parameter_type(name), "uniqueItems": true}})
}

fn in_path(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
}

/// `rbac.authorization.k8s.io` → `rbacAuthorization`; the core group is `core`.
fn camel(group: &str) -> String {
    if group.is_empty() {
        return "core".to_owned();
    }
    let parts = group.strip_suffix(".k8s.io").unwrap_or(group).split(['.', '-']);
    parts.enumerate().map(|(at, part)| if at == 0 { part.to_owned() } else { title(part) }).collect()
}

fn title(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(characters).collect()
}

/// `podtemplates/status` → `Status`, `ephemeralcontainers` → as upstream writes it in operation ids.
fn view_title(view: &str) -> String {
    match view {
        "portforward" => "Portforward".to_owned(),
        "ephemeralcontainers" => "Ephemeralcontainers".to_owned(),
        other => title(other),
    }
}

/// What the operations of one row have in common.
struct Row<'a> {
    kind: &'a Kind,
    /// `AppsV1`.
    prefix: String,
    /// `apps_v1`.
    tag: String,
    /// `Namespaced` or nothing.
    scope: &'static str,
}

/// An operation under construction.
struct Operation {
    method: &'static str,
    parameters: Vec<Value>,
    body: Value,
}

impl<'a> Row<'a> {
    fn new(kind: &'a Kind) -> Self {
        let group = camel(&kind.group);
        let prefix = format!("{}{}", title(&group), title(&kind.version));
        Row { kind, prefix, tag: format!("{group}_{}", kind.version), scope: if kind.namespaced() { "Namespaced" } else { "" } }
    }

    fn gvk(&self) -> Value {
        json!({"group": self.kind.group, "version": self.kind.version, "kind": self.kind.kind})
    }

    fn operation(&self, method: &'static str, action: &str, id: String, gvk: Value, parameters: &[&str], rest: Value) -> Operation {
        let mut body =
            json!({"operationId": id, "tags": [self.tag], "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk});
        if let (Value::Object(body), Value::Object(rest)) = (&mut body, rest) {
            body.extend(rest);
        }
        Operation { method, parameters: parameters.iter().map(|p| query(p)).collect(), body }
    }
}

fn content(schema: &Value, media: &[&str]) -> Value {
    Value::Object(media.iter().map(|m| ((*m).to_owned(), json!({ "schema": schema }))).collect())
}

/// Responses with an object, and `401`.
fn responses(schema: &Value, codes: &[u16], media: &[&str]) -> Value {
    let said = |code: u16| match code {
        200 => "OK",
        201 => "Created",
        _ => "Accepted",
    };
    let mut map: Map<String, Value> =
        codes.iter().map(|c| (c.to_string(), json!({"description": said(*c), "content": content(schema, media)}))).collect();
    map.insert("401".into(), json!({"description": "Unauthorized"}));
    Value::Object(map)
}

/// A path item out of its operations: what all share moves up.
fn item(operations: Vec<Operation>, path_parameters: &[&str], pretty: bool) -> Value {
    let shared: Vec<Value> = match operations.first() {
        Some(first) => first.parameters.iter().filter(|p| operations.iter().all(|o| o.parameters.contains(p))).cloned().collect(),
        None => Vec::new(),
    };
    let mut map = Map::new();
    for mut operation in operations {
        operation.parameters.retain(|p| !shared.contains(p));
        if !operation.parameters.is_empty() {
            operation.body["parameters"] = Value::Array(operation.parameters);
        }
        map.insert(operation.method.to_owned(), operation.body);
    }
    let mut parameters: Vec<Value> = shared;
    parameters.extend(path_parameters.iter().map(|p| in_path(p)));
    parameters.extend(pretty.then(|| query("pretty")));
    parameters.sort_by(|a, b| (a["name"].as_str(), a["in"].as_str()).cmp(&(b["name"].as_str(), b["in"].as_str())));
    if !parameters.is_empty() {
        map.insert("parameters".into(), parameters.into());
    }
    Value::Object(map)
}

/// The path of the list of resources of a group and version.
pub(super) fn resources(kind: &Kind, needed: &mut Needed, out: &mut dyn FnMut(&str, Value)) {
    let row = Row::new(kind);
    let list = needed.meta("APIResourceList");
    let get =
        json!({"operationId": format!("get{}APIResources", row.prefix), "tags": [row.tag], "responses": responses(&list, &[200], &MEDIA)});
    out(&format!("/{}/", super::part_path(kind)), json!({ "get": get }));
}

/// Every path of a row.
pub(super) fn of(served: &Served, needed: &mut Needed, out: &mut dyn FnMut(&str, Value)) {
    let row = Row::new(&served.kind);
    let root = format!("/{}", super::part_path(row.kind));
    let (collection, scope): (String, &[&str]) = if row.kind.namespaced() {
        (format!("/namespaces/{{namespace}}/{}", row.kind.resource), &["namespace"])
    } else {
        (format!("/{}", row.kind.resource), &[])
    };
    let named: Vec<&str> = ["name"].into_iter().chain(scope.iter().copied()).collect();
    let verbs = row.kind.verbs;
    if row.kind.namespaced() && verbs.has(Verbs::LIST) {
        let id = format!("list{}{}ForAllNamespaces", row.prefix, row.kind.kind);
        out(&format!("{root}/{}", row.kind.resource), item(vec![list(&row, id, needed)], &[], true));
    }
    let operations = collection_operations(&row, needed);
    if !operations.is_empty() {
        out(&format!("{root}{collection}"), item(operations, scope, true));
    }
    let operations = object_operations(&row, needed);
    if !operations.is_empty() {
        out(&format!("{root}{collection}/{{name}}"), item(operations, &named, true));
    }
    for view in row.kind.subresources.iter() {
        subresource(&row, view, &format!("{root}{collection}/{{name}}/{}", view.name), &named, needed, out);
    }
    if verbs.has(Verbs::WATCH) {
        watches(&row, &root, &collection, scope, &named, needed, out);
    }
}

fn list(row: &Row<'_>, id: String, needed: &mut Needed) -> Operation {
    let schema = needed.reference(&format!("{}List", name_of(row.kind)));
    row.operation("get", "list", id, row.gvk(), &LIST, json!({"responses": responses(&schema, &[200], &STREAMS)}))
}

fn collection_operations(row: &Row<'_>, needed: &mut Needed) -> Vec<Operation> {
    let (verbs, kind, name) = (row.kind.verbs, &row.kind.kind, name_of(row.kind));
    let mut operations = Vec::new();
    if verbs.has(Verbs::LIST) {
        operations.push(list(row, format!("list{}{}{kind}", row.prefix, row.scope), needed));
    }
    if verbs.has(Verbs::CREATE) {
        operations.push(write(row, "post", "create", &name, row.gvk(), &format!("{}{kind}", row.scope), &[200, 201, 202], needed));
    }
    if verbs.has(Verbs::DELETECOLLECTION) {
        let id = format!("delete{}Collection{}{kind}", row.prefix, row.scope);
        operations.push(delete(row, "deletecollection", id, &DELETE_COLLECTION, &[200], needed));
    }
    operations
}

fn delete(row: &Row<'_>, action: &str, id: String, parameters: &[&str], codes: &[u16], needed: &mut Needed) -> Operation {
    let (options, status) = (needed.meta("DeleteOptions"), needed.meta("Status"));
    let rest = json!({"requestBody": {"content": content(&options, &["*/*"])}, "responses": responses(&status, codes, &MEDIA)});
    row.operation("delete", action, id, row.gvk(), parameters, rest)
}

/// A create or replace with a body of the kind named.
#[expect(clippy::too_many_arguments, reason = "each is one fact of the operation")]
fn write(
    row: &Row<'_>,
    method: &'static str,
    verb: &str,
    schema: &str,
    gvk: Value,
    what: &str,
    codes: &[u16],
    needed: &mut Needed,
) -> Operation {
    let schema = needed.reference(schema);
    let rest =
        json!({"requestBody": {"required": true, "content": content(&schema, &["*/*"])}, "responses": responses(&schema, codes, &MEDIA)});
    row.operation(method, method, format!("{verb}{}{what}", row.prefix), gvk, &WRITE, rest)
}

/// Get, put and patch of an object or of a view of it.
fn view_operations(row: &Row<'_>, verbs: Verbs, schema_name: &str, gvk: &Value, what: &str, needed: &mut Needed) -> Vec<Operation> {
    let mut operations = Vec::new();
    let schema = needed.reference(schema_name);
    if verbs.has(Verbs::GET) {
        let id = format!("read{}{what}", row.prefix);
        operations.push(row.operation("get", "get", id, gvk.clone(), &[], json!({"responses": responses(&schema, &[200], &MEDIA)})));
    }
    if verbs.has(Verbs::UPDATE) {
        operations.push(write(row, "put", "replace", schema_name, gvk.clone(), what, &[200, 201], needed));
    }
    if verbs.has(Verbs::PATCH) {
        let patch = needed.meta("Patch");
        // Custom kinds have no merge keys.
        let custom = Types::builtin().get(&row.kind.schema).is_none();
        let media: Vec<&str> = PATCHES.into_iter().filter(|m| !custom || !m.contains("strategic")).collect();
        let rest = json!({"requestBody": {"required": true, "content": content(&patch, &media)}, "responses": responses(&schema, &[200, 201], &MEDIA)});
        operations.push(row.operation("patch", "patch", format!("patch{}{what}", row.prefix), gvk.clone(), &PATCH, rest));
    }
    operations
}

fn object_operations(row: &Row<'_>, needed: &mut Needed) -> Vec<Operation> {
    let (verbs, what) = (row.kind.verbs, format!("{}{}", row.scope, row.kind.kind));
    let mut operations = view_operations(row, verbs, &name_of(row.kind), &row.gvk(), &what, needed);
    if verbs.has(Verbs::DELETE) {
        operations.push(delete(row, "delete", format!("delete{}{what}", row.prefix), &DELETE, &[200, 202], needed));
    }
    operations
}

fn subresource(row: &Row<'_>, view: &Subresource, path: &str, named: &[&str], needed: &mut Needed, out: &mut dyn FnMut(&str, Value)) {
    let what = format!("{}{}{}", row.scope, row.kind.kind, view_title(&view.name));
    let gvk = view.kind.as_ref().map_or_else(|| row.gvk(), |(g, v, k)| json!({"group": g, "version": v, "kind": k}));
    let other = view.kind.as_ref().and_then(|(g, v, k)| name_by_gvk(g, v, k));
    let schema = other.map_or_else(|| name_of(row.kind), str::to_owned);
    match view.behaviour {
        SubresourceKind::Status | SubresourceKind::Scale | SubresourceKind::View => {
            out(path, item(view_operations(row, view.verbs, &schema, &gvk, &what, needed), named, true));
        }
        SubresourceKind::Action => {
            out(path, item(vec![write(row, "post", "create", &schema, gvk, &what, &[200, 201, 202], needed)], named, true));
        }
        SubresourceKind::Connect if view.name == "log" => {
            let text = json!({"type": "string"});
            let rest = json!({"responses": responses(&text, &[200], &["text/plain", "application/json", "application/yaml"])});
            out(path, item(vec![row.operation("get", "get", format!("read{}{what}", row.prefix), gvk, &LOG, rest)], named, true));
        }
        SubresourceKind::Connect => {
            out(path, item(connects(row, view, &gvk, &what, ""), named, false));
            if view.name == "proxy" {
                let deeper: Vec<&str> = named.iter().copied().chain(["path"]).collect();
                out(&format!("{path}/{{path}}"), item(connects(row, view, &gvk, &what, "WithPath"), &deeper, false));
            }
        }
    }
}

fn connects(row: &Row<'_>, view: &Subresource, gvk: &Value, what: &str, suffix: &str) -> Vec<Operation> {
    let proxy = view.name == "proxy";
    let served = CONNECT_METHODS.iter().filter(|(method, _)| proxy || matches!(*method, "get" | "post"));
    let text = json!({"type": "string"});
    served
        .map(|(method, name)| {
            let id = format!("connect{}{name}{what}{suffix}", row.prefix);
            let rest = json!({"responses": responses(&text, &[200], &["*/*"])});
            row.operation(method, "connect", id, gvk.clone(), connect_parameters(&view.name), rest)
        })
        .collect()
}

/// The deprecated watch paths, which the server still serves.
fn watches(
    row: &Row<'_>,
    root: &str,
    collection: &str,
    scope: &[&str],
    named: &[&str],
    needed: &mut Needed,
    out: &mut dyn FnMut(&str, Value),
) {
    let event = needed.meta("WatchEvent");
    let mut watch = |path: String, action: &str, id: String, parameters: &[&str]| {
        let rest = json!({"responses": responses(&event, &[200], &STREAMS)});
        out(&path, item(vec![row.operation("get", action, id, row.gvk(), &LIST, rest)], parameters, true));
    };
    let (prefix, kind) = (&row.prefix, &row.kind.kind);
    if row.kind.namespaced() {
        watch(format!("{root}/watch/{}", row.kind.resource), "watchlist", format!("watch{prefix}{kind}ListForAllNamespaces"), &[]);
    }
    watch(format!("{root}/watch{collection}"), "watchlist", format!("watch{prefix}{}{kind}List", row.scope), scope);
    watch(format!("{root}/watch{collection}/{{name}}"), "watch", format!("watch{prefix}{}{kind}", row.scope), named);
}
