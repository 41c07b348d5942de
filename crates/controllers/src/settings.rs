//! What the flags of kube-controller-manager change in single controllers. The defaults are upstream's.

use std::time::Duration;

/// Settings of single controllers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// When a node counts as lost, and how fast lost nodes are given up.
    pub nodes: NodeHealth,
    /// How autoscalers judge.
    pub autoscaling: Autoscaling,
    /// Which pods are garbage.
    pub pods: PodGarbage,
    /// How endpoints are put into slices.
    pub endpoints: EndpointLimits,
    /// Volumes and claims.
    pub volumes: VolumeHandling,
    /// `--resource-quota-sync-period`: how often what a namespace uses is counted anew.
    pub quotas: QuotaPeriod,
    /// Tokens that were once made for every service account.
    pub legacy_tokens: LegacyTokens,
}

/// Node lifecycle.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeHealth {
    /// `--node-monitor-grace-period`: a node that was not heard of for so long is lost.
    pub grace: Duration,
    /// `--node-startup-grace-period`: the same for one that never said anything.
    pub startup_grace: Duration,
    /// `--node-eviction-rate`: nodes per second that are given up in a zone.
    pub eviction_rate: f64,
    /// `--secondary-node-eviction-rate`: the same in a large zone much of which is silent.
    pub secondary_eviction_rate: f64,
    /// `--large-cluster-size-threshold`: in a zone up to this size nothing is given up while much of it is silent.
    pub large_zone: usize,
    /// `--unhealthy-zone-threshold`: the share of silent nodes that is much.
    pub unhealthy_share: f64,
}

impl Default for NodeHealth {
    fn default() -> Self {
        NodeHealth {
            grace: Duration::from_secs(50),
            startup_grace: Duration::from_secs(60),
            eviction_rate: 0.1,
            secondary_eviction_rate: 0.01,
            large_zone: 50,
            unhealthy_share: 0.55,
        }
    }
}

/// Horizontal autoscaling.
#[derive(Clone, Debug, PartialEq)]
pub struct Autoscaling {
    /// `--horizontal-pod-autoscaler-sync-period`.
    pub period: Duration,
    /// `--horizontal-pod-autoscaler-tolerance`, where an autoscaler says nothing else.
    pub tolerance: f64,
    /// `--horizontal-pod-autoscaler-downscale-stabilization`, where an autoscaler says nothing else.
    pub downscale_window: Duration,
    /// `--horizontal-pod-autoscaler-cpu-initialization-period`.
    pub initialization: Duration,
    /// `--horizontal-pod-autoscaler-initial-readiness-delay`.
    pub readiness_delay: Duration,
}

impl Default for Autoscaling {
    fn default() -> Self {
        Autoscaling {
            period: Duration::from_secs(15),
            tolerance: 0.1,
            downscale_window: Duration::from_secs(300),
            initialization: Duration::from_secs(300),
            readiness_delay: Duration::from_secs(30),
        }
    }
}

/// Pod garbage collection.
#[derive(Clone, Debug, PartialEq)]
pub struct PodGarbage {
    /// `--terminated-pod-gc-threshold`: so many pods that are over may stay; 0: all.
    pub threshold: usize,
}

impl Default for PodGarbage {
    fn default() -> Self {
        PodGarbage { threshold: 12500 }
    }
}

/// Endpoints and their slices.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointLimits {
    /// `--max-endpoints-per-slice`.
    pub per_slice: usize,
    /// `--mirroring-max-endpoints-per-subset`.
    pub mirrored_per_subset: usize,
    /// `--endpoint-updates-batch-period`: changes of pods wait so long for others.
    pub endpoints_wait: Duration,
    /// `--endpointslice-updates-batch-period`: the same for slices.
    pub slices_wait: Duration,
    /// `--mirroring-endpointslice-updates-batch-period`: the same for endpoints that are mirrored.
    pub mirrored_wait: Duration,
}

impl Default for EndpointLimits {
    fn default() -> Self {
        let none = Duration::ZERO;
        EndpointLimits { per_slice: 100, mirrored_per_subset: 1000, endpoints_wait: none, slices_wait: none, mirrored_wait: none }
    }
}

/// Volumes and claims.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeHandling {
    /// `--pvclaimbinder-sync-period`: how often what waits is looked at again, and said again.
    pub period: Duration,
    /// `--enable-dynamic-provisioning`: whether external provisioners are asked.
    pub provision: bool,
    /// Not `--disable-force-detach-on-timeout`: whether a volume is taken from an unhealthy node after six minutes.
    pub force_detach: bool,
}

impl Default for VolumeHandling {
    fn default() -> Self {
        VolumeHandling { period: Duration::from_secs(15), provision: true, force_detach: true }
    }
}

/// How often usage is counted anew.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaPeriod(pub Duration);

impl Default for QuotaPeriod {
    fn default() -> Self {
        QuotaPeriod(Duration::from_secs(300))
    }
}

/// Tokens in Secrets that nobody uses.
#[derive(Clone, Debug, PartialEq)]
pub struct LegacyTokens {
    /// `--legacy-service-account-token-clean-up-period`: unused for so long, a token is marked invalid; and after as long
    /// again deleted.
    pub unused: Duration,
}

impl Default for LegacyTokens {
    fn default() -> Self {
        LegacyTokens { unused: Duration::from_secs(8760 * 3600) }
    }
}
