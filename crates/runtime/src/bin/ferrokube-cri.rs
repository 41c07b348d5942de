//! The container runtime alone: `ferrokube-cri ROOT STATE SOCKET [CNI-CONF-DIR CNI-BIN-DIR]`, until SIGTERM; with `purge` before that, it
//! removes everything that it ever made there. For tests, and for trying it out with any CRI client; the product's own binary wires the same
//! library.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use ferrokube_runtime::{Cni, Config, Runtime, shim};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // Before anything starts a thread: a shim has one and never more.
    if arguments.first().is_some_and(|first| first == shim::COMMAND) {
        return shim::main(arguments.into_iter().skip(1));
    }
    match serve(arguments.into_iter().map(PathBuf::from).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            eprintln!("ferrokube-cri: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(mut arguments: Vec<PathBuf>) -> anyhow::Result<()> {
    let purge = arguments.first().is_some_and(|first| first.as_os_str() == "purge");
    if purge {
        arguments.remove(0);
    }
    let [root, state, socket, network @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: ferrokube-cri [purge] ROOT STATE SOCKET [CNI-CONF-DIR CNI-BIN-DIR]");
    };
    let cni = match network {
        [conf_dir, bin_dir] => Some(Cni { conf_dir: conf_dir.clone(), bin_dirs: vec![bin_dir.clone()] }),
        _ => None,
    };
    let config = Config { root: root.clone(), state: state.clone(), socket: socket.clone(), cni, ..Config::new() };
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    threads.block_on(async {
        if purge {
            return Ok(Runtime::purge(config).await?);
        }
        let mut terminated = signal(SignalKind::terminate())?;
        let runtime = Runtime::start(config).await?;
        terminated.recv().await;
        runtime.shutdown().await;
        Ok(())
    })
}
