//! What an APIService says, as far as it names another server.

use serde_json::Value;

/// `spec` of an APIService with a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub service: String,
    pub port: u16,
    pub insecure: bool,
    /// Base64 of PEM.
    pub ca_bundle: String,
    pub group_minimum: u64,
    pub priority: u64,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Spec {
    /// `None` for a local APIService.
    pub fn of(api_service: &Value) -> Option<Spec> {
        let spec = &api_service["spec"];
        let service = spec.get("service").filter(|s| s.is_object())?;
        Some(Spec {
            group: text(&spec["group"]),
            version: text(&spec["version"]),
            namespace: text(&service["namespace"]),
            service: text(&service["name"]),
            port: service["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
            insecure: spec["insecureSkipTLSVerify"] == true,
            ca_bundle: text(&spec["caBundle"]),
            group_minimum: spec["groupPriorityMinimum"].as_u64().unwrap_or_default(),
            priority: spec["versionPriority"].as_u64().unwrap_or_default(),
        })
    }

    /// The name that its certificate must have.
    pub fn host(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }

    /// Where its discovery is.
    pub fn path(&self) -> String {
        format!("/apis/{}/{}", self.group, self.version)
    }
}
