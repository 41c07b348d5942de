//! Flags that change how single controllers judge: one row per flag, with upstream's name and default.

use crate::flags::duration;
use anyhow::{Result, ensure};
use clap::Args;
use ferrokube_controllers::{Autoscaling, EndpointLimits, LegacyTokens, NodeHealth, PodGarbage, QuotaPeriod, Settings, VolumeHandling};
use serde_json::{Value, json};
use std::time::Duration;

/// The flags.
#[derive(Args, Debug)]
#[command(next_help_heading = "How controllers judge")]
pub struct TuningFlags {
    /// A node that was not heard of for so long is lost
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "50s")]
    node_monitor_grace_period: Duration,
    /// The same for a node that never said anything
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "60s")]
    node_startup_grace_period: Duration,
    /// Lost nodes per second that are given up in a zone
    #[arg(long, value_name = "RATE", default_value_t = 0.1)]
    node_eviction_rate: f64,
    /// The same in a large zone much of which is lost
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    secondary_node_eviction_rate: f64,
    /// Nodes up to which a zone is small: no node is given up while much of it is lost
    #[arg(long, value_name = "N", default_value_t = 50)]
    large_cluster_size_threshold: usize,
    /// Share of lost nodes that is much
    #[arg(long, value_name = "SHARE", default_value_t = 0.55)]
    unhealthy_zone_threshold: f64,
    /// Pods that are over and may stay; 0: all of them
    #[arg(long, value_name = "N", default_value_t = 12500)]
    terminated_pod_gc_threshold: usize,
    /// How often an autoscaler is looked at
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "15s")]
    horizontal_pod_autoscaler_sync_period: Duration,
    /// How far from its goal a metric may be without anything happening
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    horizontal_pod_autoscaler_tolerance: f64,
    /// How far an autoscaler looks back before it shrinks
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    horizontal_pod_autoscaler_downscale_stabilization: Duration,
    /// How long after its start the CPU of a pod that is not ready does not count
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    horizontal_pod_autoscaler_cpu_initialization_period: Duration,
    /// How long after its start a pod may turn unready and still count as not yet ready
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    horizontal_pod_autoscaler_initial_readiness_delay: Duration,
}

impl TuningFlags {
    /// As the controllers are told.
    pub fn settings(&self) -> Result<Settings> {
        for (flag, rate) in [
            ("node-eviction-rate", self.node_eviction_rate),
            ("secondary-node-eviction-rate", self.secondary_node_eviction_rate),
            ("horizontal-pod-autoscaler-tolerance", self.horizontal_pod_autoscaler_tolerance),
        ] {
            ensure!(rate.is_finite() && rate >= 0.0, "--{flag} must not be negative");
        }
        ensure!((0.0..=1.0).contains(&self.unhealthy_zone_threshold), "--unhealthy-zone-threshold must be between 0 and 1");
        ensure!(!self.horizontal_pod_autoscaler_sync_period.is_zero(), "--horizontal-pod-autoscaler-sync-period must be more than nothing");
        Ok(Settings {
            nodes: NodeHealth {
                grace: self.node_monitor_grace_period,
                startup_grace: self.node_startup_grace_period,
                eviction_rate: self.node_eviction_rate,
                secondary_eviction_rate: self.secondary_node_eviction_rate,
                large_zone: self.large_cluster_size_threshold,
                unhealthy_share: self.unhealthy_zone_threshold,
            },
            autoscaling: Autoscaling {
                period: self.horizontal_pod_autoscaler_sync_period,
                tolerance: self.horizontal_pod_autoscaler_tolerance,
                downscale_window: self.horizontal_pod_autoscaler_downscale_stabilization,
                initialization: self.horizontal_pod_autoscaler_cpu_initialization_period,
                readiness_delay: self.horizontal_pod_autoscaler_initial_readiness_delay,
            },
            pods: PodGarbage { threshold: self.terminated_pod_gc_threshold },
            ..Settings::default()
        })
    }

    /// As `/configz` shows them.
    pub fn show(&self, shown: &mut Value) {
        let text = |d: Duration| format!("{}s", d.as_secs_f64());
        shown["NodeLifecycleController"] = json!({
            "NodeMonitorGracePeriod": text(self.node_monitor_grace_period), "NodeStartupGracePeriod": text(self.node_startup_grace_period),
            "NodeEvictionRate": self.node_eviction_rate, "SecondaryNodeEvictionRate": self.secondary_node_eviction_rate,
            "LargeClusterSizeThreshold": self.large_cluster_size_threshold, "UnhealthyZoneThreshold": self.unhealthy_zone_threshold,
        });
        shown["PodGCController"] = json!({"TerminatedPodGCThreshold": self.terminated_pod_gc_threshold});
        let of = &mut shown["HPAController"];
        of["HorizontalPodAutoscalerSyncPeriod"] = text(self.horizontal_pod_autoscaler_sync_period).into();
        of["HorizontalPodAutoscalerTolerance"] = self.horizontal_pod_autoscaler_tolerance.into();
        of["HorizontalPodAutoscalerDownscaleStabilizationWindow"] = text(self.horizontal_pod_autoscaler_downscale_stabilization).into();
        of["HorizontalPodAutoscalerCPUInitializationPeriod"] = text(self.horizontal_pod_autoscaler_cpu_initialization_period).into();
        of["HorizontalPodAutoscalerInitialReadinessDelay"] = text(self.horizontal_pod_autoscaler_initial_readiness_delay).into();
    }
}

/// Flags about endpoints, volumes, quotas and tokens.
#[derive(Args, Debug)]
#[command(next_help_heading = "Endpoints, volumes, quotas, tokens")]
pub struct ObjectFlags {
    /// Endpoints in a slice
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    max_endpoints_per_slice: u16,
    /// Addresses that are mirrored of a subset of endpoints
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=1000))]
    mirroring_max_endpoints_per_subset: u16,
    /// How long changes of pods wait for others before endpoints are written
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    endpoint_updates_batch_period: Duration,
    /// The same for slices
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    endpointslice_updates_batch_period: Duration,
    /// The same for slices that mirror endpoints
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    mirroring_endpointslice_updates_batch_period: Duration,
    /// How often claims that wait are looked at again
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "15s")]
    pvclaimbinder_sync_period: Duration,
    /// Ask external provisioners for volumes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    enable_dynamic_provisioning: bool,
    /// Leave volumes on an unhealthy node that does not unmount them
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    disable_force_detach_on_timeout: bool,
    /// How often the usage of quotas is counted anew
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    resource_quota_sync_period: Duration,
    /// A token in a Secret that was unused for so long becomes invalid, and goes after as long again
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "8760h")]
    legacy_service_account_token_clean_up_period: Duration,
}

impl ObjectFlags {
    /// Settings with what these flags say.
    pub fn change(&self, settings: Settings) -> Result<Settings> {
        ensure!(!self.pvclaimbinder_sync_period.is_zero(), "--pvclaimbinder-sync-period must be more than nothing");
        ensure!(!self.resource_quota_sync_period.is_zero(), "--resource-quota-sync-period must be more than nothing");
        Ok(Settings {
            endpoints: EndpointLimits {
                per_slice: usize::from(self.max_endpoints_per_slice),
                mirrored_per_subset: usize::from(self.mirroring_max_endpoints_per_subset),
                endpoints_wait: self.endpoint_updates_batch_period,
                slices_wait: self.endpointslice_updates_batch_period,
                mirrored_wait: self.mirroring_endpointslice_updates_batch_period,
            },
            volumes: VolumeHandling {
                period: self.pvclaimbinder_sync_period,
                provision: self.enable_dynamic_provisioning,
                force_detach: !self.disable_force_detach_on_timeout,
            },
            quotas: QuotaPeriod(self.resource_quota_sync_period),
            legacy_tokens: LegacyTokens { unused: self.legacy_service_account_token_clean_up_period },
            ..settings
        })
    }

    /// As `/configz` shows them.
    pub fn show(&self, shown: &mut Value) {
        let text = |d: Duration| format!("{}s", d.as_secs_f64());
        let slices = &mut shown["EndpointSliceController"];
        slices["MaxEndpointsPerSlice"] = self.max_endpoints_per_slice.into();
        slices["EndpointUpdatesBatchPeriod"] = text(self.endpointslice_updates_batch_period).into();
        let mirrored = &mut shown["EndpointSliceMirroringController"];
        mirrored["MirroringMaxEndpointsPerSubset"] = self.mirroring_max_endpoints_per_subset.into();
        mirrored["MirroringEndpointUpdatesBatchPeriod"] = text(self.mirroring_endpointslice_updates_batch_period).into();
        shown["EndpointController"]["EndpointUpdatesBatchPeriod"] = text(self.endpoint_updates_batch_period).into();
        shown["PersistentVolumeBinderController"] = json!({
            "PVClaimBinderSyncPeriod": text(self.pvclaimbinder_sync_period),
            "VolumeConfiguration": {"EnableDynamicProvisioning": self.enable_dynamic_provisioning},
        });
        shown["AttachDetachController"]["DisableForceDetachOnTimeout"] = self.disable_force_detach_on_timeout.into();
        shown["ResourceQuotaController"]["ResourceQuotaSyncPeriod"] = text(self.resource_quota_sync_period).into();
        let period = text(self.legacy_service_account_token_clean_up_period);
        shown["LegacySATokenCleaner"]["CleanUpPeriod"] = period.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        tuning: TuningFlags,
        #[command(flatten)]
        objects: ObjectFlags,
    }

    fn settings(flags: &[&str]) -> Result<Settings> {
        let line = Line::try_parse_from([&["kube-controller-manager"], flags].concat())?;
        line.objects.change(line.tuning.settings()?)
    }

    #[test]
    fn without_flags_the_controllers_judge_as_upstream_does() {
        assert_eq!(settings(&[]).unwrap(), Settings::default());
    }

    #[test]
    fn flags_change_what_they_name_and_nonsense_is_refused() {
        let changed =
            settings(&["--node-monitor-grace-period=20s", "--horizontal-pod-autoscaler-tolerance=0.2", "--node-eviction-rate=0"]).unwrap();
        assert_eq!(changed.nodes, NodeHealth { grace: Duration::from_secs(20), eviction_rate: 0.0, ..NodeHealth::default() });
        assert_eq!(changed.autoscaling, Autoscaling { tolerance: 0.2, ..Autoscaling::default() });
        let changed = settings(&["--max-endpoints-per-slice=7", "--enable-dynamic-provisioning=false"]).unwrap();
        assert_eq!(changed.endpoints, EndpointLimits { per_slice: 7, ..EndpointLimits::default() });
        assert_eq!(changed.volumes, VolumeHandling { provision: false, ..VolumeHandling::default() });
        for nonsense in [
            "--node-eviction-rate=-1",
            "--unhealthy-zone-threshold=2",
            "--horizontal-pod-autoscaler-sync-period=0s",
            "--max-endpoints-per-slice=1001",
            "--pvclaimbinder-sync-period=0s",
        ] {
            assert!(settings(&[nonsense]).is_err(), "{nonsense}");
        }
    }
}
