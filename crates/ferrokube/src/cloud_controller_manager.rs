//! `ferrokube cloud-controller-manager`: the controllers of the place that the cluster runs in, beside any API server.
//!
//! The place is a set of machines without a cloud: Services of type LoadBalancer get the addresses of nodes, or those of a
//! pool. What it may do is no role of Kubernetes' own: whoever installs it makes `system:cloud-controller-manager`
//! (`--print-role`).

use crate::component::ignored::Cloud as Ignored;
use crate::component::{ConnectionFlags, ElectionFlags, ServingFlags, lead};
use crate::up::load_balancers::LoadBalancers;
use anyhow::{Result, bail};
use clap::Args;
use ferrokube_client::Caches;
use ferrokube_cloud::bare_metal::BareMetal;
use ferrokube_cloud::role;
use serde_json::json;
use std::sync::Arc;

const NAME: &str = "cloud-controller-manager";

/// TCP ports of a node that no Service gets: API server, kubelet, the proxy's health, the one people log in by.
const RESERVED: [u16; 4] = [6443, 10250, 10256, 22];

/// What it is told.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    connection: ConnectionFlags,
    /// Controllers to run: `*` all, `name` this one, `-name` not this one
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    controllers: Vec<String>,
    /// Name of the cluster
    #[arg(long, default_value = "kubernetes")]
    cluster_name: String,
    /// Addresses of Services of type LoadBalancer: `nodes` those of the nodes, or a list of CIDRs or FIRST-LAST ranges
    #[arg(long, value_name = "nodes|RANGE,...", default_value = "nodes")]
    load_balancers: LoadBalancers,
    /// The cloud has a manager of its own: this one
    #[arg(long, value_name = "NAME", hide = true, value_parser = ["external"])]
    cloud_provider: Option<String>,
    #[command(flatten)]
    ignored: Ignored,
    #[command(flatten)]
    election: ElectionFlags,
    #[command(flatten)]
    serving: ServingFlags<10258>,
    /// Print the role and binding that it needs, for `kubectl apply -f -`, and end
    #[arg(long)]
    print_role: bool,
}

impl Options {
    fn configuration(&self) -> serde_json::Value {
        json!({"cloudcontrollermanager.config.k8s.io": {
            "Generic": {
                "Address": self.serving.bind_address, "Port": self.serving.secure_port, "Controllers": self.controllers,
                "LeaderElection": self.election.configuration(NAME),
            },
            "KubeCloudShared": {"ClusterName": self.cluster_name},
        }})
    }
}

/// Runs until told to stop, or until another is elected.
pub async fn run(options: Options) -> Result<()> {
    if options.print_role {
        println!("{}", json!({"apiVersion": "v1", "kind": "List", "items": [role::cluster_role(), role::binding()]}));
        return Ok(());
    }
    if let Some(word) = ferrokube_cloud::unknown(&options.controllers) {
        bail!("--controllers: {word:?} is not in the list of known controllers");
    }
    let Some(addresses) = options.load_balancers.addresses(RESERVED) else {
        bail!("--load-balancers=none leaves nothing to do");
    };
    let election = options.election.election(NAME)?;
    let component = options.connection.component(NAME, options.configuration())?;
    options.serving.serve(&component, crate::cli::flags()).await?;
    let work = || {
        let caches = Caches::new(component.client.clone());
        let provider = Arc::new(BareMetal::new(addresses, &caches));
        let (client, cluster_name) = (component.client.clone(), options.cluster_name.clone());
        let (metrics, controllers) = (component.metrics.clone(), options.controllers.clone());
        ferrokube_cloud::run(ferrokube_cloud::Config { caches, client, provider, cluster_name, metrics, controllers })
    };
    lead(&component, election.as_ref(), work).await
}
