//! `ferrokube up`: everything on this machine in one process; the main job.
//!
//! The order is: take the data directory, certificates, store, API server, controllers and scheduler; then, on a node,
//! container runtime, pod network, kubelet, service proxy, DNS, metrics server. Each part only gets its configuration and a client.
//! Pods outlive this process: a second `up` continues the same cluster with its containers.

mod addons;
pub mod apiserver;
mod control_plane;
pub mod load_balancers;
mod metrics_server;
mod node;
pub mod preflight;
pub mod progress;
pub mod store;
mod supervise;

use crate::kubeconfig;
use crate::layout::Layout;
use crate::pki::{self, Pki, PkiConfig};
use anyhow::{Context, Result};
use clap::Args;
use load_balancers::LoadBalancers;
use progress::{Progress, spoken};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Options of `up`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Only the control plane: API server, controllers, scheduler; needs no root
    #[arg(long)]
    pub control_plane_only: bool,
    /// Where the cluster's data is kept [default: /var/lib/ferrokube, or ~/.local/share/ferrokube without root]
    #[arg(long, value_name = "DIR", env = "FERROKUBE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Port of the API server; 0 takes any
    #[arg(long, default_value_t = 6443)]
    pub port: u16,
    /// Address the API server listens on [default: all with a node, else 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub bind_address: Option<IpAddr>,
    /// Name of the cluster, user and context in the kubeconfig
    #[arg(long, default_value = "ferrokube")]
    pub name: String,
    /// Kubeconfig to merge the cluster into [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Leave the kubeconfig alone; admin.conf in the data directory is always written
    #[arg(long)]
    pub no_kubeconfig: bool,
    /// Name of this node [default: the host name]
    #[arg(long)]
    pub node_name: Option<String>,
    /// Address of this node [default: that of the default route]
    #[arg(long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// Range of service addresses
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16")]
    pub service_cidr: ferrokube_network::Cidr,
    /// Range of pod addresses
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16")]
    pub pod_cidr: ferrokube_network::Cidr,
    /// Domain of cluster DNS names
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// A CRI runtime to use instead of the built-in one, such as unix:///run/containerd/containerd.sock
    #[arg(long, value_name = "ENDPOINT")]
    pub container_runtime_endpoint: Option<String>,
    /// Port of the kubelet's HTTPS server
    #[arg(long, default_value_t = 10250)]
    pub kubelet_port: u16,
    /// Controllers to run: `*` all that are on by default, `name` this one, `-name` not this one
    #[arg(long, value_delimiter = ',', default_value = "*")]
    pub controllers: Vec<String>,
    /// A KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1)
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
    /// Addresses of Services of type LoadBalancer: `nodes` those of the nodes, a list of CIDRs or FIRST-LAST ranges, or `none`
    #[arg(long, value_name = "nodes|none|RANGE,...", default_value = "nodes")]
    pub load_balancers: LoadBalancers,
    /// Leave out the metrics server (metrics.k8s.io, for `kubectl top` and autoscalers), to install another one
    #[arg(long)]
    pub no_metrics_server: bool,
    /// Where objects are kept
    #[command(flatten)]
    pub etcd: store::EtcdOptions,
    /// Pods are evicted when there is less of these on the node
    #[arg(long, value_name = "SIGNAL<VALUE,...", default_value_t)]
    pub eviction_hard: ferrokube_kubelet::Thresholds,
    /// Directory of manifests of static pods, which this node runs by itself
    #[arg(long, value_name = "DIR")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Registries to ask in place of another: HOST=URL, may be given several times
    #[arg(long, value_name = "HOST=URL")]
    pub registry_mirror: Vec<String>,
    /// The API server's own
    #[command(flatten)]
    pub apiserver: apiserver::ApiserverFlags,
    /// Tell nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl Options {
    /// Where the API server listens.
    pub fn listen(&self) -> SocketAddr {
        let default: IpAddr = if self.control_plane_only { Ipv4Addr::LOCALHOST.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        SocketAddr::new(self.bind_address.unwrap_or(default), self.port)
    }

    /// TCP ports that this machine needs for itself: those of the cluster, and the one people log in by.
    fn own_ports(&self) -> [u16; 4] {
        const SSH: u16 = 22;
        [self.port, self.kubelet_port, node::PROXY_HEALTH_PORT, SSH]
    }

    fn layout(&self) -> Layout {
        Layout::new(self.data_dir.clone(), nix::unistd::geteuid().is_root())
    }

    fn node_name(&self) -> Result<String> {
        if let Some(name) = &self.node_name {
            return Ok(name.clone());
        }
        let name = nix::unistd::gethostname().context("cannot read the host name")?;
        Ok(name.to_string_lossy().trim().to_lowercase())
    }

    /// The address of the n-th service.
    fn service_ip(&self, n: u64) -> IpAddr {
        self.service_cidr.nth(n).map_or(Ipv4Addr::UNSPECIFIED.into(), IpAddr::V4)
    }
}

/// What every part is made from.
pub(crate) struct Plan {
    pub options: Options,
    pub layout: Layout,
    pub node_name: String,
    pub node_ip: IpAddr,
    pub pki: Pki,
}

/// How long a stop may take before what is left is dropped.
const STOP: Duration = Duration::from_secs(15);

/// Runs until interrupted.
pub async fn run(options: Options) -> Result<()> {
    // Taken first: an interrupt during the start stops cleanly too.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::pin!(stop);
    let progress = Progress::new(options.quiet);
    let layout = options.layout();
    ferrokube_controllers::check(&options.controllers).context("--controllers")?;
    preflight::check(&options, &layout)?;
    let _instance = preflight::take(&layout)?;
    progress.line(&format!(
        "Ferrokube {} (Kubernetes {}), data in {}",
        env!("CARGO_PKG_VERSION"),
        ferrokube_apiserver::VERSION,
        layout.data.display()
    ));
    let plan = prepare(options, layout, &progress)?;
    let mut cluster = tokio::select! {
        started = start(&plan, &progress) => started?,
        () = &mut stop => {
            progress.line("Interrupted while starting; nothing is lost, `ferrokube up` continues.");
            return Ok(());
        }
    };
    tokio::select! {
        () = &mut stop => {}
        failed = cluster.failed() => progress.line(&format!("{failed}; stopping")),
    }
    let began = Instant::now();
    if tokio::time::timeout(STOP, cluster.stop()).await.is_err() {
        tracing::warn!("some parts did not stop in time");
    }
    let pods = if plan.options.control_plane_only { "" } else { " Pods go on running; `ferrokube down` ends them." };
    progress.line(&format!("Stopped in {}.{pods}", spoken(began.elapsed())));
    Ok(())
}

fn prepare(options: Options, layout: Layout, progress: &Progress) -> Result<Plan> {
    let began = Instant::now();
    let node_name = options.node_name()?;
    let gateway = node::node_network(&options, &layout).map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |n| n.gateway().into());
    let fallback = if options.control_plane_only { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { gateway };
    let node_ip = options.node_ip.unwrap_or_else(|| preflight::node_address(fallback));
    let advertise = vec![node_ip, options.listen().ip()];
    let pki = pki::ensure(
        &layout.pki(),
        &PkiConfig {
            cluster_name: options.name.clone(),
            dns_domain: options.cluster_domain.clone(),
            node_name: node_name.clone(),
            service_ip: options.service_ip(1),
            advertise,
            extra_sans: Vec::new(),
            server: server_url(options.listen()),
        },
    )?;
    progress.done("certificates", began, "");
    Ok(Plan { options, layout, node_name, node_ip, pki })
}

/// The URL by which this machine's users reach the server.
pub(crate) fn server_url(listen: SocketAddr) -> String {
    let host = if listen.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { listen.ip() };
    format!("https://{}", SocketAddr::new(host, listen.port()))
}

/// All running parts.
struct Cluster {
    control_plane: control_plane::ControlPlane,
    node: Option<node::Node>,
}

async fn start(plan: &Plan, progress: &Progress) -> Result<Cluster> {
    let control_plane = control_plane::start(plan, progress).await?;
    write_kubeconfig(plan, control_plane.address(), progress)?;
    if plan.options.control_plane_only || plan.options.no_metrics_server {
        metrics_server::take_back(control_plane.server());
    }
    let node = if plan.options.control_plane_only { None } else { Some(node::start(plan, &control_plane, progress).await?) };
    progress.line(&format!("Cluster ready in {}. Press Ctrl-C to stop.", spoken(progress.elapsed())));
    Ok(Cluster { control_plane, node })
}

impl Cluster {
    /// Resolves with a sentence when a part ended that cannot be started again.
    async fn failed(&mut self) -> String {
        self.control_plane.failed().await
    }

    async fn stop(self) {
        if let Some(node) = self.node {
            node.stop().await;
        }
        self.control_plane.stop().await;
    }
}

fn write_kubeconfig(plan: &Plan, address: SocketAddr, progress: &Progress) -> Result<()> {
    let options = &plan.options;
    let server = server_url(address);
    plan.pki.publish(&server)?;
    if options.no_kubeconfig {
        return Ok(());
    }
    let began = Instant::now();
    let Some(path) = options.kubeconfig.clone().or_else(kubeconfig::default_path) else { return Ok(()) };
    let entry = kubeconfig::Entry { name: &options.name, server: &server, ca: plan.pki.ca(), credential: &plan.pki.admin };
    kubeconfig::merge(&path, &entry)?;
    progress.done("kubeconfig", began, &format!("context {:?} in {}", options.name, path.display()));
    Ok(())
}
