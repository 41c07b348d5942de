//! Rows of the groups that run pods: apps, batch, autoscaling, policy, scheduling, node, resource.

use super::columns;
use super::row::Group;
use crate::kinds::{Kind, apps, autoscaling, batch, devices, node, policy};

const APPS: Group = Group("apps", "v1", "io.k8s.api.apps.v1");
const BATCH: Group = Group("batch", "v1", "io.k8s.api.batch.v1");
const AUTOSCALING_V1: Group = Group("autoscaling", "v1", "io.k8s.api.autoscaling.v1");
const AUTOSCALING_V2: Group = Group("autoscaling", "v2", "io.k8s.api.autoscaling.v2");
const POLICY: Group = Group("policy", "v1", "io.k8s.api.policy.v1");
const SCHEDULING: Group = Group("scheduling.k8s.io", "v1", "io.k8s.api.scheduling.v1");
const NODE: Group = Group("node.k8s.io", "v1", "io.k8s.api.node.v1");
const RESOURCE: Group = Group("resource.k8s.io", "v1", "io.k8s.api.resource.v1");

pub(super) fn apps() -> Vec<Kind> {
    vec![
        APPS.namespaced("ControllerRevision", "controllerrevisions").columns(columns::CONTROLLER_REVISION).hooks(apps::CONTROLLER_REVISION).done(),
        APPS.namespaced("DaemonSet", "daemonsets").short(&["ds"]).category("all").status().columns(columns::DAEMON_SET).hooks(apps::DAEMON_SET).done(),
        APPS.namespaced("Deployment", "deployments")
            .short(&["deploy"])
            .category("all")
            .scale()
            .status()
            .columns(columns::DEPLOYMENT)
            .hooks(apps::DEPLOYMENT).done(),
        APPS.namespaced("ReplicaSet", "replicasets")
            .short(&["rs"])
            .category("all")
            .scale()
            .status()
            .select(&[("status.replicas", "0")])
            .columns(columns::REPLICAS)
            .hooks(apps::REPLICA_SET).done(),
        APPS.namespaced("StatefulSet", "statefulsets")
            .short(&["sts"])
            .category("all")
            .scale()
            .status()
            .columns(columns::STATEFUL_SET)
            .hooks(apps::STATEFUL_SET).done(),
    ]
}

pub(super) fn batch() -> Vec<Kind> {
    vec![
        BATCH.namespaced("CronJob", "cronjobs").short(&["cj"]).category("all").status().columns(columns::CRON_JOB).hooks(batch::CRON_JOB).done(),
        BATCH
            .namespaced("Job", "jobs")
            .category("all")
            .status()
            .select_at("status.successful", &["status", "succeeded"], "0")
            .columns(columns::JOB)
            .hooks(batch::JOB).done(),
    ]
}

pub(super) fn autoscaling() -> Vec<Kind> {
    const NAMES: (&str, &str) = ("HorizontalPodAutoscaler", "horizontalpodautoscalers");
    vec![
        AUTOSCALING_V2.namespaced(NAMES.0, NAMES.1).short(&["hpa"]).category("all").status().columns(columns::AUTOSCALER).hooks(autoscaling::V2).done(),
        AUTOSCALING_V1
            .namespaced(NAMES.0, NAMES.1)
            .short(&["hpa"])
            .category("all")
            .status()
            .stored_as("autoscaling", "v2")
            .columns(columns::AUTOSCALER)
            .hooks(autoscaling::V1).done(),
    ]
}

pub(super) fn policy() -> Vec<Kind> {
    vec![
        POLICY
            .namespaced("PodDisruptionBudget", "poddisruptionbudgets")
            .short(&["pdb"])
            .status()
            .columns(columns::DISRUPTION_BUDGET)
            .hooks(policy::BUDGET).done(),
    ]
}

pub(super) fn scheduling() -> Vec<Kind> {
    vec![SCHEDULING.cluster("PriorityClass", "priorityclasses").short(&["pc"]).columns(columns::PRIORITY_CLASS).hooks(policy::PRIORITY_CLASS).done()]
}

pub(super) fn node() -> Vec<Kind> {
    vec![NODE.cluster("RuntimeClass", "runtimeclasses").columns(columns::RUNTIME_CLASS).hooks(node::RUNTIME_CLASS).done()]
}

pub(super) fn resource() -> Vec<Kind> {
    vec![
        RESOURCE.cluster("DeviceClass", "deviceclasses").columns(columns::NAME_AGE).done(),
        RESOURCE.namespaced("ResourceClaim", "resourceclaims").status().columns(columns::RESOURCE_CLAIM).hooks(devices::CLAIM).done(),
        RESOURCE.namespaced("ResourceClaimTemplate", "resourceclaimtemplates").columns(columns::NAME_AGE).hooks(devices::TEMPLATE).done(),
        RESOURCE
            .cluster("ResourceSlice", "resourceslices")
            .select(&[("spec.nodeName", ""), ("spec.driver", "")])
            .columns(columns::RESOURCE_SLICE)
            .hooks(devices::SLICE).done(),
    ]
}
