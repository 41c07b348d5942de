//! Probes: one task per probe of a running container; only changes of the verdict are told.
//!
//! Source: `pkg/kubelet/prober`. A verdict changes after `failureThreshold` or `successThreshold` results in a row;
//! liveness and startup probes end with their first failed verdict (the container is restarted then).

use crate::hooks::{self, OwnedTarget};
use crate::node::Shared;
use crate::pod::spec::ContainerSpec;
use crate::pod::{Input, ProbeKind, container_reference};
use ferrokube_client::events::EventType::Warning;
use k8s_openapi::api::core::v1::{GRPCAction, Pod, Probe};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// What `prober_probe_total` tells apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeKey {
    /// `metadata.uid` of the pod; first, so that a pod's counters lie together.
    pub pod_uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// The container.
    pub container: String,
    /// Which probe.
    pub kind: ProbeKind,
    /// Its result.
    pub healthy: bool,
}

/// Results of probes, counted.
#[derive(Debug, Default)]
pub struct Counters(parking_lot::Mutex<BTreeMap<ProbeKey, u64>>);

impl Counters {
    fn count(&self, key: ProbeKey) {
        *self.0.lock().entry(key).or_default() += 1;
    }

    fn forget(&self, pod_uid: &str) {
        self.0.lock().retain(|key, _| key.pod_uid != pod_uid);
    }

    /// All counters now.
    pub fn all(&self) -> BTreeMap<ProbeKey, u64> {
        self.0.lock().clone()
    }
}

/// The probe tasks of one pod.
pub struct Probes {
    node: Arc<Shared>,
    report: mpsc::Sender<Input>,
    uid: String,
    tasks: BTreeMap<(String, ProbeKind), AbortHandle>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop_all();
        self.node.probed.forget(&self.uid);
    }
}

impl Probes {
    /// No probes of this pod yet; verdicts go to `report`.
    pub fn new(node: Arc<Shared>, uid: String, report: mpsc::Sender<Input>) -> Self {
        Probes { node, report, uid, tasks: BTreeMap::new() }
    }

    /// Makes sure that the probes of a running container are under way: the startup probe first, the others once it is started.
    pub fn watch(&mut self, pod: &Arc<Pod>, spec: &ContainerSpec, container_id: &str, pod_ip: Option<String>, started: bool) {
        let fields = &spec.fields;
        let wanted = if started {
            vec![(ProbeKind::Readiness, &fields.readiness_probe), (ProbeKind::Liveness, &fields.liveness_probe)]
        } else {
            vec![(ProbeKind::Startup, &fields.startup_probe)]
        };
        for (kind, probe) in wanted {
            let (Some(probe), key) = (probe, (container_id.to_owned(), kind)) else { continue };
            if self.tasks.contains_key(&key) {
                continue;
            }
            let target = OwnedTarget {
                node: self.node.clone(),
                container_id: container_id.to_owned(),
                container: Arc::new(fields.clone()),
                pod_ip: pod_ip.clone(),
            };
            let task = Task { target, pod: pod.clone(), probe: probe.clone(), kind, report: self.report.clone() };
            self.tasks.insert(key, tokio::spawn(task.run()).abort_handle());
        }
    }

    /// Stops the probes of a container.
    pub fn stop(&mut self, container_id: &str) {
        self.retain(|id| id != container_id);
    }

    /// Stops the probes of all other containers.
    pub fn keep_only(&mut self, alive: &BTreeSet<String>) {
        self.retain(|id| alive.contains(id));
    }

    /// Stops all.
    pub fn stop_all(&mut self) {
        self.retain(|_| false);
    }

    fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.tasks.retain(|(id, _), task| {
            let keep = keep(id);
            if !keep {
                task.abort();
            }
            keep
        });
    }
}

struct Task {
    target: OwnedTarget,
    pod: Arc<Pod>,
    probe: Probe,
    kind: ProbeKind,
    report: mpsc::Sender<Input>,
}

impl Task {
    async fn run(self) {
        let seconds = |n: Option<i32>, default: u64| Duration::from_secs(n.and_then(|n| u64::try_from(n).ok()).unwrap_or(default));
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let timeout = seconds(self.probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let (failures_needed, successes_needed) = (self.probe.failure_threshold.unwrap_or(3), self.probe.success_threshold.unwrap_or(1));
        tokio::time::sleep(seconds(self.probe.initial_delay_seconds, 0)).await;
        let mut verdict = None;
        let (mut last, mut run) = (None, 0);
        loop {
            let began = Instant::now();
            let result = self.once(timeout).await;
            let healthy = result.is_ok();
            run = if last == Some(healthy) { run + 1 } else { 1 };
            last = Some(healthy);
            self.count(healthy);
            if let Err(output) = result {
                let about = container_reference(&self.pod, &self.target.container.name);
                let message = format!("{} probe failed: {output}", self.kind.as_str());
                self.target.node.recorder.event(about, Warning, "Unhealthy", message);
            }
            let needed = if healthy { successes_needed } else { failures_needed };
            if run >= needed && verdict != Some(healthy) {
                verdict = Some(healthy);
                let input = Input::Probe { container_id: self.target.container_id.clone(), kind: self.kind, healthy };
                if self.report.send(input).await.is_err() {
                    return;
                }
                // A startup probe is done after either verdict; after a failed liveness the container goes.
                if self.kind == ProbeKind::Startup || (self.kind == ProbeKind::Liveness && !healthy) {
                    return;
                }
            }
            tokio::time::sleep_until(began + self.wait(period, verdict)).await;
        }
    }

    fn count(&self, healthy: bool) {
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        let meta = &self.pod.metadata;
        self.target.node.probed.count(ProbeKey {
            pod_uid: text(&meta.uid),
            namespace: text(&meta.namespace),
            pod: text(&meta.name),
            container: self.target.container.name.clone(),
            kind: self.kind,
            healthy,
        });
    }

    /// Until the first readiness, the probe is repeated quickly at first: a pod that is up in a moment is ready in a moment.
    fn wait(&self, period: Duration, verdict: Option<bool>) -> Duration {
        let first_time = verdict != Some(true) && matches!(self.kind, ProbeKind::Readiness | ProbeKind::Startup);
        if first_time && self.probe.failure_threshold.unwrap_or(3) > 1 && self.kind == ProbeKind::Readiness {
            return period.min(Duration::from_secs(1));
        }
        period
    }

    async fn once(&self, timeout: Duration) -> Result<(), String> {
        let target = self.target.borrow();
        if let Some(exec) = &self.probe.exec {
            // The runtime cuts the command off at the timeout; the margin is for its answer.
            let answer = tokio::time::timeout(timeout + Duration::from_secs(5), hooks::exec_in(&target, exec, timeout)).await;
            return match answer {
                Ok(Ok((0, _))) => Ok(()),
                Ok(Ok((_, output))) => Err(shortened(&output)),
                Ok(Err(e)) => Err(e),
                Err(_) => Err(format!("command timed out after {}s", timeout.as_secs())),
            };
        }
        if let Some(get) = &self.probe.http_get {
            let (status, _) = hooks::http_get(&target, get, "kube-probe", timeout).await?;
            return if (200..400).contains(&status.as_u16()) {
                Ok(())
            } else {
                Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
            };
        }
        if let Some(tcp) = &self.probe.tcp_socket {
            return hooks::tcp_connect(&target, tcp, timeout).await;
        }
        if let Some(grpc) = &self.probe.grpc {
            return check_grpc(&target, grpc, timeout).await;
        }
        Err("missing probe handler".to_owned())
    }
}

fn shortened(text: &str) -> String {
    const KEPT: usize = 1024;
    text.chars().take(KEPT).collect()
}

async fn check_grpc(target: &hooks::Target<'_>, grpc: &GRPCAction, timeout: Duration) -> Result<(), String> {
    let host = target.pod_ip.clone().ok_or_else(|| "the pod has no address yet".to_owned())?;
    let authority = if host.contains(':') { format!("[{host}]:{}", grpc.port) } else { format!("{host}:{}", grpc.port) };
    let service = grpc.service.clone().unwrap_or_default();
    let check = crate::grpc_health::check(&authority, &service);
    match tokio::time::timeout(timeout, check).await {
        Ok(Ok(1)) => Ok(()),
        Ok(Ok(status)) => Err(format!("service unhealthy (responded with {:?})", crate::grpc_health::name(status))),
        Ok(Err(e)) => Err(e),
        Err(_) => Err(format!("timeout: health rpc did not complete within {}s", timeout.as_secs())),
    }
}
