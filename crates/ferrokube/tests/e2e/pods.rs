//! What pods can do: volumes that follow their sources, init containers and sidecars, probes, identity, images.

use crate::cluster::{PATIENCE, condition, ferrokube, scenario};
use anyhow::{Context as _, Result, ensure};
use ferrokube_testkit::image::{self, Compression, Layer};
use ferrokube_testkit::registry::{Auth, Registry};
use ferrokube_testkit::{tools, wait_for};
use serde_json::{Value, json};

/// A pod of one container that runs a shell command.
pub fn pod(name: &str, command: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "main", "image": "busybox:1.36", "command": ["sh", "-c", command] }],
        },
    })
}

#[tokio::test]
async fn what_is_written_into_the_capacity_of_a_node_is_for_pods_until_it_is_taken_out() {
    scenario("what_is_written_into_the_capacity_of_a_node_is_for_pods_until_it_is_taken_out", async |cluster| {
        let node = cluster.get("nodes").await?["items"][0]["metadata"]["name"].as_str().context("a node")?.to_owned();
        let write = async |amount: Value| {
            let patch = json!({ "status": { "capacity": { "example.com/dongle": amount } } }).to_string();
            cluster.kubectl_args(&["patch", "node", &node, "--subresource=status", "-p", &patch]).await
        };
        write(json!("2")).await?;
        let mut holder = pod("holder", "sleep 1000");
        holder["spec"]["containers"][0]["resources"] = json!({ "limits": { "example.com/dongle": 2 } });
        cluster.apply(&holder.to_string()).await?;
        cluster.pods_ready("app=holder", 1).await?;
        let mut late = pod("late", "sleep 1000");
        late["spec"]["containers"][0]["resources"] = json!({ "limits": { "example.com/dongle": 1 } });
        cluster.apply(&late.to_string()).await?;
        cluster.told("late", &["Insufficient example.com/dongle"]).await?;
        write(Value::Null).await?;
        cluster
            .until("the amount to be gone", &format!("node {node}"), |node| {
                let left = &node["status"]["allocatable"]["example.com/dongle"];
                ensure!(left.is_null() || left == "0", "still {left}");
                Ok(())
            })
            .await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_job_can_tell_a_pod_that_was_evicted_from_one_that_failed() {
    scenario("a_job_can_tell_a_pod_that_was_evicted_from_one_that_failed", async |cluster| {
        // The first pod runs until it is evicted, and ends badly then; the next finds its mark and succeeds.
        let command = "test -e /data/mark && exit 0; touch /data/mark; trap 'exit 5' TERM; while true; do sleep 1 & wait $!; done";
        let mut template = pod("evicted", command);
        template["spec"]["restartPolicy"] = json!("Never");
        template["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
        template["spec"]["volumes"] = json!([{ "name": "data", "hostPath": { "path": "/run/evicted", "type": "DirectoryOrCreate" } }]);
        let job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "evicted" }, "spec": {
            "backoffLimit": 0, "template": { "metadata": { "labels": template["metadata"]["labels"] }, "spec": template["spec"] },
            "podFailurePolicy": { "rules": [{ "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget" }] }] },
        } });
        cluster.apply(&job.to_string()).await?;
        let pods = cluster.pods_ready("app=evicted", 1).await?;
        let name = pods[0]["metadata"]["name"].as_str().context("a name")?;
        wait_for("the mark of the first pod", PATIENCE, async || cluster.in_pod(name, "cat /data/mark").await).await?;
        let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": name, "namespace": "default" } });
        let path = format!("create --raw /api/v1/namespaces/default/pods/{name}/eviction");
        cluster.feed(&path, &eviction.to_string()).await?;
        let ended = |job: &Value| {
            let conditions = job["status"]["conditions"].as_array().context("no conditions")?;
            ensure!(conditions.iter().any(|c| c["type"] == "Complete" || c["type"] == "Failed"), "not over: {conditions:?}");
            Ok(job["status"].clone())
        };
        let status = cluster.until("the job to end", "job evicted", ended).await?;
        ensure!(status["succeeded"] == 1 && status["failed"].is_null(), "{status}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn volumes_carry_configuration_and_follow_it() {
    scenario("volumes_carry_configuration_and_follow_it", async |cluster| {
        cluster.kubectl("create configmap settings --from-literal=mode=one --from-literal=other=x").await?;
        cluster.kubectl("create secret generic keys --from-literal=key=sesame").await?;
        let mut pod = pod("reader", "trap exit TERM; while true; do sleep 1 & wait $!; done");
        pod["spec"]["containers"][0]["envFrom"] = json!([{ "configMapRef": { "name": "settings" }, "prefix": "SET_" }]);
        pod["spec"]["containers"][0]["env"] = json!([
            { "name": "POD_IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
            { "name": "LIMIT", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory" } } },
            { "name": "BOTH", "value": "$(SET_mode)-$(POD_IP)" },
        ]);
        pod["spec"]["containers"][0]["resources"] = json!({ "limits": { "memory": "64Mi", "cpu": "200m" } });
        pod["spec"]["containers"][0]["volumeMounts"] = json!([
            { "name": "settings", "mountPath": "/settings" }, { "name": "keys", "mountPath": "/keys", "readOnly": true },
            { "name": "scratch", "mountPath": "/scratch" }, { "name": "all", "mountPath": "/all" },
        ]);
        pod["spec"]["volumes"] = json!([
            { "name": "settings", "configMap": { "name": "settings" } },
            { "name": "keys", "secret": { "secretName": "keys", "defaultMode": 256 } },
            { "name": "scratch", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
            { "name": "all", "projected": { "sources": [
                { "configMap": { "name": "settings", "items": [{ "key": "other", "path": "renamed/other" }] } },
                { "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
                { "serviceAccountToken": { "path": "token", "audience": "tests", "expirationSeconds": 600 } },
            ] } },
        ]);
        cluster.apply(&pod.to_string()).await?;
        cluster.pods_ready("app=reader", 1).await?;
        let seen = cluster.in_pod("reader", "cat /settings/mode /keys/key /all/renamed/other /all/labels; stat -c %a /keys/..data/key; echo; echo $SET_mode $LIMIT $BOTH; df /scratch | tail -1").await?;
        let ip = cluster.get("pod reader").await?["status"]["podIP"].as_str().context("an address")?.to_owned();
        for expected in ["onesesamex", "app=\"reader\"", "400", &format!("one 67108864 one-{ip}"), "tmpfs"] {
            ensure!(seen.contains(expected), "no {expected:?} in:\n{seen}");
        }
        ensure!(cluster.in_pod("reader", "echo x > /keys/new").await.is_err(), "a read-only mount is read-only");
        let token = cluster.in_pod("reader", "cat /all/token").await?;
        ensure!(token.split('.').count() == 3, "a token: {token}");
        cluster.kubectl_args(&["patch", "configmap", "settings", "-p", r#"{"data":{"mode":"two"}}"#]).await?;
        wait_for("the volume to follow its config map", PATIENCE, async || {
            let mode = cluster.in_pod("reader", "cat /settings/mode").await?;
            ensure!(mode == "two", "{mode}");
            Ok(())
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn containers_of_a_pod_start_and_restart_in_order() {
    scenario("containers_of_a_pod_start_and_restart_in_order", async |cluster| {
        let mut ordered = pod("ordered", "cat /work/log; sleep 3600");
        let step = |name: &str, command: &str| {
            json!({
                "name": name, "image": "busybox:1.36", "command": ["sh", "-c", command],
                "volumeMounts": [{ "name": "work", "mountPath": "/work" }],
            })
        };
        let mut sidecar = step("sidecar", "echo sidecar >> /work/log; sleep 3600");
        sidecar["restartPolicy"] = json!("Always");
        sidecar["startupProbe"] =
            json!({ "exec": { "command": ["test", "-s", "/work/log"] }, "periodSeconds": 1, "timeoutSeconds": 60, "failureThreshold": 60 });
        ordered["spec"]["initContainers"] =
            json!([step("first", "echo first >> /work/log"), sidecar, step("third", "echo third >> /work/log")]);
        ordered["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "work", "mountPath": "/work" }]);
        ordered["spec"]["volumes"] = json!([{ "name": "work", "emptyDir": {} }]);
        cluster.apply(&ordered.to_string()).await?;
        cluster.pods_ready("app=ordered", 1).await?;
        let log = cluster.kubectl("logs ordered -c main").await?;
        ensure!(log == "first\nsidecar\nthird\n", "{log}");

        // Liveness restarts, readiness takes out of service, the exit is recorded.
        let mut sick = pod("sick", "touch /tmp/well; sleep 3600");
        sick["spec"]["containers"][0]["livenessProbe"] =
            json!({ "exec": { "command": ["test", "-e", "/tmp/well"] }, "periodSeconds": 1, "timeoutSeconds": 60, "failureThreshold": 2 });
        cluster.apply(&sick.to_string()).await?;
        cluster.pods_ready("app=sick", 1).await?;
        cluster.in_pod("sick", "rm /tmp/well").await?;
        cluster
            .until("liveness to restart the container", "pod sick", |pod| {
                let status = &pod["status"]["containerStatuses"][0];
                ensure!(status["restartCount"].as_u64() >= Some(1) && status["lastState"]["terminated"].is_object(), "{status}");
                Ok(())
            })
            .await?;
        cluster.told("sick", &["Unhealthy", "Killing"]).await?;

        // A grace period is one: the container that cleans up gets its time, and the object is gone afterwards.
        let mut polite = pod("polite", "trap 'echo bye > /out/bye; exit 0' TERM; while true; do sleep 1 & wait $!; done");
        polite["spec"]["terminationGracePeriodSeconds"] = json!(3600);
        polite["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "out", "mountPath": "/out" }]);
        polite["spec"]["volumes"] = json!([{ "name": "out", "hostPath": { "path": "/var/lib/polite", "type": "DirectoryOrCreate" } }]);
        cluster.apply(&polite.to_string()).await?;
        cluster.pods_ready("app=polite", 1).await?;
        cluster.kubectl("delete pod polite --timeout=180s").await?;
        ensure!(cluster.node.exec(["cat", "/var/lib/polite/bye"]).await?.trim() == "bye", "it said good-bye");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn pods_talk_to_the_api_with_their_own_identity() {
    scenario("pods_talk_to_the_api_with_their_own_identity", async |cluster| {
        // kubectl itself is the client: it finds the API, checks its certificate and uses the pod's token.
        let kubectl = std::fs::read(tools::kubectl()?)?;
        let image = image::busybox()?.layer_as(Layer::new().file("bin/kubectl", 0o755, kubectl), Compression::None).build();
        let archive = cluster.lab.dir().join("kubectl.tar");
        image.write_oci_tar(&archive, Some("kubectl:test"))?;
        cluster.node.exec([ferrokube().as_ref(), "image".as_ref(), "import".as_ref(), archive.as_os_str()]).await?;
        let mut client = pod("client", "sleep 3600");
        client["spec"]["containers"][0]["image"] = json!("kubectl:test");
        cluster.apply(&client.to_string()).await?;
        cluster.pods_ready("app=client", 1).await?;
        let ask = "kubectl get pods -o name 2>&1";
        let denied = cluster.in_pod("client", ask).await;
        let text = denied.map_or_else(|e| format!("{e:#}"), |output| output);
        let expected = "pods is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"";
        ensure!(text.contains(expected), "{text}");
        cluster.kubectl("create rolebinding view --clusterrole=view --serviceaccount=default:default").await?;
        wait_for("the role to work", PATIENCE, async || {
            let list = cluster.in_pod("client", ask).await?;
            ensure!(list == "pod/client\n", "{list}");
            Ok(())
        })
        .await?;
        let namespace = cluster.in_pod("client", "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace").await?;
        ensure!(namespace == "default", "{namespace}");
        let can = cluster.kubectl("auth can-i list pods --as=system:serviceaccount:default:default").await?;
        ensure!(can.trim() == "yes", "{can}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn images_come_from_registries_with_pull_secrets() {
    scenario("images_come_from_registries_with_pull_secrets", async |cluster| {
        let registry = Registry::start_in(Some(cluster.node.netns()), "127.0.0.1:5000".parse()?)?;
        registry.set_auth(Auth::Bearer("me".into(), "secret".into()));
        let reference = image::busybox()?.build().push(&registry, "private/app", "v1");
        let mut private = pod("private", "sleep 3600");
        private["spec"]["containers"][0]["image"] = json!(reference);
        cluster.apply(&private.to_string()).await?;
        let message = cluster.waiting("private", &["ErrImagePull", "ImagePullBackOff"]).await?;
        ensure!(!message.is_empty(), "the reason is told");
        cluster.told("private", &["Failed to pull image", "authorization"]).await?;
        cluster.kubectl("delete pod private").await?;
        cluster
            .kubectl_args(&[
                "create",
                "secret",
                "docker-registry",
                "pull",
                "--docker-server=127.0.0.1:5000",
                "--docker-username=me",
                "--docker-password=secret",
            ])
            .await?;
        private["spec"]["imagePullSecrets"] = json!([{ "name": "pull" }]);
        cluster.apply(&private.to_string()).await?;
        let pods = cluster.pods_ready("app=private", 1).await?;
        let status = &pods[0]["status"]["containerStatuses"][0];
        ensure!(status["imageID"].as_str().is_some_and(|id| id.contains("sha256:")), "{status}");
        ensure!(condition(&pods[0], "PodScheduled").as_deref() == Some("True"), "{}", pods[0]["status"]);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn fifty_pods_run_on_one_node() {
    scenario("fifty_pods_run_on_one_node", async |cluster| {
        let template = json!({ "metadata": { "labels": { "app": "many" } }, "spec": pod("many", "sleep 3600")["spec"] });
        let spec = json!({ "replicas": 50, "selector": { "matchLabels": { "app": "many" } }, "template": template });
        let many = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "many" }, "spec": spec });
        cluster.apply(&many.to_string()).await?;
        let pods = cluster.pods_ready("app=many", 50).await?;
        let addresses: std::collections::BTreeSet<_> = pods.iter().map(|pod| pod["status"]["podIP"].to_string()).collect();
        ensure!(addresses.len() == 50, "every pod has an address of its own");
        let result: Result<()> = cluster.kubectl("delete deployment many --cascade=foreground --timeout=180s").await.map(drop);
        result
    })
    .await;
}
