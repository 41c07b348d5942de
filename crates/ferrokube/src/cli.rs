//! The command line.

use crate::{apiserver, cloud_controller_manager, controller_manager, down, image, scheduler, store, up};
use clap::{CommandFactory, Parser, Subcommand};
use std::path::PathBuf;

/// A complete Kubernetes cluster in one binary.
#[derive(Parser, Debug)]
#[command(name = "ferrokube", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Everything the binary does.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a cluster on this machine until interrupted
    Up(Box<up::Options>),
    /// End the cluster of this machine and remove every trace but its data
    Down(down::Options),
    /// End the cluster of this machine and remove its data too
    Reset(down::Options),
    /// Import, list and remove container images of this node
    Image {
        /// The cluster's data directory, as given to `up`
        #[arg(long, value_name = "DIR", env = "FERROKUBE_DATA_DIR", global = true)]
        data_dir: Option<PathBuf>,
        /// What to do
        #[command(subcommand)]
        command: image::Command,
    },
    /// Back up, restore and verify what the cluster stores
    Store {
        /// What to do
        #[command(subcommand)]
        command: store::Command,
    },
    /// Run the API server alone
    Apiserver(Box<apiserver::Options>),
    /// Run the controllers alone, beside any API server
    ControllerManager(Box<controller_manager::Options>),
    /// Run the controllers of the place that the cluster runs in, beside any API server
    CloudControllerManager(Box<cloud_controller_manager::Options>),
    /// Run the scheduler alone, beside any API server
    Scheduler(Box<scheduler::Options>),
    /// Measure any conformant server given a kubeconfig
    Bench(ferrokube_bench::Args),
    /// Print a completion script
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The flags that this process was started with, by name, defaults included.
pub fn flags() -> Vec<(String, String)> {
    let all = Cli::command();
    let matches = all.clone().get_matches();
    let Some((name, matches)) = matches.subcommand() else { return Vec::new() };
    let Some(command) = all.find_subcommand(name) else { return Vec::new() };
    let value = |id: &str| {
        let values = matches.get_raw(id)?;
        Some(values.map(|v| v.to_string_lossy()).collect::<Vec<_>>().join(","))
    };
    let flags = command.get_arguments().filter_map(|a| Some((a.get_long()?.to_owned(), value(a.get_id().as_str())?)));
    let mut flags: Vec<_> = flags.collect();
    flags.sort();
    flags
}

/// Writes the completion script of a shell to standard output.
pub fn completion(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "ferrokube", &mut std::io::stdout());
}
