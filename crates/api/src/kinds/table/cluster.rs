//! Rows of the groups that run the cluster: access, admission, extension, networking, storage, leases, events.

use super::columns;
use super::core::event_fields;
use super::row::Group;
use crate::kinds::{Kind, Verbs};
use crate::kinds::{admission, attachment, cells, certificates, csi, endpoints, event, extension, flow, networking, policy, rbac, storage};

const ADMISSION: Group = Group("admissionregistration.k8s.io", "v1", "io.k8s.api.admissionregistration.v1");
const EXTENSIONS: Group = Group("apiextensions.k8s.io", "v1", "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1");
const REGISTRATION: Group = Group("apiregistration.k8s.io", "v1", "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1");
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
        row("MutatingAdmissionPolicy", "mutatingadmissionpolicies")
            .table(columns::MUTATING_POLICY, cells::mutating_policy)
            .hooks(admission::MUTATING_POLICY)
            .done(),
        row("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")
            .table(columns::POLICY_BINDING, cells::policy_binding)
            .hooks(admission::MUTATING_BINDING)
            .done(),
        row("MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
            .table(columns::WEBHOOKS, cells::webhooks)
            .hooks(admission::MUTATING_WEBHOOKS)
            .done(),
        row("ValidatingAdmissionPolicy", "validatingadmissionpolicies")
            .status()
            .table(columns::VALIDATING_POLICY, cells::validating_policy)
            .hooks(admission::POLICY)
            .done(),
        row("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
            .table(columns::POLICY_BINDING, cells::policy_binding)
            .hooks(admission::BINDING)
            .done(),
        row("ValidatingWebhookConfiguration", "validatingwebhookconfigurations")
            .table(columns::WEBHOOKS, cells::webhooks)
            .hooks(admission::VALIDATING_WEBHOOKS)
            .done(),
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
            .table(columns::CUSTOM_RESOURCE_DEFINITION, cells::name_created)
            .hooks(extension::DEFINITION)
            .done(),
    ]
}

pub(super) fn registration() -> Vec<Kind> {
    vec![
        REGISTRATION
            .cluster("APIService", "apiservices")
            .category(EXTENDS)
            .at("apiregistration.k8s.io/apiservices")
            .status()
            .table(columns::API_SERVICE, cells::api_service)
            .hooks(extension::API_SERVICE)
            .done(),
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
            .table(columns::SIGNING_REQUEST, cells::signing_request)
            .hooks(certificates::HOOKS)
            .done(),
    ]
}

pub(super) fn coordination() -> Vec<Kind> {
    vec![COORDINATION.namespaced("Lease", "leases").table(columns::LEASE, cells::lease).hooks(policy::LEASE).done()]
}

pub(super) fn discovery() -> Vec<Kind> {
    vec![
        DISCOVERY
            .namespaced("EndpointSlice", "endpointslices")
            .table(columns::ENDPOINT_SLICE, cells::endpoint_slice)
            .hooks(endpoints::SLICE)
            .done(),
    ]
}

pub(super) fn events() -> Vec<Kind> {
    vec![
        EVENTS
            .namespaced("Event", "events")
            .short(&["ev"])
            .stored_as("", "v1")
            .select(event_fields!("regarding"))
            .select(&[("reportingController", ""), ("type", "")])
            .table(columns::EVENT, cells::event_new)
            .hooks(event::EVENTS)
            .done(),
    ]
}

pub(super) fn flow() -> Vec<Kind> {
    vec![
        FLOW.cluster("FlowSchema", "flowschemas").status().table(columns::FLOW_SCHEMA, cells::flow_schema).hooks(flow::SCHEMA).done(),
        FLOW.cluster("PriorityLevelConfiguration", "prioritylevelconfigurations")
            .status()
            .table(columns::PRIORITY_LEVEL, cells::priority_level)
            .hooks(flow::LEVEL)
            .done(),
    ]
}

pub(super) fn networking() -> Vec<Kind> {
    vec![
        NETWORKING
            .cluster("IngressClass", "ingressclasses")
            .table(columns::INGRESS_CLASS, cells::ingress_class)
            .hooks(networking::INGRESS_CLASS)
            .done(),
        NETWORKING
            .namespaced("Ingress", "ingresses")
            .short(&["ing"])
            .at("ingress")
            .status()
            .table(columns::INGRESS, cells::ingress)
            .hooks(networking::INGRESS)
            .done(),
        NETWORKING
            .cluster("IPAddress", "ipaddresses")
            .short(&["ip"])
            .table(columns::IP_ADDRESS, cells::ip_address)
            .hooks(networking::IP_ADDRESS)
            .done(),
        NETWORKING
            .namespaced("NetworkPolicy", "networkpolicies")
            .short(&["netpol"])
            .table(columns::NETWORK_POLICY, cells::network_policy)
            .hooks(networking::POLICY)
            .done(),
        NETWORKING
            .cluster("ServiceCIDR", "servicecidrs")
            .status()
            .table(columns::SERVICE_CIDR, cells::service_cidr)
            .hooks(networking::SERVICE_CIDR)
            .done(),
    ]
}

pub(super) fn rbac() -> Vec<Kind> {
    vec![
        RBAC.cluster("ClusterRoleBinding", "clusterrolebindings")
            .table(columns::ROLE_BINDING, cells::role_binding)
            .hooks(rbac::CLUSTER_ROLE_BINDING)
            .done(),
        RBAC.cluster("ClusterRole", "clusterroles").table(columns::ROLE, cells::name_created).hooks(rbac::CLUSTER_ROLE).done(),
        RBAC.namespaced("RoleBinding", "rolebindings").table(columns::ROLE_BINDING, cells::role_binding).hooks(rbac::ROLE_BINDING).done(),
        RBAC.namespaced("Role", "roles").table(columns::ROLE, cells::name_created).hooks(rbac::ROLE).done(),
    ]
}

pub(super) fn storage() -> Vec<Kind> {
    vec![
        STORAGE.cluster("CSIDriver", "csidrivers").table(columns::CSI_DRIVER, cells::csi_driver).hooks(csi::DRIVER).done(),
        STORAGE.cluster("CSINode", "csinodes").table(columns::CSI_NODE, cells::csi_node).hooks(csi::NODE).done(),
        STORAGE
            .namespaced("CSIStorageCapacity", "csistoragecapacities")
            .table(columns::CSI_CAPACITY, cells::csi_capacity)
            .hooks(csi::CAPACITY)
            .done(),
        STORAGE
            .cluster("StorageClass", "storageclasses")
            .short(&["sc"])
            .table(columns::STORAGE_CLASS, cells::storage_class)
            .hooks(storage::STORAGE_CLASS)
            .done(),
        STORAGE
            .cluster("VolumeAttachment", "volumeattachments")
            .status()
            .table(columns::VOLUME_ATTACHMENT, cells::volume_attachment)
            .hooks(attachment::ATTACHMENT)
            .done(),
        STORAGE
            .cluster("VolumeAttributesClass", "volumeattributesclasses")
            .short(&["vac"])
            .table(columns::VOLUME_ATTRIBUTES_CLASS, cells::volume_attributes_class)
            .hooks(storage::ATTRIBUTES_CLASS)
            .done(),
    ]
}
