//! Who asks for what: the facts of a request that authorization, admission and audit decide on.

use std::collections::BTreeMap;

/// An authenticated user, as `authentication.k8s.io UserInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name, `system:anonymous` when nobody.
    pub name: String,
    /// UID, mostly empty.
    pub uid: String,
    /// Groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// Extra, such as `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A component's own identity, as the all-in-one gives it to in-process clients: `system:authenticated` is added.
    pub fn component(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push("system:authenticated".to_owned());
        UserInfo { name: name.to_owned(), groups, ..UserInfo::default() }
    }
}

/// The request as authorization sees it (`authorizer.Attributes`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Who.
    pub user: UserInfo,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; the lower-case method for non-resource paths.
    pub verb: String,
    /// Empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural; empty for non-resource requests.
    pub resource: String,
    /// Empty for the main resource.
    pub subresource: String,
    /// Empty for cluster scope and for all namespaces.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// The path of the request.
    pub path: String,
    /// `fieldSelector` of the query, as sent.
    pub field_selector: String,
    /// `labelSelector` of the query, as sent.
    pub label_selector: String,
}

impl Attributes {
    /// Whether this is about a resource (else about a path).
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }
}
