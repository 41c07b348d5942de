//! Measures how fast stored pods are unpacked and written in protobuf, and how fast the cells of their Table are made:
//! `cargo run --release -p ferrokube-api --example wire_speed -- [rounds]`.

use ferrokube_api::json::{Json, Packed, Template};
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
    // Pods of one template differ in what the server and the node say of each.
    let (uid, clock) = ("0f1e2d3c-0000", "12:00:00");
    let text = pod.to_string();
    let another = |n: usize| {
        let pod = text.replace("pod-0001", &format!("pod-{n:04}")).replace("10.0.0.1", &format!("10.0.{}.{}", n / 256, n % 256));
        let pod = pod.replace(uid, &format!("{n:08x}-0000")).replace("12345", &(100_000 + n).to_string());
        pod.replace(clock, &format!("12:{:02}:{:02}", n / 600, n / 10 % 60)).into_bytes()
    };
    let stored: Vec<Vec<u8>> = (0..PODS).map(another).collect();
    let template = Template::new(&stored[0]).ok_or("no template")?;
    let packed: Vec<Json> = stored.iter().map(|json| Json::from(bytes::Bytes::from(json.clone()))).collect();
    packed.iter().for_each(|json| json.pack(|json| Packed::new(json, &template)));
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(3);
    let length = stored[0].len();
    let row = kinds::builtin().iter().find(|k| k.kind == "Pod").ok_or("no row for pods")?;
    let make_cells = row.hooks.cells.ok_or("no cells for pods")?;
    let now = HookContext { now: "2026-11-28T13:00:00Z".parse()? };
    for _ in 0..rounds {
        let (mut scratch, mut total) = (Vec::new(), 0);
        let started = Instant::now();
        packed.iter().for_each(|json| total += json.with(&mut scratch, <[u8]>::len));
        println!("{PODS} pods of {length} bytes of JSON, {total} together, unpacked in {:?}", started.elapsed());
        let (mut encoder, mut out) = (Encoder::default(), Vec::with_capacity(PODS * length));
        let started = Instant::now();
        for json in &stored {
            encoder.nested(2, json, schema.root(), &mut out)?;
        }
        println!("to {} bytes each in {:?}", out.len() / PODS, started.elapsed());
        let started = Instant::now();
        let mut cells = 0;
        for json in &stored {
            cells += make_cells(&project(json, row.hooks.cell_paths)?, &now).len();
        }
        println!("{cells} cells of them in {:?}", started.elapsed());
    }
    Ok(())
}
