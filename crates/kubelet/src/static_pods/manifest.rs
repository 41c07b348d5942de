//! A static pod from its file. Pure.

use super::{HASH, SEEN, SOURCE};
use ferrokube_api::decode::{ContentType, Strictness, decode};
use ferrokube_api::field::Errors;
use ferrokube_api::kinds::{self, HookContext};
use ferrokube_api::schema::Schema;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Why a file is no static pod.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BadManifest {
    #[error("couldn't parse as pod: {0}")]
    Unreadable(String),
    #[error("invalid pod: {0}")]
    Invalid(String),
    #[error("static pods may not reference {0}")]
    Reference(String),
}

/// Where a pod spec names objects of the API (PreventStaticPodAPIReferences).
const REFERENCES: [&str; 15] = [
    "clusterTrustBundle",
    "configMap",
    "configMapKeyRef",
    "configMapRef",
    "ephemeral",
    "imagePullSecrets",
    "nodePublishSecretRef",
    "persistentVolumeClaim",
    "podCertificate",
    "resourceClaims",
    "secret",
    "secretKeyRef",
    "secretName",
    "secretRef",
    "serviceAccountToken",
];

/// Reads a manifest, YAML or JSON, as a pod of the node.
pub fn read(text: &[u8], from: &Path, node: &str, now: Timestamp) -> Result<Pod, BadManifest> {
    let row = kinds::lookup("", "v1", "pods").ok_or_else(|| BadManifest::Unreadable("no such kind".into()))?;
    let schema = Schema::builtin(&row.schema).ok_or_else(|| BadManifest::Unreadable("no such type".into()))?;
    let unreadable = |e: ferrokube_api::Status| BadManifest::Unreadable(e.message);
    let mut pod = decode(text, ContentType::Yaml, &schema, Strictness::Ignore).map_err(unreadable)?.value;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_lowercase();
    if name.is_empty() {
        return Err(BadManifest::Invalid("metadata.name: Required value: name or generateName is required".into()));
    }
    if let Some(reference) = reference(&pod["spec"]) {
        return Err(BadManifest::Reference(reference));
    }
    place(&mut pod, &name, node);
    let uid = uid(&pod, from);
    let annotations = [(SOURCE, "file".to_owned()), (HASH, uid.clone()), (SEEN, now.to_string())];
    for (key, text) in annotations {
        pod["metadata"]["annotations"][key] = json!(text);
    }
    pod["metadata"]["uid"] = json!(uid);
    pod["metadata"]["creationTimestamp"] = Value::Null;
    let (hooks, context) = (&row.hooks, HookContext { now });
    hooks.prepare_create.inspect(|prepare| prepare(&mut pod, &context));
    hooks.default.inspect(|default| default(&mut pod));
    let mut errors = Errors::default();
    hooks.validate_create.inspect(|validate| validate(&pod, &mut errors));
    if !errors.is_empty() {
        let causes = errors.causes().iter().map(|c| format!("{}: {}", c.field, c.message));
        return Err(BadManifest::Invalid(causes.collect::<Vec<_>>().join(", ")));
    }
    serde_json::from_value(pod).map_err(|e| BadManifest::Unreadable(e.to_string()))
}

/// On this node, whatever becomes of it, and with a name that no other node has.
fn place(pod: &mut Value, name: &str, node: &str) {
    pod["metadata"]["name"] = json!(format!("{name}-{}", node.to_lowercase()));
    if pod["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
        pod["metadata"]["namespace"] = json!("default");
    }
    pod["spec"]["nodeName"] = json!(node);
    let everything = json!({"operator": "Exists", "effect": "NoExecute"});
    match pod["spec"]["tolerations"].as_array_mut() {
        Some(tolerations) if tolerations.contains(&everything) => {}
        Some(tolerations) => tolerations.push(everything),
        None => pod["spec"]["tolerations"] = json!([everything]),
    }
    pod.as_object_mut().map(|pod| pod.remove("status"));
}

/// Another content or another file is another pod; the same one is the same again after a restart.
fn uid(pod: &Value, from: &Path) -> String {
    let mut hasher = Sha256::new();
    hasher.update(from.as_os_str().as_encoded_bytes());
    hasher.update([0]);
    hasher.update(pod.to_string());
    hasher.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
}

/// The first field that names an object of the API.
fn reference(spec: &Value) -> Option<String> {
    let account = ["serviceAccountName", "serviceAccount"].into_iter().find(|f| spec[*f].as_str().is_some_and(|name| !name.is_empty()));
    let lists = ["volumes", "containers", "initContainers", "ephemeralContainers"];
    let within = || lists.into_iter().find_map(|list| named(&spec[list]));
    let own = || REFERENCES.into_iter().find(|field| spec[*field].as_array().is_some_and(|list| !list.is_empty()));
    account.or_else(own).or_else(within).map(str::to_owned)
}

fn named(value: &Value) -> Option<&'static str> {
    match value {
        Value::Array(list) => list.iter().find_map(named),
        Value::Object(fields) => fields.iter().find_map(|(field, value)| {
            let here = REFERENCES.into_iter().find(|reference| reference == field && !value.is_null());
            here.or_else(|| named(value))
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(text: &str) -> Result<Pod, BadManifest> {
        read(text.as_bytes(), Path::new("/etc/kubernetes/manifests/web.yaml"), "node-1", Timestamp::UNIX_EPOCH)
    }

    const WEB: &str = "{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: c, image: web}]}}";

    #[test]
    fn a_file_becomes_a_whole_pod_of_the_node() {
        let web = pod(WEB).unwrap();
        let meta = &web.metadata;
        assert_eq!((meta.namespace.as_deref(), meta.name.as_deref()), (Some("default"), Some("web-node-1")));
        assert!(super::super::is_static(&web) && meta.uid.as_deref() == super::super::annotation(&web, HASH));
        let spec = web.spec.unwrap();
        assert_eq!((spec.node_name.as_deref(), spec.restart_policy.as_deref()), (Some("node-1"), Some("Always")));
        assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("Always"), "as the API defaults it");
        let tolerations = spec.tolerations.unwrap();
        assert!(tolerations.iter().any(|t| t.effect.as_deref() == Some("NoExecute") && t.key.is_none()), "{tolerations:?}");
        assert_eq!(web.status.unwrap().qos_class.as_deref(), Some("BestEffort"));
    }

    #[test]
    fn the_same_content_is_the_same_pod_and_another_is_another() {
        let uid = |text: &str| pod(text).unwrap().metadata.uid;
        assert_eq!(uid(WEB), uid(&WEB.replace(", ", ",  ")));
        assert_ne!(uid(WEB), uid(&WEB.replace("image: web", "image: web2")));
    }

    #[test]
    fn what_is_no_pod_or_needs_the_api_is_refused_with_the_reason() {
        let with = |more: &str| WEB.replace("spec: {", &format!("spec: {{{more}, "));
        let cases = [
            ("a: [".to_owned(), "couldn't parse as pod: "),
            ("{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}".to_owned(), "couldn't parse as pod: "),
            (WEB.replace("name: web", "labels: {}"), "invalid pod: metadata.name: Required value"),
            (WEB.replace("image: web", "image: ''"), "invalid pod: spec.containers[0].image: Required value"),
            (with("serviceAccountName: x"), "static pods may not reference serviceAccountName"),
            (with("volumes: [{name: v, configMap: {name: x}}]"), "static pods may not reference configMap"),
            (with("volumes: [{name: v, projected: {sources: [{secret: {name: x}}]}}]"), "static pods may not reference secret"),
            (with("imagePullSecrets: [{name: x}]"), "static pods may not reference imagePullSecrets"),
            (
                WEB.replace("image: web", "image: web, env: [{name: E, valueFrom: {secretKeyRef: {name: s, key: k}}}]"),
                "static pods may not reference secretKeyRef",
            ),
        ];
        for (text, expected) in cases {
            let error = pod(&text).expect_err(&text).to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        assert!(pod(&with("nodeSelector: {secret: x}, volumes: [{name: v, hostPath: {path: /x}}]")).is_ok(), "a label is no reference");
    }
}
