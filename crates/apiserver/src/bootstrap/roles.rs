//! The roles of Kubernetes 1.36, as rows: name and rules. Lists are words separated by spaces, `core` is the empty group.
//!
//! Read by `policy`; a test compares them with the data of the reference. Rows are facts: change them only with Kubernetes.

use super::policy::{Row, named, rule, urls};
use ferrokube_api::features::{API_SERVER_IDENTITY, STORAGE_VERSION_API, STORAGE_VERSION_MIGRATOR};

const CORE: &str = "core";
const ALL: &str = "create delete deletecollection get list patch update watch";
const READ: &str = "get list watch";
const LIST: &str = "list watch";
const WRITE: &str = "create delete deletecollection patch update";
const CHANGE: &str = "patch update";
/// What everybody needs who reports events.
const EVENTS: Row = rule("create patch update", "core events.k8s.io", "events");

/// ClusterRoles. Aggregated ones have no rules of their own.
pub(super) const CLUSTER_ROLES: &[(&str, &[Row])] = &[
    ("admin", &[]),
    ("cluster-admin", &[rule("*", "*", "*"), urls("*", "*")]),
    ("edit", &[]),
    (
        "system:aggregate-to-admin",
        &[
            rule("create", "authorization.k8s.io", "localsubjectaccessreviews"),
            rule(ALL, "rbac.authorization.k8s.io", "rolebindings roles"),
        ],
    ),
    (
        "system:aggregate-to-edit",
        &[
            rule(READ, CORE, "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
            rule("impersonate", CORE, "serviceaccounts"),
            rule(WRITE, CORE, "pods pods/attach pods/exec pods/portforward pods/proxy"),
            rule("create", CORE, "pods/eviction"),
            rule(
                WRITE,
                CORE,
                "configmaps persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy",
            ),
            rule("create", CORE, "serviceaccounts/token"),
            rule(WRITE, "core events.k8s.io", "events"),
            rule(
                WRITE,
                "apps",
                "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale",
            ),
            rule(WRITE, "autoscaling", "horizontalpodautoscalers"),
            rule(WRITE, "batch", "cronjobs jobs"),
            rule(
                WRITE,
                "extensions",
                "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets replicasets/scale replicationcontrollers/scale",
            ),
            rule(WRITE, "policy", "poddisruptionbudgets"),
            rule(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
            rule(ALL, "coordination.k8s.io", "leases"),
            rule(WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
        ],
    ),
    (
        "system:aggregate-to-view",
        &[
            rule(
                READ,
                CORE,
                "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status",
            ),
            rule(
                READ,
                CORE,
                "bindings limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status",
            ),
            rule(READ, CORE, "namespaces"),
            rule(READ, "core events.k8s.io", "events"),
            rule(READ, "discovery.k8s.io", "endpointslices"),
            rule(
                READ,
                "apps",
                "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
            ),
            rule(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
            rule(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
            rule(
                READ,
                "extensions",
                "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale",
            ),
            rule(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
            rule(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
            rule(READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
        ],
    ),
    (
        "system:auth-delegator",
        &[rule("create", "authentication.k8s.io", "tokenreviews"), rule("create", "authorization.k8s.io", "subjectaccessreviews")],
    ),
    (
        "system:basic-user",
        &[
            rule("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            rule("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[rule("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[rule("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client")],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet")],
    ),
    (
        "system:certificates.k8s.io:kubelet-serving-approver",
        &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving")],
    ),
    (
        "system:certificates.k8s.io:legacy-unknown-approver",
        &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/legacy-unknown")],
    ),
    ("system:discovery", &[urls("get", "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")]),
    ("system:heapster", &[rule(READ, CORE, "events namespaces nodes pods"), rule(READ, "extensions", "deployments")]),
    ("system:kube-aggregator", &[rule(READ, CORE, "endpoints services")]),
    (
        "system:kube-controller-manager",
        &[
            EVENTS,
            rule("create", "coordination.k8s.io", "leases"),
            named("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
            rule("create", CORE, "secrets serviceaccounts"),
            rule("delete", CORE, "secrets"),
            rule("get", CORE, "configmaps namespaces secrets serviceaccounts"),
            rule("update", CORE, "secrets serviceaccounts"),
            rule("create", "authentication.k8s.io", "tokenreviews"),
            rule("create", "authorization.k8s.io", "subjectaccessreviews"),
            rule(LIST, "*", "*"),
            rule("create", CORE, "serviceaccounts/token"),
        ],
    ),
    ("system:kube-dns", &[rule(LIST, CORE, "endpoints services")]),
    (
        "system:kube-scheduler",
        &[
            EVENTS,
            rule("create", "coordination.k8s.io", "leases"),
            named("get list update watch", "coordination.k8s.io", "leases", "kube-scheduler"),
            rule(ALL, "coordination.k8s.io", "leasecandidates"),
            rule(READ, CORE, "nodes"),
            rule("delete get list watch", CORE, "pods"),
            rule("create", CORE, "bindings pods/binding"),
            rule(CHANGE, CORE, "pods/status"),
            rule(READ, CORE, "replicationcontrollers services"),
            rule(READ, "apps extensions", "replicasets"),
            rule(READ, "apps", "statefulsets"),
            rule(READ, "policy", "poddisruptionbudgets"),
            rule(READ, CORE, "persistentvolumeclaims persistentvolumes"),
            rule("create", "authentication.k8s.io", "tokenreviews"),
            rule("create", "authorization.k8s.io", "subjectaccessreviews"),
            rule(READ, "storage.k8s.io", "csinodes"),
            rule(READ, "storage.k8s.io", "volumeattachments"),
            rule(READ, CORE, "namespaces"),
            rule(READ, "storage.k8s.io", "csidrivers"),
            rule(READ, "storage.k8s.io", "csistoragecapacities"),
            rule(READ, "resource.k8s.io", "deviceclasses"),
            rule("get list patch update watch", "resource.k8s.io", "resourceclaims"),
            rule("get list patch update watch", "resource.k8s.io", "resourceclaims/status"),
            rule("update", CORE, "pods/finalizers"),
            rule(READ, "resource.k8s.io", "resourceslices"),
            rule("create delete", "resource.k8s.io", "resourceclaims"),
            rule(CHANGE, "resource.k8s.io", "resourceclaims/binding"),
        ],
    ),
    (
        "system:kubelet-api-admin",
        &[
            rule(READ, CORE, "nodes"),
            rule("proxy", CORE, "nodes"),
            rule("*", CORE, "nodes/log nodes/metrics nodes/proxy nodes/stats"),
            rule("*", CORE, "nodes/configz nodes/healthz nodes/pods"),
        ],
    ),
    (
        "system:monitoring",
        &[
            urls("get", "/flagz /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/* /statusz"),
            rule("get", CORE, "nodes/metrics"),
        ],
    ),
    (
        "system:node",
        &[
            rule("create", "authentication.k8s.io", "tokenreviews"),
            rule("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
            rule(READ, CORE, "services"),
            rule("create get list watch", CORE, "nodes"),
            rule(CHANGE, CORE, "nodes/status"),
            rule(CHANGE, CORE, "nodes"),
            EVENTS,
            rule(READ, CORE, "pods"),
            rule("create delete", CORE, "pods"),
            rule(CHANGE, CORE, "pods/status"),
            rule("create", CORE, "pods/eviction"),
            rule(READ, CORE, "configmaps secrets"),
            rule("get", CORE, "persistentvolumeclaims persistentvolumes"),
            rule("get", CORE, "endpoints"),
            rule("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            rule("create delete get patch update", "coordination.k8s.io", "leases"),
            rule("get", "storage.k8s.io", "volumeattachments"),
            rule("create", CORE, "serviceaccounts/token"),
            rule("get patch update", CORE, "persistentvolumeclaims/status"),
            rule(READ, "storage.k8s.io", "csidrivers"),
            rule("create delete get patch update", "storage.k8s.io", "csinodes"),
            rule(READ, "node.k8s.io", "runtimeclasses"),
            rule("get", "resource.k8s.io", "resourceclaims"),
            rule("deletecollection", "resource.k8s.io", "resourceslices"),
            rule("get", CORE, "serviceaccounts"),
        ],
    ),
    ("system:node-bootstrapper", &[rule("create get list watch", "certificates.k8s.io", "certificatesigningrequests")]),
    ("system:node-problem-detector", &[rule("get", CORE, "nodes"), rule("patch", CORE, "nodes/status"), EVENTS]),
    (
        "system:node-proxier",
        &[
            rule(LIST, CORE, "endpoints services"),
            rule(READ, CORE, "nodes"),
            EVENTS,
            rule(LIST, "networking.k8s.io", "servicecidrs"),
            rule(LIST, "discovery.k8s.io", "endpointslices"),
        ],
    ),
    (
        "system:persistent-volume-provisioner",
        &[
            rule("create delete get list watch", CORE, "persistentvolumes"),
            rule("get list update watch", CORE, "persistentvolumeclaims"),
            rule(READ, "storage.k8s.io", "storageclasses"),
            rule("watch", CORE, "events"),
            EVENTS,
        ],
    ),
    ("system:public-info-viewer", &[urls("get", "/healthz /livez /readyz /version /version/")]),
    (
        "system:service-account-issuer-discovery",
        &[urls("get", "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/")],
    ),
    (
        "system:volume-scheduler",
        &[
            rule("get list patch update watch", CORE, "persistentvolumes"),
            rule(READ, "storage.k8s.io", "storageclasses"),
            rule("get list patch update watch", CORE, "persistentvolumeclaims"),
        ],
    ),
    ("view", &[]),
];

/// ClusterRoles of controllers, without their prefix `system:controller:`. Each is bound to the service account of the same name in kube-system.
pub(super) const CONTROLLER_ROLES: &[(&str, &[Row])] = &[
    (
        "attachdetach-controller",
        &[
            rule(LIST, CORE, "persistentvolumeclaims persistentvolumes"),
            rule(READ, CORE, "nodes"),
            rule(CHANGE, CORE, "nodes/status"),
            rule(LIST, CORE, "pods"),
            EVENTS,
            rule("create delete get list watch", "storage.k8s.io", "volumeattachments"),
            rule(READ, "storage.k8s.io", "csidrivers"),
            rule(READ, "storage.k8s.io", "csinodes"),
        ],
    ),
    (
        "certificate-controller",
        &[
            rule("delete get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            rule("update", "certificates.k8s.io", "certificatesigningrequests/approval certificatesigningrequests/status"),
            named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet"),
            named(
                "sign",
                "certificates.k8s.io",
                "signers",
                "kubernetes.io/kube-apiserver-client kubernetes.io/kube-apiserver-client-kubelet kubernetes.io/kubelet-serving kubernetes.io/legacy-unknown",
            ),
            rule("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    ),
    ("clusterrole-aggregation-controller", &[rule("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles")]),
    (
        "cronjob-controller",
        &[
            rule("get list update watch", "batch", "cronjobs"),
            rule("create delete get list patch update watch", "batch", "jobs"),
            rule("update", "batch", "cronjobs/status"),
            rule("update", "batch", "cronjobs/finalizers"),
            rule("delete list watch", CORE, "pods"),
            EVENTS,
        ],
    ),
    (
        "daemon-set-controller",
        &[
            rule(READ, "apps extensions", "daemonsets"),
            rule("update", "apps extensions", "daemonsets/status"),
            rule("update", "apps extensions", "daemonsets/finalizers"),
            rule(LIST, CORE, "nodes"),
            rule("create delete list patch watch", CORE, "pods"),
            rule("create", CORE, "pods/binding"),
            rule("create delete get list patch update watch", "apps", "controllerrevisions"),
            EVENTS,
        ],
    ),
    (
        "deployment-controller",
        &[
            rule("get list update watch", "apps extensions", "deployments"),
            rule("update", "apps extensions", "deployments/status"),
            rule("update", "apps extensions", "deployments/finalizers"),
            rule("create delete get list patch update watch", "apps extensions", "replicasets"),
            rule("get list update watch", CORE, "pods"),
            EVENTS,
        ],
    ),
    (
        "device-taint-eviction-controller",
        &[
            rule("delete get list watch", CORE, "pods"),
            rule(CHANGE, CORE, "pods/status"),
            rule(READ, "resource.k8s.io", "resourceclaims"),
            rule(READ, "resource.k8s.io", "resourceslices"),
            rule(READ, "resource.k8s.io", "deviceclasses"),
            EVENTS,
        ],
    ),
    (
        "disruption-controller",
        &[
            rule(READ, "apps extensions", "deployments"),
            rule(READ, "apps extensions", "replicasets"),
            rule(READ, CORE, "replicationcontrollers"),
            rule(READ, "policy", "poddisruptionbudgets"),
            rule(READ, "apps", "statefulsets"),
            rule("update", "policy", "poddisruptionbudgets/status"),
            rule(CHANGE, CORE, "pods/status"),
            rule("get", "*", "*/scale"),
            EVENTS,
        ],
    ),
    (
        "endpoint-controller",
        &[
            rule(READ, CORE, "pods services"),
            rule("create delete get list update watch", CORE, "endpoints"),
            rule("create", CORE, "endpoints/restricted"),
            EVENTS,
        ],
    ),
    (
        "endpointslice-controller",
        &[
            rule(READ, CORE, "nodes pods services"),
            rule("update", CORE, "services/finalizers"),
            rule("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            rule("create", "discovery.k8s.io", "endpointslices/restricted"),
            EVENTS,
        ],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            rule(READ, CORE, "endpoints services"),
            rule("update", CORE, "services/finalizers"),
            rule("update", CORE, "endpoints/finalizers"),
            rule("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            rule("create", "discovery.k8s.io", "endpointslices/restricted"),
            EVENTS,
        ],
    ),
    (
        "ephemeral-volume-controller",
        &[
            rule(READ, CORE, "pods"),
            rule("update", CORE, "pods/finalizers"),
            rule("create get list watch", CORE, "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    (
        "expand-controller",
        &[
            rule("get list patch update watch", CORE, "persistentvolumes"),
            rule(CHANGE, CORE, "persistentvolumeclaims/status"),
            rule(READ, CORE, "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    ("generic-garbage-collector", &[rule("delete get list patch update watch", "*", "*"), EVENTS]),
    (
        "horizontal-pod-autoscaler",
        &[
            rule(READ, "autoscaling", "horizontalpodautoscalers"),
            rule("update", "autoscaling", "horizontalpodautoscalers/status"),
            rule("get update", "*", "*/scale"),
            rule(LIST, CORE, "pods"),
            rule(LIST, "metrics.k8s.io", "pods"),
            rule(READ, "custom.metrics.k8s.io", "*"),
            rule(READ, "external.metrics.k8s.io", "*"),
            EVENTS,
        ],
    ),
    (
        "job-controller",
        &[
            rule("get list patch update watch", "batch", "jobs"),
            rule("update", "batch", "jobs/status"),
            rule("update", "batch", "jobs/finalizers"),
            rule("create delete list patch watch", CORE, "pods"),
            EVENTS,
        ],
    ),
    (
        "legacy-service-account-token-cleaner",
        &[named("get", CORE, "configmaps", "kube-apiserver-legacy-service-account-token-tracking"), rule("delete patch", CORE, "secrets")],
    ),
    (
        "namespace-controller",
        &[
            rule("delete get list watch", CORE, "namespaces"),
            rule("update", CORE, "namespaces/finalize namespaces/status"),
            rule("delete deletecollection get list watch", "*", "*"),
        ],
    ),
    (
        "node-controller",
        &[
            rule("delete get list patch update watch", CORE, "nodes"),
            rule(CHANGE, CORE, "nodes/status"),
            rule(CHANGE, CORE, "pods/status"),
            rule("delete get list watch", CORE, "pods"),
            EVENTS,
        ],
    ),
    (
        "persistent-volume-binder",
        &[
            rule("create delete get list update watch", CORE, "persistentvolumes"),
            rule("update", CORE, "persistentvolumes/status"),
            rule("get list update watch", CORE, "persistentvolumeclaims"),
            rule("update", CORE, "persistentvolumeclaims/status"),
            rule("create delete get list watch", CORE, "pods"),
            rule(READ, "storage.k8s.io", "storageclasses"),
            rule(LIST, CORE, "nodes"),
            EVENTS,
            rule("watch", CORE, "events"),
        ],
    ),
    ("pod-garbage-collector", &[rule("delete list watch", CORE, "pods"), rule(READ, CORE, "nodes"), rule("patch", CORE, "pods/status")]),
    ("pv-protection-controller", &[rule("get list update watch", CORE, "persistentvolumes"), EVENTS]),
    (
        "pvc-protection-controller",
        &[
            rule("get list update watch", CORE, "persistentvolumeclaims"),
            rule("update", CORE, "persistentvolumeclaims/status"),
            rule(READ, CORE, "pods"),
            EVENTS,
        ],
    ),
    (
        "replicaset-controller",
        &[
            rule("get list update watch", "apps extensions", "replicasets"),
            rule("update", "apps extensions", "replicasets/status"),
            rule("update", "apps extensions", "replicasets/finalizers"),
            rule("create delete list patch watch", CORE, "pods"),
            EVENTS,
        ],
    ),
    (
        "replication-controller",
        &[
            rule("get list update watch", CORE, "replicationcontrollers"),
            rule("update", CORE, "replicationcontrollers/status"),
            rule("update", CORE, "replicationcontrollers/finalizers"),
            rule("create delete list patch watch", CORE, "pods"),
            EVENTS,
        ],
    ),
    (
        "resource-claim-controller",
        &[
            rule(READ, CORE, "pods"),
            rule("update", CORE, "pods/finalizers"),
            rule("create delete get list watch", "resource.k8s.io", "resourceclaims"),
            rule(CHANGE, "resource.k8s.io", "resourceclaims resourceclaims/status"),
            rule(CHANGE, CORE, "pods/status"),
            EVENTS,
            rule(CHANGE, "resource.k8s.io", "resourceclaims/binding"),
        ],
    ),
    ("resourcequota-controller", &[rule(LIST, "*", "*"), rule("update", CORE, "resourcequotas/status"), EVENTS]),
    ("root-ca-cert-publisher", &[rule("create update", CORE, "configmaps"), EVENTS]),
    ("route-controller", &[rule(LIST, CORE, "nodes"), rule("patch", CORE, "nodes/status"), EVENTS]),
    (
        "selinux-warning-controller",
        &[
            EVENTS,
            rule(READ, CORE, "persistentvolumes"),
            rule(READ, CORE, "persistentvolumeclaims"),
            rule(READ, CORE, "pods"),
            rule(READ, "storage.k8s.io", "csidrivers"),
        ],
    ),
    ("service-account-controller", &[rule("create", CORE, "serviceaccounts"), EVENTS]),
    (
        "service-cidrs-controller",
        &[
            rule("get list patch update watch", "networking.k8s.io", "servicecidrs"),
            rule(CHANGE, "networking.k8s.io", "servicecidrs/finalizers"),
            rule(CHANGE, "networking.k8s.io", "servicecidrs/status"),
            rule(READ, "networking.k8s.io", "ipaddresses"),
            EVENTS,
        ],
    ),
    ("service-controller", &[rule(READ, CORE, "services"), rule(CHANGE, CORE, "services/status"), rule(LIST, CORE, "nodes"), EVENTS]),
    (
        "statefulset-controller",
        &[
            rule(LIST, CORE, "pods"),
            rule(READ, "apps", "statefulsets"),
            rule("update", "apps", "statefulsets/status"),
            rule("update", "apps", "statefulsets/finalizers"),
            rule("create delete get patch update", CORE, "pods"),
            rule("create delete get list patch update watch", "apps", "controllerrevisions"),
            rule("create get list watch", CORE, "persistentvolumeclaims"),
            rule("delete update", CORE, "persistentvolumeclaims"),
            rule("update", CORE, "pods/finalizers"),
            EVENTS,
        ],
    ),
    ("ttl-after-finished-controller", &[rule("delete get list watch", "batch", "jobs"), EVENTS]),
    ("ttl-controller", &[rule("list patch update watch", CORE, "nodes"), EVENTS]),
    (
        "validatingadmissionpolicy-status-controller",
        &[
            rule(READ, "admissionregistration.k8s.io", "validatingadmissionpolicies"),
            rule("get patch update", "admissionregistration.k8s.io", "validatingadmissionpolicies/status"),
            EVENTS,
        ],
    ),
    (
        "volumeattributesclass-protection-controller",
        &[
            rule(READ, CORE, "persistentvolumeclaims"),
            rule(READ, CORE, "persistentvolumes"),
            rule("get list update watch", "storage.k8s.io", "volumeattributesclasses"),
            EVENTS,
        ],
    ),
];

/// Roles of controllers that only come with features: their gates, name and rules.
pub(super) const OPTIONAL_CONTROLLER_ROLES: &[(&[&str], &str, &[Row])] = &[
    (
        &[STORAGE_VERSION_API, API_SERVER_IDENTITY],
        "storage-version-garbage-collector",
        &[
            rule(READ, "coordination.k8s.io", "leases"),
            rule("delete get list patch update watch", "internal.apiserver.k8s.io", "storageversions"),
            rule("get patch update", "internal.apiserver.k8s.io", "storageversions/status"),
        ],
    ),
    (
        &[STORAGE_VERSION_MIGRATOR],
        "storage-version-migrator-controller",
        &[
            rule("list patch", "*", "*"),
            rule("get", "apiextensions.k8s.io", "customresourcedefinitions"),
            rule("patch", "apiextensions.k8s.io", "customresourcedefinitions/status"),
            rule("update", "storagemigration.k8s.io", "storageversionmigrations/status"),
        ],
    ),
];

/// Roles: namespace, name, rules.
pub(super) const ROLES: &[(&str, &str, &[Row])] = &[
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        &[rule(READ, CORE, "configmaps"), named("update", CORE, "configmaps", "cluster-info"), EVENTS],
    ),
    ("kube-system", "extension-apiserver-authentication-reader", &[named(READ, CORE, "configmaps", "extension-apiserver-authentication")]),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        &[
            rule("create get list update watch", "coordination.k8s.io", "leases"),
            rule("create get list update watch", "coordination.k8s.io", "leasecandidates"),
        ],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        &[
            rule("create get list update watch", "coordination.k8s.io", "leases"),
            rule("create get list update watch", "coordination.k8s.io", "leasecandidates"),
        ],
    ),
    ("kube-system", "system:controller:bootstrap-signer", &[rule(READ, CORE, "secrets")]),
    ("kube-system", "system:controller:cloud-provider", &[rule("create get list watch", CORE, "configmaps")]),
    ("kube-system", "system:controller:token-cleaner", &[rule("delete get list watch", CORE, "secrets"), EVENTS]),
];
