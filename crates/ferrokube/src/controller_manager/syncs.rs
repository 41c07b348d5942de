//! `--concurrent-*-syncs`: how many keys of a controller are worked on at once.
//!
//! One row per flag: the field (and with it the flag's name), its default, the queues whose workers it counts, and where
//! `/configz` shows it.

use clap::Args;
use serde_json::{Value, json};
use std::collections::HashMap;

macro_rules! syncs {
    ($($field:ident = $default:literal, $flag:literal $(or $other:literal)?, [$($queue:literal),*], $section:literal.$key:literal;)*) => {
        /// The flags.
        #[derive(Args, Debug)]
        #[command(next_help_heading = "Keys worked on at once")]
        pub struct SyncFlags {
            $(#[doc = concat!("Workers of ", $section)]
            #[arg(long = $flag, $(alias = $other,)? value_name = "N", default_value_t = $default, value_parser = clap::value_parser!(u16).range(1..))]
            $field: u16,)*
        }

        impl SyncFlags {
            /// Workers by name of the queue.
            pub fn workers(&self) -> HashMap<&'static str, usize> {
                HashMap::from([$($(($queue, usize::from(self.$field)),)*)*])
            }

            /// As `/configz` shows them.
            pub fn configuration(&self) -> Value {
                let mut shown = json!({});
                $(shown[$section][$key] = self.$field.into();)*
                shown
            }
        }
    };
}

syncs! {
    deployment = 5, "concurrent-deployment-syncs", ["deployment"], "DeploymentController"."ConcurrentDeploymentSyncs";
    replica_set = 5, "concurrent-replicaset-syncs", ["replicaset"], "ReplicaSetController"."ConcurrentRSSyncs";
    replication_controller = 5, "concurrent-rc-syncs" or "concurrent_rc_syncs", ["replicationmanager"], "ReplicationController"."ConcurrentRCSyncs";
    stateful_set = 5, "concurrent-statefulset-syncs", ["statefulset"], "StatefulSetController"."ConcurrentStatefulSetSyncs";
    daemon_set = 2, "concurrent-daemonset-syncs", ["daemonset"], "DaemonSetController"."ConcurrentDaemonSetSyncs";
    job = 5, "concurrent-job-syncs", ["job"], "JobController"."ConcurrentJobSyncs";
    cron_job = 5, "concurrent-cron-job-syncs", ["cronjob"], "CronJobController"."ConcurrentCronJobSyncs";
    endpoint = 5, "concurrent-endpoint-syncs", ["endpoint"], "EndpointController"."ConcurrentEndpointSyncs";
    endpoint_slice = 5, "concurrent-service-endpoint-syncs", ["endpoint_slice"], "EndpointSliceController"."ConcurrentServiceEndpointSyncs";
    mirroring = 5, "mirroring-concurrent-service-endpoint-syncs", ["endpoint_slice_mirroring"], "EndpointSliceMirroringController"."MirroringConcurrentServiceEndpointSyncs";
    namespace = 10, "concurrent-namespace-syncs", ["namespace"], "NamespaceController"."ConcurrentNamespaceSyncs";
    quota = 5, "concurrent-resource-quota-syncs", ["resource_quota_controller_resource_changes"], "ResourceQuotaController"."ConcurrentResourceQuotaSyncs";
    garbage = 20, "concurrent-gc-syncs", ["garbage_collector_attempt_to_delete"], "GarbageCollectorController"."ConcurrentGCSyncs";
    tokens = 5, "concurrent-serviceaccount-token-syncs", ["serviceaccount_tokens_secret", "serviceaccount_tokens_service"], "SAController"."ConcurrentSATokenSyncs";
    ttl_after_finished = 5, "concurrent-ttl-after-finished-syncs", ["ttl_jobs_to_delete"], "TTLAfterFinishedController"."ConcurrentTTLSyncs";
    ephemeral_volume = 5, "concurrent-ephemeralvolume-syncs", ["ephemeral_volume"], "EphemeralVolumeController"."ConcurrentEphemeralVolumeSyncs";
    resource_claim = 50, "concurrent-resourceclaim-syncs", ["resource_claim"], "ResourceClaimController"."ConcurrentSyncs";
    device_taint_eviction = 8, "concurrent-device-taint-eviction-syncs", ["device_taint_eviction"], "DeviceTaintEvictionController"."ConcurrentSyncs";
    policy_status = 5, "concurrent-validating-admission-policy-status-syncs", ["validatingadmissionpolicy-status"], "ValidatingAdmissionPolicyStatusController"."ConcurrentPolicySyncs";
    autoscaler = 5, "concurrent-horizontal-pod-autoscaler-syncs", ["horizontalpodautoscaler"], "HPAController"."ConcurrentHorizontalPodAutoscalerSyncs";
}
