//! HorizontalPodAutoscalers in both versions. They are stored as v2; v1 shows the CPU target as a field of its own
//! and everything it has no field for as annotations.

mod validate;

use super::json::*;
use super::{Hooks, common};
use serde_json::{Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

const BASE: Hooks =
    Hooks { prepare_create: Some(common::reset_status), validate_status: Some(|new, _, e| validate::status(new, e)), ..Hooks::NONE };
pub(super) const V2: Hooks =
    Hooks { default: Some(default_v2), validate_create: Some(validate::create), validate_update: Some(validate::update), ..BASE };
pub(super) const V1: Hooks = Hooks {
    default: Some(|o| fill(object(o, "spec"), "minReplicas", 1)),
    // The rules are those of v2, and so are the paths in what is told.
    validate_create: Some(|o, e| validate::create(&as_v2(o), e)),
    validate_update: Some(|new, old, e| validate::update(&as_v2(new), &as_v2(old), e)),
    from_storage: Some(v1_from_v2),
    to_storage: Some(v2_from_v1),
    ..BASE
};

fn cpu_target(percent: i64) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": percent});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

fn default_v2(o: &mut Value) {
    let spec = object(o, "spec");
    fill(spec, "minReplicas", 1);
    if list(spec, "metrics").is_empty() {
        set(spec, "metrics", json!([cpu_target(80)]));
    }
    let Some(behavior) = get_mut(spec, "behavior") else { return };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    let up = object(behavior, "scaleUp");
    fill(up, "stabilizationWindowSeconds", 0);
    fill(up, "selectPolicy", "Max");
    fill(up, "policies", json!([pods, percent.clone()]));
    let down = object(behavior, "scaleDown");
    fill(down, "selectPolicy", "Max");
    fill(down, "policies", json!([percent]));
}

fn is_cpu_utilization(metric: &Value, side: &str) -> bool {
    text(metric, "type") == "Resource"
        && text_at(metric, &["resource", "name"]) == "cpu"
        && at(metric, &["resource", side, "averageUtilization"]).is_some()
}

fn annotate(o: &mut Value, key: &str, value: &Value) {
    set(object(object(o, "metadata"), "annotations"), key, value.to_string());
}

fn v1_from_v2(o: &mut Value) {
    set(o, "apiVersion", "autoscaling/v1");
    let spec = object(o, "spec");
    if let Some(Value::Array(mut metrics)) = remove(spec, "metrics") {
        if let Some(i) = metrics.iter().position(|m| is_cpu_utilization(m, "target")) {
            let cpu = metrics.remove(i);
            set(spec, "targetCPUUtilizationPercentage", cpu["resource"]["target"]["averageUtilization"].clone());
        }
        if !metrics.is_empty() {
            annotate(o, METRICS, &metrics.into());
        }
    }
    if let Some(behavior) = remove(object(o, "spec"), "behavior").filter(|b| !b.is_null()) {
        annotate(o, BEHAVIOR, &behavior);
    }
    let Some(status) = get_mut(o, "status") else { return };
    let conditions = remove(status, "conditions");
    let metrics = remove(status, "currentMetrics");
    if let Some(Value::Array(mut metrics)) = metrics {
        if let Some(i) = metrics.iter().position(|m| is_cpu_utilization(m, "current")) {
            let cpu = metrics.remove(i);
            set(status, "currentCPUUtilizationPercentage", cpu["resource"]["current"]["averageUtilization"].clone());
        }
        if !metrics.is_empty() {
            annotate(o, CURRENT, &metrics.into());
        }
    }
    if let Some(conditions) = conditions.filter(|c| !c.is_null()) {
        annotate(o, CONDITIONS, &conditions);
    }
}

fn take_annotation(o: &mut Value, key: &str) -> Option<Value> {
    let annotations = at_mut(o, &["metadata", "annotations"])?;
    let text = remove(annotations, key)?;
    let value = serde_json::from_str(text.as_str()?).ok();
    if annotations.as_object().is_some_and(|a| a.is_empty()) {
        remove(object(o, "metadata"), "annotations");
    }
    value
}

fn as_v2(o: &Value) -> Value {
    let mut v2 = o.clone();
    v2_from_v1(&mut v2);
    v2
}

fn v2_from_v1(o: &mut Value) {
    set(o, "apiVersion", "autoscaling/v2");
    let others = take_annotation(o, METRICS);
    let (current, conditions) = (take_annotation(o, CURRENT), take_annotation(o, CONDITIONS));
    let behavior = take_annotation(o, BEHAVIOR);
    let spec = object(o, "spec");
    let mut metrics = others.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(percent) = remove(spec, "targetCPUUtilizationPercentage").as_ref().and_then(Value::as_i64) {
        metrics.push(cpu_target(percent));
    }
    if metrics.is_empty() {
        metrics.push(cpu_target(80));
    }
    set(spec, "metrics", metrics);
    if let Some(behavior) = behavior {
        set(spec, "behavior", behavior);
    }
    let Some(status) = get_mut(o, "status") else { return };
    let mut measured = Vec::new();
    if let Some(percent) = remove(status, "currentCPUUtilizationPercentage").filter(|p| !p.is_null()) {
        let current = json!({"averageUtilization": percent, "averageValue": "0"});
        measured.push(json!({"type": "Resource", "resource": {"name": "cpu", "current": current}}));
    }
    measured.extend(current.as_ref().and_then(Value::as_array).cloned().unwrap_or_default());
    if !measured.is_empty() {
        set(status, "currentMetrics", measured);
    }
    if let Some(conditions) = conditions {
        set(status, "conditions", conditions);
    }
}
