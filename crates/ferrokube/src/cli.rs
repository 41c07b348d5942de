//! The command line.

use crate::component::ignored;
use crate::{apiserver, cloud_controller_manager, controller_manager, down, image, scheduler, store, up};
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
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
    #[command(args_override_self = true)]
    Apiserver(Box<apiserver::Options>),
    /// Run the controllers alone, beside any API server
    #[command(args_override_self = true)]
    ControllerManager(Box<controller_manager::Options>),
    /// Run the controllers of the place that the cluster runs in, beside any API server
    #[command(args_override_self = true)]
    CloudControllerManager(Box<cloud_controller_manager::Options>),
    /// Run the scheduler alone, beside any API server
    #[command(args_override_self = true)]
    Scheduler(Box<scheduler::Options>),
    /// Measure any conformant server given a kubeconfig
    Bench(ferrokube_bench::Args),
    /// Print a completion script
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The command line of this process, and its flags that change nothing; an error ends the process and says what is wrong.
pub fn parse() -> (Cli, Vec<String>) {
    read(std::env::args_os()).unwrap_or_else(|e| e.exit())
}

fn read(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<(Cli, Vec<String>), clap::Error> {
    let all = Cli::command();
    let matches: ArgMatches = all.clone().try_get_matches_from(arguments)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let given = matches.subcommand().and_then(|(name, matches)| Some(ignored::given(all.find_subcommand(name)?, matches)));
    Ok((cli, given.unwrap_or_default()))
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

#[cfg(test)]
mod tests;
