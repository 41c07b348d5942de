//! The clusterrole-aggregation controller: writes the rules of aggregated ClusterRoles into them, for people to read.
//!
//! Authorization does not wait for this: the index computes the rules itself. Runs inside the API server because the
//! index already knows what is stale.

use super::{BootstrapError, write_all};
use crate::authz::Authorizer;
use crate::objects::{Loopback, Objects, Target};
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Writes the rules that are stale now.
pub(super) async fn settle(objects: &dyn Objects, loopback: &dyn Loopback, authorizer: &Authorizer) -> Result<usize, BootstrapError> {
    let steps = authorizer.stale_aggregates().into_iter().filter_map(|(name, rules)| {
        let mut object: Value = objects.get(GROUP, "clusterroles", "", &name)?.decode().ok()?;
        object["rules"] = json!(*rules);
        let target = Target { group: GROUP.into(), version: "v1".into(), resource: "clusterroles".into(), name, ..Target::default() };
        Some(super::plan::Step { target, object, create: false })
    });
    write_all(loopback, steps.collect()).await
}
