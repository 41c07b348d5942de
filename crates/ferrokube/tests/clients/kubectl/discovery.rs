//! What kubectl learns from the server: versions, kinds, documentation; also of kinds that came a moment ago.

use super::{Kubectl, NO_SUCH_KIND};
use anyhow::{Result, ensure};

const WIDGETS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.kubectl.example.com}
spec:
  group: kubectl.example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        description: A widget.
        required: [spec]
        properties:
          spec:
            type: object
            description: What is wanted.
            properties:
              size: {type: integer, minimum: 1, maximum: 10, description: How large., default: 3}
              color: {type: string, enum: [red, green], description: Which color.}
          status: {type: object, properties: {size: {type: integer}, phase: {type: string}}}
";

pub async fn whole(kubectl: &Kubectl<'_>) -> Result<()> {
    known(kubectl).await?;
    explained(kubectl).await?;
    custom(kubectl).await
}

async fn known(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.says("version", "Server Version: v1.36.").await?;
    kubectl.says("cluster-info", "Kubernetes control plane is running at https://127.0.0.1:").await?;
    kubectl.says("get --raw /readyz?verbose", "readyz check passed").await?;
    kubectl.says("get --raw /version", "\n  \"minor\": \"36\"").await?;
    kubectl.says("api-versions", "\nautoscaling/v2\n").await?;
    let apps = "controllerrevisions.apps\ndaemonsets.apps\ndeployments.apps\nreplicasets.apps\nstatefulsets.apps";
    kubectl.prints("api-resources --api-group=apps -o name --sort-by=name", apps).await?;
    let wide = kubectl.run("api-resources -o wide --namespaced=false").await?;
    ensure!(wide.contains("create,delete,deletecollection,get,list,patch,update,watch"), "{wide}");
    kubectl.comes_to_say("get componentstatuses", "scheduler            Healthy   ok").await
}

async fn explained(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.says("explain deployment.spec.strategy", "FIELD: strategy <DeploymentStrategy>").await?;
    kubectl.says("explain pods --recursive", "terminationGracePeriodSeconds\t<integer>").await?;
    kubectl.says("explain pod.spec.restartPolicy", "FIELD: restartPolicy <string>").await?;
    kubectl.says("explain hpa --api-version=autoscaling/v1", "VERSION:    v1").await?;
    let unknown = kubectl.fails("explain pod.spec.nope").await?;
    ensure!(unknown.contains("field \"nope\" does not exist"), "{unknown}");
    let unknown = kubectl.fails("get nonsense").await?;
    ensure!(unknown.contains("the server doesn't have a resource type \"nonsense\""), "{unknown}");
    Ok(())
}

async fn custom(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.feed("apply -f -", WIDGETS).await?;
    kubectl.run("wait --for=condition=Established crd/widgets.kubectl.example.com --timeout=60s").await?;
    kubectl.says("explain widgets.spec.color", "ENUM:\n    red\n    green\n\nDESCRIPTION:\n    Which color.").await?;
    kubectl
        .says("api-resources --api-group=kubectl.example.com", "widgets   wd           kubectl.example.com/v1   true         Widget")
        .await?;
    let widget = "apiVersion: kubectl.example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {color: red}\n";
    let unknown = kubectl.fails_with("create -f -", &widget.replace("color", "colour")).await?;
    ensure!(unknown.contains("strict decoding error: unknown field \"spec.colour\""), "{unknown}");
    let warned = kubectl.feed("create --validate=warn --dry-run=server -f -", &widget.replace("color", "colour")).await?;
    ensure!(warned.contains("Warning: unknown field \"spec.colour\""), "{warned}");
    let wrong = kubectl.fails_with("create -f -", &widget.replace("red", "blue")).await?;
    ensure!(wrong.contains("spec.color: Unsupported value: \"blue\": supported values: \"red\", \"green\""), "{wrong}");
    kubectl.feed("create -f -", widget).await?;
    kubectl.says("get wd", "NAME   SIZE   AGE\nw      3").await?;
    kubectl.says("get all", "widget.kubectl.example.com/w   3").await?;
    kubectl.says("describe wd w", "Color:  red").await?;
    kubectl.run("scale wd w --replicas=5").await?;
    kubectl.says("get wd w --subresource=scale", "NAME   DESIRED   AVAILABLE").await?;
    let wrong = kubectl.fails("scale wd w --replicas=50").await?;
    ensure!(wrong.contains("should be less than or equal to 10"), "{wrong}");
    kubectl.args(&["patch", "wd", "w", "--subresource=status", "--type=merge", "-p", r#"{"status":{"phase":"Ready"}}"#]).await?;
    kubectl.run("wait wd/w --for=jsonpath={.status.phase}=Ready --timeout=60s").await?;
    kubectl.run("delete crd widgets.kubectl.example.com --timeout=60s").await?;
    kubectl.comes_to_fail("get widgets.kubectl.example.com", &NO_SUCH_KIND).await
}
