//! Objects that were stored under an older schema, read by the schema of now: what it does not know is pruned, and its defaults are set.
//!
//! The store keeps what was written until the next write; nobody sees it. Source: apiextensions `apiserver/customresource_handler.go`
//! (`schemaCoercingDecoder`, `unstructuredDefaulter`).

use crate::cache::Renew;
use crate::output::canonical;
use ferrokube_api::decode::{Strictness, normalize};
use ferrokube_api::schema::{Gvk, Schema, set_defaults};
use serde_json::Value;
use std::sync::Arc;

/// How objects of a CRD are read: each by the schema of the version that it was stored in.
pub fn of(definition: &Value) -> Renew {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, kind) = (text(&spec["group"]), text(&spec["names"]["kind"]));
    // What a webhook adds that no schema knows is kept in the store and given back to it.
    let prunes = spec["conversion"]["strategy"] != "Webhook";
    let schema = |version: &Value| {
        let name = text(&version["name"]);
        let api_version = format!("{group}/{name}");
        let gvk = Gvk { group: group.clone().into(), version: name.into(), kind: kind.clone().into() };
        let openapi = version["schema"].get("openAPIV3Schema").filter(|s| !s.is_null());
        Some((api_version, Schema::custom(gvk, openapi).ok()?))
    };
    let schemas: Vec<(String, Schema)> = spec["versions"].as_array().into_iter().flatten().filter_map(schema).collect();
    Arc::new(move |stored| renewed(&schemas, prunes, stored))
}

fn renewed(schemas: &[(String, Schema)], prunes: bool, stored: &[u8]) -> Option<Vec<u8>> {
    let object: Value = serde_json::from_slice(stored).ok()?;
    let (_, schema) = schemas.iter().find(|(version, _)| object["apiVersion"] == version.as_str())?;
    // What has another type by now stays as it is: the next write will be told.
    let mut object = match prunes.then(|| normalize(object.clone(), schema, Strictness::Ignore)) {
        Some(Ok(pruned)) => pruned.value,
        _ => object,
    };
    set_defaults(&mut object, schema.root());
    let bytes = canonical::encode(&object);
    (bytes != stored).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definition(conversion: Value) -> Value {
        let version = |name: &str, more: Value| {
            let mut properties = json!({"color": {"type": "string", "default": "blue"}, "size": {"type": "integer"}});
            properties.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            json!({"name": name, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}}})
        };
        let versions = json!([version("v1", json!({})), version("v2", json!({"shape": {"type": "string", "default": "round"}}))]);
        json!({"spec": {"group": "g", "names": {"kind": "K"}, "versions": versions, "conversion": conversion}})
    }

    fn read(definition: &Value, stored: &Value) -> Option<Value> {
        let renewed = of(definition)(&canonical::encode(stored));
        renewed.map(|bytes| serde_json::from_slice(&bytes).expect("an object"))
    }

    #[test]
    fn each_object_is_read_by_the_schema_of_the_version_it_was_stored_in() {
        let definition = definition(json!({"strategy": "None"}));
        let stored = |version: &str, spec: Value| json!({"kind": "K", "apiVersion": format!("g/{version}"), "metadata": {"name": "n"}, "spec": spec});
        let made = |version: &str, spec: Value| read(&definition, &stored(version, spec)).map(|o| o["spec"].clone());
        assert_eq!(made("v1", json!({"size": 1, "shape": "flat"})), Some(json!({"size": 1, "color": "blue"})));
        assert_eq!(made("v2", json!({"size": 1, "shape": "flat"})), Some(json!({"size": 1, "color": "blue", "shape": "flat"})));
        assert_eq!(made("v1", json!({"color": "red"})), None, "it is as it should be");
        assert_eq!(made("v9", json!({"x": 1})), None, "nothing is known of that version");
    }

    #[test]
    fn what_a_conversion_added_stays() {
        let definition = definition(json!({"strategy": "Webhook"}));
        let stored = json!({"kind": "K", "apiVersion": "g/v1", "metadata": {"name": "n"}, "spec": {"added": 1}});
        assert_eq!(read(&definition, &stored).map(|o| o["spec"].clone()), Some(json!({"added": 1, "color": "blue"})));
    }
}
