//! Objects of `resource.k8s.io/v1` as far as allocation reads them.

use crate::pod::NodeSelectorView;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Deserialize, Default, Clone, Debug)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    pub creation_timestamp: Option<Box<str>>,
    pub deletion_timestamp: Option<Value>,
    pub annotations: BTreeMap<String, String>,
    pub finalizers: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct SliceView {
    pub spec: SliceSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SliceSpec {
    pub driver: Box<str>,
    pub pool: PoolView,
    #[serde(default)]
    pub node_name: Option<Box<str>>,
    #[serde(default)]
    pub node_selector: Option<NodeSelectorView>,
    #[serde(default)]
    pub all_nodes: bool,
    #[serde(default)]
    pub per_device_node_selection: bool,
    #[serde(default)]
    pub devices: Vec<DeviceView>,
    #[serde(default)]
    pub shared_counters: Vec<CounterSet>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PoolView {
    pub name: Box<str>,
    #[serde(default)]
    pub generation: i64,
    #[serde(default)]
    pub resource_slice_count: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeviceView {
    pub name: Box<str>,
    #[serde(default)]
    pub attributes: BTreeMap<Box<str>, Value>,
    #[serde(default)]
    pub capacity: BTreeMap<Box<str>, CapacityView>,
    #[serde(default)]
    pub allow_multiple_allocations: bool,
    #[serde(default)]
    pub binds_to_node: bool,
    #[serde(default)]
    pub binding_conditions: Vec<Box<str>>,
    #[serde(default)]
    pub binding_failure_conditions: Vec<Box<str>>,
    #[serde(default)]
    pub consumes_counters: Vec<CounterSet>,
    #[serde(default)]
    pub node_name: Option<Box<str>>,
    #[serde(default)]
    pub node_selector: Option<NodeSelectorView>,
    #[serde(default)]
    pub all_nodes: bool,
    #[serde(default)]
    pub taints: Vec<TaintView>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CapacityView {
    pub value: String,
    #[serde(default)]
    pub request_policy: Option<PolicyView>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PolicyView {
    pub default: Option<String>,
    pub valid_values: Vec<String>,
    pub valid_range: Option<RangeView>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct RangeView {
    pub min: Option<String>,
    pub max: Option<String>,
    pub step: Option<String>,
}

/// Shared counters of a pool, or what a device takes of them.
#[derive(Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct CounterSet {
    /// `name` in a pool, `counterSet` in a device.
    #[serde(alias = "counterSet")]
    pub name: Box<str>,
    #[serde(default)]
    pub counters: BTreeMap<Box<str>, CounterView>,
}

#[derive(Deserialize, Clone, Debug)]
pub(super) struct CounterView {
    pub value: String,
}

#[derive(Deserialize)]
pub(super) struct TaintView {
    pub key: Box<str>,
    #[serde(default)]
    pub value: Box<str>,
    #[serde(default)]
    pub effect: String,
}

#[derive(Deserialize)]
pub(super) struct ClassView {
    #[serde(default)]
    pub metadata: Meta,
    #[serde(default)]
    pub spec: ClassSpec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ClassSpec {
    pub extended_resource_name: Option<String>,
    pub selectors: Vec<SelectorView>,
    pub config: Vec<Value>,
}

#[derive(Deserialize, Clone, Debug)]
pub(super) struct SelectorView {
    #[serde(default)]
    pub cel: Option<Cel>,
}

#[derive(Deserialize, Clone, Debug)]
pub(super) struct Cel {
    pub expression: String,
}

#[derive(Deserialize)]
pub(super) struct ClaimView {
    pub metadata: Meta,
    #[serde(default)]
    pub spec: ClaimSpec,
    #[serde(default)]
    pub status: ClaimStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ClaimSpec {
    pub devices: DeviceClaim,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct DeviceClaim {
    pub requests: Vec<RequestView>,
    pub constraints: Vec<ConstraintView>,
    pub config: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RequestView {
    pub name: Box<str>,
    #[serde(default)]
    pub exactly: Option<ExactView>,
    #[serde(default)]
    pub first_available: Vec<ExactView>,
}

/// An exact request, or one of several of which the first that can be had is taken.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExactView {
    /// Of one among several.
    #[serde(default)]
    pub name: Box<str>,
    pub device_class_name: Box<str>,
    #[serde(default)]
    pub selectors: Vec<SelectorView>,
    #[serde(default)]
    pub allocation_mode: Option<String>,
    #[serde(default)]
    pub count: Option<usize>,
    #[serde(default)]
    pub admin_access: bool,
    #[serde(default)]
    pub tolerations: Vec<Value>,
    #[serde(default)]
    pub capacity: Option<CapacityRequests>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct CapacityRequests {
    pub requests: BTreeMap<Box<str>, String>,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConstraintView {
    #[serde(default)]
    pub requests: Vec<Box<str>>,
    #[serde(default)]
    pub match_attribute: Option<Box<str>>,
    #[serde(default)]
    pub distinct_attribute: Option<Box<str>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ClaimStatus {
    pub allocation: Option<AllocationView>,
    pub reserved_for: Vec<Value>,
    pub devices: Vec<DeviceStatusView>,
}

/// What a driver says about an allocated device.
#[derive(Deserialize)]
pub(super) struct DeviceStatusView {
    pub driver: Box<str>,
    pub pool: Box<str>,
    pub device: Box<str>,
    #[serde(default)]
    pub conditions: Vec<ConditionView>,
}

#[derive(Deserialize)]
pub(super) struct ConditionView {
    #[serde(rename = "type")]
    pub kind: Box<str>,
    pub status: Box<str>,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AllocationView {
    #[serde(default)]
    pub devices: AllocatedDevices,
    #[serde(default)]
    pub node_selector: Option<NodeSelectorView>,
    #[serde(default)]
    pub allocation_timestamp: Option<jiff::Timestamp>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct AllocatedDevices {
    pub results: Vec<ResultView>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResultView {
    pub driver: Box<str>,
    pub pool: Box<str>,
    pub device: Box<str>,
    #[serde(default)]
    pub admin_access: bool,
    /// Only of devices that several allocations may share.
    #[serde(default, rename = "shareID")]
    pub share_id: Option<Box<str>>,
    #[serde(default)]
    pub consumed_capacity: BTreeMap<Box<str>, String>,
    #[serde(default)]
    pub binding_conditions: Vec<Box<str>>,
    #[serde(default)]
    pub binding_failure_conditions: Vec<Box<str>>,
}
