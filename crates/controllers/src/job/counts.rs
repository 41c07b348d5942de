//! What a process knows of how far a job is counted.
//!
//! A pod is counted once as long as whoever counts knows which pods have lost their finalizer. The conflict of two writes of the
//! status guards against another process that counts at the same time. It does not guard against one that has counted before:
//! the cache of jobs may show its counters when that of pods still shows a finalizer that it has removed. So a status whose
//! counters are not those of this process sends it to the API server for the pods. Upstream relies on its leader election
//! there, and a leader that is late makes the next one count twice.

use super::plan::is_tracked;
use crate::pods::is_active;
use ferrokube_client::Named;
use k8s_openapi::api::batch::v1::JobStatus;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};

/// What a status says of finished pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    succeeded: i32,
    failed: i32,
    completed_indexes: String,
    /// UIDs of those that are not in the counters yet, and how they ended.
    uncounted: Vec<(bool, String)>,
}

impl Tally {
    fn of(status: Option<&JobStatus>) -> Self {
        let Some(status) = status else { return Tally::default() };
        let uncounted = status.uncounted_terminated_pods.as_ref();
        let succeeded = uncounted.iter().flat_map(|u| u.succeeded.iter().flatten()).map(|uid| (true, uid.clone()));
        let failed = uncounted.iter().flat_map(|u| u.failed.iter().flatten()).map(|uid| (false, uid.clone()));
        Tally {
            succeeded: status.succeeded.unwrap_or(0),
            failed: status.failed.unwrap_or(0),
            completed_indexes: status.completed_indexes.clone().unwrap_or_default(),
            uncounted: succeeded.chain(failed).collect(),
        }
    }
}

#[derive(Default)]
struct Known {
    /// The counters as this process wrote or checked them last.
    tally: Tally,
    /// UIDs of pods that have lost their finalizer although the cache may still show it (upstream's finalizer expectations).
    released: HashSet<String>,
}

/// Of each job, by UID.
#[derive(Default)]
pub(super) struct Counts(Mutex<HashMap<String, Known>>);

impl Counts {
    /// Whether nothing may be counted by what the cache shows: another process has counted.
    pub fn are_others(&self, job: &str, status: Option<&JobStatus>, pods: &[Pod]) -> bool {
        let tally = Tally::of(status);
        let counts = !tally.uncounted.is_empty() || pods.iter().any(|p| is_tracked(p) && !is_active(p));
        counts && self.0.lock().get(job).map_or(tally != Tally::default(), |known| known.tally != tally)
    }

    /// Notes what this process wrote.
    pub fn wrote(&self, job: &str, status: Option<&JobStatus>) {
        self.0.lock().entry(job.to_owned()).or_default().tally = Tally::of(status);
    }

    /// Notes the job's pods as the API server had them after it had this status; whether the cache is not behind them. It
    /// is when it does not show at all a pod that waits to be counted: then that would seem to be gone.
    pub fn check(&self, job: &str, status: Option<&JobStatus>, cached: &[Pod], there: &[Pod]) -> bool {
        let tally = Tally::of(status);
        let waits = |uid: &str| tally.uncounted.iter().any(|(_, u)| u == uid);
        let shown = |uid: &str| cached.iter().any(|p| p.uid() == uid);
        if there.iter().any(|p| is_tracked(p) && waits(p.uid()) && !shown(p.uid())) {
            return false;
        }
        let tracked: HashSet<&str> = there.iter().filter(|p| is_tracked(p)).map(|p| p.uid()).collect();
        let released = cached.iter().filter(|p| is_tracked(p) && !tracked.contains(p.uid())).map(|p| p.uid().to_owned());
        let mut all = self.0.lock();
        let known = all.entry(job.to_owned()).or_default();
        known.released.extend(released);
        known.tally = tally;
        true
    }

    /// A pod has lost its finalizer.
    pub fn released(&self, job: &str, pod: &str) {
        self.0.lock().entry(job.to_owned()).or_default().released.insert(pod.to_owned());
    }

    /// Takes the finalizer off those that are known to have lost it, and forgets those that the cache shows without.
    pub fn correct(&self, job: &str, pods: &mut [Pod]) {
        let mut all = self.0.lock();
        let Some(known) = all.get_mut(job) else { return };
        known.released.retain(|uid| pods.iter().any(|p| p.uid() == uid && is_tracked(p)));
        for pod in pods.iter_mut().filter(|p| known.released.contains(p.uid())) {
            pod.metadata.finalizers.get_or_insert_default().retain(|f| f != super::FINALIZER);
        }
    }

    /// The job is over or gone.
    pub fn forget(&self, job: &str) {
        self.0.lock().remove(job);
    }
}

#[cfg(test)]
mod tests {
    use super::super::FINALIZER;
    use super::*;
    use serde_json::{Value, json};

    fn pod(uid: &str, tracked: bool) -> Pod {
        let finalizers = if tracked { json!([FINALIZER]) } else { json!([]) };
        serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid, "finalizers": finalizers}, "status": {"phase": "Succeeded"}}))
            .unwrap()
    }

    fn status(json: Value) -> JobStatus {
        serde_json::from_value(json).unwrap()
    }

    fn tracked(counts: &Counts, mut pods: Vec<Pod>) -> usize {
        counts.correct("j", &mut pods);
        pods.iter().filter(|p| is_tracked(p)).count()
    }

    #[test]
    fn counters_of_another_process_send_one_to_the_api_server() {
        let (counts, pods) = (Counts::default(), [pod("a", true)]);
        let (none, one) = (JobStatus::default(), status(json!({"succeeded": 1})));
        assert!(!counts.are_others("j", Some(&none), &pods), "nobody has counted");
        assert!(counts.are_others("j", Some(&one), &pods), "somebody had before this process began");
        counts.wrote("j", Some(&one));
        assert!(!counts.are_others("j", Some(&one), &pods));
        let more = status(json!({"succeeded": 1, "uncountedTerminatedPods": {"succeeded": ["b"]}}));
        assert!(counts.are_others("j", Some(&more), &[]), "somebody counts beside it");
        assert!(!counts.are_others("j", Some(&status(json!({"succeeded": 2}))), &[]), "but there is nothing to count");
    }

    #[test]
    fn a_pod_that_another_process_let_go_is_not_counted() {
        let (counts, two) = (Counts::default(), status(json!({"succeeded": 2})));
        assert!(counts.check("j", Some(&two), &[pod("a", true), pod("b", true)], &[pod("a", false), pod("b", true)]));
        assert_eq!(tracked(&counts, vec![pod("a", true), pod("b", true)]), 1);
        assert!(!counts.are_others("j", Some(&two), &[pod("b", true)]), "this has been checked");
    }

    #[test]
    fn a_pod_that_waits_to_be_counted_is_not_taken_for_gone() {
        let (counts, waiting) = (Counts::default(), status(json!({"uncountedTerminatedPods": {"failed": ["a"]}})));
        assert!(!counts.check("j", Some(&waiting), &[], &[pod("a", true)]), "the cache does not show it yet");
        assert!(counts.check("j", Some(&waiting), &[], &[pod("a", false)]), "it may go");
        assert!(counts.check("j", Some(&waiting), &[pod("a", true)], &[pod("a", true)]));
    }
}
