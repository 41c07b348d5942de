//! Bad input gets the answer that stock Kubernetes gives, and harms nothing.

use crate::cluster::{Cluster, scenario};
use crate::pods::pod;
use anyhow::{Result, ensure};
use serde_json::json;

#[tokio::test]
async fn bad_objects_are_refused_with_reason_and_cause() {
    scenario("bad_objects_are_refused_with_reason_and_cause", async |cluster| {
        let table = [
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b, unknown: 1}]}", "unknown field \"spec.containers[0].unknown\""),
            ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name}", "metadata.name: Invalid value: \"Bad_Name\""),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}", "spec.containers: Required value"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b, resources: {limits: {cpu: lots}}}]}", "quantities must match the regular expression"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {restartPolicy: Perhaps, containers: [{name: a, image: b}]}", "Unsupported value: \"Perhaps\""),
            ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: a, image: b}]}}}", "`selector` does not match template `labels`"),
            ("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 99999}]}", "must be between 1 and 65535"),
            ("apiVersion: nobody/v1\nkind: Nothing\nmetadata: {name: x}", "no matches for kind \"Nothing\" in version \"nobody/v1\""),
            ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: nowhere}", "namespaces \"nowhere\" not found"),
            ("this: is: not: yaml", "error"),
        ];
        for (manifest, expected) in table {
            refused(cluster, "create --validate=strict", manifest, expected).await?;
        }
        cluster.kubectl("create configmap once --from-literal=a=b").await?;
        ensure!(cluster.kubectl_fails("create configmap once").await?.contains("configmaps \"once\" already exists"), "a second create conflicts");
        let stale = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: once, resourceVersion: \"1\"}\ndata: {a: c}";
        refused(cluster, "replace", stale, "the object has been modified").await?;
        ensure!(cluster.kubectl_fails("get pod nothing").await?.contains("pods \"nothing\" not found"), "NotFound");
        ensure!(cluster.kubectl_fails("get nothing").await?.contains("the server doesn't have a resource type"), "no such resource");
        let large = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: large}}\ndata: {{a: {}}}", "x".repeat(1_200_000));
        refused(cluster, "create", &large, "Too long").await?;
        let huge = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: huge}}\ndata: {{a: {}}}", "x".repeat(4_000_000));
        refused(cluster, "create", &huge, "too large").await?;
        ensure!(cluster.kubectl("get configmap").await?.lines().count() == 3, "nothing half done is left");
        Ok(())
    })
    .await;
}

async fn refused(cluster: &Cluster, verb: &str, manifest: &str, expected: &str) -> Result<()> {
    match cluster.feed(verb, manifest).await {
        Ok(output) => anyhow::bail!("should be refused with {expected:?}, and was not: {output}"),
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(text.contains(expected), "should say {expected:?}:\n{text}");
            Ok(())
        }
    }
}

#[tokio::test]
async fn bad_pods_say_what_is_wrong_and_recover() {
    scenario("bad_pods_say_what_is_wrong_and_recover", async |cluster| {
        let with_image = |name: &str, image: &str| {
            let mut pod = pod(name, "sleep 3600");
            pod["spec"]["containers"][0]["image"] = json!(image);
            pod.to_string()
        };
        cluster.apply(&with_image("no-image", "127.0.0.1:5999/nothing:v1")).await?;
        cluster.waiting("no-image", &["ErrImagePull", "ImagePullBackOff"]).await?;
        cluster.apply(&with_image("bad-image", "Not/A:Reference:x")).await?;
        cluster.waiting("bad-image", &["InvalidImageName"]).await?;
        let mut never = pod("never", "sleep 3600");
        never["spec"]["containers"][0]["image"] = json!("127.0.0.1:5999/absent:v1");
        never["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
        cluster.apply(&never.to_string()).await?;
        let message = cluster.waiting("never", &["ErrImageNeverPull"]).await?;
        ensure!(message.contains("is not present with pull policy of Never"), "{message}");

        let mut missing = pod("no-command", "");
        missing["spec"]["containers"][0]["command"] = json!(["/no/such/command"]);
        cluster.apply(&missing.to_string()).await?;
        cluster
            .until("the missing command to be told", "pod no-command", |pod| {
                let status = &pod["status"]["containerStatuses"][0];
                let last = &status["lastState"]["terminated"];
                ensure!(last["reason"] == "StartError" && last["exitCode"] == 128, "{status}");
                ensure!(last["message"].as_str().is_some_and(|text| text.contains("no such file or directory")), "{status}");
                Ok(())
            })
            .await?;
        cluster.apply(&pod("crash", "echo last words; exit 3").to_string()).await?;
        cluster.waiting("crash", &["CrashLoopBackOff"]).await?;
        let crash = cluster.get("pod crash").await?;
        let last = &crash["status"]["containerStatuses"][0]["lastState"]["terminated"];
        ensure!(last["exitCode"] == 3 && last["reason"] == "Error", "{last}");
        ensure!(cluster.kubectl("logs crash --previous").await?.contains("last words"), "the previous log is kept");

        let mut no_config = pod("no-config", "sleep 3600");
        no_config["spec"]["containers"][0]["env"] =
            json!([{ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "later", "key": "a" } } }]);
        cluster.apply(&no_config.to_string()).await?;
        let message = cluster.waiting("no-config", &["CreateContainerConfigError"]).await?;
        ensure!(message.contains("configmap \"later\" not found"), "{message}");
        cluster.kubectl("create configmap later --from-literal=a=b").await?;
        cluster.pods_ready("app=no-config", 1).await?;

        let mut hungry = pod("hungry", "sleep 3600");
        hungry["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "1000" } });
        cluster.apply(&hungry.to_string()).await?;
        cluster.told("hungry", &["FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu"]).await?;
        let mut greedy = pod("greedy", "head -c 200m /dev/zero | tail");
        greedy["spec"]["restartPolicy"] = json!("Never");
        greedy["spec"]["containers"][0]["resources"] = json!({ "limits": { "memory": "32Mi" } });
        cluster.apply(&greedy.to_string()).await?;
        cluster
            .until("the memory limit to hold", "pod greedy", |pod| {
                let terminated = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
                ensure!(terminated["reason"] == "OOMKilled" && terminated["exitCode"] == 137, "{}", pod["status"]);
                Ok(())
            })
            .await?;
        cluster.kubectl("delete pod --all --timeout=180s").await?;
        Ok(())
    })
    .await;
}
