//! What `kubectl get` shows.

use crate::{context, merge, object, row};
use ferrokube_api::kinds;
use ferrokube_api::project::project;
use serde_json::{Value, json};

fn cells(kind: &str, rest: Value) -> Vec<Value> {
    let mut o = object(kind, json!({"metadata": {"creationTimestamp": "2026-06-01T11:00:00Z"}}));
    merge(&mut o, rest);
    let hooks = row(kind).hooks;
    let cells = hooks.cells.unwrap();
    let shown = cells(&o, &context());
    let read = project(o.to_string().as_bytes(), hooks.cell_paths).unwrap();
    assert_eq!(cells(&read, &context()), shown, "{kind} looks at more than its row says");
    shown
}

fn texts(cells: &[Value]) -> Vec<String> {
    cells.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect()
}

#[test]
fn every_kind_fills_its_columns() {
    for kind in kinds::known().filter(|k| k.storage_prefix.is_some()) {
        let o = json!({"kind": kind.kind, "metadata": {"name": "a"}});
        let cells = kind.hooks.cells.unwrap_or_else(|| panic!("{} has no cells", kind.kind));
        let cells = cells(&o, &context());
        assert_eq!(cells.len(), kind.columns.len(), "{}", kind.kind);
        let name = kind.columns.iter().position(|c| c.name == "Name").unwrap();
        assert_eq!(cells[name], "a", "{}", kind.kind);
        assert_eq!(kind.columns[name].format, "name");
    }
}

fn status_of(rest: Value) -> String {
    texts(&cells("Pod", rest))[1..4].join(" ")
}

#[test]
fn a_pod_shows_where_it_is_in_its_life() {
    let two = json!([{"name": "a"}, {"name": "b"}]);
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    for (rest, want) in [
        (json!({"spec": {"containers": two}, "status": {"phase": "Pending"}}), "0/2 Pending 0"),
        (
            json!({"spec": {"containers": two}, "status": {"phase": "Running", "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}, {"name": "b", "ready": true, "state": {"running": {}}}]}}),
            "2/2 Running 0",
        ),
        (
            json!({"spec": {"containers": two}, "status": {"phase": "Running", "containerStatuses": [{"name": "a", "restartCount": 3, "state": waiting("CrashLoopBackOff"), "lastState": {"terminated": {"finishedAt": "2026-06-01T11:55:00Z"}}}]}}),
            "0/2 CrashLoopBackOff 3 (5m ago)",
        ),
        (
            json!({"spec": {"containers": two, "initContainers": two}, "status": {"phase": "Pending", "initContainerStatuses": [{"name": "a", "state": {"running": {}}}]}}),
            "0/2 Init:0/2 0",
        ),
        (
            json!({"spec": {"containers": two, "initContainers": two}, "status": {"phase": "Pending", "initContainerStatuses": [{"name": "a", "state": done}, {"name": "b", "state": waiting("ImagePullBackOff")}]}}),
            "0/2 Init:ImagePullBackOff 0",
        ),
        (
            json!({"spec": {"containers": two, "initContainers": two}, "status": {"phase": "Pending", "initContainerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 2}}}]}}),
            "0/2 Init:ExitCode:2 0",
        ),
        (
            json!({"spec": {"containers": two}, "status": {"phase": "Succeeded", "containerStatuses": [{"name": "a", "state": done}]}}),
            "0/2 Completed 0",
        ),
        (
            json!({"spec": {"containers": two}, "status": {"phase": "Running", "containerStatuses": [{"name": "a", "state": done}, {"name": "b", "ready": true, "state": {"running": {}}}]}}),
            "1/2 NotReady 0",
        ),
        (
            json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]}, "status": {"phase": "Running",
                   "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}],
                   "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}}),
            "2/2 Running 1",
        ),
        (
            json!({"metadata": {"deletionTimestamp": "2026-06-01T11:59:00Z"}, "spec": {"containers": two}, "status": {"phase": "Running"}}),
            "0/2 Terminating 0",
        ),
        (json!({"spec": {"containers": two}, "status": {"phase": "Failed", "reason": "Evicted"}}), "0/2 Evicted 0"),
        (
            json!({"spec": {"containers": two}, "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}}),
            "0/2 SchedulingGated 0",
        ),
    ] {
        assert_eq!(status_of(rest.clone()), want, "{rest}");
    }
    let wide = texts(&cells("Pod", json!({"spec": {"nodeName": "n"}, "status": {"podIPs": [{"ip": "10.1.2.3"}]}})));
    assert_eq!(wide[4..], ["60m", "10.1.2.3", "n", "<none>", "<none>"]);
}

#[test]
fn tables_show_what_kubectl_shows() {
    let containers = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let selector = json!({"matchLabels": {"app": "a"}});
    for (kind, rest, want) in [
        (
            "Deployment",
            json!({"spec": {"replicas": 3, "selector": selector, "template": containers}, "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}}),
            "a 2/3 3 2 60m c i:1 app=a",
        ),
        (
            "ReplicaSet",
            json!({"spec": {"replicas": 3, "selector": selector, "template": containers}, "status": {"replicas": 2}}),
            "a 3 2 0 60m c i:1 app=a",
        ),
        (
            "Service",
            json!({"spec": {"type": "ClusterIP", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
            "a ClusterIP 10.0.0.1 <none> 80/TCP,53/UDP 60m <none>",
        ),
        (
            "Service",
            json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}], "selector": {"app": "a"}}}),
            "a LoadBalancer 10.0.0.1 <pending> 80:30080/TCP 60m app=a",
        ),
        (
            "Service",
            json!({"spec": {"type": "ExternalName", "externalName": "x.example"}}),
            "a ExternalName <none> x.example <none> 60m <none>",
        ),
        (
            "Node",
            json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.36.0"}, "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}),
            "a Ready,SchedulingDisabled control-plane 60m v1.36.0 192.0.2.1 <none> <unknown> <unknown> <unknown>",
        ),
        (
            "Job",
            json!({"spec": {"completions": 1, "template": containers}, "status": {"succeeded": 1, "startTime": "2026-06-01T11:00:00Z", "completionTime": "2026-06-01T11:00:05Z", "conditions": [{"type": "Complete", "status": "True"}]}}),
            "a Complete 1/1 5s 60m c i:1 <none>",
        ),
        ("CronJob", json!({"spec": {"schedule": "* * * * *", "suspend": false}}), "a * * * * * <none> False 0 <none> 60m   <none>"),
        (
            "Event",
            json!({"type": "Normal", "reason": "Pulled", "message": " hi ", "involvedObject": {"kind": "Pod", "name": "p"}, "lastTimestamp": "2026-06-01T11:59:00Z", "firstTimestamp": "2026-06-01T11:58:00Z", "count": 2, "source": {"component": "kubelet", "host": "n"}}),
            "60s Normal Pulled pod/p  kubelet, n hi 2m 2 a",
        ),
        (
            "Endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 1}, {"port": 2}]}]}),
            "a 10.0.0.1:1,10.0.0.2:1,10.0.0.1:2 + 1 more... 60m",
        ),
        (
            "EndpointSlice",
            json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]}),
            "a IPv4 80 10.0.0.1 60m",
        ),
        (
            "PersistentVolumeClaim",
            json!({"spec": {"volumeName": "v", "storageClassName": "fast", "volumeMode": "Filesystem"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}}),
            "a Bound v 1Gi RWO fast <unset> 60m Filesystem",
        ),
        (
            "StorageClass",
            json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p"}),
            "a (default) p Delete Immediate false 60m",
        ),
        (
            "HorizontalPodAutoscaler",
            json!({"spec": {"minReplicas": 1, "maxReplicas": 4, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]}}),
            "a Deployment/d cpu: <unknown>/80% 1 4 0 60m",
        ),
        (
            "RoleBinding",
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "ServiceAccount", "namespace": "n", "name": "s"}, {"kind": "User", "name": "u"}]}),
            "a Role/r 60m u  n/s",
        ),
        (
            "ResourceQuota",
            json!({"status": {"hard": {"limits.cpu": "4", "pods": "10"}, "used": {"pods": "3"}}}),
            "a pods: 3/10 limits.cpu: 0/4 60m",
        ),
        ("Ingress", json!({"spec": {"ingressClassName": "n", "rules": [{"host": "a.example"}]}}), "a n a.example  80 60m"),
        (
            "APIService",
            json!({"status": {"conditions": [{"type": "Available", "status": "False", "reason": "MissingEndpoints"}]}, "spec": {"service": {"namespace": "n", "name": "s"}}}),
            "a n/s False (MissingEndpoints) 60m",
        ),
        ("ClusterRole", json!({}), "a 2026-06-01T11:00:00Z"),
    ] {
        assert_eq!(texts(&cells(kind, rest)).join(" "), want, "{kind}");
    }
}
