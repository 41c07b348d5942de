//! Rows of the groups that run the cluster: access, admission, extension, networking, storage, leases, events.

use super::columns;
use super::core::event_fields;
use super::row::Group;
use crate::kinds::{admission, certificates, endpoints, event, extension, flow, networking, policy, rbac, storage};
use crate::kinds::{Kind, Verbs};

const ADMISSION: Group = Group("admissionregistration.k8s.io", "v1", "io.k8s.api.admissionregistration.v1");
const EXTENSIONS: Group =
    Group("apiextensions.k8s.io", "v1", "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1");
const REGISTRATION: Group =
    Group("apiregistration.k8s.io", "v1", "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1");
const AUTHENTICATION: Group = Group("authentication.k8s.io", "v1", "io.k8s.api.authentication.v1");
const AUTHORIZATION: Group = Group("authorization.k8s.io", "v1", "io.k8s.api.authorization.v1");
const CERTIFICATES: Group = Group("certificates.k8s.io", "v1", "io.k8s.api.certificates.v1");
const COORDINATION: Group = Group("coordination.k8s.io", "v1", "io.k8s.api.coordination.v1");
const DISCOVERY: Group = Group("discovery.k8s.io", "v1", "io.k8s.api.discovery.v1");
const EVENTS: Group = Group("events.k8s.io", "v1", "io.k8s.api.events.v1");
const FLOW: Group = Group("flowcontrol.apiserver.k8s.io", "v1", "io.k8s.api.flowcontrol.v1");
const NETWORKING: Group = Group("networking.k8s.io", "v1", "io.k8s.api.networking.v1");
const RBAC: Group = Group("rbac.authorization.k8s.io", "v1", "io.k8s.api.rbac.v1");
const STORAGE: Group = Group("storage.k8s.io", "v1", "io.k8s.api.storage.v1");

const EXTENDS: &str = "api-extensions";

pub(super) fn admission() -> Vec<Kind> {
    let row = |kind, resource| ADMISSION.cluster(kind, resource).category(EXTENDS);
    vec![
        row("MutatingAdmissionPolicy", "mutatingadmissionpolicies").columns(columns::MUTATING_POLICY).hooks(admission::MUTATING_POLICY).done(),
        row("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings").columns(columns::POLICY_BINDING).hooks(admission::BINDING).done(),
        row("MutatingWebhookConfiguration", "mutatingwebhookconfigurations").columns(columns::WEBHOOKS).hooks(admission::MUTATING_WEBHOOKS).done(),
        row("ValidatingAdmissionPolicy", "validatingadmissionpolicies").status().columns(columns::VALIDATING_POLICY).hooks(admission::POLICY).done(),
        row("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings").columns(columns::POLICY_BINDING).hooks(admission::BINDING).done(),
        row("ValidatingWebhookConfiguration", "validatingwebhookconfigurations").columns(columns::WEBHOOKS).hooks(admission::VALIDATING_WEBHOOKS).done(),
    ]
}

pub(super) fn extensions() -> Vec<Kind> {
    vec![
        EXTENSIONS
            .cluster("CustomResourceDefinition", "customresourcedefinitions")
            .short(&["crd", "crds"])
            .category(EXTENDS)
            .at("apiextensions.k8s.io/customresourcedefinitions")
            .status()
            .columns(columns::CUSTOM_RESOURCE_DEFINITION)
            .hooks(extension::DEFINITION).done(),
    ]
}

pub(super) fn registration() -> Vec<Kind> {
    vec![
        REGISTRATION
            .cluster("APIService", "apiservices")
            .category(EXTENDS)
            .at("apiregistration.k8s.io/apiservices")
            .status()
            .columns(columns::API_SERVICE)
            .hooks(extension::API_SERVICE).done(),
    ]
}

pub(super) fn authentication() -> Vec<Kind> {
    vec![
        AUTHENTICATION.cluster("SelfSubjectReview", "selfsubjectreviews").review().done(),
        AUTHENTICATION.cluster("TokenReview", "tokenreviews").review().done(),
    ]
}

pub(super) fn authorization() -> Vec<Kind> {
    vec![
        AUTHORIZATION.namespaced("LocalSubjectAccessReview", "localsubjectaccessreviews").review().done(),
        AUTHORIZATION.cluster("SelfSubjectAccessReview", "selfsubjectaccessreviews").review().done(),
        AUTHORIZATION.cluster("SelfSubjectRulesReview", "selfsubjectrulesreviews").review().done(),
        AUTHORIZATION.cluster("SubjectAccessReview", "subjectaccessreviews").review().done(),
    ]
}

pub(super) fn certificates() -> Vec<Kind> {
    vec![
        CERTIFICATES
            .cluster("CertificateSigningRequest", "certificatesigningrequests")
            .short(&["csr"])
            .view("approval", Verbs::GET_PATCH_UPDATE)
            .status()
            .select(&[("spec.signerName", "")])
            .columns(columns::SIGNING_REQUEST)
            .hooks(certificates::HOOKS).done(),
    ]
}

pub(super) fn coordination() -> Vec<Kind> {
    vec![COORDINATION.namespaced("Lease", "leases").columns(columns::LEASE).hooks(policy::LEASE).done()]
}

pub(super) fn discovery() -> Vec<Kind> {
    vec![DISCOVERY.namespaced("EndpointSlice", "endpointslices").columns(columns::ENDPOINT_SLICE).hooks(endpoints::SLICE).done()]
}

pub(super) fn events() -> Vec<Kind> {
    vec![
        EVENTS
            .namespaced("Event", "events")
            .short(&["ev"])
            .stored_as("", "v1")
            .select(event_fields!("regarding"))
            .select(&[("reportingController", ""), ("type", "")])
            .columns(columns::EVENT)
            .hooks(event::EVENTS).done(),
    ]
}

pub(super) fn flow() -> Vec<Kind> {
    vec![
        FLOW.cluster("FlowSchema", "flowschemas").status().columns(columns::FLOW_SCHEMA).hooks(flow::SCHEMA).done(),
        FLOW.cluster("PriorityLevelConfiguration", "prioritylevelconfigurations").status().columns(columns::PRIORITY_LEVEL).hooks(flow::LEVEL).done(),
    ]
}

pub(super) fn networking() -> Vec<Kind> {
    vec![
        NETWORKING.cluster("IngressClass", "ingressclasses").columns(columns::INGRESS_CLASS).hooks(networking::INGRESS_CLASS).done(),
        NETWORKING.namespaced("Ingress", "ingresses").short(&["ing"]).at("ingress").status().columns(columns::INGRESS).hooks(networking::INGRESS).done(),
        NETWORKING.cluster("IPAddress", "ipaddresses").short(&["ip"]).columns(columns::IP_ADDRESS).hooks(networking::IP_ADDRESS).done(),
        NETWORKING.namespaced("NetworkPolicy", "networkpolicies").short(&["netpol"]).columns(columns::NETWORK_POLICY).hooks(networking::POLICY).done(),
        NETWORKING.cluster("ServiceCIDR", "servicecidrs").status().columns(columns::SERVICE_CIDR).hooks(networking::SERVICE_CIDR).done(),
    ]
}

pub(super) fn rbac() -> Vec<Kind> {
    vec![
        RBAC.cluster("ClusterRoleBinding", "clusterrolebindings").columns(columns::ROLE_BINDING).hooks(rbac::CLUSTER_ROLE_BINDING).done(),
        RBAC.cluster("ClusterRole", "clusterroles").columns(columns::ROLE).hooks(rbac::CLUSTER_ROLE).done(),
        RBAC.namespaced("RoleBinding", "rolebindings").columns(columns::ROLE_BINDING).hooks(rbac::ROLE_BINDING).done(),
        RBAC.namespaced("Role", "roles").columns(columns::ROLE).hooks(rbac::ROLE).done(),
    ]
}

pub(super) fn storage() -> Vec<Kind> {
    vec![
        STORAGE.cluster("CSIDriver", "csidrivers").columns(columns::CSI_DRIVER).hooks(storage::CSI_DRIVER).done(),
        STORAGE.cluster("CSINode", "csinodes").columns(columns::CSI_NODE).hooks(storage::CSI_NODE).done(),
        STORAGE.namespaced("CSIStorageCapacity", "csistoragecapacities").columns(columns::CSI_CAPACITY).done(),
        STORAGE.cluster("StorageClass", "storageclasses").short(&["sc"]).columns(columns::STORAGE_CLASS).hooks(storage::STORAGE_CLASS).done(),
        STORAGE.cluster("VolumeAttachment", "volumeattachments").status().columns(columns::VOLUME_ATTACHMENT).hooks(storage::ATTACHMENT).done(),
        STORAGE
            .cluster("VolumeAttributesClass", "volumeattributesclasses")
            .short(&["vac"])
            .columns(columns::VOLUME_ATTRIBUTES_CLASS)
            .hooks(storage::ATTRIBUTES_CLASS).done(),
    ]
}
