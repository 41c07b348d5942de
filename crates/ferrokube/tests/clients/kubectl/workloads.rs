//! Workloads in kubectl's hands, with a node that runs them: rollouts and their history, scaling, exposing, jobs, what
//! `describe` makes of all the main kinds, and how a node is emptied.

use super::{Kubectl, rows};
use crate::hollow;
use anyhow::{Result, ensure};

pub async fn whole(kubectl: &Kubectl<'_>) -> Result<()> {
    rollouts(kubectl).await?;
    services(kubectl).await?;
    jobs(kubectl).await?;
    limits(kubectl).await?;
    pods(kubectl).await?;
    nodes(kubectl).await?;
    cascades(kubectl).await
}

async fn rollouts(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.says("create deployment web --image=nginx:1 --replicas=3", "deployment.apps/web created").await?;
    kubectl.says("rollout status deployment web --timeout=90s", "deployment \"web\" successfully rolled out").await?;
    kubectl.says("wait deployment/web --for=condition=Available --timeout=60s", "deployment.apps/web condition met").await?;
    kubectl.run("annotate deployment web kubernetes.io/change-cause=first").await?;
    kubectl.comes_to_say("rollout history deployment web", "1         first").await?;
    kubectl.says("set image deployment/web nginx=nginx:2", "deployment.apps/web image updated").await?;
    kubectl.run("annotate deployment web kubernetes.io/change-cause=second --overwrite").await?;
    kubectl.run("rollout status deployment web --timeout=90s").await?;
    kubectl
        .comes_to_say("rollout history deployment web", "deployment.apps/web \nREVISION  CHANGE-CAUSE\n1         first\n2         second\n")
        .await?;
    kubectl.says("rollout history deployment web --revision=1", "Image:\tnginx:1").await?;
    kubectl.says("rollout undo deployment web", "deployment.apps/web rolled back").await?;
    kubectl.run("rollout status deployment web --timeout=90s").await?;
    kubectl.prints("get deployment web -o jsonpath={.spec.template.spec.containers[0].image}", "nginx:1").await?;
    kubectl.run("rollout pause deployment web").await?;
    kubectl.run("set env deployment/web COLOR=red").await?;
    kubectl.run("set resources deployment/web --requests=cpu=10m").await?;
    kubectl.run("rollout resume deployment web").await?;
    kubectl.run("rollout status deployment web --timeout=90s").await?;
    kubectl.says("rollout restart deployment web", "deployment.apps/web restarted").await?;
    kubectl.run("rollout status deployment web --timeout=90s").await?;
    let mismatch = kubectl.fails("scale deployment web --replicas=1 --current-replicas=9").await?;
    ensure!(mismatch.contains("Expected replicas to be 9, was 3"), "{mismatch}");
    kubectl.says("scale deployment web --replicas=2", "deployment.apps/web scaled").await?;
    let settled = "2 desired | 2 updated | 2 total | 2 available | 0 unavailable";
    kubectl.comes_to_say("describe deployment web", settled).await?;
    let table = kubectl.run("get deployment web -o wide").await?;
    let expected = vec![
        vec!["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "CONTAINERS", "IMAGES", "SELECTOR"],
        vec!["web", "2/2", "2", "2", "nginx", "nginx:1", "app=web"],
    ];
    ensure!(rows(&table) == expected, "{table}");
    let scale = kubectl.run("get deployment web --subresource=scale").await?;
    ensure!(rows(&scale) == [["NAME", "DESIRED", "AVAILABLE"], ["web", "2", "2"]], "{scale}");
    for fact in ["Scaled up replica set web-", "Available      True    MinimumReplicasAvailable"] {
        kubectl.comes_to_say("describe deployment web", fact).await?;
    }
    let managers = kubectl.run("get rs -l app=web --show-managed-fields -o jsonpath={.items[*].metadata.managedFields[*].manager}").await?;
    ensure!(managers.split_whitespace().all(|m| m == "kube-controller-manager") && !managers.is_empty(), "{managers}");
    kubectl.comes_to_say("events --for deployment/web", "ScalingReplicaSet").await?;
    kubectl.comes_to_say("get events --field-selector=involvedObject.kind=ReplicaSet", "Created pod: web-").await?;
    kubectl.says("describe rs -l app=web", "Controlled By:  Deployment/web").await
}

async fn services(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.says("expose deployment web --port=80 --target-port=8080", "service/web exposed").await?;
    kubectl.says("describe service web", "TargetPort:               8080/TCP").await?;
    kubectl.comes_to_say("get endpointslices -l kubernetes.io/service-name=web", "8080    192.0.2.1").await?;
    kubectl.says("expose deployment web --name=np --type=NodePort --port=81", "service/np exposed").await?;
    let ports = kubectl.run("get service np --no-headers").await?;
    ensure!(ports.contains("NodePort") && ports.contains("81:3"), "{ports}");
    kubectl.run("create service externalname ext --external-name=example.com").await?;
    kubectl.says("get service ext", "example.com").await?;
    kubectl.run("create ingress ing --class=x --rule=foo.com/bar*=web:80").await?;
    kubectl.says("describe ingress ing", "/bar   web:80").await?;
    kubectl.says("set selector service web app=other", "service/web selector updated").await
}

async fn jobs(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.args(&["create", "cronjob", "tick", "--image=busybox", "--schedule=0 0 1 1 *", "--", "date"]).await?;
    kubectl.says("create job once --from=cronjob/tick", "job.batch/once created").await?;
    kubectl.run("wait job/once --for=condition=Complete --timeout=90s").await?;
    let table = kubectl.run("get job once --no-headers").await?;
    ensure!(table.contains("Complete   1/1"), "{table}");
    kubectl.says("describe job once", "Pods Statuses:    0 Active (0 Ready) / 1 Succeeded / 0 Failed").await?;
    let described = kubectl.run("describe cronjob tick").await?;
    ensure!(described.contains("0 0 1 1 *") && described.contains("Active Jobs:         <none>"), "{described}");
    Ok(())
}

async fn limits(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.run("autoscale deployment web --min=1 --max=5 --cpu=50%").await?;
    let condition = "--for=jsonpath={.status.conditions[?(@.type==\"ScalingActive\")].reason}=FailedGetResourceMetric";
    kubectl.run(&format!("wait hpa/web {condition} --timeout=90s")).await?;
    kubectl.says("describe hpa web", "the server could not find the requested resource (get pods.metrics.k8s.io)").await?;
    kubectl.run("delete hpa web").await?;
    kubectl.run("create poddisruptionbudget web --selector=app=web --min-available=1").await?;
    kubectl.run("wait pdb/web --for=jsonpath={.status.disruptionsAllowed}=1 --timeout=90s").await?;
    kubectl.run("create quota q --hard=configmaps=100").await?;
    kubectl.run("wait quota/q --for=jsonpath={.status.hard.configmaps}=100 --timeout=90s").await?;
    kubectl.says("describe quota q", "configmaps").await?;
    kubectl.run("create priorityclass important --value=100").await?;
    kubectl.says("get priorityclass important", "important   100     false").await
}

async fn pods(kubectl: &Kubectl<'_>) -> Result<()> {
    let dry = kubectl.run("run probe --image=busybox --restart=Never --dry-run=server -o yaml").await?;
    ensure!(dry.contains("terminationGracePeriodSeconds: 30") && dry.contains("name: kube-api-access-"), "{dry}");
    let lone = kubectl.args(&[
        "run",
        "lone",
        "--image=busybox",
        "--labels=role=lone",
        "--overrides",
        r#"{"spec":{"priorityClassName":"important"}}"#,
    ]);
    lone.await?;
    kubectl.run("wait pod/lone --for=condition=Ready --timeout=90s").await?;
    let table = kubectl.run("get pod lone -o wide").await?;
    let expected = ["lone", "1/1", "Running", "0", "192.0.2.1", hollow::NAME, "<none>", "<none>"];
    ensure!(rows(&table)[1] == expected, "{table}");
    kubectl.comes_to_say("describe pod lone", "Successfully assigned default/lone to hollow-1").await?;
    let described = kubectl.run("describe pod lone").await?;
    let facts = ["Priority:             100", "Priority Class Name:  important", "QoS Class:                   BestEffort"];
    ensure!(facts.iter().all(|fact| described.contains(fact)), "{described}");
    let refused = kubectl.fails("logs lone").await?;
    ensure!(
        refused.contains("Error from server: Get \"https://127.0.0.1:1/containerLogs/default/lone/lone\": dial tcp 127.0.0.1:1:"),
        "{refused}"
    );
    let changed = kubectl.args(&["patch", "pod", "lone", "-p", r#"{"spec":{"nodeName":"other"}}"#]).await;
    ensure!(
        changed.is_err_and(|e| format!("{e:#}").contains("pod updates may not change fields other than")),
        "pods are immutable in most"
    );
    kubectl.says("delete pod lone --timeout=90s", "pod \"lone\" deleted").await
}

async fn nodes(kubectl: &Kubectl<'_>) -> Result<()> {
    let node = hollow::NAME;
    kubectl.comes_to_say("get nodes", "hollow-1   Ready    <none>").await?;
    kubectl.says(&format!("taint node {node} a=b:NoSchedule"), "node/hollow-1 tainted").await?;
    kubectl.says(&format!("taint node {node} a-"), "node/hollow-1 untainted").await?;
    kubectl.says(&format!("cordon {node}"), "node/hollow-1 cordoned").await?;
    kubectl.says("get nodes", "Ready,SchedulingDisabled").await?;
    kubectl.comes_to_say(&format!("describe node {node}"), "node.kubernetes.io/unschedulable:NoSchedule").await?;
    kubectl.run("delete pdb web").await?;
    let drained = kubectl.run(&format!("drain {node} --force --timeout=90s")).await?;
    ensure!(drained.contains("evicting pod default/web-") && drained.contains("node/hollow-1 drained"), "{drained}");
    // There is nowhere to go.
    kubectl.comes_to_say("get deployment web", "web    0/2").await?;
    kubectl.says(&format!("uncordon {node}"), "node/hollow-1 uncordoned").await?;
    kubectl.comes_to_say("get deployment web", "web    2/2").await
}

async fn cascades(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.says("delete deployment web --cascade=orphan", "deployment.apps \"web\" deleted").await?;
    let orphans = kubectl.run("get rs -l app=web -o jsonpath={.items[*].metadata.ownerReferences}").await?;
    ensure!(orphans.trim().is_empty(), "{orphans}");
    ensure!(kubectl.run("get pods -l app=web -o name").await?.lines().count() == 2, "pods go on");
    kubectl.run("delete rs -l app=web --cascade=foreground --timeout=90s").await?;
    kubectl.prints("get pods -l app=web -o name", "").await
}
