//! A roll-out leaves enough pods available, looked for in everything that was ever written.
//!
//! Two laws together say so. What the status of a replica set tells was true of its pods at one moment. And who takes available
//! pods away from one replica set of a deployment leaves, by such statuses, as many as the deployment must have. That fewer are
//! there when it comes to pass is what the faults took meanwhile. A controller may know what is long past, so any moment before
//! will do. Once a deployment has been resized its replica sets may shrink in proportion, whatever is available: then there is no law.

use crate::history::{Change, app, count, is_leaving, is_over, is_ready, owner, uid};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Pods of a replica set that are not over: how many, ready, and available.
type Counts = [usize; 3];

fn told(set: &Value) -> Counts {
    ["replicas", "readyReplicas", "availableReplicas"].map(|key| count(&set["status"][key]))
}

/// Pods of one replica set that are not over, and whether they are ready; and how many there ever were at once.
#[derive(Default)]
struct Pods {
    now: BTreeMap<String, bool>,
    ever: BTreeSet<Counts>,
}

impl Pods {
    fn note(&mut self) {
        let ready = self.now.values().filter(|ready| **ready).count();
        self.ever.insert([self.now.len(), ready, ready]);
    }
}

/// Every status of a replica set that was not true at any moment.
pub fn statuses(history: &[Change]) -> Vec<String> {
    let (mut sets, mut found) = (BTreeMap::<String, Pods>::new(), Vec::new());
    for change in history {
        if change.is("Pod") {
            let pod = change.latest();
            let there = change.after.as_deref().filter(|p| !is_over(p) && !is_leaving(p));
            let of = there.and_then(owner).filter(|(kind, ..)| *kind == "ReplicaSet").map(|(_, _, set)| set);
            for (_, pods) in sets.iter_mut().filter(|(set, _)| Some(set.as_str()) != of) {
                if pods.now.remove(uid(pod)).is_some() {
                    pods.note();
                }
            }
            if let Some(set) = of {
                let pods = sets.entry(set.to_owned()).or_default();
                pods.now.insert(uid(pod).to_owned(), is_ready(pod));
                pods.note();
            }
        } else if let Some(set) = change.after.as_deref().filter(|_| change.is("ReplicaSet")) {
            let is_news = change.before.as_deref().is_some_and(|before| before["status"] != set["status"]);
            let ever = sets.get(uid(set)).map(|pods| &pods.ever);
            let told = told(set);
            if is_news && told != [0; 3] && !ever.is_some_and(|ever| ever.contains(&told)) {
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
    let mut wanted = BTreeSet::<usize>::new();
    // Most of each replica set that were ever available at once.
    let mut available = BTreeMap::<String, usize>::new();
    let mut found = Vec::new();
    for change in history.iter().filter(|c| app(c.latest()) == deployment) {
        if change.is("Deployment") {
            wanted.insert(count(&change.latest()["spec"]["replicas"]));
        } else if let Some(set) = change.after.as_deref().filter(|_| change.is("ReplicaSet")) {
            let name = change.name();
            if let (Some(before), [wanted]) = (&change.before, &wanted.iter().collect::<Vec<_>>()[..]) {
                let [was, is] = [&**before, set].map(|s| count(&s["spec"]["replicas"]));
                // The server refuses a write by an older state of what is written.
                let own = told(before)[2];
                let others = available.iter().filter(|(other, _)| *other != name).map(|(_, most)| most);
                let (left, least) = (own.min(is) + others.sum::<usize>(), *wanted - may_lack(**wanted));
                if is < was && is < own && left < least {
                    let why = format!("{left} are left, {least} are needed");
                    found.push(format!("{name} shrinks from {was} to {is} at {:?} with {own} available: {why}", change.at));
                }
            }
            let most = available.entry(name.to_owned()).or_default();
            *most = told(set)[2].max(*most);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::rc::Rc;
    use std::time::Duration;

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
