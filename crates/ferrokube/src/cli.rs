//! The command line.

use crate::{down, image, scheduler, store, up};
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
    /// Run the scheduler alone, beside any API server
    Scheduler(scheduler::Options),
    /// Measure any conformant server given a kubeconfig
    Bench(ferrokube_bench::Args),
    /// Print a completion script
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Writes the completion script of a shell to standard output.
pub fn completion(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "ferrokube", &mut std::io::stdout());
}
