//! Measures how fast stored pods are written in protobuf and how fast the cells of their Table are made: `cargo run --release -p ferrokube-api --example wire_speed`.

use ferrokube_api::kinds::{self, HookContext};
use ferrokube_api::project::project;
use ferrokube_api::protobuf::Encoder;
use ferrokube_api::schema::Schema;
use serde_json::json;
use std::time::Instant;

const PODS: usize = 10_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = Schema::builtin("io.k8s.api.core.v1.Pod").ok_or("no type for pods")?;
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1, "failureThreshold": 3});
    let env: Vec<_> = (0..8).map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("some value of setting {n}")})).collect();
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-11-28T12:00:00Z"});
    let container = json!({"name": "main", "image": "registry.invalid/app:v1.2.3", "args": ["--listen=:8080"], "env": env, "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}], "livenessProbe": probe, "readinessProbe": probe,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}, "terminationMessagePath": "/dev/termination-log",
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]});
    let conditions: Vec<_> = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].into_iter().map(condition).collect();
    let fields: serde_json::Map<_, _> = (0..60).map(|n| (format!("f:field{n}"), json!({}))).collect();
    let entry = json!({"manager": "bench", "operation": "Update", "apiVersion": "v1", "time": "2026-11-28T12:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields});
    let pod = json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": "pod-0001", "namespace": "default", "uid": "0f1e2d3c-0000-4000-8000-000000000000", "resourceVersion": "12345",
            "creationTimestamp": "2026-11-28T12:00:00Z", "labels": {"app": "bench", "tier": "front"}, "managedFields": [entry, entry]},
        "spec": {"containers": [container], "nodeName": "node-1", "restartPolicy": "Always", "schedulerName": "default-scheduler", "serviceAccountName": "default",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "volumes": [{"name": "scratch", "emptyDir": {}}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "startTime": "2026-11-28T12:00:00Z",
            "conditions": conditions}});
    let stored = pod.to_string().into_bytes();
    let row = kinds::builtin().iter().find(|k| k.kind == "Pod").ok_or("no row for pods")?;
    let make_cells = row.hooks.cells.ok_or("no cells for pods")?;
    let now = HookContext { now: "2026-11-28T13:00:00Z".parse()? };
    for _ in 0..3 {
        let (mut encoder, mut out) = (Encoder::default(), Vec::with_capacity(PODS * stored.len()));
        let started = Instant::now();
        for _ in 0..PODS {
            encoder.nested(2, &stored, schema.root(), &mut out)?;
        }
        let took = started.elapsed();
        println!("{PODS} pods of {} bytes of JSON to {} bytes each in {took:?}", stored.len(), out.len() / PODS);
        let started = Instant::now();
        let mut cells = 0;
        for _ in 0..PODS {
            cells += make_cells(&project(&stored, row.hooks.cell_paths)?, &now).len();
        }
        println!("{cells} cells of them in {:?}", started.elapsed());
    }
    Ok(())
}
