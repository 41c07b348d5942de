//! Static pods: what a directory of this node asks for, with or without an API server. A control plane that runs in pods starts this way.
//!
//! [`manifest`] makes a pod of a file, [`source`] follows the directory, [`mirror`] shows the pods in the API by copies of them
//! that can be looked at and nothing else. The pod manager runs them like all others. Source: `pkg/kubelet/config/file_linux.go`,
//! `pkg/kubelet/pod/mirror_client.go`.

pub mod manifest;
pub mod mirror;
pub mod source;

use k8s_openapi::api::core::v1::Pod;

/// Where a pod comes from: `file`, or else the API.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// The UID of a static pod, which changes with its file.
pub const HASH: &str = "kubernetes.io/config.hash";
/// When the file was read.
pub const SEEN: &str = "kubernetes.io/config.seen";
/// In a copy in the API: the hash of the static pod.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

fn annotation<'p>(pod: &'p Pod, name: &str) -> Option<&'p str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether the pod comes from a file.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE).is_some_and(|source| source != "api") && annotation(pod, MIRROR).is_none()
}

/// The hash of the static pod of which this is the copy in the API.
pub fn mirrors(pod: &Pod) -> Option<&str> {
    annotation(pod, MIRROR)
}

/// Namespace and name: what a static pod and its copy have in common.
pub type FullName = (String, String);

/// The full name of a pod.
pub fn full_name(pod: &Pod) -> FullName {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}
