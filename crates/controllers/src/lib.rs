//! The loops of the control plane, one file each.
//!
//! Every controller is level-triggered: it watches shared caches, puts keys into a queue, and for a key makes a pure
//! `plan` from what the caches show and applies it. It knows the API through its client (with its own service account)
//! and nothing else: never the store, never another controller. [`CONTROLLERS`] names them all; flags and identities
//! derive from it.

mod attach_detach;
mod cron_job;
mod daemon_set;
mod deployment;
mod discovery;
mod disruption;
mod endpoint_slice;
mod endpoints;
mod ephemeral_volume;
mod expander;
mod finalizers;
mod garbage_collector;
mod job;
mod latest;
mod namespace;
mod node_lifecycle;
mod nodes;
mod persistent_volume;
mod pod_claims;
mod pod_gc;
mod pods;
mod pv_protection;
mod pvc_protection;
mod replica_set;
mod resource_quota;
mod revisions;
mod root_ca;
mod service_account;
mod stateful_set;
mod taint_eviction;
mod ttl_after_finished;
mod vac_protection;

use ferrokube_client::events::Recorder;
use ferrokube_client::{Caches, Client};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// What the controllers are given.
#[derive(Clone)]
pub struct Config {
    /// Shared caches, as `system:kube-controller-manager`.
    pub caches: Caches,
    /// A client as a service account of `kube-system`, by its name.
    pub client_for: Arc<dyn Fn(&str) -> Client + Send + Sync>,
    /// `*` all that are on by default, `name` this one, `-name` not this one.
    pub controllers: Vec<String>,
    /// CA certificates that `kube-root-ca.crt` publishes, PEM.
    pub root_ca: String,
}

/// What one controller is given.
#[derive(Clone)]
pub(crate) struct Context {
    /// Shared caches.
    pub caches: Caches,
    /// Requests under the controller's own identity.
    pub client: Client,
    /// Events under the controller's own name.
    pub recorder: Recorder,
    /// The whole configuration.
    pub config: Config,
}

/// A row of the table of controllers.
pub struct Controller {
    /// Name in `--controllers`.
    pub name: &'static str,
    /// Service account in `kube-system` (role `system:controller:<account>`).
    pub account: &'static str,
    /// Component of its events.
    pub component: &'static str,
    /// Whether `*` includes it.
    pub default: bool,
    run: fn(Context) -> BoxFuture<'static, ()>,
}

/// One row per controller: name, service account, component of its events, on by default, and what runs it.
macro_rules! controllers {
    ($($name:literal $account:literal $component:literal $default:literal $module:ident;)*) => {
        &[$(Controller { name: $name, account: $account, component: $component, default: $default, run: |context| Box::pin($module::run(context)) }),*]
    };
}

/// All controllers.
pub const CONTROLLERS: &[Controller] = controllers! {
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
    "persistentvolume-binder-controller"       "persistent-volume-binder"      "persistentvolume-controller"   true persistent_volume;
    "persistentvolumeclaim-protection-controller" "pvc-protection-controller"  "pvc-protection-controller"     true pvc_protection;
    "persistentvolume-protection-controller"   "pv-protection-controller"      "pv-protection-controller"      true pv_protection;
    "volumeattributesclass-protection-controller" "volumeattributesclass-protection-controller" "vac-protection-controller" true vac_protection;
    "ephemeral-volume-controller"              "ephemeral-volume-controller"   "ephemeral_volume"              true ephemeral_volume;
    "persistentvolume-attach-detach-controller" "attachdetach-controller"      "attachdetach-controller"       true attach_detach;
    "persistentvolume-expander-controller"     "expand-controller"             "volume_expand"                 true expander;
};

/// Older names that `--controllers` still takes, besides the name without `-controller`.
const ALIASES: &[(&str, &str)] = &[
    ("root-ca-cert-publisher", "root-ca-certificate-publisher-controller"),
    ("endpoint", "endpoints-controller"),
    ("garbagecollector", "garbage-collector-controller"),
    ("nodelifecycle", "node-lifecycle-controller"),
    ("podgc", "pod-garbage-collector-controller"),
    ("persistentvolume-binder", "persistentvolume-binder-controller"),
    ("attachdetach", "persistentvolume-attach-detach-controller"),
    ("pvc-protection", "persistentvolumeclaim-protection-controller"),
    ("pv-protection", "persistentvolume-protection-controller"),
];

/// Whether a selection starts a controller (`--controllers` of kube-controller-manager).
pub fn selected(selection: &[String], name: &str, default: bool) -> bool {
    let is = |text: &str| text == name || name.strip_suffix("-controller") == Some(text) || ALIASES.contains(&(text, name));
    if selection.iter().any(|s| s.strip_prefix('-').is_some_and(is)) {
        return false;
    }
    selection.iter().any(|s| is(s)) || (default && selection.iter().any(|s| s == "*"))
}

/// Runs the selected controllers until dropped. A controller that panics is started again, alone.
pub async fn run(config: Config) {
    let chosen = CONTROLLERS.iter().filter(|c| selected(&config.controllers, c.name, c.default));
    let mut tasks = tokio::task::JoinSet::new();
    for controller in chosen {
        tasks.spawn(keep(controller, config.clone()));
    }
    while tasks.join_next().await.is_some() {}
    // Without any controller there is nothing to do, for ever.
    std::future::pending().await
}

async fn keep(controller: &'static Controller, config: Config) {
    loop {
        let client = (config.client_for)(controller.account);
        let recorder = Recorder::new(client.clone(), controller.component, "");
        let context = Context { caches: config.caches.clone(), client, recorder, config: config.clone() };
        if AssertUnwindSafe((controller.run)(context)).catch_unwind().await.is_err() {
            tracing::error!(controller = controller.name, "controller panicked, starting it again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::selected;

    #[test]
    fn the_controllers_flag_selects_as_upstream() {
        let cases =
            [("*", true, true), ("*", false, false), ("*,x", false, true), ("*,-x", true, false), ("y", true, false), ("x", false, true)];
        for (flag, default, expected) in cases {
            let selection: Vec<String> = flag.split(',').map(str::to_owned).collect();
            assert_eq!(selected(&selection, "x", default), expected, "{flag} {default}");
        }
        let older = |name: &str| selected(&[name.to_owned()], "garbage-collector-controller", true);
        assert!(older("garbagecollector") && older("garbage-collector") && older("garbage-collector-controller") && !older("garbage"));
    }
}
