//! CustomResourceDefinitions as upstream stores them: in `v1beta1`, where what all versions have in common stands once, at the
//! top. Source: apiextensions `apis/apiextensions/v1beta1/conversion.go`.

use serde_json::{Map, Value, json};

/// Turns a stored v1beta1 definition into what v1 says.
pub fn to_v1(definition: &mut Value) {
    definition["apiVersion"] = "apiextensions.k8s.io/v1".into();
    let Some(spec) = definition["spec"].as_object_mut() else { return };
    let (version, schema) = (spec.remove("version"), spec.remove("validation"));
    let (subresources, columns) = (spec.remove("subresources"), spec.remove("additionalPrinterColumns"));
    if spec.get("versions").and_then(Value::as_array).is_none_or(Vec::is_empty)
        && let Some(name) = version
    {
        spec.insert("versions".into(), json!([{"name": name, "served": true, "storage": true}]));
    }
    for version in spec.get_mut("versions").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
        for (key, common) in [("schema", &schema), ("subresources", &subresources), ("additionalPrinterColumns", &columns)] {
            if let (None, Some(common)) = (version.get(key).filter(|v| !v.is_null()), common) {
                version.insert(key.to_owned(), common.clone());
            }
        }
        columns_of(version);
    }
    // Absent meant true; what is stored was defaulted, and says so.
    spec.entry("preserveUnknownFields").or_insert(Value::Bool(true));
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
        spec.remove("preserveUnknownFields");
    }
    conversion(spec);
}

fn columns_of(version: &mut Map<String, Value>) {
    let columns = version.get_mut("additionalPrinterColumns").and_then(Value::as_array_mut);
    for column in columns.into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(path) = column.remove("JSONPath") {
            column.insert("jsonPath".into(), path);
        }
    }
}

fn conversion(spec: &mut Map<String, Value>) {
    let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) else { return };
    let (client, versions) = (conversion.remove("webhookClientConfig"), conversion.remove("conversionReviewVersions"));
    if let Some(client) = client.filter(|c| !c.is_null()) {
        // Who said nothing knew v1beta1 only.
        let versions = versions.filter(|v| !v.is_null()).unwrap_or_else(|| json!(["v1beta1"]));
        conversion.insert("webhook".into(), json!({"clientConfig": client, "conversionReviewVersions": versions}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_versions_have_in_common_is_said_of_each() {
        let schema = json!({"openAPIV3Schema": {"type": "object"}});
        let mut stored = json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1beta1", "metadata": {"name": "as.example.com"},
            "spec": {"group": "example.com", "version": "v2", "scope": "Namespaced", "validation": schema, "preserveUnknownFields": false,
                "subresources": {"status": {}}, "additionalPrinterColumns": [{"name": "A", "type": "string", "JSONPath": ".a"}],
                "versions": [{"name": "v2", "served": true, "storage": true}, {"name": "v1", "served": true, "storage": false}],
                "conversion": {"strategy": "Webhook", "webhookClientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v1"]}}});
        to_v1(&mut stored);
        let version = |name: &str, storage: bool| {
            json!({"name": name, "served": true, "storage": storage, "schema": schema, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "A", "type": "string", "jsonPath": ".a"}]})
        };
        assert_eq!(
            stored["spec"],
            json!({"group": "example.com", "scope": "Namespaced", "versions": [version("v2", true), version("v1", false)],
                "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v1"]}}})
        );
    }
}
