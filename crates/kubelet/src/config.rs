//! Configuration of the kubelet, with the defaults of `KubeletConfiguration` 1.36 where it has them.

use crate::node::thresholds::Thresholds;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Everything that a kubelet is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// Addresses of the node, primary first.
    pub node_ips: Vec<IpAddr>,
    /// `/var/lib/kubelet`: pods, volumes, plugins.
    pub root: PathBuf,
    /// `/var/log/pods`.
    pub pod_logs: PathBuf,
    /// CRI endpoint, `unix:///path`.
    pub runtime_endpoint: String,
    /// Timeout of a CRI call.
    pub runtime_timeout: Duration,
    /// Where the HTTPS server listens (`0.0.0.0:10250`).
    pub server_address: SocketAddr,
    /// Certificate of the HTTPS server, PEM.
    pub server_cert_pem: Vec<u8>,
    /// Its key, PEM.
    pub server_key_pem: Vec<u8>,
    /// CA of client certificates for the HTTPS server, PEM.
    pub client_ca_pem: Vec<u8>,
    /// Cluster DNS servers given to pods.
    pub cluster_dns: Vec<IpAddr>,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// The host's resolv.conf, for `dnsPolicy: Default`.
    pub resolv_conf: PathBuf,
    /// Directory of static pods (`--pod-manifest-path`).
    pub static_pods: Option<PathBuf>,
    /// Most pods on this node (110).
    pub max_pods: u32,
    /// Parent of all pod cgroups (`/kubepods`).
    pub cgroup_root: String,
    /// Taints to register with: `key=value:Effect`.
    pub register_taints: Vec<String>,
    /// More labels to register with.
    pub labels: Vec<(String, String)>,
    /// Pods without a seccomp profile get RuntimeDefault.
    pub seccomp_default: bool,
    /// Below this much memory or disk, pods are evicted.
    pub eviction_hard: Thresholds,
    /// Logs of a container are rotated at this size.
    pub log_max_size: u64,
    /// And that many files are kept.
    pub log_max_files: u32,
    /// Period of the node's lease renewal (10 s) and status computation.
    pub heartbeat: Duration,
    /// Version that the Node reports, `v1.36.x`.
    pub version: String,
}

impl Config {
    /// The directory of a pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    /// The log directory of a pod: `<namespace>_<name>_<uid>`.
    pub fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_logs.join(format!("{namespace}_{name}_{uid}"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::Config;
    use std::time::Duration;

    /// A configuration for tests of what is made from it.
    pub fn config() -> Config {
        Config {
            node_name: "n1".into(),
            node_ips: vec![[192, 0, 2, 1].into()],
            root: "/var/lib/kubelet".into(),
            pod_logs: "/var/log/pods".into(),
            runtime_endpoint: "unix:///run/none.sock".into(),
            runtime_timeout: Duration::from_secs(1),
            server_address: ([127, 0, 0, 1], 0).into(),
            server_cert_pem: Vec::new(),
            server_key_pem: Vec::new(),
            client_ca_pem: Vec::new(),
            cluster_dns: vec![[10, 96, 0, 10].into()],
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            static_pods: None,
            max_pods: 110,
            cgroup_root: "/kubepods".into(),
            register_taints: Vec::new(),
            labels: Vec::new(),
            seccomp_default: true,
            eviction_hard: Default::default(),
            log_max_size: 10 << 20,
            log_max_files: 5,
            heartbeat: Duration::from_secs(10),
            version: "v1.36.0".into(),
        }
    }
}
