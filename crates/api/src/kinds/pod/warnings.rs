//! What is allowed in a pod or template and yet worth a warning.

use crate::field::At;
use crate::kinds::json::*;
use crate::names;
use crate::quantity::Quantity;
use serde_json::Value;

/// Node labels that have a successor, and what to say about them.
const NODE_LABELS: [(&str, &str); 5] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    ("failure-domain.beta.kubernetes.io/region", "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
];

/// Warnings about a pod.
pub fn pod(o: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let name = text_at(o, &["metadata", "name"]);
    let wrong = names::dns1123_label(name);
    if !name.is_empty() && !wrong.is_empty() {
        let why = "this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended";
        out.push(format!("metadata.name: {why}: [{}]", wrong.join(" ")));
    }
    spec(o.get("spec").unwrap_or(&NONE), &At::field("spec"), &mut out);
    out
}

/// Warnings about a workload whose template stands at `spec.template`.
pub fn workload(o: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let path = At::field("spec");
    let path = path.child("template");
    spec(at(o, &["spec", "template", "spec"]).unwrap_or(&NONE), &path.child("spec"), &mut out);
    out
}

/// Warnings about a CronJob.
pub fn cron_job(o: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let path = At::field("spec");
    let path = path.child("jobTemplate");
    let path = path.child("spec");
    let path = path.child("template");
    let pod = at(o, &["spec", "jobTemplate", "spec", "template", "spec"]).unwrap_or(&NONE);
    spec(pod, &path.child("spec"), &mut out);
    out
}

fn spec(spec: &Value, path: &At, out: &mut Vec<String>) {
    for (label, _) in entries(spec, "nodeSelector") {
        if let Some((_, why)) = NODE_LABELS.iter().find(|(l, _)| *l == label) {
            out.push(format!("{}: {why}", path.child("nodeSelector").key(label)));
        }
    }
    let constraints = path.child("topologySpreadConstraints");
    for (i, c) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        if !has(c, "labelSelector") {
            let why = "a null labelSelector results in matching no pod";
            out.push(format!("{}: {why}", constraints.index(i).child("labelSelector")));
        }
    }
    let volumes = path.child("volumes");
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        if has(volume, "gitRepo") {
            out.push(format!("{}: deprecated in v1.11, and disabled by default in v1.33+", volumes.index(i).child("gitRepo")));
        }
    }
    let secrets = path.child("imagePullSecrets");
    for (i, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            out.push(format!("{}: invalid empty name \"\"", secrets.index(i).child("name")));
        }
    }
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|n| n < 0) {
        let why = "must be >= 0; negative values are invalid and will be treated as 1";
        out.push(format!("{}: {why}", path.child("terminationGracePeriodSeconds")));
    }
    for key in ["initContainers", "containers"] {
        let lists = path.child(key);
        list(spec, key).iter().enumerate().for_each(|(i, c)| container(c, &lists.index(i), out));
    }
}

fn container(c: &Value, path: &At, out: &mut Vec<String>) {
    let env = path.child("env");
    let all = list(c, "env");
    for (i, variable) in all.iter().enumerate() {
        let name = text(variable, "name");
        if all[..i].iter().any(|v| text(v, "name") == name) {
            let why = format!("hides previous definition of {name:?}, which may be dropped when using apply");
            out.push(format!("{}: {why}", env.index(i)));
        }
    }
    let ports = path.child("ports");
    let all = list(c, "ports");
    let key = |p: &Value| (int(p, "containerPort"), text(p, "protocol").to_owned(), int(p, "hostPort"), text(p, "hostIP").to_owned());
    for (i, port) in all.iter().enumerate() {
        if let Some(j) = all[..i].iter().position(|p| key(p) == key(port)) {
            out.push(format!("{}: duplicate port definition with {}", ports.index(i), ports.index(j)));
        }
    }
    let resources = path.child("resources");
    for list in ["limits", "requests"] {
        for name in ["memory", "ephemeral-storage"] {
            let Some(Ok(q)) = at(c, &["resources", list, name]).map(Quantity::from_json) else { continue };
            if !q.is_whole() {
                let why = format!("fractional byte value {:?} is invalid, must be an integer", q.to_string());
                out.push(format!("{}: {why}", resources.child(list).key(name)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn odd_pods_get_warnings() {
        let c = json!({"name": "c", "env": [{"name": "A"}, {"name": "A"}], "resources": {"limits": {"memory": "128m"}}});
        let o = json!({"metadata": {"name": "a.b"}, "spec": {"containers": [c], "nodeSelector": {"beta.kubernetes.io/os": "linux"}}});
        assert_eq!(
            pod(&o),
            [
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"128m\" is invalid, must be an integer",
            ]
        );
    }
}
