//! Hollow nodes: node objects whose kubelet is this process. It says that pods run, lets go of those that are to end, renews
//! the leases, and runs nothing.

use crate::connect::{Call, Server};
use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// How often a kubelet renews its lease.
const RENEWAL: Duration = Duration::from_secs(10);
/// Writes about pods under way at once.
const WRITES: usize = 32;
/// Renewals under way at once.
const RENEWERS: usize = 32;
/// Nodes that are made before their kubelets begin: few enough that none is lost meanwhile.
pub(crate) const AT_ONCE: usize = 500;
/// Names of hollow nodes begin so.
pub(crate) const PREFIX: &str = "bench-node-";

/// A pod was seen that a scheduler has looked at.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub at: Instant,
    /// It is on a hollow node; otherwise it waits for one, or for a gate.
    pub on_node: bool,
}

/// What the kubelets do about pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// They only see them, as in scheduler_perf, which has no kubelets.
    Watch,
    /// They say that pods run, and let go of those that are to end.
    Run,
}

/// The kubelets; they stop when this is dropped.
pub(crate) struct Kubelets {
    _tasks: JoinSet<()>,
    /// Nodes that are there: the first so many.
    there: Arc<AtomicUsize>,
    /// Pods as they are looked at and bound.
    pub pods: Option<mpsc::UnboundedReceiver<Seen>>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: Pod<'a>,
}

#[derive(Deserialize)]
struct Pod<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow, default)]
    spec: Spec<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    deletion_timestamp: Option<Cow<'a, str>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow, default)]
    node_name: Option<Cow<'a, str>>,
}

#[derive(Deserialize, Default)]
struct Status<'a> {
    #[serde(borrow, default)]
    phase: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    conditions: Vec<Condition<'a>>,
}

#[derive(Deserialize)]
struct Condition<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

/// What a change of a pod asks of its kubelet.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Start,
    End,
    /// Nothing: it has no kubelet yet.
    Wait,
}

impl Kubelets {
    /// Starts the kubelets of so many nodes, none of which is there yet. Pods from this revision on are seen.
    pub async fn start(server: &Server, nodes: usize, revision: &str, work: Work) -> anyhow::Result<Kubelets> {
        let mut lines = server.again(1)?.lines(0, &format!("/api/v1/pods?watch=1&resourceVersion={revision}")).await?;
        let (sender, pods) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let writer = server.clone();
        tasks.spawn(async move {
            let slots = Arc::new(Semaphore::new(WRITES));
            let mut writes = JoinSet::new();
            let mut serial = 0;
            loop {
                let mut seen = Vec::new();
                let more = lines.next(|line| seen.extend(task_of(line))).await;
                for (task, pod) in seen {
                    if let Some(call) = task.call(&pod).filter(|_| work == Work::Run) {
                        let (server, slots, lane) = (writer.clone(), slots.clone(), serial);
                        serial += 1;
                        writes.spawn(async move {
                            let _slot = slots.acquire().await;
                            // A pod that is gone meanwhile needs nothing.
                            let _ = server.call(lane, call).await;
                        });
                    }
                    if task != Task::End {
                        // The receiver goes when enough is seen.
                        let _ = sender.send(pod);
                    }
                }
                while writes.try_join_next().is_some() {}
                if !matches!(more, Ok(true)) {
                    eprintln!("the watch of pods has ended: {more:?}");
                    return;
                }
            }
        });
        let server = server.again(4)?;
        let there = Arc::new(AtomicUsize::new(0));
        for first in 0..RENEWERS.min(nodes) {
            tasks.spawn(renew(server.clone(), first, nodes, there.clone()));
        }
        Ok(Kubelets { _tasks: tasks, there, pods: Some(pods) })
    }

    /// The first so many nodes are there: their leases tick from now on. A node that waits for its kubelet until all others are
    /// made is lost before it has begun.
    pub fn are_there(&self, nodes: usize) {
        self.there.store(nodes, Ordering::Relaxed);
    }
}

impl Task {
    fn call(&self, pod: &Seen) -> Option<Call> {
        let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
        match self {
            Task::Start => Some(runs(format!("{path}/status"))),
            Task::End => Some(Call::new(Method::DELETE, path, r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}"#)),
            Task::Wait => None,
        }
    }
}

/// Renews each of its share of the leases of nodes that are there once in an interval, evenly over it.
async fn renew(server: Server, first: usize, nodes: usize, there: Arc<AtomicUsize>) {
    let share = nodes.saturating_sub(first).div_ceil(RENEWERS).max(1);
    let mut ticks = tokio::time::interval(RENEWAL / u32::try_from(share).unwrap_or(u32::MAX));
    for node in (first..nodes).step_by(RENEWERS).cycle() {
        ticks.tick().await;
        if node >= there.load(Ordering::Relaxed) {
            continue;
        }
        let body = format!(r#"{{"spec":{{"leaseDurationSeconds":40,"renewTime":"{}"}}}}"#, micros());
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{PREFIX}{node}");
        let call = Call { content_type: "application/merge-patch+json", ..Call::new(Method::PATCH, path, body) };
        if let Ok((http::StatusCode::NOT_FOUND, _)) = server.call(first, call).await {
            let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
            let body = format!(
                r#"{{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{{"name":"{PREFIX}{node}"}},"spec":{{"holderIdentity":"{PREFIX}{node}","leaseDurationSeconds":40,"renewTime":"{}"}}}}"#,
                micros()
            );
            // The next round tries again.
            let _ = server.call(first, Call::new(Method::POST, path, Bytes::from(body))).await;
        }
    }
}

/// The time as a MicroTime.
fn micros() -> String {
    let micros = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.subsec_micros());
    format!("{}.{micros:06}Z", now())
}

/// The time in RFC 3339, to the second, without its zone.
pub(crate) fn now() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (i64::try_from(seconds / 86_400).unwrap_or(0), seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The date of a number of days since 1970 (proleptic Gregorian calendar).
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted in eras of 400 years that begin in March, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn task_of(line: &[u8]) -> Option<(Task, Seen)> {
    let Event { kind, object } = serde_json::from_slice(line).ok()?;
    let hollow = object.spec.node_name.as_ref().is_some_and(|n| n.starts_with(PREFIX));
    let tried = || object.spec.node_name.is_none() && object.status.conditions.iter().any(|c| c.kind == "PodScheduled");
    let task = match (object.metadata.deletion_timestamp, object.status.phase.as_deref()) {
        (Some(_), _) if hollow => Task::End,
        (None, None | Some("Pending")) if hollow => Task::Start,
        (None, _) if tried() => Task::Wait,
        _ => return None,
    };
    let Meta { namespace, name, .. } = object.metadata;
    (kind != "DELETED").then(|| (task, Seen { namespace: namespace.into(), name: name.into(), at: Instant::now(), on_node: hollow }))
}

fn runs(path: String) -> Call {
    let status = format!(
        r#"{{"status":{{"phase":"Running","startTime":"{now}Z","conditions":[{{"type":"Ready","status":"True"}},{{"type":"ContainersReady","status":"True"}},{{"type":"Initialized","status":"True"}}]}}}}"#,
        now = now()
    );
    Call { content_type: "application/strategic-merge-patch+json", ..Call::new(Method::PATCH, path, status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (days, want) in [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_454, (2026, 1, 1)), (-1, (1969, 12, 31))] {
            assert_eq!(civil(days), want, "{days}");
        }
    }

    #[test]
    fn pods_are_started_once_and_ended_when_they_are_to_end() {
        let task = |kind: &str, node: &str, phase: &str, deleted: &str| {
            let line = format!(
                r#"{{"type":"{kind}","object":{{"metadata":{{"name":"p","namespace":"n"{deleted}}},"spec":{{"nodeName":"{node}"}},"status":{{"phase":"{phase}"}}}}}}"#
            );
            task_of(line.as_bytes()).map(|(task, _)| task)
        };
        let deleted = r#","deletionTimestamp":"2026-01-01T00:00:00Z""#;
        assert_eq!(task("MODIFIED", "bench-node-1", "Pending", ""), Some(Task::Start));
        assert_eq!(task("MODIFIED", "bench-node-1", "Running", ""), None);
        assert_eq!(task("MODIFIED", "bench-node-1", "Running", deleted), Some(Task::End));
        assert_eq!(task("DELETED", "bench-node-1", "Running", deleted), None);
        assert_eq!(task("MODIFIED", "other", "Pending", ""), None);
    }
}
