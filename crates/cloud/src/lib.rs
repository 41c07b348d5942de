//! The cloud-controller-manager: what a cluster needs of the place it runs in.
//!
//! Four controllers over a small [`Provider`] trait: nodes are given what the place knows of them ([`node`]), nodes that
//! are gone there go here ([`node_lifecycle`]), Services of type LoadBalancer get addresses ([`service`]), pod ranges get
//! routes ([`route`]). A controller runs only when the provider has its part. Nothing here knows a particular place
//! except [`bare_metal`], the provider of machines without one. Source: `k8s.io/cloud-provider`.

pub mod bare_metal;
mod node;
mod node_lifecycle;
mod nodes;
pub mod pool;
mod provider;
pub mod role;
mod route;
mod service;

use ferrokube_client::events::Recorder;
use ferrokube_client::metrics::Metrics;
use ferrokube_client::{Caches, Client};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
pub use provider::{Error as ProviderError, InstanceMetadata, Instances, LoadBalancers, Provider, Route, Routes};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// What the cloud-controller-manager is given.
#[derive(Clone)]
pub struct Config {
    /// Shared caches.
    pub caches: Caches,
    /// Requests, as `system:serviceaccount:kube-system:cloud-controller-manager`.
    pub client: Client,
    /// The place.
    pub provider: Arc<dyn Provider>,
    /// `--cluster-name`: which routes of the place are this cluster's.
    pub cluster_name: String,
    /// Where things are counted.
    pub metrics: Metrics,
    /// `*` all that the provider serves, `name` this one, `-name` not this one.
    pub controllers: Vec<String>,
}

/// What one controller is given.
#[derive(Clone)]
pub(crate) struct Context {
    pub caches: Caches,
    pub client: Client,
    pub recorder: Recorder,
    pub provider: Arc<dyn Provider>,
    pub cluster_name: String,
    pub metrics: Metrics,
}

/// A row of the table of controllers.
pub struct Controller {
    /// Its name in 1.36.
    pub name: &'static str,
    /// Component of its events.
    pub component: &'static str,
    wanted: fn(&dyn Provider) -> bool,
    run: fn(Context) -> BoxFuture<'static, ()>,
}

/// All controllers.
pub const CONTROLLERS: &[Controller] = &[
    Controller {
        name: "cloud-node-controller",
        component: "cloud-node-controller",
        wanted: |p| p.instances().is_some(),
        run: |c| Box::pin(node::run(c)),
    },
    Controller {
        name: "cloud-node-lifecycle-controller",
        component: "cloud-node-lifecycle-controller",
        wanted: |p| p.instances().is_some(),
        run: |c| Box::pin(node_lifecycle::run(c)),
    },
    Controller {
        name: "service-lb-controller",
        component: "service-controller",
        wanted: |p| p.load_balancers().is_some(),
        run: |c| Box::pin(service::run(c)),
    },
    Controller {
        name: "node-route-controller",
        component: "route_controller",
        wanted: |p| p.routes().is_some(),
        run: |c| Box::pin(route::run(c)),
    },
];

/// Whether a selection starts a controller; older names (`service`, `route`, `cloud-node`) are known.
fn selected(selection: &[String], name: &str) -> bool {
    let without = |word: &str| word.strip_prefix('-').is_some_and(|word| names(word, name));
    !selection.iter().any(|w| without(w)) && selection.iter().any(|w| w == "*" || names(w, name))
}

fn names(word: &str, name: &str) -> bool {
    let older = match name {
        "service-lb-controller" => "service",
        "node-route-controller" => "route",
        other => other.strip_suffix("-controller").unwrap_or(other),
    };
    word == name || word == older
}

/// A word of `--controllers` that names none.
pub fn unknown(selection: &[String]) -> Option<&String> {
    let known = |word: &str| word == "*" || CONTROLLERS.iter().any(|c| names(word, c.name));
    selection.iter().find(|word| !known(word.strip_prefix('-').unwrap_or(word)))
}

/// Runs the selected controllers that the provider serves, until dropped.
pub fn run(config: Config) -> BoxFuture<'static, ()> {
    // Boxed here: an `async fn` would be compiled again in every program that awaits it.
    Box::pin(run_all(config))
}

async fn run_all(config: Config) {
    let mut tasks = tokio::task::JoinSet::new();
    let wanted = |c: &&Controller| selected(&config.controllers, c.name) && (c.wanted)(&*config.provider);
    for controller in CONTROLLERS.iter().filter(wanted) {
        tasks.spawn(keep(controller, config.clone()));
    }
    while tasks.join_next().await.is_some() {}
    // A provider without any part leaves nothing to do, for ever.
    std::future::pending().await
}

/// A controller that panics is started again, alone.
async fn keep(controller: &'static Controller, config: Config) {
    loop {
        let recorder = Recorder::new(config.client.clone(), controller.component, "");
        let Config { client, provider, cluster_name, metrics, .. } = config.clone();
        // What the controller leaves in the shared caches goes with it.
        let (caches, _handlers) = config.caches.scoped();
        let context = Context { caches, client, recorder, provider, cluster_name, metrics };
        if AssertUnwindSafe((controller.run)(context)).catch_unwind().await.is_err() {
            tracing::error!(controller = controller.name, "controller panicked, starting it again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_selected_by_their_names_of_then_and_now() {
        let words = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        for (flag, want) in [("*", true), ("*,-service", false), ("service", true), ("-service-lb-controller,*", false), ("route", false)] {
            assert_eq!(selected(&words(flag), "service-lb-controller"), want, "{flag}");
        }
        assert_eq!(unknown(&words("*,-route,cloud-node,cloud-node-lifecycle-controller")), None);
        assert_eq!(unknown(&words("*,-nodes")), Some(&"-nodes".to_owned()));
    }
}
