//! The node part: container runtime, pod network, kubelet, service proxy, DNS, metrics server.

use super::addons;
use super::control_plane::ControlPlane;
use super::progress::Progress;
use super::supervise::supervise;
use super::{Options, Plan, metrics_server};
use crate::layout::Layout;
use crate::wire;
use anyhow::{Context, Result};
use ferrokube_client::{Caches, Client};
use ferrokube_kubelet::Kubelet;
use ferrokube_network::{Cidr, NodeNetwork, cni, proxy};
use ferrokube_runtime::{Cni, Runtime};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Prefix length of one node's share of the pod range.
pub(super) const MEMBER_CIDR: u8 = 24;
/// Where cluster DNS is served on the gateway address, behind the service's port 53.
const DNS_PORT: u16 = 53;
const DNS_METRICS_PORT: u16 = 9153;
/// The service proxy's health port, by convention.
pub(super) const PROXY_HEALTH_PORT: u16 = 10256;
/// The tenth service address is that of DNS, as kubeadm has it.
const DNS_SERVICE: u64 = 10;

/// The running node.
pub struct Node {
    runtime: Option<Runtime>,
    kubelet: Kubelet,
    parts: Vec<JoinHandle<()>>,
}

impl Node {
    /// Stops everything but the containers.
    pub async fn stop(self) {
        self.parts.iter().for_each(JoinHandle::abort);
        self.kubelet.stop().await;
        if let Some(runtime) = self.runtime {
            runtime.shutdown().await;
        }
    }
}

/// The pod network as this node has it: the first share of the range.
pub fn node_network(options: &Options, layout: &Layout) -> Option<NodeNetwork> {
    let prefix = options.pod_cidr.prefix().max(MEMBER_CIDR);
    let network = NodeNetwork {
        cluster_cidr: options.pod_cidr,
        pod_cidr: Cidr::new(options.pod_cidr.network(), prefix),
        service_cidr: options.service_cidr,
        mtu: None,
        data_dir: layout.network(),
    };
    Some(network)
}

/// Starts the node; returns when it is Ready and DNS answers.
pub async fn start(plan: &Plan, control_plane: &ControlPlane, progress: &Progress) -> Result<Node> {
    let network = node_network(&plan.options, &plan.layout).context("no pod network")?;
    let began = Instant::now();
    let network = network.with_detected_mtu().context("cannot look at this machine's network")?;
    ferrokube_network::node::set_up(&network).context("cannot set up the pod network")?;
    write_cni(plan, &network).context("cannot write the network configuration")?;
    progress.done("pod network", began, &network.pod_cidr.to_string());
    let began = Instant::now();
    let runtime = match &plan.options.container_runtime_endpoint {
        Some(_) => None,
        None => Some(Runtime::start(runtime_config(plan)?).await.context("cannot start the container runtime")?),
    };
    let endpoint =
        plan.options.container_runtime_endpoint.clone().unwrap_or_else(|| format!("unix://{}", plan.layout.cri_socket().display()));
    progress.done("container runtime", began, if runtime.is_some() { "" } else { &endpoint });
    let began = Instant::now();
    let server = control_plane.server();
    let user = format!("system:node:{}", plan.node_name);
    let client = wire::client(server, &user, &["system:nodes"], "kubelet");
    let mut kubelet = Kubelet::start(kubelet_config(plan, endpoint)?, client).await?;
    let proxy_client = wire::client(server, "system:kube-proxy", &[], "kube-proxy");
    let dns_client = wire::account_client(server, addons::DNS_ACCOUNT, addons::DNS_ACCOUNT);
    // Add-ons are installed by the administrator, as kubeadm does it.
    let admin = wire::client(server, "kubernetes-admin", &[crate::pki::ADMIN_GROUP], "ferrokube");
    let storage_client = wire::account_client(server, ferrokube_provisioner::install::ACCOUNT, ferrokube_provisioner::install::ACCOUNT);
    let mut parts = vec![proxy_part(plan, proxy_client), storage_part(plan, storage_client, admin.clone())];
    let dns_began = Instant::now();
    parts.extend(dns_part(plan, &network, dns_client, admin.clone()).await?);
    progress.done("DNS", dns_began, &plan.options.service_ip(DNS_SERVICE).to_string());
    if !plan.options.no_metrics_server {
        parts.push(metrics_server::start(plan, server)?);
    }
    kubelet.ready().await;
    addons::mark_control_plane(&admin, &plan.node_name).await.context("cannot label the node")?;
    progress.done("node", began, &format!("{} Ready at {}", plan.node_name, plan.node_ip));
    Ok(Node { runtime, kubelet, parts })
}

fn runtime_config(plan: &Plan) -> Result<ferrokube_runtime::Config> {
    let layout = &plan.layout;
    let mut config = ferrokube_runtime::Config {
        root: layout.runtime(),
        state: layout.run.clone(),
        socket: layout.cri_socket(),
        cni: Some(Cni { conf_dir: layout.cni_conf(), bin_dirs: vec![layout.cni_bin()] }),
        seccomp_root: layout.kubelet().join("seccomp"),
        ..ferrokube_runtime::Config::new()
    };
    for mirror in &plan.options.registry_mirror {
        let (host, url) = mirror.split_once('=').with_context(|| format!("--registry-mirror {mirror:?} is not HOST=URL"))?;
        config.images.mirrors.entry(host.to_owned()).or_default().push(url.to_owned());
    }
    Ok(config)
}

/// The plugin is this very binary; the runtime finds it by a link.
fn write_cni(plan: &Plan, network: &NodeNetwork) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut places = vec![(plan.layout.cni_conf(), plan.layout.cni_bin())];
    if plan.options.container_runtime_endpoint.is_some() {
        places.push((PathBuf::from("/etc/cni/net.d"), PathBuf::from("/opt/cni/bin")));
    }
    for (conf, bin) in places {
        cni::install(network, &program, &bin, &conf)?;
    }
    Ok(())
}

fn kubelet_config(plan: &Plan, runtime_endpoint: String) -> Result<ferrokube_kubelet::Config> {
    let credentials = plan.pki.node(&plan.node_name, &[plan.node_ip])?;
    Ok(ferrokube_kubelet::Config {
        node_name: plan.node_name.clone(),
        node_ips: vec![plan.node_ip],
        root: plan.layout.kubelet(),
        pod_logs: plan.layout.pod_logs.clone(),
        runtime_endpoint,
        runtime_timeout: Duration::from_secs(120),
        server_address: SocketAddr::new(IpAddr::from([0, 0, 0, 0]), plan.options.kubelet_port),
        server_cert_pem: credentials.serving.certificate.into(),
        server_key_pem: credentials.serving.key.into(),
        client_ca_pem: plan.pki.ca().into(),
        cluster_dns: vec![plan.options.service_ip(DNS_SERVICE)],
        cluster_domain: plan.options.cluster_domain.clone(),
        resolv_conf: "/etc/resolv.conf".into(),
        static_pods: plan.options.pod_manifest_path.clone(),
        max_pods: 110,
        cgroup_root: "/kubepods".into(),
        register_taints: Vec::new(),
        labels: Vec::new(),
        seccomp_default: true,
        eviction_hard: plan.options.eviction_hard,
        log_max_size: 10 << 20,
        log_max_files: 5,
        heartbeat: Duration::from_secs(10),
        version: ferrokube_apiserver::VERSION.to_owned(),
    })
}

/// Volumes in directories of this node.
fn storage_part(plan: &Plan, client: Client, admin: Client) -> JoinHandle<()> {
    let (node_name, root) = (plan.node_name.clone(), plan.layout.volumes());
    supervise("local-path-provisioner", move || {
        let admin = admin.clone();
        let config = ferrokube_provisioner::Config { client: client.clone(), node_name: node_name.clone(), root: root.clone() };
        async move {
            match super::addons::local_path(&admin).await {
                Ok(()) => ferrokube_provisioner::run(config).await,
                Err(e) => tracing::warn!("the local-path provisioner cannot be installed: {e}"),
            }
        }
    })
}

fn proxy_part(plan: &Plan, client: Client) -> JoinHandle<()> {
    let config = proxy::Config {
        node_name: plan.node_name.clone(),
        cluster_cidr: Some(plan.options.pod_cidr),
        masquerade_all: false,
        healthz: Some(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), PROXY_HEALTH_PORT)),
    };
    supervise("proxy", move || {
        let (caches, config) = (Caches::new(client.clone()), config.clone());
        async move {
            if let Err(e) = proxy::run(&caches, config).await {
                tracing::error!("service proxy: {e}");
            }
        }
    })
}

async fn dns_part(plan: &Plan, network: &NodeNetwork, client: Client, registrar: Client) -> Result<Vec<JoinHandle<()>>> {
    let gateway = IpAddr::V4(network.gateway());
    let service = plan.options.service_ip(DNS_SERVICE);
    let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let own = [gateway, service, plan.node_ip];
    let config = ferrokube_dns::Config {
        domain: plan.options.cluster_domain.clone(),
        listen: vec![SocketAddr::new(gateway, DNS_PORT)],
        upstreams: ferrokube_dns::upstreams_of(&resolv, &own),
        service_addresses: vec![service],
        reverse_networks: [plan.options.pod_cidr, plan.options.service_cidr].iter().map(|c| (c.network(), c.prefix())).collect(),
        metrics: Some(SocketAddr::new(gateway, DNS_METRICS_PORT)),
        ..ferrokube_dns::Config::default()
    };
    addons::dns_role(&registrar).await.context("cannot write the role of cluster DNS")?;
    let caches = Caches::new(client);
    let server = ferrokube_dns::Server::start(config, &caches).await.context("cannot serve DNS")?;
    server.ready().await;
    let registration = ferrokube_dns::Registration {
        cluster_ip: service,
        server: SocketAddr::new(gateway, DNS_PORT),
        metrics_port: Some(DNS_METRICS_PORT),
        node_name: plan.node_name.clone(),
    };
    let register = supervise("dns-registration", move || {
        let (registrar, registration) = (registrar.clone(), registration.clone());
        let caches = Caches::new(registrar.clone());
        async move { ferrokube_dns::register(registrar, &caches, registration).await }
    });
    // The server stops when it is dropped, with the task that holds it.
    let holder = Arc::new(server);
    let hold = tokio::spawn(async move {
        let _holder = holder;
        std::future::pending::<()>().await;
    });
    Ok(vec![register, hold])
}
