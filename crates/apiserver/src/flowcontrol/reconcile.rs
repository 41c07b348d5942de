//! From the objects to the plan, whenever one of them changes; and back: the `Dangling` condition of FlowSchemas.

use super::FlowControl;
use super::plan::Plan;
use crate::objects::{Loopback, Objects, Target};
use ferrokube_api::{Object, Reason};
use serde_json::{Value, json};
use std::sync::Arc;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";

pub(super) async fn run(control: &FlowControl, objects: &dyn Objects, loopback: &dyn Loopback) {
    loop {
        let seen = [SCHEMAS, LEVELS].map(|resource| objects.revision(GROUP, resource));
        let schemas = objects.list(GROUP, SCHEMAS, "");
        let plan = Plan::build(&schemas, &objects.list(GROUP, LEVELS, ""), Some(&control.plan.load()), control.seats);
        let dangling = plan.dangling.clone();
        control.plan.store(Arc::new(plan));
        for schema in &schemas {
            tell(loopback, schema, dangling.iter().any(|d| **d == *schema.key.name)).await;
        }
        tokio::select! {
            () = objects.changed(GROUP, SCHEMAS, seen[0]) => {}
            () = objects.changed(GROUP, LEVELS, seen[1]) => {}
        }
    }
}

/// The condition that the schema should have.
fn condition(level: &str, dangling: bool, now: String) -> Value {
    let (status, reason, end) = if dangling { ("True", "NotFound", "there is no such object") } else { ("False", "Found", "it exists") };
    json!({
        "type": "Dangling", "status": status, "reason": reason, "lastTransitionTime": now,
        "message": format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and {end}"),
    })
}

/// The object with its condition put right, when it is wrong.
fn corrected(schema: &Object, dangling: bool, now: String) -> Option<Value> {
    let mut object: Value = schema.decode().ok()?;
    let level = object["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default().to_owned();
    let mut wanted = condition(&level, dangling, now);
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let (mut own, others): (Vec<Value>, Vec<Value>) = conditions.into_iter().partition(|c| c["type"] == "Dangling");
    if let Some(old) = own.pop() {
        if ["status", "reason", "message"].iter().all(|f| old[f] == wanted[f]) {
            return None;
        }
        if old["status"] == wanted["status"] {
            wanted["lastTransitionTime"] = old["lastTransitionTime"].clone();
        }
    }
    object["status"]["conditions"] = others.into_iter().chain([wanted]).collect();
    Some(object)
}

async fn tell(loopback: &dyn Loopback, schema: &Object, dangling: bool) {
    let Some(object) = corrected(schema, dangling, ferrokube_api::time::format_time(jiff::Timestamp::now())) else { return };
    let target = Target {
        group: GROUP.to_owned(),
        version: "v1".to_owned(),
        resource: SCHEMAS.to_owned(),
        subresource: "status".to_owned(),
        name: schema.key.name.to_string(),
        ..Target::default()
    };
    match loopback.update(target, object).await {
        // Somebody changed it meanwhile: it is looked at again.
        Err(status) if status.is(Reason::Conflict) || status.is(Reason::NotFound) => {}
        Err(status) => tracing::warn!(%status, schema = %schema.key.name, "condition of a FlowSchema not written"),
        Ok(_) => {}
    }
}
