//! The loops of the control plane, one file each.
//!
//! Every controller is level-triggered: it watches shared caches, puts keys into a queue, and for a key makes a pure
//! `plan` from what the caches show and applies it. It knows the API through its client (with its own service account)
//! and nothing else: never the store, never another controller. [`CONTROLLERS`] names them all; flags and identities
//! derive from it.

mod attach_detach;
mod autoscaler;
mod bootstrap_tokens;
mod certificates;
mod cluster_role_aggregation;
mod config;
mod consistency;
mod counted;
mod cron_job;
mod daemon_set;
mod deployment;
mod device_taint_eviction;
mod discovery;
mod disruption;
mod endpoint_slice;
mod endpoint_slice_mirroring;
mod endpoints;
mod ephemeral_volume;
mod expander;
mod finalizers;
mod garbage_collector;
mod job;
mod latest;
mod legacy_tokens;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod node_ttl;
mod nodes;
mod persistent_volume;
mod pod_claims;
mod pod_gc;
mod pods;
mod policy_status;
mod pv_protection;
mod pvc_protection;
mod replica_set;
mod replication_controller;
mod resource_claim;
mod resource_quota;
mod revisions;
mod root_ca;
mod selection;
mod selectors;
mod service_account;
mod service_account_token;
mod service_cidr;
mod settings;
mod stateful_set;
mod storage_version_gc;
mod storage_version_migrator;
mod taint_eviction;
mod ttl_after_finished;
mod vac_protection;

use ferrokube_api::features::{API_SERVER_IDENTITY, STORAGE_VERSION_API, STORAGE_VERSION_MIGRATOR};
use ferrokube_client::events::Recorder;
use ferrokube_client::metrics::{Desc, Kind, Metrics};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Caches, Client};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

pub use certificates::SIGNERS;
pub use config::{Config, NodeCidrs, SignToken, Signing};
pub use selection::{UnknownController, check, selected};
pub use settings::{Autoscaling, EndpointLimits, LegacyTokens, NodeHealth, PodGarbage, QuotaPeriod, Settings, VolumeHandling};

/// What one controller is given.
#[derive(Clone)]
pub(crate) struct Context {
    /// Shared caches.
    pub caches: Caches,
    /// Requests under the controller's own identity.
    pub client: Client,
    /// Events under the controller's own name.
    pub recorder: Recorder,
    /// Counters of the process.
    pub metrics: Metrics,
    /// The whole configuration.
    pub config: Config,
}

impl Context {
    /// A queue that counts itself under its name (`workqueue_*`).
    pub fn queue<K: Clone + Eq + Hash + Send + 'static>(&self, name: &str) -> Queue<K> {
        Queue::named(name, &self.metrics).worked_by(self.config.workers.get(name).copied())
    }
}

static RUNNING: Desc = Desc {
    name: "running_managed_controllers",
    help: "[BETA] Indicates where instances of a controller are currently running",
    kind: Kind::Gauge,
    labels: &["manager", "name"],
};

/// A row of the table of controllers.
pub struct Controller {
    /// Name in `--controllers`.
    pub name: &'static str,
    /// Service account in `kube-system` (role `system:controller:<account>`); empty: the manager's own identity.
    pub account: &'static str,
    /// Component of its events.
    pub component: &'static str,
    /// Whether `*` includes it.
    pub default: bool,
    /// The features without which it never runs.
    pub features: &'static [&'static str],
    run: fn(Context) -> BoxFuture<'static, ()>,
}

/// One row per controller: name, service account, component of its events, on by default, the features it needs if any, and what runs it.
macro_rules! controllers {
    ($($name:literal $account:literal $component:literal $default:literal $(@$feature:ident)* $($module:ident)::+;)*) => {
        &[$(Controller {
            name: $name,
            account: $account,
            component: $component,
            default: $default,
            features: &[$($feature),*],
            run: |context| Box::pin($($module)::+::run(context)),
        }),*]
    };
}

/// All controllers.
pub const CONTROLLERS: &[Controller] = controllers! {
    "serviceaccount-token-controller"          ""                              "serviceaccount-token-controller" true service_account_token;
    "serviceaccount-controller"                "service-account-controller"    "serviceaccount-controller"     true service_account;
    "root-ca-certificate-publisher-controller" "root-ca-cert-publisher"        "root-ca-cert-publisher"        true root_ca;
    "namespace-controller"                     "namespace-controller"          "namespace-controller"          true namespace;
    "replicaset-controller"                    "replicaset-controller"         "replicaset-controller"         true replica_set;
    "endpoints-controller"                     "endpoint-controller"           "endpoint-controller"           true endpoints;
    "endpointslice-controller"                 "endpointslice-controller"      "endpoint-slice-controller"     true endpoint_slice;
    "deployment-controller"                    "deployment-controller"         "deployment-controller"         true deployment;
    "garbage-collector-controller"             "generic-garbage-collector"     "garbage-collector-controller"  true garbage_collector;
    "job-controller"                           "job-controller"                "job-controller"                true job;
    "daemonset-controller"                     "daemon-set-controller"         "daemonset-controller"          true daemon_set;
    "node-lifecycle-controller"                "node-controller"               "node-controller"               true node_lifecycle;
    "taint-eviction-controller"                "node-controller"               "taint-eviction-controller"     true taint_eviction;
    "pod-garbage-collector-controller"         "pod-garbage-collector"         "pod-garbage-collector"         true pod_gc;
    "statefulset-controller"                   "statefulset-controller"        "statefulset-controller"        true stateful_set;
    "cronjob-controller"                       "cronjob-controller"            "cronjob-controller"            true cron_job;
    "resourcequota-controller"                 "resourcequota-controller"      "resourcequota-controller"      true resource_quota;
    "disruption-controller"                    "disruption-controller"         "controllermanager"             true disruption;
    "ttl-after-finished-controller"            "ttl-after-finished-controller" "ttl-after-finished-controller" true ttl_after_finished;
    "replicationcontroller-controller"         "replication-controller"        "replication-controller"        true replication_controller;
    "horizontal-pod-autoscaler-controller"     "horizontal-pod-autoscaler"     "horizontal-pod-autoscaler"     true autoscaler;
    "endpointslice-mirroring-controller"       "endpointslicemirroring-controller" "endpoint-slice-mirroring-controller" true endpoint_slice_mirroring;
    "certificatesigningrequest-signing-controller" "certificate-controller"    "csrsigning"                    true certificates::sign;
    "certificatesigningrequest-approving-controller" "certificate-controller"  "csrapproving"                  true certificates::approve;
    "certificatesigningrequest-cleaner-controller" "certificate-controller"    "csrcleaner"                    true certificates::clean;
    "bootstrap-signer-controller"              "bootstrap-signer"              "bootstrap-signer"              false bootstrap_tokens::sign;
    "token-cleaner-controller"                 "token-cleaner"                 "token-cleaner"                 false bootstrap_tokens::clean;
    "clusterrole-aggregation-controller"       "clusterrole-aggregation-controller" "clusterrole-aggregation-controller" true cluster_role_aggregation;
    "ttl-controller"                           "ttl-controller"                "ttl-controller"                true node_ttl;
    "node-ipam-controller"                     "node-controller"               "cidrAllocator"                 true node_ipam;
    "service-cidr-controller"                  "service-cidrs-controller"      "service-cidrs-controller"      true service_cidr;
    "persistentvolume-binder-controller"       "persistent-volume-binder"      "persistentvolume-controller"   true persistent_volume;
    "persistentvolumeclaim-protection-controller" "pvc-protection-controller"  "pvc-protection-controller"     true pvc_protection;
    "persistentvolume-protection-controller"   "pv-protection-controller"      "pv-protection-controller"      true pv_protection;
    "volumeattributesclass-protection-controller" "volumeattributesclass-protection-controller" "vac-protection-controller" true vac_protection;
    "ephemeral-volume-controller"              "ephemeral-volume-controller"   "ephemeral_volume"              true ephemeral_volume;
    "persistentvolume-attach-detach-controller" "attachdetach-controller"      "attachdetach-controller"       true attach_detach;
    "persistentvolume-expander-controller"     "expand-controller"             "volume_expand"                 true expander;
    "resourceclaim-controller"                 "resource-claim-controller"     "resource_claim"                true resource_claim;
    "legacy-serviceaccount-token-cleaner-controller" "legacy-service-account-token-cleaner" "legacy-service-account-token-cleaner" true legacy_tokens;
    "validatingadmissionpolicy-status-controller" "validatingadmissionpolicy-status-controller" "validatingadmissionpolicy-status" true policy_status;
    "device-taint-eviction-controller"         "device-taint-eviction-controller" "device-taint-eviction"      true device_taint_eviction;
    "storageversion-garbage-collector-controller" "storage-version-garbage-collector" "storageversion-garbage-collector" true @STORAGE_VERSION_API @API_SERVER_IDENTITY storage_version_gc;
    "storage-version-migrator-controller"      "storage-version-migrator-controller" "storage-version-migrator-controller" true @STORAGE_VERSION_MIGRATOR storage_version_migrator;
};

/// Runs the selected controllers until dropped. A controller that panics is started again, alone.
pub fn run(config: Config) -> BoxFuture<'static, ()> {
    // Boxed here: an `async fn` would be compiled again in every program that awaits it.
    Box::pin(run_all(config))
}

async fn run_all(config: Config) {
    let there = |c: &&Controller| {
        let missing = c.features.iter().find(|feature| !config.features.has(feature));
        if let Some(feature) = missing {
            tracing::info!(controller = c.name, feature, "not started: its feature is off");
        }
        missing.is_none()
    };
    let chosen = CONTROLLERS.iter().filter(|c| selected(&config.controllers, c.name, c.default)).filter(there);
    let mut tasks = tokio::task::JoinSet::new();
    for controller in chosen {
        tasks.spawn(keep(controller, config.clone()));
    }
    while tasks.join_next().await.is_some() {}
    // Without any controller there is nothing to do, for ever.
    std::future::pending().await
}

/// Sets the gauge for as long as the controller runs.
struct Running(ferrokube_client::metrics::Series);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(0.0);
    }
}

async fn keep(controller: &'static Controller, config: Config) {
    let running = Running(config.metrics.series(&RUNNING, &["kube-controller-manager", controller.name]));
    running.0.set(1.0);
    loop {
        let client = match controller.account {
            "" => config.caches.client().clone(),
            account => (config.client_for)(account),
        };
        let recorder = Recorder::new(client.clone(), controller.component, "");
        // What the controller leaves in the shared caches goes with it, however it ends.
        let (caches, _handlers) = config.caches.scoped();
        let context = Context { caches, client, recorder, metrics: config.metrics.clone(), config: config.clone() };
        if AssertUnwindSafe((controller.run)(context)).catch_unwind().await.is_err() {
            tracing::error!(controller = controller.name, "controller panicked, starting it again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
