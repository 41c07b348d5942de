//! The one binary: command line, configuration, PKI, bootstrap, wiring, supervision.
//!
//! Before anything else it looks whether it was started as something small: a CNI plugin, or a pod's shim. Those must not
//! pay for (or be disturbed by) threads and an async runtime.

mod apiserver;
mod cli;
mod cloud_controller_manager;
mod component;
mod controller_manager;
mod down;
mod flags;
mod image;
mod kubeconfig;
mod layout;
mod memory;
mod pki;
mod scheduler;
mod store;
mod up;
mod wire;

use cli::{Cli, Command};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if ferrokube_network::cni::requested() {
        return ferrokube_network::cni::main();
    }
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|a| a == ferrokube_runtime::shim::COMMAND) {
        return ferrokube_runtime::shim::main(arguments);
    }
    let (cli, without_effect) = cli::parse();
    logging();
    if !without_effect.is_empty() {
        tracing::warn!("without effect here: {}", without_effect.join(", "));
    }
    small_pages();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().thread_name("ferrokube").on_thread_park(memory::before_sleep).build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let outcome = runtime.block_on(run(cli));
        // Blocking reads of files that nobody waits for must not hold the exit up.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Huge pages would triple the memory of a process whose heap is many small things. Shims switch them on again for containers.
fn small_pages() {
    if let Err(e) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!("transparent huge pages stay on: {e}");
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    tokio::spawn(memory::rounds());
    match cli.command {
        Command::Up(options) => up::run(*options).await,
        Command::Down(options) => down::down(&options).await,
        Command::Reset(options) => down::reset(&options).await,
        Command::Image { data_dir, command } => image::run(data_dir, command).await,
        Command::Store { command } => store::run(command).await,
        Command::Apiserver(options) => apiserver::run(*options).await,
        Command::ControllerManager(options) => controller_manager::run(*options).await,
        Command::CloudControllerManager(options) => cloud_controller_manager::run(*options).await,
        Command::Scheduler(options) => scheduler::run(*options).await,
        Command::Bench(args) => ferrokube_bench::run(args).await,
        Command::Completion { shell } => {
            cli::completion(shell);
            Ok(())
        }
    }
}

/// Warnings by default; `FERROKUBE_LOG=debug` or `FERROKUBE_LOG=ferrokube_kubelet=debug` for more.
fn logging() {
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("FERROKUBE_LOG").unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
