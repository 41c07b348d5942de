//! Conversion webhooks: objects of a custom resource between its versions.
//!
//! The store has one version, a request names another; where the CRD names a webhook, it is asked on every way from one to the
//! other, for all objects of an answer at once. With strategy `None` versions differ in name only, and nobody is asked
//! (`output::present`). Source: apiextensions `apiserver/conversion`.

use crate::ApiServer;
use crate::admission::webhook::call::Client;
use crate::cache::{Event, EventType, outline};
use crate::objects::Objects;
use crate::output::canonical;
use crate::registry::{Entry, hash_of};
use ferrokube_api::decode::explain;
use ferrokube_api::labels::{ResolvedFields, field_values};
use ferrokube_api::schema::set_defaults;
use ferrokube_api::{Object, Status};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;

/// Seconds that a conversion may take.
const TIMEOUT: u64 = 30;
/// What a webhook may change of the metadata.
const CHANGEABLE: [&str; 2] = ["labels", "annotations"];

/// The webhook of a CRD.
#[derive(Debug)]
pub struct Converter {
    client: Client,
    /// The version of the review that both sides know.
    review: &'static str,
}

impl Converter {
    /// `None` when versions differ in name only.
    pub fn of(definition: &Value) -> Option<Converter> {
        let conversion = &definition["spec"]["conversion"];
        if conversion["strategy"] != "Webhook" {
            return None;
        }
        let webhook = &conversion["webhook"];
        let versions = webhook["conversionReviewVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let review = versions.into_iter().find(|v| matches!(*v, "v1" | "v1beta1"));
        let review = if review == Some("v1beta1") { "v1beta1" } else { "v1" };
        Some(Converter { client: Client::new(&webhook["clientConfig"], Some(TIMEOUT)), review })
    }

    /// Converts whole objects to an `apiVersion`; those that have it stay as they are.
    ///
    /// # Errors
    /// 500 in upstream's words when the webhook cannot be asked or its answer cannot be used.
    pub async fn convert(&self, objects: &dyn Objects, to: &str, list: Vec<Value>) -> Result<Vec<Value>, Status> {
        let foreign: Vec<&Value> = list.iter().filter(|o| o["apiVersion"] != to).collect();
        let Some(first) = foreign.first() else { return Ok(list) };
        let kind = format!("{}, Kind={}", first["apiVersion"].as_str().unwrap_or_default(), first["kind"].as_str().unwrap_or_default());
        let failed = |why: String| unconverted(format!("conversion webhook for {kind} {why}"));
        let uid = uuid::Uuid::new_v4().to_string();
        let review = ConversionReview {
            kind: "ConversionReview",
            api_version: format!("apiextensions.k8s.io/{}", self.review),
            request: ConversionRequest { uid: &uid, to, objects: &foreign },
        };
        let review = serde_json::to_vec(&review).map_err(|e| failed(format!("failed: {e}")))?;
        let body = self.client.post(objects, review.into()).await.map_err(|why| failed(format!("failed: {why}")))?;
        let converted = answer(&body, &uid, foreign.len()).map_err(failed)?;
        let mut converted = converted.into_iter().enumerate();
        let mut out = Vec::with_capacity(list.len());
        for original in list {
            match (original["apiVersion"] != to).then(|| converted.next()).flatten() {
                Some((at, new)) => out.push(checked(&original, new, to, at).map_err(failed)?),
                None => out.push(original),
            }
        }
        Ok(out)
    }
}

/// Written from the objects as they are: a list may have thousands of them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConversionReview<'a> {
    kind: &'static str,
    api_version: String,
    request: ConversionRequest<'a>,
}

#[derive(Serialize)]
struct ConversionRequest<'a> {
    uid: &'a str,
    #[serde(rename = "desiredAPIVersion")]
    to: &'a str,
    objects: &'a [&'a Value],
}

/// What a plain Go error becomes: a 500 without a reason.
fn unconverted(message: String) -> Status {
    Status::untyped(message)
}

/// The objects of an answer.
fn answer(body: &[u8], uid: &str, wanted: usize) -> Result<Vec<Value>, String> {
    let mut review: Value =
        serde_json::from_slice(body).map_err(|e| format!("failed: couldn't get version/kind; json parse error: {}", explain(body, &e)))?;
    let response = review["response"].take();
    if !response.is_object() {
        return Err("failed: no response provided".into());
    }
    let said = response["uid"].as_str().unwrap_or_default();
    if said != uid {
        return Err(format!("failed: expected response.uid={uid:?}, got {said:?}"));
    }
    if response["result"]["status"] != "Success" {
        let why = response["result"]["message"].as_str().filter(|m| !m.is_empty());
        return Err(format!("failed: {}", why.unwrap_or("response.result.status was not Success")));
    }
    let list = response["convertedObjects"].as_array().cloned().unwrap_or_default();
    if list.len() != wanted {
        return Err(format!("returned {} objects, expected {wanted}", list.len()));
    }
    Ok(list)
}

/// A converted object with the metadata that is not the webhook's to change.
fn checked(original: &Value, mut new: Value, to: &str, at: usize) -> Result<Value, String> {
    let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    let bad = |why: String| format!("returned invalid converted object at index {at}: {why}");
    if new["apiVersion"] != to {
        return Err(bad(format!("invalid groupVersion (expected {to}, received {})", text(&new, "apiVersion"))));
    }
    if new["kind"] != original["kind"] {
        return Err(bad(format!("invalid kind (expected {}, received {})", text(original, "kind"), text(&new, "kind"))));
    }
    if !new["metadata"].is_object() {
        return Err(format!(
            "returned invalid metadata at index {at}: invalid metadata of type {}, expected map",
            type_of(&new["metadata"])
        ));
    }
    for key in ["name", "namespace", "uid"] {
        if text(&new["metadata"], key) != text(&original["metadata"], key) {
            let (was, is) = (text(&original["metadata"], key), text(&new["metadata"], key));
            return Err(format!("returned invalid metadata at index {at}: must not mutate {key}: {was:?} -> {is:?}"));
        }
    }
    let mut meta = original["metadata"].clone();
    for key in CHANGEABLE {
        match (&new["metadata"][key], meta.as_object_mut()) {
            (Value::Null, Some(meta)) => _ = meta.remove(key),
            (value, Some(meta)) => _ = meta.insert(key.to_owned(), value.clone()),
            _ => {}
        }
    }
    new["metadata"] = meta;
    Ok(new)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        _ => "unexpected type",
    }
}

impl ApiServer {
    /// Stored objects in the version of the row, asking the conversion webhook when there is one and it is needed.
    pub async fn converted(&self, entry: &Entry, objects: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>, Status> {
        let Some(converter) = entry.custom.as_ref().and_then(|c| c.conversion.as_ref()) else { return Ok(objects) };
        let own = |o: &Object| o.json.starts_with(entry.head.as_bytes());
        let foreign: Vec<&Arc<Object>> = objects.iter().filter(|o| !own(o)).collect();
        if foreign.is_empty() {
            return Ok(objects);
        }
        let values = foreign.iter().map(|o| o.decode::<Value>()).collect::<Result<Vec<_>, _>>().map_err(Status::internal)?;
        let mut values = converter.convert(&*self.caches, &entry.kind.api_version(), values).await?.into_iter();
        let mut out = Vec::with_capacity(objects.len());
        for object in &objects {
            match (!own(object)).then(|| values.next()).flatten() {
                Some(value) => out.push(Arc::new(remade(entry, object, value)?)),
                None => out.push(object.clone()),
            }
        }
        Ok(out)
    }

    /// One object, as [`ApiServer::converted`].
    pub async fn converted_one(&self, entry: &Entry, object: Arc<Object>) -> Result<Arc<Object>, Status> {
        if entry.custom.as_ref().is_none_or(|c| c.conversion.is_none()) {
            return Ok(object);
        }
        let found = self.converted(entry, vec![object.clone()]).await?;
        Ok(found.into_iter().next().unwrap_or(object))
    }
}

impl ApiServer {
    /// The object that an event shows, in the version of the row. Asked for once, however many watch.
    pub async fn converted_event(&self, entry: &Entry, event: &Event, kind: EventType, object: Arc<Object>) -> Result<Arc<Object>, Status> {
        if entry.custom.as_ref().is_none_or(|c| c.conversion.is_none()) {
            return Ok(object);
        }
        let way = hash_of((&*entry.kind.group, &*entry.kind.version, kind == EventType::Deleted));
        // A call to a webhook is a large future: it is not carried about.
        event.converted(way, Box::pin(self.converted_one(entry, object))).await
    }
}

/// Whether fields of an object in the version of the row are those selected.
pub fn selected(entry: &Entry, fields: &ResolvedFields, object: &Object) -> bool {
    let shown = |value: Value| fields.matches_with(&object.key, &field_values(&entry.kind, &value));
    fields.is_everything() || object.decode().is_ok_and(shown)
}

/// The stored object with another body.
fn remade(entry: &Entry, stored: &Object, mut value: Value) -> Result<Object, Status> {
    set_defaults(&mut value, entry.schema.root());
    crate::output::present::take_version(&mut value);
    let json = canonical::encode(&value);
    Ok(Object {
        key: stored.key.clone(),
        uid: stored.uid.clone(),
        revision: stored.revision,
        labels: stored.labels.clone(),
        fields: stored.fields.clone(),
        json: outline::splice(&json, stored.revision).map_err(Status::internal)?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_webhook_changes_no_more_of_the_metadata_than_labels_and_annotations() {
        let original =
            json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "uid": "u", "labels": {"a": "1"}, "finalizers": ["f"]}});
        let new = json!({"apiVersion": "a/v2", "kind": "K", "metadata": {"name": "n", "uid": "u", "annotations": {"b": "2"}}, "spec": 1});
        let made = checked(&original, new.clone(), "a/v2", 0).expect("usable");
        assert_eq!(made["metadata"], json!({"name": "n", "uid": "u", "annotations": {"b": "2"}, "finalizers": ["f"]}));
        let why = |change: fn(&mut Value)| {
            let mut new = new.clone();
            change(&mut new);
            checked(&original, new, "a/v2", 3).expect_err("unusable")
        };
        assert_eq!(
            why(|n| n["apiVersion"] = json!("a/v3")),
            "returned invalid converted object at index 3: invalid groupVersion (expected a/v2, received a/v3)"
        );
        assert_eq!(why(|n| n["kind"] = json!("L")), "returned invalid converted object at index 3: invalid kind (expected K, received L)");
        assert_eq!(
            why(|n| n["metadata"]["name"] = json!("m")),
            "returned invalid metadata at index 3: must not mutate name: \"n\" -> \"m\""
        );
    }
}
