//! The few facts by which kinds differ in how they are written, from the strategies of `pkg/registry`. Everything else
//! about a kind stands in its row and hooks.

use crate::registry::Entry;

/// Through which door an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The object itself.
    Main,
    /// `status`.
    Status,
    /// `scale`: only the replicas of the spec.
    Scale,
    /// `finalize` of a namespace: only `spec.finalizers`.
    Finalize,
    /// `approval` of a certificate signing request: only `status.conditions`.
    Approval,
    /// `resize` of a pod: only the resources of its containers.
    Resize,
    /// `ephemeralcontainers` of a pod: only those.
    EphemeralContainers,
    /// `binding` of a pod: node name, annotations and labels that the binding carries.
    Binding,
}

impl View {
    /// The view that a subresource of the path writes through.
    pub fn of(subresource: &str) -> Option<View> {
        Some(match subresource {
            "" => View::Main,
            "status" => View::Status,
            "scale" => View::Scale,
            "finalize" => View::Finalize,
            "approval" => View::Approval,
            "resize" => View::Resize,
            "ephemeralcontainers" => View::EphemeralContainers,
            "binding" => View::Binding,
            _ => return None,
        })
    }

    /// The subresource as managed fields name it.
    pub fn subresource(self) -> &'static str {
        match self {
            View::Main => "",
            View::Status => "status",
            View::Scale => "scale",
            View::Finalize => "finalize",
            View::Approval => "approval",
            View::Resize => "resize",
            View::EphemeralContainers => "ephemeralcontainers",
            View::Binding => "binding",
        }
    }
}

fn listed(list: &[(&str, &str)], entry: &Entry) -> bool {
    list.iter().any(|(group, resource)| entry.is(group, resource))
}

const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

/// `AllowCreateOnUpdate`: PUT of a name that does not exist creates it.
pub fn create_on_update(entry: &Entry) -> bool {
    const LIST: &[(&str, &str)] = &[
        ("", "endpoints"),
        ("", "events"),
        ("events.k8s.io", "events"),
        ("", "limitranges"),
        ("", "services"),
        ("coordination.k8s.io", "leases"),
        (RBAC, "roles"),
        (RBAC, "rolebindings"),
        (RBAC, "clusterroles"),
        (RBAC, "clusterrolebindings"),
    ];
    listed(LIST, entry)
}

/// `AllowUnconditionalUpdate`: PUT without `resourceVersion` overwrites whatever is there.
pub fn unconditional_update(entry: &Entry) -> bool {
    const NOT: &[(&str, &str)] = &[
        ("coordination.k8s.io", "leases"),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        ("apiregistration.k8s.io", "apiservices"),
        ("policy", "poddisruptionbudgets"),
        ("node.k8s.io", "runtimeclasses"),
        ("storage.k8s.io", "csinodes"),
        ("storage.k8s.io", "csidrivers"),
        ("storage.k8s.io", "volumeattachments"),
        ("internal.apiserver.k8s.io", "storageversions"),
        ("storagemigration.k8s.io", "storageversionmigrations"),
        (ADMISSION, "validatingadmissionpolicies"),
        (ADMISSION, "validatingadmissionpolicybindings"),
        (ADMISSION, "mutatingadmissionpolicies"),
        (ADMISSION, "mutatingadmissionpolicybindings"),
        (ADMISSION, "validatingwebhookconfigurations"),
        (ADMISSION, "mutatingwebhookconfigurations"),
    ];
    entry.custom.is_none() && !listed(NOT, entry)
}

/// Whether the strategy counts `metadata.generation` up when what is wanted changes.
pub fn has_generation(entry: &Entry) -> bool {
    const LIST: &[(&str, &str)] = &[
        ("", "pods"),
        ("", "podtemplates"),
        ("", "replicationcontrollers"),
        ("apps", "daemonsets"),
        ("apps", "deployments"),
        ("apps", "replicasets"),
        ("apps", "statefulsets"),
        ("batch", "cronjobs"),
        ("batch", "jobs"),
        ("discovery.k8s.io", "endpointslices"),
        ("networking.k8s.io", "ingresses"),
        ("networking.k8s.io", "ingressclasses"),
        ("networking.k8s.io", "networkpolicies"),
        ("policy", "poddisruptionbudgets"),
        ("flowcontrol.apiserver.k8s.io", "flowschemas"),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
        ("scheduling.k8s.io", "priorityclasses"),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        ("resource.k8s.io", "deviceclasses"),
        ("resource.k8s.io", "resourceslices"),
        ("storage.k8s.io", "csidrivers"),
        (ADMISSION, "validatingadmissionpolicies"),
        (ADMISSION, "validatingadmissionpolicybindings"),
        (ADMISSION, "mutatingadmissionpolicies"),
        (ADMISSION, "mutatingadmissionpolicybindings"),
        (ADMISSION, "validatingwebhookconfigurations"),
        (ADMISSION, "mutatingwebhookconfigurations"),
    ];
    entry.custom.is_some() || listed(LIST, entry)
}

/// `ReturnDeletedObject`: a finished DELETE answers with the object, not with a Status.
pub fn returns_deleted(entry: &Entry) -> bool {
    const LIST: &[(&str, &str)] = &[
        ("", "persistentvolumeclaims"),
        ("", "persistentvolumes"),
        ("", "pods"),
        ("", "podtemplates"),
        ("", "resourcequotas"),
        ("", "serviceaccounts"),
        ("", "services"),
        ("storage.k8s.io", "csidrivers"),
        ("storage.k8s.io", "csinodes"),
        ("storage.k8s.io", "storageclasses"),
        ("storage.k8s.io", "volumeattachments"),
        ("storage.k8s.io", "volumeattributesclasses"),
    ];
    listed(LIST, entry)
}

/// Fields of the metadata that stay as they are when the status is written: the younger kinds' strategies
/// (`ResetObjectMetaForStatus`) leave nothing of it to the writer, the older ones nearly all.
pub fn status_keeps(entry: &Entry) -> &'static [&'static str] {
    const RESET: &[(&str, &str)] = &[
        ("apiregistration.k8s.io", "apiservices"),
        ("flowcontrol.apiserver.k8s.io", "flowschemas"),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
        ("networking.k8s.io", "servicecidrs"),
        ("resource.k8s.io", "resourceclaims"),
        ("storage.k8s.io", "volumeattachments"),
        ("storagemigration.k8s.io", "storageversionmigrations"),
        (ADMISSION, "validatingadmissionpolicies"),
    ];
    if listed(RESET, entry) {
        &["annotations", "finalizers", "labels", "ownerReferences"]
    } else if entry.is("apps", "deployments") {
        &["labels", "ownerReferences"]
    } else {
        &["ownerReferences"]
    }
}

/// `GetResetFields` of the status strategies: fields of the metadata, as path elements, that nobody comes to own by writing
/// the status; `None` where that is all of it.
pub fn status_resets(entry: &Entry) -> Option<&'static [&'static str]> {
    const LIST: &[(&str, &str)] = &[
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        ("apiregistration.k8s.io", "apiservices"),
        ("flowcontrol.apiserver.k8s.io", "flowschemas"),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
        ("storage.k8s.io", "volumeattachments"),
        ("resource.k8s.io", "resourceclaims"),
        ("storagemigration.k8s.io", "storageversionmigrations"),
        (ADMISSION, "validatingadmissionpolicies"),
    ];
    if entry.custom.is_some() || listed(LIST, entry) {
        None
    } else if entry.is("apps", "deployments") {
        Some(&["f:labels"])
    } else {
        Some(&[])
    }
}

/// Whether the store forgets objects of this kind by itself, after `--event-ttl`.
pub fn expires(entry: &Entry) -> bool {
    entry.kind.storage_prefix.as_deref() == Some("events")
}
