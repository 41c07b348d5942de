//! Root CA publisher: ConfigMap `kube-root-ca.crt` in every active namespace.
//!
//! Reads namespaces and these config maps; writes these config maps. Source: `pkg/controller/certificates/rootcacertpublisher`.

use crate::Context;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::metrics::{Desc, Kind};
use ferrokube_client::{Cache, Error, Selection};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use tokio::time::Instant;

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const ABOUT: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or \
     kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

/// What to do for a namespace.
#[derive(Debug, PartialEq)]
enum Action {
    Nothing,
    Create(Box<ConfigMap>),
    Update(Box<ConfigMap>),
}

fn plan(namespace: &Namespace, current: Option<ConfigMap>, ca: &str) -> Action {
    if !super::namespace::is_active(namespace) {
        return Action::Nothing;
    }
    let data = BTreeMap::from([(KEY.to_owned(), ca.to_owned())]);
    let about = (ABOUT.0.to_owned(), ABOUT.1.to_owned());
    let Some(mut current) = current else {
        let metadata = ObjectMeta {
            name: Some(NAME.into()),
            namespace: namespace.metadata.name.clone(),
            annotations: Some(BTreeMap::from([about])),
            ..ObjectMeta::default()
        };
        return Action::Create(Box::new(ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }));
    };
    let annotated = current.metadata.annotations.as_ref().is_some_and(|a| a.get(&about.0) == Some(&about.1));
    if current.data.as_ref() == Some(&data) && annotated {
        return Action::Nothing;
    }
    current.data = Some(data);
    current.metadata.annotations.get_or_insert_default().insert(about.0, about.1);
    Action::Update(Box::new(current))
}

static SYNCED: Desc = Desc {
    name: "root_ca_cert_publisher_sync_total",
    help: "[ALPHA] Number of namespace syncs happened in root ca cert publisher.",
    kind: Kind::Counter,
    labels: &["code"],
};
static SYNCED_IN: Desc = Desc {
    name: "root_ca_cert_publisher_sync_duration_seconds",
    help: "[ALPHA] Number of namespace syncs happened in root ca cert publisher.",
    kind: Kind::Histogram(&[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384]),
    labels: &["code"],
};

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let namespaces: Cache<Namespace> = context.caches.of();
    let maps: Cache<ConfigMap> = context.caches.select(Selection { fields: format!("metadata.name={NAME}"), ..Selection::default() });
    let queue = context.queue("root_ca_cert_publisher");
    let add = queue.clone();
    namespaces.on_change(move |d| add.add(d.key().name.to_string()));
    let add = queue.clone();
    maps.on_change(move |d| add.add(d.key().namespace.to_string()));
    tokio::join!(namespaces.synced(), maps.synced());
    let reconcile = |name: String| {
        let (context, namespaces, maps) = (&context, &namespaces, &maps);
        async move {
            let Some(namespace) = namespaces.get("", &name) else { return Ok(Next::Wait) };
            let started = Instant::now();
            let done = match plan(&namespace, maps.get(&name, NAME), &context.config.root_ca) {
                Action::Nothing => Ok(()),
                Action::Create(map) => context.client.create(&*map).await.map(drop),
                Action::Update(map) => context.client.update(&*map).await.map(drop),
            };
            let code = done.as_ref().err().map_or("200".to_owned(), |e| e.status().map_or("500".to_owned(), |s| s.code.to_string()));
            context.metrics.count(&SYNCED, &[&code]);
            context.metrics.series(&SYNCED_IN, &[&code]).observe(started.elapsed().as_secs_f64());
            match done {
                Err(e) if e.is_already_exists() || e.is_namespace_terminating() => Ok(Next::Wait),
                other => other.map(|_| Next::Wait),
            }
        }
    };
    controller::run::<_, Error, _, _>("root-ca-certificate-publisher", queue, 2, reconcile).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(phase: &str) -> Namespace {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "a"}, "status": {"phase": phase}})).unwrap()
    }

    #[test]
    fn the_ca_is_published_and_kept_right_in_active_namespaces_only() {
        let Action::Create(made) = plan(&namespace("Active"), None, "CA") else { panic!("not created") };
        assert_eq!(plan(&namespace("Active"), Some((*made).clone()), "CA"), Action::Nothing);
        assert!(matches!(plan(&namespace("Active"), Some(*made), "CA2"), Action::Update(_)));
        assert_eq!(plan(&namespace("Terminating"), None, "CA"), Action::Nothing);
    }
}
