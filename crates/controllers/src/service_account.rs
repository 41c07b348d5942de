//! Service accounts: every active namespace has a `default` one.
//!
//! Reads namespaces and service accounts; writes service accounts. Source: `pkg/controller/serviceaccount`.

use crate::Context;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::{Cache, Error};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

const DEFAULT: &str = "default";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let namespaces: Cache<Namespace> = context.caches.of();
    let accounts: Cache<ServiceAccount> = context.caches.of();
    let queue = context.queue("serviceaccount");
    let add = queue.clone();
    namespaces.on_change(move |d| add.add(d.key().name.to_string()));
    let add = queue.clone();
    accounts.on_change(move |d| {
        if d.new.is_none() && &*d.key().name == DEFAULT {
            add.add(d.key().namespace.to_string());
        }
    });
    tokio::join!(namespaces.synced(), accounts.synced());
    let reconcile = |namespace: String| {
        let (client, namespaces, accounts) = (&context.client, &namespaces, &accounts);
        async move {
            let active = namespaces.get("", &namespace).is_some_and(|n| super::namespace::is_active(&n));
            if !active || accounts.object(&namespace, DEFAULT).is_some() {
                return Ok(Next::Wait);
            }
            let account = ServiceAccount {
                metadata: ObjectMeta { name: Some(DEFAULT.into()), namespace: Some(namespace), ..ObjectMeta::default() },
                ..ServiceAccount::default()
            };
            match client.create(&account).await {
                Err(e) if e.is_already_exists() || e.is_namespace_terminating() => Ok(Next::Wait),
                other => other.map(|_| Next::Wait),
            }
        }
    };
    controller::run::<_, Error, _, _>("serviceaccount", queue, 2, reconcile).await;
}
