//! A roll-out leaves enough pods available, looked for in everything that was ever written.
//!
//! Two laws together say so. What the status of a replica set tells was true of its pods at one moment, not long ago. And who takes
//! available pods away from one replica set of a deployment leaves, by such statuses, as many as the deployment must have. That
//! fewer are there when it comes to pass is what the faults took meanwhile. While a deployment is being resized its replica sets
//! shrink in proportion, whatever is available: then there is no law.

use crate::history::{Change, app, count, is_leaving, is_over, is_ready, owner, uid};
use crate::scenario::UNSEEN;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Pods of a replica set that are not over: how many, ready, and available.
type Counts = [usize; 3];

/// Something that changes, as it is and as it was lately, with the times until which it was so.
#[derive(Default)]
struct Lately<T> {
    now: T,
    before: Vec<(Duration, T)>,
}

impl<T: Clone + PartialEq> Lately<T> {
    fn set(&mut self, at: Duration, new: T) {
        if new != self.now {
            self.before.push((at, std::mem::replace(&mut self.now, new)));
        }
        self.before.retain(|(until, _)| *until + UNSEEN >= at);
    }

    fn all(&self, at: Duration) -> impl Iterator<Item = &T> {
        self.before.iter().filter(move |(until, _)| *until + UNSEEN >= at).map(|(_, old)| old).chain([&self.now])
    }
}

fn told(set: &Value) -> Counts {
    ["replicas", "readyReplicas", "availableReplicas"].map(|key| count(&set["status"][key]))
}

/// Every status of a replica set that was not true at any moment lately.
pub fn statuses(history: &[Change]) -> Vec<String> {
    // By the UID of the replica set: each of its pods that is not over, and whether it is ready.
    let mut pods = BTreeMap::<String, BTreeMap<String, bool>>::new();
    let mut counts = BTreeMap::<String, Lately<Counts>>::new();
    let mut found = Vec::new();
    for change in history {
        if change.is("Pod") {
            let pod = change.latest();
            let there = change.after.as_deref().filter(|p| !is_over(p) && !is_leaving(p));
            let of = there.and_then(owner).filter(|(kind, ..)| *kind == "ReplicaSet").map(|(_, _, uid)| uid.to_owned());
            let mut touched: Vec<String> = pods.iter_mut().filter_map(|(set, own)| own.remove(uid(pod)).map(|_| set.clone())).collect();
            if let Some(set) = of {
                pods.entry(set.clone()).or_default().insert(uid(pod).to_owned(), is_ready(pod));
                touched.push(set);
            }
            for set in touched {
                let own = &pods[&set];
                let ready = own.values().filter(|ready| **ready).count();
                counts.entry(set).or_default().set(change.at, [own.len(), ready, ready]);
            }
        } else if let Some(set) = change.after.as_deref().filter(|_| change.is("ReplicaSet")) {
            let told = told(set);
            let is_news = change.before.as_deref().is_some_and(|before| before["status"] != set["status"]);
            let was = counts.entry(uid(set).to_owned()).or_default();
            if is_news && !was.all(change.at).any(|counts| *counts == told) {
                found.push(format!("{} tells of {told:?} pods at {:?}, and there never were", change.name(), change.at));
            }
        }
    }
    found
}

/// How many pods of a deployment may be unavailable (25 %, rounded down).
fn may_lack(replicas: usize) -> usize {
    replicas / 4
}

/// Every time that a replica set of this deployment lost available pods that were needed.
pub fn roll_outs(history: &[Change], deployment: &str) -> Vec<String> {
    let mut wanted: Option<Lately<usize>> = None;
    let mut available = BTreeMap::<String, Lately<usize>>::new();
    let mut found = Vec::new();
    for change in history.iter().filter(|c| app(c.latest()) == deployment) {
        if change.is("Deployment") {
            let now = count(&change.latest()["spec"]["replicas"]);
            wanted.get_or_insert_with(|| Lately { now, before: Vec::new() }).set(change.at, now);
        } else if change.is("ReplicaSet") {
            let name = change.name();
            if let (Some(before), Some(after), Some(wanted)) = (&change.before, &change.after, &wanted) {
                let [was, is] = [before, after].map(|s| count(&s["spec"]["replicas"]));
                // The server refuses a write by an older state of what is written.
                let own = told(before)[2];
                let others =
                    available.iter().filter(|(other, _)| *other != name).map(|(_, a)| a.all(change.at).max().copied().unwrap_or(0));
                let left = own.min(is) + others.sum::<usize>();
                let least = wanted.now - may_lack(wanted.now);
                let is_resized = wanted.all(change.at).any(|n| *n != wanted.now);
                if is < was && is < own && !is_resized && left < least {
                    let why = format!("{left} are left, {least} are needed");
                    found.push(format!("{name} shrinks from {was} to {is} at {:?} with {own} available: {why}", change.at));
                }
            }
            let now = change.after.as_deref().map_or(0, |s| told(s)[2]);
            available.entry(name.to_owned()).or_default().set(change.at, now);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::rc::Rc;

    fn wrote(at: u64, before: Option<&Value>, after: &Value) -> Change {
        Change {
            at: Duration::from_secs(at),
            revision: at,
            before: before.map(|b| Rc::new(b.clone())),
            after: Some(Rc::new(after.clone())),
        }
    }

    fn set(name: &str, size: usize, available: usize) -> Value {
        json!({"kind": "ReplicaSet", "metadata": {"name": name, "uid": name, "labels": {"app": "web"}}, "spec": {"replicas": size},
            "status": {"replicas": size, "readyReplicas": available, "availableReplicas": available}})
    }

    #[test]
    fn an_old_set_that_shrinks_before_the_new_one_is_available_is_noticed() {
        let web = json!({"kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {"replicas": 3}});
        let (old, new) = (set("old", 3, 3), set("new", 1, 0));
        let begin = || vec![wrote(1, None, &web), wrote(2, None, &old), wrote(3, None, &new)];
        let shrinks = |at| wrote(at, Some(&old), &set("old", 2, 3));
        let early: Vec<Change> = begin().into_iter().chain([shrinks(4)]).collect();
        assert_eq!(roll_outs(&early, "web").len(), 1);
        let in_time: Vec<Change> = begin().into_iter().chain([wrote(4, Some(&new), &set("new", 1, 1)), shrinks(5)]).collect();
        assert!(roll_outs(&in_time, "web").is_empty());
    }

    #[test]
    fn a_status_that_was_never_true_is_noticed() {
        let pod = |ready: bool| {
            let owner = json!([{"kind": "ReplicaSet", "name": "old", "uid": "old", "controller": true}]);
            json!({"kind": "Pod", "metadata": {"name": "p", "uid": "p", "ownerReferences": owner},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}})
        };
        let empty = set("old", 0, 0);
        let begin = || vec![wrote(1, None, &empty), wrote(2, None, &pod(false))];
        let tells = |at, ready| wrote(at, Some(&empty), &set("old", 1, ready));
        assert_eq!(statuses(&begin().into_iter().chain([tells(3, 1)]).collect::<Vec<_>>()).len(), 1);
        assert!(statuses(&begin().into_iter().chain([tells(3, 0)]).collect::<Vec<_>>()).is_empty());
        let ready = wrote(3, Some(&pod(false)), &pod(true));
        assert!(statuses(&begin().into_iter().chain([ready, tells(4, 1)]).collect::<Vec<_>>()).is_empty());
    }
}
