//! helm 4: the chart that `helm create` makes, with hooks and a definition of its own, through all of a release's life.

use crate::hollow;
use crate::kubectl::Kubectl;
use crate::plane::{Plane, scenario};
use anyhow::{Result, ensure};
use ferrokube_testkit::tools::clients;
use serde_json::Value;
use std::path::PathBuf;

struct Helm<'p> {
    plane: &'p Plane,
    program: PathBuf,
}

impl Helm<'_> {
    async fn run(&self, args: &str) -> Result<String> {
        self.plane.run(&self.program, &args.split_whitespace().collect::<Vec<_>>(), "").await
    }

    async fn json(&self, args: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.run(&format!("{args} -o json")).await?)?)
    }
}

const HOOKS: &str = r#"
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-migrate-{{ .Release.Revision }}
  annotations: {"helm.sh/hook": "pre-install,pre-upgrade", "helm.sh/hook-delete-policy": hook-succeeded}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: migrate, image: busybox, command: ["true"]}]
---
apiVersion: helm.example.com/v1
kind: Setting
metadata: {name: {{ .Release.Name }}}
spec: {revision: {{ .Release.Revision }}, note: {{ .Values.note | default "none" | quote }}}
"#;

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: settings.helm.example.com}
spec:
  group: helm.example.com
  scope: Namespaced
  names: {plural: settings, singular: setting, kind: Setting}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {revision: {type: integer, maximum: 9}, note: {type: string}}}}
";

#[tokio::test]
async fn a_release_of_helm_lives_from_install_to_uninstall() {
    let tools = || Ok((clients::helm()?, clients::kubectl_newer()?));
    scenario("a_release_of_helm_lives_from_install_to_uninstall", tools, async |plane, (program, kubectl)| {
        let _node = hollow::start(plane).await?;
        let helm = Helm { plane, program };
        helm.run("create chart").await?;
        plane.file("chart/crds/settings.yaml", DEFINITION)?;
        plane.file("chart/templates/extra.yaml", HOOKS)?;
        released(&helm, &Kubectl::new(plane, kubectl)).await
    })
    .await;
}

async fn released(helm: &Helm<'_>, kubectl: &Kubectl<'_>) -> Result<()> {
    let installed = helm.run("install web chart --wait --timeout 90s").await?;
    ensure!(installed.contains("STATUS: deployed") && installed.contains("REVISION: 1"), "{installed}");
    let ready = kubectl.run("get deployment web-chart -o jsonpath={.status.readyReplicas}").await?;
    ensure!(ready == "1", "--wait waited: {ready} ready");
    ensure!(!kubectl.run("get jobs -o name").await?.contains("migrate"), "a hook that succeeded is gone");
    let secret = kubectl.run("get secret sh.helm.release.v1.web.v1 -o jsonpath={.type}/{.metadata.labels.status}").await?;
    ensure!(secret == "helm.sh/release.v1/deployed", "{secret}");
    ensure!(helm.run("test web --timeout 90s").await?.contains("Phase:          Succeeded"), "the chart's own test");

    let upgraded = helm.run("upgrade web chart --set replicaCount=3,note=second --wait --timeout 90s").await?;
    ensure!(upgraded.contains("REVISION: 2"), "{upgraded}");
    let read = "get deployment/web-chart setting/web -o jsonpath={.items[*].spec.replicas}{.items[*].spec.note}";
    ensure!(kubectl.run(read).await? == "3second", "upgraded");
    let manager = kubectl.run("get deployment web-chart --show-managed-fields -o jsonpath={.metadata.managedFields[0].operation}").await?;
    ensure!(manager == "Apply", "helm 4 applies on the server's side: {manager}");

    let refused = helm.run("upgrade web chart --set-json replicaCount=\"many\" --rollback-on-failure --timeout 60s").await;
    let refused = format!("{:#}", refused.err().unwrap_or_else(|| anyhow::anyhow!("it was not refused")));
    ensure!(refused.contains("replicas") && refused.contains("UPGRADE FAILED"), "{refused}");

    helm.run("rollback web 1 --wait --timeout 90s").await?;
    ensure!(kubectl.run(read).await? == "1none", "rolled back");
    let history = helm.json("history web").await?;
    let states: Vec<_> = history.as_array().into_iter().flatten().map(|r| r["status"].as_str().unwrap_or_default()).collect();
    ensure!(states.first() == Some(&"superseded") && states.last() == Some(&"deployed"), "{history}");
    let list = helm.json("list").await?;
    ensure!(list[0]["name"] == "web" && list[0]["status"] == "deployed" && list[0]["chart"] == "chart-0.1.0", "{list}");
    let status = helm.run("status web").await?;
    ensure!(status.contains("==> v1/Deployment") && status.contains("READY   UP-TO-DATE   AVAILABLE"), "{status}");

    let rendered = helm.run("template web chart --dry-run=server").await?;
    ensure!(rendered.contains("kind: Setting"), "{rendered}");
    let dry = helm.run("upgrade --install other chart --dry-run=server").await?;
    ensure!(dry.contains("STATUS: pending-install") && !kubectl.run("get deployments -o name").await?.contains("other"), "{dry}");

    helm.run("uninstall web --wait --timeout 90s").await?;
    ensure!(helm.json("list --all-namespaces").await?.as_array().is_some_and(Vec::is_empty), "no release is left");
    let left =
        kubectl.run("get deployments,services,serviceaccounts,settings,secrets -l app.kubernetes.io/managed-by=Helm -o name").await?;
    ensure!(!left.contains('/'), "left over: {left}");
    let definition = kubectl.run("get crd settings.helm.example.com -o name").await?;
    ensure!(definition.contains("settings"), "definitions of a chart stay: {definition}");
    Ok(())
}
