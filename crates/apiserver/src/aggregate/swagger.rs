//! The old description (`/openapi/v2`) of a remote server: the part of it that goes into this server's one document.

use super::{Remote, Remotes};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const REF: &str = "#/definitions/";

/// The paths of a group, and the definitions that they need.
fn part(document: &Value, group: &str) -> Value {
    let prefix = format!("/apis/{group}/");
    let of = |name: &str| document[name].as_object().into_iter().flatten();
    let paths: Map<String, Value> =
        of("paths").filter(|(path, _)| path.starts_with(&prefix)).map(|(p, v)| (p.clone(), v.clone())).collect();
    let (mut waiting, mut needed) = (BTreeSet::new(), BTreeSet::new());
    paths.values().for_each(|item| references(item, &mut waiting));
    while let Some(name) = waiting.pop_first() {
        references(&document["definitions"][&name], &mut waiting);
        needed.insert(name);
        waiting.retain(|name| !needed.contains(name));
    }
    let definitions: Map<String, Value> =
        of("definitions").filter(|(name, _)| needed.contains(*name)).map(|(n, v)| (n.clone(), v.clone())).collect();
    json!({ "paths": paths, "definitions": definitions })
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            let name = map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REF));
            found.extend(name.map(str::to_owned));
            map.values().for_each(|v| references(v, found));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

/// Asks a server for its part; `None` when it describes nothing.
pub(super) async fn ask(remote: &Remote, place: (String, u16)) -> Option<Arc<Value>> {
    let document = remote.backend.get(place, "/openapi/v2").await.ok()?;
    let part = part(&document, &remote.spec.group);
    part["paths"].as_object().is_some_and(|paths| !paths.is_empty()).then(|| Arc::new(part))
}

impl Remotes {
    /// What goes into `/openapi/v2` besides this server's own. A group with several versions says the same for each of them.
    pub fn swagger(&self) -> Vec<Arc<Value>> {
        self.all.iter().filter_map(|remote| remote.state().described).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_takes_along_what_its_paths_need_and_no_more() {
        let reference = |name: &str| json!({"$ref": format!("{REF}{name}")});
        let document = json!({
            "paths": {"/apis/a.io/v1/things": {"get": {"responses": {"200": {"schema": reference("Thing")}}}}, "/apis/b.io/v1/x": {"get": reference("X")}},
            "definitions": {"Thing": {"properties": {"meta": reference("Meta"), "self": reference("Thing")}}, "Meta": {}, "X": {}}});
        let part = part(&document, "a.io");
        let names = |field: &str| part[field].as_object().expect("a map").keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            (names("paths"), names("definitions")),
            (vec!["/apis/a.io/v1/things".to_owned()], vec!["Meta".to_owned(), "Thing".to_owned()])
        );
    }
}
