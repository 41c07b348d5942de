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
