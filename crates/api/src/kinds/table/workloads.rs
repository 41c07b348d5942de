//! Rows of the groups that run pods: apps, batch, autoscaling, policy, scheduling, node, resource.

use super::columns;
use super::row::Group;
use crate::kinds::{Kind, apps, autoscaling, batch, cells, devices, node, policy};

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
        APPS.namespaced("ControllerRevision", "controllerrevisions")
            .table(columns::CONTROLLER_REVISION, cells::controller_revision)
            .hooks(apps::CONTROLLER_REVISION)
            .done(),
        APPS.namespaced("DaemonSet", "daemonsets")
            .short(&["ds"])
            .category("all")
            .status()
            .table(columns::DAEMON_SET, cells::daemon_set)
            .hooks(apps::DAEMON_SET)
            .done(),
        APPS.namespaced("Deployment", "deployments")
            .short(&["deploy"])
            .category("all")
            .scale()
            .status()
            .table(columns::DEPLOYMENT, cells::deployment)
            .hooks(apps::DEPLOYMENT)
            .done(),
        APPS.namespaced("ReplicaSet", "replicasets")
            .short(&["rs"])
            .category("all")
            .scale()
            .status()
            .select(&[("status.replicas", "0")])
            .table(columns::REPLICAS, cells::replica_set)
            .hooks(apps::REPLICA_SET)
            .done(),
        APPS.namespaced("StatefulSet", "statefulsets")
            .short(&["sts"])
            .category("all")
            .scale()
            .status()
            .table(columns::STATEFUL_SET, cells::stateful_set)
            .hooks(apps::STATEFUL_SET)
            .done(),
    ]
}

pub(super) fn batch() -> Vec<Kind> {
    vec![
        BATCH
            .namespaced("CronJob", "cronjobs")
            .short(&["cj"])
            .category("all")
            .status()
            .table(columns::CRON_JOB, cells::cron_job)
            .hooks(batch::CRON_JOB)
            .done(),
        BATCH
            .namespaced("Job", "jobs")
            .category("all")
            .status()
            .select_at("status.successful", &["status", "succeeded"], "0")
            .table(columns::JOB, cells::job)
            .hooks(batch::JOB)
            .done(),
    ]
}

pub(super) fn autoscaling() -> Vec<Kind> {
    const NAMES: (&str, &str) = ("HorizontalPodAutoscaler", "horizontalpodautoscalers");
    vec![
        AUTOSCALING_V2
            .namespaced(NAMES.0, NAMES.1)
            .short(&["hpa"])
            .category("all")
            .status()
            .table(columns::AUTOSCALER, cells::autoscaler)
            .hooks(autoscaling::V2)
            .done(),
        AUTOSCALING_V1
            .namespaced(NAMES.0, NAMES.1)
            .short(&["hpa"])
            .category("all")
            .status()
            .stored_as("autoscaling", "v2")
            .table(columns::AUTOSCALER, cells::autoscaler_v1)
            .hooks(autoscaling::V1)
            .done(),
    ]
}

pub(super) fn policy() -> Vec<Kind> {
    vec![
        POLICY
            .namespaced("PodDisruptionBudget", "poddisruptionbudgets")
            .short(&["pdb"])
            .status()
            .table(columns::DISRUPTION_BUDGET, cells::disruption_budget)
            .hooks(policy::BUDGET)
            .done(),
    ]
}

pub(super) fn scheduling() -> Vec<Kind> {
    vec![
        SCHEDULING
            .cluster("PriorityClass", "priorityclasses")
            .short(&["pc"])
            .table(columns::PRIORITY_CLASS, cells::priority_class)
            .hooks(policy::PRIORITY_CLASS)
            .done(),
    ]
}

pub(super) fn node() -> Vec<Kind> {
    vec![
        NODE.cluster("RuntimeClass", "runtimeclasses")
            .table(columns::RUNTIME_CLASS, cells::runtime_class)
            .hooks(node::RUNTIME_CLASS)
            .done(),
    ]
}

pub(super) fn resource() -> Vec<Kind> {
    vec![
        RESOURCE.cluster("DeviceClass", "deviceclasses").table(columns::NAME_AGE, cells::name_age).hooks(devices::CLASS).done(),
        RESOURCE
            .namespaced("ResourceClaim", "resourceclaims")
            .status()
            .table(columns::RESOURCE_CLAIM, cells::resource_claim)
            .hooks(devices::CLAIM)
            .done(),
        RESOURCE
            .namespaced("ResourceClaimTemplate", "resourceclaimtemplates")
            .table(columns::NAME_AGE, cells::name_age)
            .hooks(devices::TEMPLATE)
            .done(),
        RESOURCE
            .cluster("ResourceSlice", "resourceslices")
            .select(&[("spec.nodeName", ""), ("spec.driver", "")])
            .table(columns::RESOURCE_SLICE, cells::resource_slice)
            .hooks(devices::SLICE)
            .done(),
    ]
}
