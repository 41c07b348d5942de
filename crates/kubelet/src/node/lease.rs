//! The node's heartbeat: a Lease in `kube-node-lease`, renewed every quarter of its duration.

use super::Shared;
use ferrokube_client::{Optional, Result};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use std::sync::Arc;

const NAMESPACE: &str = "kube-node-lease";
/// nodeLeaseDurationSeconds.
const DURATION: i32 = 40;
/// Wait after a failure: a lease that is late takes the node's pods away.
const RETRY: std::time::Duration = std::time::Duration::from_millis(200);

/// Renews for ever.
pub async fn keep(node: Arc<Shared>) {
    let mut known: Option<Lease> = None;
    let mut ticks = tokio::time::interval(node.config.heartbeat);
    loop {
        ticks.tick().await;
        match renew(&node, known.take()).await {
            Ok(lease) => known = Some(lease),
            Err(e) => {
                // Right after the start the Node, which owns the lease, may not be there yet.
                if e.is_not_found() {
                    tracing::debug!("node lease not made: {e}");
                } else {
                    tracing::warn!("node lease not renewed: {e}");
                }
                ticks.reset_after(RETRY);
            }
        }
    }
}

async fn renew(node: &Shared, known: Option<Lease>) -> Result<Lease> {
    let name = &node.config.node_name;
    let known = match known {
        Some(lease) => Some(lease),
        None => node.client.get::<Lease>(NAMESPACE, name).await.optional()?,
    };
    let spec = Some(LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(DURATION),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    });
    match known {
        Some(lease) => node.client.update(&Lease { spec, ..lease }).await,
        None => {
            let owner = node.client.get::<Node>("", name).await?;
            let owner = OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.clone(),
                uid: owner.metadata.uid.unwrap_or_default(),
                ..OwnerReference::default()
            };
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(NAMESPACE.into()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            };
            node.client.create(&Lease { metadata, spec }).await
        }
    }
}
