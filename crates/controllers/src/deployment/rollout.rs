//! How many replicas each replica set of a deployment should have: pure.
//!
//! Source: `pkg/controller/deployment/rolling.go`, `sync.go` and `util/deployment_util.go`.

use super::without_hash;
use ferrokube_client::Named;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// One replica set is to have so many replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Name of the set.
    pub set: String,
    /// Replicas.
    pub to: i32,
}

/// Annotations by which deployments keep their books on replica sets.
pub mod annotations {
    use super::{max_surge, replicas, wanted};
    use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
    use std::collections::BTreeMap;

    /// Which rollout made the set.
    pub const REVISION: &str = "deployment.kubernetes.io/revision";
    /// Earlier revisions the set had.
    pub const HISTORY: &str = "deployment.kubernetes.io/revision-history";
    /// Replicas of the deployment when the set was last sized.
    pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
    /// Replicas plus surge.
    pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
    const NOT_COPIED: [&str; 6] =
        ["kubectl.kubernetes.io/last-applied-configuration", REVISION, HISTORY, DESIRED, MAX, "deprecated.deployment.rollback.to"];

    /// Annotations of the new set: the deployment's own plus the books.
    pub fn of_new(deployment: &Deployment, set: &ReplicaSet, revision: i64) -> BTreeMap<String, String> {
        let mut all = set.metadata.annotations.clone().unwrap_or_default();
        let own = deployment.metadata.annotations.iter().flatten();
        all.extend(own.filter(|(k, _)| !NOT_COPIED.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())));
        let before = all.get(REVISION).and_then(|r| r.parse::<i64>().ok());
        if before.is_none_or(|b| b < revision) {
            if let Some(before) = before {
                let history = all.get(HISTORY).filter(|h| !h.is_empty()).map_or_else(|| before.to_string(), |h| format!("{h},{before}"));
                all.insert(HISTORY.into(), history);
            }
            all.insert(REVISION.into(), revision.to_string());
        }
        books(deployment, &mut all);
        all
    }

    /// Annotations of a set that is being sized.
    pub fn sized(deployment: &Deployment, set: &ReplicaSet) -> BTreeMap<String, String> {
        let mut all = set.metadata.annotations.clone().unwrap_or_default();
        books(deployment, &mut all);
        all
    }

    fn books(deployment: &Deployment, all: &mut BTreeMap<String, String>) {
        all.insert(DESIRED.into(), wanted(deployment).to_string());
        all.insert(MAX.into(), (wanted(deployment) + max_surge(deployment)).to_string());
    }

    /// Replicas of the deployment when the set was last sized.
    pub fn desired(set: &ReplicaSet) -> Option<i32> {
        set.metadata.annotations.as_ref()?.get(DESIRED)?.parse().ok()
    }

    /// Replicas plus surge when the set was last sized; its own number when unknown.
    pub fn max(set: &ReplicaSet) -> i32 {
        set.metadata.annotations.as_ref().and_then(|a| a.get(MAX)).and_then(|m| m.parse().ok()).unwrap_or_else(|| replicas(set))
    }
}

/// `spec.replicas` of the deployment.
pub fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// `spec.replicas` of a set.
pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

fn total(sets: &[ReplicaSet]) -> i32 {
    sets.iter().map(replicas).sum()
}

/// A number or a percentage of `of`, rounded up or down.
fn scaled(value: Option<&IntOrString>, of: i32, up: bool, default: &str) -> i32 {
    let text = match value {
        Some(IntOrString::Int(n)) => return *n,
        Some(IntOrString::String(text)) => text.as_str(),
        None => default,
    };
    let percent: i32 = text.trim_end_matches('%').parse().unwrap_or(0);
    let product = percent * of;
    if up { (product + 99) / 100 } else { product / 100 }
}

fn is_recreate(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// Pods above the wanted number that a rollout may have.
pub fn max_surge(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) {
        return 0;
    }
    let rolling = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    scaled(rolling.and_then(|r| r.max_surge.as_ref()), wanted(deployment), true, "25%")
}

/// Pods below the wanted number that a rollout may have.
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) {
        return 0;
    }
    let rolling = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let amount = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), wanted(deployment), false, "25%");
    // Both zero would never get anywhere.
    let amount = if amount == 0 && max_surge(deployment) == 0 { 1 } else { amount };
    amount.min(wanted(deployment))
}

/// Whether a set has the deployment's present template.
pub fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let (Some(mut a), Some(mut b)) =
        (deployment.spec.as_ref().map(|s| s.template.clone()), set.spec.as_ref().and_then(|s| s.template.clone()))
    else {
        return false;
    };
    for template in [&mut a, &mut b] {
        let meta = template.metadata.get_or_insert_default();
        meta.labels = Some(without_hash(meta.labels.as_ref())).filter(|l| !l.is_empty());
        meta.creation_timestamp = None;
    }
    a == b
}

/// The set of the present template (the oldest, if several) and the others.
pub fn split(deployment: &Deployment, sets: &[ReplicaSet]) -> (Option<ReplicaSet>, Vec<ReplicaSet>) {
    let mut sorted = sets.to_vec();
    sorted.sort_by(|a, b| (a.metadata.creation_timestamp.as_ref(), a.name()).cmp(&(b.metadata.creation_timestamp.as_ref(), b.name())));
    let new = sorted.iter().find(|s| same_template(deployment, s)).cloned();
    let uid = new.as_ref().map(|n| n.uid().to_owned());
    (new, sorted.into_iter().filter(|s| Some(s.uid()) != uid.as_deref()).collect())
}

/// Revision of a set.
pub fn revision(set: &ReplicaSet) -> i64 {
    set.metadata.annotations.as_ref().and_then(|a| a.get(annotations::REVISION)).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// One more than any old set has.
pub fn next_revision(old: &[ReplicaSet]) -> i64 {
    old.iter().map(revision).max().unwrap_or(0) + 1
}

/// Whether the deployment was resized since its sets were last sized.
pub fn is_scaling(deployment: &Deployment, sets: &[ReplicaSet]) -> bool {
    let active = sets.iter().filter(|s| replicas(s) > 0);
    active.filter_map(annotations::desired).any(|d| d != wanted(deployment))
}

/// Replicas the new set may have now.
pub fn replicas_of_new(deployment: &Deployment, current: i32, old: &[ReplicaSet]) -> i32 {
    if is_recreate(deployment) {
        return wanted(deployment);
    }
    let room = wanted(deployment) + max_surge(deployment) - (total(old) + current);
    if room <= 0 { current } else { current + room.min(wanted(deployment) - current).max(0) }
}

/// One step of a rolling update.
pub fn rolling(deployment: &Deployment, new: &ReplicaSet, old: &[ReplicaSet]) -> Vec<Scale> {
    let current = replicas(new);
    if current > wanted(deployment) {
        return vec![Scale { set: new.name().into(), to: wanted(deployment) }];
    }
    let up = replicas_of_new(deployment, current, old);
    if up != current {
        return vec![Scale { set: new.name().into(), to: up }];
    }
    scale_down_old(deployment, new, old)
}

fn scale_down_old(deployment: &Deployment, new: &ReplicaSet, old: &[ReplicaSet]) -> Vec<Scale> {
    if total(old) == 0 {
        return Vec::new();
    }
    let minimum = wanted(deployment) - max_unavailable(deployment);
    let unavailable_new = replicas(new) - available(new);
    let mut budget = total(old) + replicas(new) - minimum - unavailable_new;
    if budget <= 0 {
        return Vec::new();
    }
    // Pods that never became available cost nothing: they go first.
    let mut left: Vec<(String, i32, i32)> =
        old.iter().filter(|s| replicas(s) > 0).map(|s| (s.name().to_owned(), replicas(s), available(s))).collect();
    for (_, have, healthy) in &mut left {
        let sick = (*have - *healthy).max(0).min(budget);
        *have -= sick;
        budget -= sick;
    }
    let healthy: i32 = left.iter().map(|(_, have, healthy)| (*have).min(*healthy)).sum::<i32>() + available(new);
    let mut down = (healthy - minimum).max(0);
    for (_, have, _) in &mut left {
        let part = (*have).min(down);
        *have -= part;
        down -= part;
    }
    let changed = |name: &str, have: i32| old.iter().any(|s| s.name() == name && replicas(s) != have);
    left.into_iter().filter(|(name, have, _)| changed(name, *have)).map(|(set, to, _)| Scale { set, to }).collect()
}

/// Resizing: the only active set takes all; several share in proportion.
pub fn scale(deployment: &Deployment, new: Option<&ReplicaSet>, old: &[ReplicaSet]) -> Vec<Scale> {
    let all: Vec<&ReplicaSet> = new.into_iter().chain(old).collect();
    let active: Vec<&&ReplicaSet> = all.iter().filter(|s| replicas(s) > 0).collect();
    let one = match active.as_slice() {
        [] => new.or_else(|| old.iter().max_by_key(|s| revision(s))),
        [only] => Some(**only),
        _ => None,
    };
    if let Some(only) = one {
        let done = replicas(only) == wanted(deployment) && annotations::desired(only) == Some(wanted(deployment));
        return if done { Vec::new() } else { vec![Scale { set: only.name().into(), to: wanted(deployment) }] };
    }
    if new.is_some_and(|n| status_saturated(deployment, n)) {
        return old.iter().filter(|s| replicas(s) > 0).map(|s| Scale { set: s.name().into(), to: 0 }).collect();
    }
    if is_recreate(deployment) {
        return Vec::new();
    }
    proportional(deployment, &active)
}

fn status_saturated(deployment: &Deployment, set: &ReplicaSet) -> bool {
    replicas(set) == wanted(deployment) && annotations::desired(set) == Some(wanted(deployment)) && available(set) == wanted(deployment)
}

fn proportional(deployment: &Deployment, active: &[&&ReplicaSet]) -> Vec<Scale> {
    let have: i32 = active.iter().map(|s| replicas(s)).sum();
    let allowed = if wanted(deployment) > 0 { wanted(deployment) + max_surge(deployment) } else { 0 };
    let to_add = allowed - have;
    let mut order: Vec<&&ReplicaSet> = active.to_vec();
    // The biggest first, and the newest among equals when growing.
    order.sort_by_key(|s| {
        (std::cmp::Reverse(replicas(s)), if to_add > 0 { std::cmp::Reverse(revision(s)) } else { std::cmp::Reverse(-revision(s)) })
    });
    let mut added = 0;
    let mut scales: Vec<Scale> = Vec::new();
    for set in &order {
        let share = if to_add == 0 { 0 } else { share(deployment, set, to_add, added) };
        added += share;
        scales.push(Scale { set: set.name().into(), to: (replicas(set) + share).max(0) });
    }
    if let Some(first) = scales.first_mut() {
        first.to = (first.to + to_add - added).max(0);
    }
    scales
}

fn share(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    let allowed = f64::from(wanted(deployment) + max_surge(deployment));
    let max = annotations::max(set).max(1);
    let exact = f64::from(replicas(set)) * allowed / f64::from(max);
    #[allow(clippy::cast_possible_truncation, reason = "replica counts are far below the limits of i32")]
    let fraction = exact.round() as i32 - replicas(set);
    if to_add > 0 { fraction.min(to_add - added) } else { fraction.max(to_add - added) }
}

/// Old sets beyond the history limit that nothing runs in.
pub fn superfluous(deployment: &Deployment, old: &[ReplicaSet]) -> Vec<ReplicaSet> {
    let limit = usize::try_from(deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10)).unwrap_or(usize::MAX);
    let idle = |s: &&ReplicaSet| {
        let status = s.status.clone().unwrap_or_default();
        replicas(s) == 0
            && status.replicas == 0
            && s.metadata.deletion_timestamp.is_none()
            && s.metadata.generation <= status.observed_generation
    };
    let mut candidates: Vec<ReplicaSet> = old.iter().filter(idle).cloned().collect();
    if candidates.len() <= limit {
        return Vec::new();
    }
    candidates.sort_by_key(revision);
    let surplus = candidates.len() - limit;
    candidates.truncate(surplus);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
        let [surge, unavailable] = [surge, unavailable].map(|t| t.parse::<i32>().map_or_else(|_| json!(t), |n| json!(n)));
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "d"},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "new"}]}},
            },
        }))
        .unwrap()
    }

    fn set(name: &str, image: &str, replicas: i32, available: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "a", "uid": name},
            "spec": {
                "replicas": replicas, "selector": {},
                "template": {"metadata": {"labels": {"app": "web", "pod-template-hash": "x"}}, "spec": {"containers": [{"name": "c", "image": image}]}},
            },
            "status": {"replicas": replicas, "availableReplicas": available},
        }))
        .unwrap()
    }

    fn scale(set: &str, to: i32) -> Scale {
        Scale { set: set.into(), to }
    }

    #[test]
    fn the_set_of_the_present_template_is_found_whatever_its_hash_label() {
        let (new, old) = split(&deployment(3, "1", "0"), &[set("old", "old", 3, 3), set("new", "new", 0, 0)]);
        assert_eq!(new.unwrap().name(), "new");
        assert_eq!(old.len(), 1);
    }

    #[test]
    fn a_rolling_update_never_leaves_its_bounds() {
        // (surge, unavailable, new (have, available), old (have, available)) -> scales
        let cases = [
            ("1", "0", (0, 0), (3, 3), vec![scale("new", 1)]),
            ("1", "0", (1, 0), (3, 3), vec![]),
            ("1", "0", (1, 1), (3, 3), vec![scale("old", 2)]),
            ("0", "1", (0, 0), (3, 3), vec![scale("old", 2)]),
            ("0", "1", (0, 0), (2, 2), vec![scale("new", 1)]),
            ("100%", "0", (0, 0), (3, 3), vec![scale("new", 3)]),
            ("1", "0", (3, 3), (1, 1), vec![scale("old", 0)]),
            ("1", "0", (3, 3), (0, 0), vec![]),
            ("1", "1", (1, 0), (3, 1), vec![scale("old", 2)]),
        ];
        for (surge, unavailable, new, old, expected) in cases {
            let deployment = deployment(3, surge, unavailable);
            let (n, o) = (set("new", "new", new.0, new.1), set("old", "old", old.0, old.1));
            assert_eq!(rolling(&deployment, &n, &[o]), expected, "surge {surge} unavailable {unavailable} new {new:?} old {old:?}");
        }
    }

    #[test]
    fn percentages_round_surge_up_and_unavailable_down() {
        let d = deployment(10, "25%", "25%");
        assert_eq!((max_surge(&d), max_unavailable(&d)), (3, 2));
        let d = deployment(1, "25%", "25%");
        assert_eq!((max_surge(&d), max_unavailable(&d)), (1, 0));
    }

    #[test]
    fn a_resized_deployment_in_the_middle_of_a_rollout_grows_in_proportion() {
        let mut new = set("new", "new", 5, 5);
        let mut old = set("old", "old", 5, 5);
        for s in [&mut new, &mut old] {
            s.metadata.annotations =
                Some([(annotations::DESIRED.to_owned(), "10".to_owned()), (annotations::MAX.to_owned(), "10".to_owned())].into());
        }
        let d = deployment(20, "0", "1");
        assert!(is_scaling(&d, &[new.clone(), old.clone()]));
        let mut scales = super::scale(&d, Some(&new), &[old]);
        scales.sort_by(|a, b| a.set.cmp(&b.set));
        assert_eq!(scales, [scale("new", 10), scale("old", 10)]);
    }
}
