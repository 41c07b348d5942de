//! How many volumes and claims there are, and how many of them have each other (`pv_collector_*`), counted when it is asked for;
//! and how long it takes to provision and delete volumes, which others do (`volume_operation_*`).

use ferrokube_client::Cache;
use ferrokube_client::metrics::{Desc, Kind, Metrics};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use tokio::time::Instant;

macro_rules! gauges {
    ($($id:ident $name:literal $help:literal [$($label:literal),*];)*) => {
        $(static $id: Desc = Desc { name: $name, help: $help, kind: Kind::Gauge, labels: &[$($label),*] };)*
    };
}

gauges! {
    BOUND_VOLUMES "pv_collector_bound_pv_count" "[ALPHA] Gauge measuring number of persistent volume currently bound" ["storage_class"];
    FREE_VOLUMES "pv_collector_unbound_pv_count" "[ALPHA] Gauge measuring number of persistent volume currently unbound" ["storage_class"];
    ALL_VOLUMES "pv_collector_total_pv_count" "[ALPHA] Gauge measuring total number of persistent volumes" ["plugin_name", "volume_mode"];
    BOUND_CLAIMS "pv_collector_bound_pvc_count" "[ALPHA] Gauge measuring number of persistent volume claim currently bound" ["namespace", "storage_class", "volume_attributes_class"];
    FREE_CLAIMS "pv_collector_unbound_pvc_count" "[ALPHA] Gauge measuring number of persistent volume claim currently unbound" ["namespace", "storage_class", "volume_attributes_class"];
}

/// Of seconds.
const LONG: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];
const OPERATION: &[&str] = &["operation_name", "plugin_name"];
static DONE_IN: Desc = Desc::histogram("volume_operation_total_seconds", "[ALPHA] Total volume operation time", LONG, OPERATION);
static ERRORS: Desc = Desc::counter("volume_operation_errors_total", "[ALPHA] Total volume operation errors", OPERATION);
/// Its name before 1.36.
static OLD_ERRORS: Desc =
    Desc::counter("volume_operation_total_errors", "[ALPHA] (Deprecated since 1.36.0) Total volume operation errors", OPERATION);
static ASSIGNED: Desc = Desc::counter(
    "retroactive_storageclass_total",
    "[ALPHA] Total number of retroactive StorageClass assignments to persistent volume claim",
    &[],
);
static NOT_ASSIGNED: Desc = Desc::counter(
    "retroactive_storageclass_errors_total",
    "[ALPHA] Total number of failed retroactive StorageClass assignments to persistent volume claim",
    &[],
);

/// What is under way, by what it is about.
pub(super) struct Operations<K> {
    metrics: Metrics,
    begun: Mutex<HashMap<K, (&'static str, String, Instant)>>,
}

impl<K: Eq + Hash> Operations<K> {
    pub fn new(metrics: Metrics) -> Self {
        Operations { metrics, begun: Mutex::default() }
    }

    /// Somebody was asked to `provision` or `delete`; asked again, the first time counts.
    pub fn begin(&self, key: K, operation: &'static str, plugin: &str) {
        let plugin = if plugin.is_empty() { "N/A" } else { plugin };
        self.begun.lock().entry(key).or_insert_with(|| (operation, plugin.to_owned(), Instant::now()));
    }

    /// It went wrong, and will be tried again.
    pub fn fail(&self, key: &K) {
        if let Some((operation, plugin, _)) = self.begun.lock().get(key) {
            [&ERRORS, &OLD_ERRORS].iter().for_each(|desc| self.metrics.count(desc, &[operation, plugin]));
        }
    }

    /// It is done.
    pub fn end(&self, key: &K) {
        if let Some((operation, plugin, since)) = self.begun.lock().remove(key) {
            self.metrics.series(&DONE_IN, &[operation, &plugin]).observe(since.elapsed().as_secs_f64());
        }
    }

    /// Nobody waits for it any more.
    pub fn forget(&self, key: &K) {
        self.begun.lock().remove(key);
    }
}

/// A claim without a class was to get the default one.
pub(super) fn assigned(metrics: &Metrics, done: bool) {
    metrics.count(if done { &ASSIGNED } else { &NOT_ASSIGNED }, &[]);
}

/// Counts by labels.
type Counts = BTreeMap<Vec<String>, f64>;

/// Shows them for as long as the controller runs.
pub(super) fn measure(metrics: &Metrics, volumes: &Cache<PersistentVolume>, claims: &Cache<PersistentVolumeClaim>, running: &Arc<()>) {
    let (into, volumes, claims, running) = (metrics.clone(), volumes.clone(), claims.clone(), Arc::downgrade(running));
    metrics.on_collect(move || {
        let ([bound, free], all) = count_volumes(&volumes.list());
        let [bound_claims, free_claims] = count_claims(&claims.list());
        for (desc, counts) in [
            (&BOUND_VOLUMES, bound),
            (&FREE_VOLUMES, free),
            (&ALL_VOLUMES, all),
            (&BOUND_CLAIMS, bound_claims),
            (&FREE_CLAIMS, free_claims),
        ] {
            into.replace(desc, counts);
        }
        running.strong_count() > 0
    });
}

/// Bound and free ones by class, and all by plugin and mode.
fn count_volumes(volumes: &[PersistentVolume]) -> ([Counts; 2], Counts) {
    let (mut by_class, mut all) = ([Counts::new(), Counts::new()], Counts::new());
    for volume in volumes {
        let spec = volume.spec.clone().unwrap_or_default();
        let bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        *by_class[usize::from(!bound)].entry(vec![spec.storage_class_name.clone().unwrap_or_default()]).or_default() += 1.0;
        let mode = spec.volume_mode.clone().unwrap_or_else(|| "Filesystem".into());
        *all.entry(vec![plugin(&spec), mode]).or_default() += 1.0;
    }
    (by_class, all)
}

/// Bound and free ones.
fn count_claims(claims: &[PersistentVolumeClaim]) -> [Counts; 2] {
    let mut counts = [Counts::new(), Counts::new()];
    for claim in claims {
        let spec = claim.spec.clone().unwrap_or_default();
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let classes = [spec.storage_class_name, spec.volume_attributes_class_name].map(Option::unwrap_or_default);
        let labels = std::iter::once(claim.metadata.namespace.clone().unwrap_or_default()).chain(classes).collect();
        *counts[usize::from(!bound)].entry(labels).or_default() += 1.0;
    }
    counts
}

/// The plugin of a volume, as upstream's metrics call it.
pub(crate) fn plugin(spec: &PersistentVolumeSpec) -> String {
    match (&spec.csi, &spec.host_path, &spec.local, &spec.nfs) {
        (Some(csi), ..) => format!("kubernetes.io/csi:{}", csi.driver),
        (_, Some(_), ..) => "kubernetes.io/host-path".into(),
        (_, _, Some(_), _) => "kubernetes.io/local-volume".into(),
        (.., Some(_)) => "kubernetes.io/nfs".into(),
        _ => "N/A".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn an_operation_takes_from_the_first_time_it_was_asked_for_until_it_is_done() {
        let metrics = Metrics::default();
        let operations = Operations::new(metrics.clone());
        operations.fail(&"a");
        operations.begin("a", "provision", "x/p");
        operations.begin("a", "provision", "x/p");
        operations.fail(&"a");
        operations.begin("b", "delete", "");
        operations.forget(&"b");
        ["a", "a", "b"].iter().for_each(|key| operations.end(key));
        let mut text = String::new();
        metrics.write(&mut text);
        for line in [
            "volume_operation_total_seconds_count{operation_name=\"provision\",plugin_name=\"x/p\"} 1",
            "volume_operation_errors_total{operation_name=\"provision\",plugin_name=\"x/p\"} 1",
            "volume_operation_total_errors{operation_name=\"provision\",plugin_name=\"x/p\"} 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("N/A"), "{text}");
    }

    #[test]
    fn volumes_and_claims_are_counted_by_what_they_are() {
        let volume = |phase: &str, class: &str, source: Value| -> PersistentVolume {
            let mut object = json!({"metadata": {}, "spec": {"storageClassName": class}, "status": {"phase": phase}});
            object["spec"].as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
            serde_json::from_value(object).unwrap()
        };
        let disk = || json!({"csi": {"driver": "d", "volumeHandle": "h"}});
        let volumes = [
            volume("Bound", "fast", disk()),
            volume("Available", "fast", disk()),
            volume("Bound", "fast", json!({"hostPath": {"path": "/"}})),
        ];
        let ([bound, free], all) = count_volumes(&volumes);
        assert_eq!((bound[&vec!["fast".to_owned()]], free[&vec!["fast".to_owned()]]), (2.0, 1.0));
        assert_eq!(all[&vec!["kubernetes.io/csi:d".to_owned(), "Filesystem".to_owned()]], 2.0);
        let claim: PersistentVolumeClaim = serde_json::from_value(
            json!({"metadata": {"namespace": "a"}, "spec": {"storageClassName": "fast"}, "status": {"phase": "Pending"}}),
        )
        .unwrap();
        let [_, free] = count_claims(&[claim]);
        assert_eq!(free[&vec!["a".to_owned(), "fast".to_owned(), String::new()]], 1.0);
    }
}
