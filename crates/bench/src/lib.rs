//! `ferrokube bench`: measures any conformant server given a kubeconfig, so that the same run measures this one and the Go control plane.
//!
//! It speaks plain HTTP with bodies made beforehand and looks into answers no more than it must: the client shares the cores with what
//! it measures. It must only ever touch namespaces that it made itself, and take away what else it made.

mod admission;
mod api;
mod churn;
mod connect;
mod controllers;
mod hollow;
mod list;
mod load;
mod many;
mod objects;
mod pods;
mod process;
mod scheduler;
mod table;
mod up;
mod watch;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Requests to an API server: throughput, latency, and what they cost the server
    Api(api::Args),
    /// The controllers: a Deployment through its life, latency under churn, memory; on hollow nodes
    Controllers(controllers::Args),
    /// Pods on a running cluster: from create to Ready, one by one and many at once
    Pods(pods::Args),
    /// The workloads of kube-scheduler's own benchmark: in memory, or against a server with hollow nodes
    Scheduler(scheduler::Args),
    /// Clusters from nothing: time until they are ready, and memory
    Up(up::Args),
}

/// Runs the measurements and prints them as Markdown tables.
///
/// # Errors
/// When the server is not reached, refuses what a measurement needs, or a measurement can't be made.
pub fn run(args: Args) -> futures_util::future::LocalBoxFuture<'static, anyhow::Result<()>> {
    // Boxed here: an `async fn` would be compiled again in every program that awaits it.
    Box::pin(measure(args))
}

async fn measure(args: Args) -> anyhow::Result<()> {
    println!("{}\n", process::machine());
    match args.command {
        Command::Api(args) => api::run(args).await,
        Command::Controllers(args) => controllers::run(args).await,
        Command::Pods(args) => pods::run(args).await,
        Command::Scheduler(args) => scheduler::run(args).await,
        Command::Up(args) => up::run(args).await,
    }
}
