//! The rows of everything a 1.36 API server serves by default, one function per group.
//!
//! Alpha and beta versions are off by default in 1.36. Those that are there all the same stand in [`optional`], each with the feature
//! it needs; the others have no row. To add a plain kind, add its row to its group and renew the golden of the discovery test;
//! nothing else names a kind.

mod cluster;
mod columns;
mod core;
mod optional;
mod row;
mod workloads;

use super::Kind;
pub use optional::{OPTIONAL_GROUP_VERSIONS, Optional, optional};
use std::sync::LazyLock;

/// A served group and version with its place in discovery: `groupPriorityMinimum` and `versionPriority` of its APIService.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupVersion {
    /// API group; empty for core.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Greater comes first among groups.
    pub group_priority: u32,
    /// Greater comes first among the versions of the group.
    pub version_priority: u32,
}

const fn gv(group: &'static str, version: &'static str, group_priority: u32, version_priority: u32) -> GroupVersion {
    GroupVersion { group, version, group_priority, version_priority }
}

/// Every group and version that is served by default, in the order of discovery.
pub const GROUP_VERSIONS: &[GroupVersion] = &[
    gv("", "v1", 18000, 1),
    // The aggregator lists its own group first; no APIService names it.
    gv("apiregistration.k8s.io", "v1", 18000, 15),
    gv("apps", "v1", 17800, 15),
    gv("events.k8s.io", "v1", 17750, 15),
    gv("authentication.k8s.io", "v1", 17700, 15),
    gv("authorization.k8s.io", "v1", 17600, 15),
    gv("autoscaling", "v2", 17500, 30),
    gv("autoscaling", "v1", 17500, 15),
    gv("batch", "v1", 17400, 15),
    gv("certificates.k8s.io", "v1", 17300, 15),
    gv("networking.k8s.io", "v1", 17200, 15),
    gv("policy", "v1", 17100, 15),
    gv("rbac.authorization.k8s.io", "v1", 17000, 15),
    gv("storage.k8s.io", "v1", 16800, 15),
    gv("admissionregistration.k8s.io", "v1", 16700, 15),
    gv("apiextensions.k8s.io", "v1", 16700, 15),
    gv("scheduling.k8s.io", "v1", 16600, 15),
    gv("coordination.k8s.io", "v1", 16500, 15),
    gv("node.k8s.io", "v1", 16300, 15),
    gv("discovery.k8s.io", "v1", 16200, 15),
    gv("resource.k8s.io", "v1", 16200, 21),
    gv("flowcontrol.apiserver.k8s.io", "v1", 16100, 21),
];

/// Every built-in group and version, in the order of discovery: those that are served by default, and the optional ones.
pub fn group_versions() -> impl Iterator<Item = &'static GroupVersion> {
    GROUP_VERSIONS.iter().chain(OPTIONAL_GROUP_VERSIONS)
}

fn rows() -> Vec<Kind> {
    let groups = [
        core::rows,
        workloads::apps,
        cluster::events,
        cluster::authentication,
        cluster::authorization,
        workloads::autoscaling,
        workloads::batch,
        cluster::certificates,
        cluster::networking,
        workloads::policy,
        cluster::rbac,
        cluster::storage,
        cluster::admission,
        cluster::extensions,
        cluster::registration,
        workloads::scheduling,
        cluster::coordination,
        workloads::node,
        cluster::discovery,
        workloads::resource,
        cluster::flow,
    ];
    groups.into_iter().flat_map(|group| group()).collect()
}

static ROWS: LazyLock<Vec<Kind>> = LazyLock::new(rows);

/// The same rows, sorted for look-up: resource first, because it tells most rows apart.
static INDEX: LazyLock<Vec<&'static Kind>> = LazyLock::new(|| {
    let mut index: Vec<&Kind> = known().collect();
    index.sort_by(|a, b| key(a).cmp(&key(b)));
    index
});

fn key(kind: &Kind) -> (&str, &str, &str) {
    (&kind.resource, &kind.group, &kind.version)
}

/// Every row that is served by default, grouped by group and version.
pub fn builtin() -> &'static [Kind] {
    &ROWS
}

/// Every built-in row, served by default or not.
pub fn known() -> impl Iterator<Item = &'static Kind> {
    ROWS.iter().chain(optional().iter().map(|o| &o.kind))
}

/// The built-in row of a resource.
pub fn lookup(group: &str, version: &str, resource: &str) -> Option<&'static Kind> {
    let at = INDEX.binary_search_by(|k| key(k).cmp(&(resource, group, version))).ok()?;
    Some(INDEX[at])
}

/// The built-in row of a kind, as `apiVersion` and `kind` of an object name it.
pub fn lookup_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    known().find(|k| k.kind == kind && k.group == group && k.version == version)
}
