//! `bench scheduler`: the workloads of kube-scheduler's own benchmark (scheduler_perf), in our own words.
//!
//! Deciding alone shows what the plan costs, in memory what the whole scheduler does, and against a server what a cluster of hollow
//! nodes gets.

mod deciding;
mod memory;
mod play;
mod rows;
mod script;
mod server;
mod templates;
mod workloads;
mod world;

pub(crate) use templates::node;

use crate::connect::Target;
use anyhow::bail;
use script::{Sizes, Workload};

/// Options of `bench scheduler`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Run the whole scheduler over objects in memory, without a server
    #[arg(long)]
    in_memory: bool,
    /// Only decide, over a cluster in memory: no queue, no writes
    #[arg(long, conflicts_with = "in_memory")]
    deciding: bool,
    /// Only workloads whose names contain one of these
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Nodes, instead of those of the workload
    #[arg(long)]
    nodes: Option<usize>,
    /// Pods to measure, instead of those of the workload
    #[arg(long)]
    pods: Option<usize>,
    /// Pods that are there before, instead of those of the workload
    #[arg(long)]
    init_pods: Option<usize>,
    /// Requests at once while creating objects
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
    /// How long to wait for pods to be bound, in seconds
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// Let the hollow nodes say that pods run; scheduler_perf has no kubelets and counts until pods are bound
    #[arg(long)]
    run_pods: bool,
    /// Process of the server, to show its memory at the end
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    server_pid: Vec<u32>,
    /// Divide the numbers of nodes and pods of every workload by this
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    scale: u16,
}

impl Args {
    /// The workloads that are asked for, in the sizes that are asked for.
    fn workloads(&self) -> Vec<Workload> {
        let wanted = |w: &Workload| self.only.is_empty() || self.only.iter().any(|name| w.name.contains(name.as_str()));
        let sized = |w: Workload| {
            let scaled = |n: usize| n.div_ceil(usize::from(self.scale));
            let sizes = Sizes {
                nodes: self.nodes.unwrap_or_else(|| scaled(w.sizes.nodes)),
                init: self.init_pods.unwrap_or_else(|| scaled(w.sizes.init)),
                pods: self.pods.unwrap_or_else(|| scaled(w.sizes.pods)),
            };
            Workload { sizes, ..w }
        };
        workloads::all().into_iter().filter(wanted).map(sized).collect()
    }
}

/// Measures.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let list = args.workloads();
    if list.is_empty() {
        bail!("no workload has such a name; there are: {}", workloads::all().iter().map(|w| w.name).collect::<Vec<_>>().join(", "));
    }
    match (args.deciding, args.in_memory) {
        (true, _) => deciding::run(&list),
        (_, true) => memory::run(&args, &list).await,
        _ => server::run(&args, &list).await,
    }
}
