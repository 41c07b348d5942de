//! Numbers to the objects of `metrics.k8s.io/v1beta1`, and discovery. Pure.
//!
//! Quantities have metrics-server's units, so that they look the same: billions of a core and KiB.

use crate::listing::Metadata;
use crate::routes::{Form, Include};
use crate::usage::{Measured, MeasuredPod, Usage, go_duration};
use crate::{GROUP, VERSION};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::time::Duration;

fn group_version() -> String {
    format!("{GROUP}/{VERSION}")
}

fn time(timestamp: Timestamp) -> String {
    timestamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn usage(usage: Usage) -> Value {
    json!({"cpu": format!("{}n", usage.nano_cores), "memory": format!("{}Ki", usage.bytes / 1024)})
}

/// Metadata of what is made at this moment.
fn metadata(of: &Metadata, now: Timestamp) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".into(), of.name.as_str().into());
    if !of.namespace.is_empty() {
        metadata.insert("namespace".into(), of.namespace.as_str().into());
    }
    metadata.insert("creationTimestamp".into(), time(now).into());
    if !of.labels.is_empty() {
        metadata.insert("labels".into(), json!(of.labels));
    }
    metadata.into()
}

/// An object with what a table shows of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    object: Value,
    total: Usage,
    window: Duration,
}

/// NodeMetrics.
pub fn node(of: &Metadata, measured: &Measured, now: Timestamp) -> Item {
    let object = json!({
        "kind": "NodeMetrics", "apiVersion": group_version(), "metadata": metadata(of, now),
        "timestamp": time(measured.timestamp), "window": go_duration(measured.window), "usage": usage(measured.usage),
    });
    Item { object, total: measured.usage, window: measured.window }
}

/// PodMetrics.
pub fn pod(of: &Metadata, measured: &MeasuredPod, now: Timestamp) -> Item {
    let containers: Vec<Value> = measured.containers.iter().map(|(name, u)| json!({"name": name, "usage": usage(*u)})).collect();
    let object = json!({
        "kind": "PodMetrics", "apiVersion": group_version(), "metadata": metadata(of, now),
        "timestamp": time(measured.timestamp), "window": go_duration(measured.window), "containers": containers,
    });
    let none = Usage { nano_cores: 0, bytes: 0 };
    let total = measured.containers.iter().fold(none, |sum, (_, u)| Usage {
        nano_cores: sum.nano_cores.saturating_add(u.nano_cores),
        bytes: sum.bytes.saturating_add(u.bytes),
    });
    Item { object, total, window: measured.window }
}

/// A list of them, in the form that is wanted.
pub fn list(kind: &str, items: Vec<Item>, form: Form) -> Value {
    match form {
        Form::Table(include) => table(items, include),
        Form::Objects => {
            // In a list the kind is that of the list.
            let bare = |item: Item| {
                let mut object = item.object;
                if let Some(fields) = object.as_object_mut() {
                    fields.retain(|field, _| field != "kind" && field != "apiVersion");
                }
                object
            };
            let items: Vec<Value> = items.into_iter().map(bare).collect();
            json!({"kind": format!("{kind}List"), "apiVersion": group_version(), "metadata": {}, "items": items})
        }
    }
}

/// One of them, in the form that is wanted.
pub fn one(item: Item, form: Form) -> Value {
    match form {
        Form::Table(include) => table(vec![item], include),
        Form::Objects => item.object,
    }
}

/// The columns of metrics-server.
fn table(items: Vec<Item>, include: Include) -> Value {
    let column = |name: &str, format: &str, description: &str| json!({"name": name, "type": "string", "format": format, "description": description, "priority": 0});
    let row = |item: Item| {
        let used = usage(item.total);
        let cells = json!([item.object["metadata"]["name"], used["cpu"], used["memory"], go_duration(item.window)]);
        let object = match include {
            Include::None => Value::Null,
            Include::Object => item.object,
            Include::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item.object["metadata"]})
            }
        };
        json!({"cells": cells, "object": object})
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": [
            column("Name", "name", "Name of the resource"),
            column("cpu", "quantity", "CPU in use"),
            column("memory", "quantity", "Memory in use"),
            column("Window", "duration", "Time over which the CPU was measured"),
        ],
        "rows": items.into_iter().map(row).collect::<Vec<_>>(),
    })
}

/// `/apis`.
pub fn groups() -> Value {
    let mut group = group();
    group.as_object_mut().into_iter().for_each(|fields| fields.retain(|field, _| field != "kind" && field != "apiVersion"));
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]})
}

/// `/apis/metrics.k8s.io`.
pub fn group() -> Value {
    let version = json!({"groupVersion": group_version(), "version": VERSION});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [version], "preferredVersion": version})
}

/// `/apis/metrics.k8s.io/v1beta1`.
pub fn resources() -> Value {
    let resource = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(),
        "resources": [resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("a time")
    }

    fn some_pod() -> Item {
        let of = Metadata { name: "p".into(), namespace: "a".into(), labels: [("app".to_owned(), "x".to_owned())].into() };
        let used = |nano_cores, bytes| Usage { nano_cores, bytes };
        let containers = vec![("one".to_owned(), used(1_500, 2048)), ("two".to_owned(), used(500, 4096 + 1))];
        pod(&of, &MeasuredPod { timestamp: at(0), window: Duration::from_millis(10_200), containers }, at(5))
    }

    #[test]
    fn objects_have_the_fields_of_metrics_server() {
        let of = Metadata { name: "n".into(), ..Metadata::default() };
        let measured = Measured { timestamp: at(0), window: Duration::from_secs(15), usage: Usage { nano_cores: 7, bytes: 1 << 20 } };
        let want = json!({
            "kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {"name": "n", "creationTimestamp": "2023-11-14T22:13:25Z"},
            "timestamp": "2023-11-14T22:13:20Z", "window": "15s", "usage": {"cpu": "7n", "memory": "1024Ki"},
        });
        assert_eq!(one(node(&of, &measured, at(5)), Form::Objects), want);
        let want = json!({
            "kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {},
            "items": [{
                "metadata": {"name": "p", "namespace": "a", "creationTimestamp": "2023-11-14T22:13:25Z", "labels": {"app": "x"}},
                "timestamp": "2023-11-14T22:13:20Z", "window": "10.2s",
                "containers": [{"name": "one", "usage": {"cpu": "1500n", "memory": "2Ki"}}, {"name": "two", "usage": {"cpu": "500n", "memory": "4Ki"}}],
            }],
        });
        assert_eq!(list("PodMetrics", vec![some_pod()], Form::Objects), want);
    }

    #[test]
    fn a_table_shows_the_sum_of_a_pod() {
        let shown = list("PodMetrics", vec![some_pod()], Form::Table(Include::Metadata));
        let names: Vec<&str> = shown["columnDefinitions"].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect();
        assert_eq!(names, ["Name", "cpu", "memory", "Window"]);
        assert_eq!(shown["rows"][0]["cells"], json!(["p", "2000n", "6Ki", "10.2s"]));
        assert_eq!(shown["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(shown["rows"][0]["object"]["metadata"]["namespace"], "a");
        assert_eq!(one(some_pod(), Form::Table(Include::Object))["rows"][0]["object"]["kind"], "PodMetrics");
    }
}
