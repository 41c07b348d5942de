//! One cluster in one lab node, and how scenarios talk to it.

use anyhow::{Context as _, Result, ensure};
use ferrokube_testkit::lab::{self, Lab, Node};
use ferrokube_testkit::{image, tools, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Child;

/// How long anything may take that a user would wait for. Generous: debug builds on busy machines run this.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The image of the examples, under the name that they use.
pub const IMAGE: &str = "busybox:1.36";

/// A node with a cluster on it.
pub struct Cluster {
    pub node: Node,
    pub lab: Lab,
    kubectl: PathBuf,
    log: PathBuf,
    up: Option<Child>,
}

/// The binary under test: the one built with the tests, or `FERROKUBE_BIN` (a release build, say).
pub fn ferrokube() -> &'static str {
    static BINARY: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| std::env::var("FERROKUBE_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ferrokube").to_owned()));
    &BINARY
}

/// Runs a scenario on a fresh cluster, or says what is missing for that. A failure tells what the cluster logged.
pub async fn scenario(name: &str, body: impl AsyncFnOnce(&mut Cluster) -> Result<()>) {
    let Some(mut cluster) = Cluster::prepare(name) else { return };
    let result = async {
        cluster.up(&[]).await?;
        cluster.import().await?;
        body(&mut cluster).await
    };
    if let Err(error) = result.await {
        cluster.explain(&error).await;
        panic!("{name}: {error:#}");
    }
}

impl Cluster {
    /// A lab with one node and nothing on it.
    pub fn prepare(name: &str) -> Option<Self> {
        if !lab::available(name) {
            return None;
        }
        let kubectl = match tools::kubectl() {
            Ok(kubectl) => kubectl,
            Err(error) => {
                eprintln!("SKIP: {name}: {error:#}");
                return None;
            }
        };
        let lab = Lab::new().unwrap_or_else(|e| panic!("{name}: no lab: {e:#}"));
        let node = lab.node("n1").unwrap_or_else(|e| panic!("{name}: no node: {e:#}"));
        let log = lab.dir().join("up.log");
        Some(Self { node, lab, kubectl, log, up: None })
    }

    /// Starts `ferrokube up` and waits until it says that it is ready and kubectl sees a ready node: after a restart the API tells of the
    /// node as it was before, until the kubelet is there again.
    pub async fn up(&mut self, args: &[&str]) -> Result<()> {
        let ready = |cluster: &Self| cluster.log().matches("ready in ").count();
        let before = ready(self);
        self.start(args)?;
        wait_for("the node to be Ready", PATIENCE, async || {
            self.still_up()?;
            ensure!(ready(self) > before, "it is not up");
            let nodes = self.get("nodes").await?;
            let ready = condition(&nodes["items"][0], "Ready");
            ensure!(ready.as_deref() == Some("True"), "Ready is {ready:?}");
            Ok(())
        })
        .await
    }

    /// Starts `ferrokube up` without waiting for anything.
    pub fn start(&mut self, args: &[&str]) -> Result<()> {
        // A developer's disk is often fuller than the default thresholds like.
        let all = [&[ferrokube(), "up", "--eviction-hard", "memory.available<10Mi,nodefs.available<1%"], args].concat();
        self.up = Some(self.node.spawn(all, &self.log)?);
        Ok(())
    }

    /// Fails when `ferrokube up` has ended.
    pub fn still_up(&mut self) -> Result<()> {
        if let Some(status) = self.up.as_mut().context("not started")?.try_wait()? {
            anyhow::bail!("ferrokube up ended with {status}:\n{}", self.log_tail(30));
        }
        Ok(())
    }

    /// Waits for `ferrokube up` to end by itself.
    pub async fn ended(&mut self) -> Result<std::process::ExitStatus> {
        let mut up = self.up.take().context("not started")?;
        tokio::time::timeout(PATIENCE, up.wait()).await.context("ferrokube up does not end")?.map_err(Into::into)
    }

    /// Imports the busybox image.
    pub async fn import(&self) -> Result<()> {
        let archive = self.lab.dir().join("busybox.tar");
        image::busybox()?.build().write_oci_tar(&archive, Some(IMAGE))?;
        self.node.exec([ferrokube().as_ref(), "image".as_ref(), "import".as_ref(), archive.as_os_str()]).await?;
        Ok(())
    }

    /// Runs kubectl with arguments separated by blanks.
    pub async fn kubectl(&self, args: &str) -> Result<String> {
        self.kubectl_args(&args.split_whitespace().collect::<Vec<_>>()).await
    }

    /// Runs kubectl with these arguments.
    pub async fn kubectl_args(&self, args: &[&str]) -> Result<String> {
        let kubectl = self.kubectl.to_string_lossy().into_owned();
        self.node.exec([&[kubectl.as_str()], args].concat()).await
    }

    /// A kubectl that must fail, and what it says then.
    pub async fn kubectl_fails(&self, args: &str) -> Result<String> {
        match self.kubectl(args).await {
            Ok(output) => anyhow::bail!("kubectl {args} should fail and said {output}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Feeds a manifest to `kubectl VERB -f -`.
    pub async fn feed(&self, verb: &str, manifest: &str) -> Result<String> {
        let kubectl = self.kubectl.to_string_lossy().into_owned();
        let args: Vec<_> = [kubectl.as_str()].into_iter().chain(verb.split_whitespace()).chain(["-f", "-"]).collect();
        self.node.exec_with(args, manifest.as_bytes()).await
    }

    /// `kubectl apply` of a manifest.
    pub async fn apply(&self, manifest: &str) -> Result<String> {
        self.feed("apply", manifest).await
    }

    /// `kubectl get WHAT -o json`.
    pub async fn get(&self, what: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&format!("get {what} -o json")).await?)?)
    }

    /// Waits until `check` is content with `kubectl get WHAT -o json`.
    pub async fn until<T>(&self, what: &str, get: &str, check: impl Fn(&Value) -> Result<T>) -> Result<T> {
        wait_for(what, PATIENCE, async || check(&self.get(get).await?)).await
    }

    /// Waits for pods of a selector to be Ready, exactly so many.
    pub async fn pods_ready(&self, selector: &str, count: usize) -> Result<Vec<Value>> {
        self.until(&format!("{count} pods of {selector} to be Ready"), &format!("pods -l {selector}"), |list| {
            let pods = list["items"].as_array().context("a list")?.clone();
            let ready = pods.iter().filter(|pod| condition(pod, "Ready").as_deref() == Some("True")).count();
            ensure!(ready == count && pods.len() == count, "{ready} of {} are Ready: {}", pods.len(), summary(&pods));
            Ok(pods)
        })
        .await
    }

    /// Waits for a pod's first container to be waiting for this reason, and returns the message with it.
    pub async fn waiting(&self, pod: &str, reasons: &[&str]) -> Result<String> {
        self.until(&format!("pod {pod} to wait for {reasons:?}"), &format!("pod {pod}"), |pod| {
            let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
            let reason = waiting["reason"].as_str().unwrap_or_default();
            ensure!(reasons.contains(&reason), "status: {}", pod["status"]);
            Ok(waiting["message"].as_str().unwrap_or_default().to_owned())
        })
        .await
    }

    /// Waits for the events about a pod to say all of these words.
    pub async fn told(&self, pod: &str, words: &[&str]) -> Result<()> {
        self.until(&format!("events of {pod} with {words:?}"), &format!("events --field-selector involvedObject.name={pod}"), |events| {
            let text = events.to_string();
            words.iter().try_for_each(|word| Ok(ensure!(text.contains(word), "no {word:?} in {text}")))
        })
        .await
    }

    /// Fetches a URL on the node.
    pub async fn fetch(&self, url: &str) -> Result<String> {
        let busybox = tools::busybox()?;
        // Not `wget -T 5`: Debian's static busybox crashes on that.
        let wget = [busybox.as_os_str(), "timeout".as_ref(), "5".as_ref(), busybox.as_os_str(), "wget".as_ref()];
        self.node.exec(wget.into_iter().chain(["-q", "-O", "-", url].map(AsRef::as_ref))).await
    }

    /// Runs a shell command in a pod.
    pub async fn in_pod(&self, pod: &str, command: &str) -> Result<String> {
        self.kubectl_args(&["exec", pod, "--", "sh", "-c", command]).await
    }

    /// Starts kubectl in the background.
    pub fn spawn_kubectl(&self, args: &str, log: &Path) -> Result<Child> {
        let kubectl = self.kubectl.to_string_lossy().into_owned();
        self.node.spawn([kubectl.as_str()].into_iter().chain(args.split_whitespace()), log)
    }

    /// Kills `ferrokube` processes without mercy, except the shims that hold pods.
    pub fn kill_above_shims(&mut self) -> usize {
        self.node.kill_matching(|command| is_ours(command) && !is_shim(command))
    }

    /// Whether a shim runs on the node.
    pub fn has_shims(&self) -> bool {
        self.node.processes().iter().any(|process| is_ours(&process.command) && is_shim(&process.command))
    }

    fn log_tail(&self, lines: usize) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Everything `ferrokube up` has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Says what was, when something failed.
    pub async fn explain(&self, error: &anyhow::Error) {
        eprintln!("=== {error:#}");
        for what in ["get pods -A -o wide", "get events -A --sort-by=.lastTimestamp"] {
            match tokio::time::timeout(Duration::from_secs(10), self.kubectl(what)).await {
                Ok(Ok(output)) => eprintln!("=== kubectl {what}\n{output}"),
                _ => eprintln!("=== kubectl {what}: no answer"),
            }
        }
        eprintln!("=== ferrokube up\n{}", self.log_tail(80));
    }
}

fn is_ours(command: &[String]) -> bool {
    command.first().is_some_and(|first| Path::new(first).file_name() == Path::new(ferrokube()).file_name())
}

fn is_shim(command: &[String]) -> bool {
    command.get(1).is_some_and(|argument| argument == "shim")
}

/// The status of a condition.
pub fn condition(object: &Value, kind: &str) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)?["status"].as_str().map(str::to_owned)
}

fn summary(pods: &[Value]) -> String {
    let line =
        |pod: &Value| format!("{} {} {}", pod["metadata"]["name"], pod["status"]["phase"], pod["status"]["containerStatuses"][0]["state"]);
    pods.iter().map(line).collect::<Vec<_>>().join("; ")
}

/// A file of the examples.
pub fn example(name: &str) -> Result<String> {
    let path = tools::workspace().join("examples").join(name);
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}
