//! Rows of the core group.

use super::columns;
use super::row::Group;
use crate::kinds::{Kind, Verbs};
use crate::kinds::{apps, cells, claim, config, endpoints, event, namespace, node, pod, policy, service, storage};

const V1: Group = Group("", "v1", "io.k8s.api.core.v1");
const STREAM: Verbs = Verbs::CREATE.with(Verbs::GET);
const PROXY: Verbs = STREAM.with(Verbs::DELETE).with(Verbs::PATCH).with(Verbs::UPDATE);

/// Fields of the object an event is about, and of the event; the order is shared by both event rows.
macro_rules! event_fields {
    ($object:literal) => {
        &[
            (concat!($object, ".kind"), ""),
            (concat!($object, ".namespace"), ""),
            (concat!($object, ".name"), ""),
            (concat!($object, ".uid"), ""),
            (concat!($object, ".apiVersion"), ""),
            (concat!($object, ".resourceVersion"), ""),
            (concat!($object, ".fieldPath"), ""),
            ("reason", ""),
        ]
    };
}
pub(super) use event_fields;

pub(super) fn rows() -> Vec<Kind> {
    let mut rows = simple();
    rows.extend(workload());
    rows.sort_by(|a, b| a.resource.cmp(&b.resource));
    rows
}

fn simple() -> Vec<Kind> {
    vec![
        V1.namespaced("Binding", "bindings").review().done(),
        V1.cluster("ComponentStatus", "componentstatuses")
            .review()
            .verbs(Verbs::GET.with(Verbs::LIST))
            .short(&["cs"])
            .table(columns::COMPONENT_STATUS, cells::component_status)
            .done(),
        V1.namespaced("ConfigMap", "configmaps")
            .short(&["cm"])
            .table(columns::CONFIG_MAP, cells::config_map)
            .hooks(config::CONFIG_MAP)
            .done(),
        V1.namespaced("Endpoints", "endpoints")
            .short(&["ep"])
            .at("services/endpoints")
            .table(columns::ENDPOINTS, cells::endpoints)
            .hooks(endpoints::ENDPOINTS)
            .done(),
        V1.namespaced("Event", "events")
            .short(&["ev"])
            .select(event_fields!("involvedObject"))
            .select(&[("reportingComponent", ""), ("type", "")])
            .select_at("source", &["source", "component"], "")
            .table(columns::EVENT, cells::event)
            .hooks(event::CORE)
            .done(),
        V1.namespaced("LimitRange", "limitranges")
            .short(&["limits"])
            .table(columns::ROLE, cells::name_created)
            .hooks(policy::LIMIT_RANGE)
            .done(),
        V1.cluster("Namespace", "namespaces")
            .short(&["ns"])
            .verbs(Verbs::ALL.without(Verbs::DELETECOLLECTION))
            .view("finalize", Verbs::UPDATE)
            .status()
            .select(&[("status.phase", "")])
            .select_at("name", &["metadata", "name"], "")
            .table(columns::NAMESPACE, cells::namespace)
            .hooks(namespace::HOOKS)
            .done(),
        V1.cluster("Node", "nodes")
            .short(&["no"])
            .at("minions")
            .connect("proxy", PROXY, Some("NodeProxyOptions"))
            .status()
            .select(&[("spec.unschedulable", "false")])
            .table(columns::NODE, cells::node)
            .hooks(node::HOOKS)
            .done(),
        V1.namespaced("PersistentVolumeClaim", "persistentvolumeclaims")
            .short(&["pvc"])
            .status()
            .table(columns::PERSISTENT_VOLUME_CLAIM, cells::persistent_volume_claim)
            .hooks(claim::HOOKS)
            .done(),
        V1.cluster("PersistentVolume", "persistentvolumes")
            .short(&["pv"])
            .status()
            .table(columns::PERSISTENT_VOLUME, cells::persistent_volume)
            .hooks(storage::VOLUME)
            .done(),
        V1.namespaced("ResourceQuota", "resourcequotas")
            .short(&["quota"])
            .status()
            .table(columns::RESOURCE_QUOTA, cells::resource_quota)
            .hooks(policy::QUOTA)
            .done(),
        V1.namespaced("Secret", "secrets").select(&[("type", "")]).table(columns::SECRET, cells::secret).hooks(config::SECRET).done(),
        V1.namespaced("ServiceAccount", "serviceaccounts")
            .short(&["sa"])
            .action("token", ("authentication.k8s.io", "v1", "TokenRequest"))
            .table(columns::NAME_AGE, cells::name_age)
            .done(),
    ]
}

fn workload() -> Vec<Kind> {
    vec![
        V1.namespaced("Pod", "pods")
            .short(&["po"])
            .category("all")
            .connect("attach", STREAM, Some("PodAttachOptions"))
            .action("binding", ("", "v1", "Binding"))
            .view("ephemeralcontainers", Verbs::GET_PATCH_UPDATE)
            .action("eviction", ("policy", "v1", "Eviction"))
            .connect("exec", STREAM, Some("PodExecOptions"))
            .connect("log", Verbs::GET, None)
            .connect("portforward", STREAM, Some("PodPortForwardOptions"))
            .connect("proxy", PROXY, Some("PodProxyOptions"))
            .view("resize", Verbs::GET_PATCH_UPDATE)
            .status()
            // Watches of kubelets select by spec.nodeName: it stands first.
            .select(&[("spec.nodeName", ""), ("spec.restartPolicy", ""), ("spec.schedulerName", "")])
            .select(&[("spec.serviceAccountName", ""), ("spec.hostNetwork", "false"), ("status.phase", "")])
            .select(&[("status.podIP", ""), ("status.podIPs", ""), ("status.nominatedNodeName", "")])
            .select_at("spec.host", &["spec", "nodeName"], "")
            .table(columns::POD, cells::pod)
            .looks_at(cells::POD_PATHS)
            .hooks(pod::HOOKS)
            .done(),
        V1.namespaced("PodTemplate", "podtemplates").table(columns::POD_TEMPLATE, cells::pod_template).hooks(pod::templates::HOOKS).done(),
        V1.namespaced("ReplicationController", "replicationcontrollers")
            .short(&["rc"])
            .category("all")
            .at("controllers")
            .scale()
            .status()
            .select(&[("status.replicas", "0")])
            .table(columns::REPLICAS, cells::replication_controller)
            .hooks(apps::REPLICATION_CONTROLLER)
            .done(),
        V1.namespaced("Service", "services")
            .short(&["svc"])
            .category("all")
            .at("services/specs")
            .connect("proxy", PROXY, Some("ServiceProxyOptions"))
            .status()
            .select(&[("spec.clusterIP", ""), ("spec.type", "")])
            .table(columns::SERVICE, cells::service)
            .hooks(service::HOOKS)
            .done(),
    ]
}
