//! ReplicationControllers: what replica sets do, for the older kind.
//!
//! Reads replication controllers and pods; writes pods and the status of replication controllers. The logic is that of
//! [`crate::replica_set`]; here is only how the older kind says the same. Source: `pkg/controller/replication`.

use crate::Context;
use crate::replica_set::{Replicated, Wanted, run_for};
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

impl Replicated for ReplicationController {
    fn wanted(&self) -> Wanted {
        let spec = self.spec.clone().unwrap_or_default();
        Wanted {
            replicas: usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: LabelSelector { match_labels: spec.selector, ..LabelSelector::default() },
            template: spec.template.unwrap_or_default(),
        }
    }

    fn status(&self) -> ReplicaSetStatus {
        let status = self.status.clone().unwrap_or_default();
        let condition = |c: ReplicationControllerCondition| ReplicaSetCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        };
        ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
            terminating_replicas: None,
        }
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let condition = |c: ReplicaSetCondition| ReplicationControllerCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        };
        let status = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
        };
        ReplicationController { status: Some(status), ..self.clone() }
    }
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    run_for::<ReplicationController>(context, "replicationmanager").await;
}
