//! When the change happened that endpoints follow (annotation `endpoints.kubernetes.io/last-change-trigger-time`): those who
//! measure how long a service takes to follow its pods start here.
//!
//! Source: `k8s.io/endpointslice/util/trigger_time_tracker.go`.

use ferrokube_client::{Named, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};

/// The annotation.
pub(crate) const ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

#[derive(Clone, Debug, Default)]
struct Seen {
    service: Option<Timestamp>,
    pods: HashMap<String, Timestamp>,
}

/// What was seen of each service and its pods.
#[derive(Default)]
pub(crate) struct Triggers(Mutex<HashMap<ObjectKey, Seen>>);

impl Triggers {
    /// The earliest change since the last look; none when nothing that counts has changed.
    pub fn look(&self, key: &ObjectKey, service: &Service, pods: &[Pod]) -> Option<Timestamp> {
        let ready = |p: &Pod| Some((p.name().to_owned(), crate::pods::condition(p, "Ready")?.last_transition_time.as_ref()?.0));
        let made = service.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let now = Seen { service: made, pods: pods.iter().filter_map(ready).collect() };
        let Some(before) = self.0.lock().insert(key.clone(), now.clone()) else { return made };
        let pods = now.pods.iter().filter(|(name, at)| before.pods.get(*name).is_none_or(|b| *at > b)).map(|(_, at)| *at);
        pods.chain(now.service.filter(|at| before.service.is_none_or(|b| *at > b))).min()
    }

    /// The service is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.0.lock().remove(key);
    }
}

/// Annotations with that of the change, or without it.
pub(crate) fn annotated(annotations: Option<BTreeMap<String, String>>, at: Option<Timestamp>) -> Option<BTreeMap<String, String>> {
    let mut all = annotations.unwrap_or_default();
    match at {
        Some(at) => all.insert(ANNOTATION.into(), at.to_string()),
        None => all.remove(ANNOTATION),
    };
    Some(all).filter(|a| !a.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_earliest_change_that_was_not_seen_counts() {
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"}})).unwrap();
        let pod = |name: &str, at: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]}})).unwrap()
        };
        let (key, triggers) = (ObjectKey::new("a", "s"), Triggers::default());
        let look = |pods: &[Pod]| triggers.look(&key, &service, pods).map(|t| t.to_string());
        let (one, two) = (pod("a", "2026-01-01T00:00:10Z"), pod("b", "2026-01-01T00:00:20Z"));
        assert_eq!(look(std::slice::from_ref(&one)).as_deref(), Some("2026-01-01T00:00:00Z"), "a service that is new");
        assert_eq!(look(std::slice::from_ref(&one)), None);
        assert_eq!(look(&[one.clone(), two.clone()]).as_deref(), Some("2026-01-01T00:00:20Z"));
        assert_eq!(look(&[pod("a", "2026-01-01T00:00:40Z"), pod("b", "2026-01-01T00:00:30Z")]).as_deref(), Some("2026-01-01T00:00:30Z"));
        assert_eq!(look(&[]), None, "what goes has no time");
    }
}
