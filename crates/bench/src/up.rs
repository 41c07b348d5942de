//! `bench up`: starts a cluster from nothing, several times, and measures when what is ready, and what it costs when idle.

use crate::connect::{Call, Server};
use crate::process::{self, Meter};
use crate::table::{self, Table};
use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// Options of `bench up`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Binary to start; this one when absent
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Clusters to start, one after the other
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// A whole cluster with a node (needs root) instead of the control plane only
    #[arg(long)]
    full: bool,
    /// Seconds to let it idle before its memory and CPU time are read
    #[arg(long, default_value_t = 5)]
    idle_seconds: u64,
    /// How long to wait for it to be ready, in seconds
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    /// Further arguments for `up`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// How often is looked, which is how exact the times are.
const LOOK: Duration = Duration::from_millis(1);

/// What is waited for, in this order.
const MILESTONES: [(&str, Milestone); 5] = [
    ("kubeconfig written", Milestone::Kubeconfig),
    ("/readyz", Milestone::Readyz),
    ("default service account", Milestone::ServiceAccount),
    ("it says that the cluster is ready", Milestone::Said),
    ("node Ready", Milestone::NodeReady),
];

/// What `up` says then.
const SAYS: &str = "Cluster ready";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Milestone {
    Kubeconfig,
    Readyz,
    ServiceAccount,
    Said,
    NodeReady,
}

/// What one run gave.
struct Run {
    reached: Vec<Duration>,
    resident: u64,
    proportional: u64,
    /// Share of one core while idle.
    idle_cpu: f64,
    stopped: Duration,
}

/// Measures.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    if args.runs == 0 {
        bail!("--runs must be at least 1");
    }
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe().context("finding this binary")?,
    };
    let milestones = &MILESTONES[..if args.full { 5 } else { 4 }];
    let mut runs = Vec::new();
    for n in 0..args.runs {
        let dir = std::env::temp_dir().join(format!("ferrokube-bench-up-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let result = once(&args, &binary, &dir, milestones).await;
        // On a failure the log is worth keeping.
        let run = result.with_context(|| {
            let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
            let end: Vec<&str> = log.lines().rev().take(5).collect();
            let end: String = end.into_iter().rev().map(|line| format!("  {line}\n")).collect();
            format!("run {} of {}; its log and data are in {}; the log ends:\n{end}", n + 1, args.runs, dir.display())
        })?;
        std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
        runs.push(run);
    }
    show(milestones, &runs);
    Ok(())
}

fn show(milestones: &[(&str, Milestone)], runs: &[Run]) {
    let rows = Table::new(&["from launch", "median", "fastest", "slowest"]);
    for (i, (name, _)) in milestones.iter().enumerate() {
        row(&rows, name, runs.iter().map(|r| r.reached[i]).collect());
    }
    row(&rows, "Ctrl-C to exit", runs.iter().map(|r| r.stopped).collect());
    println!();
    let rows = Table::new(&["idle, all its processes", "median", "least", "most"]);
    numbers(&rows, "resident memory, MiB (PSS)", runs.iter().map(|r| r.proportional as f64 / f64::from(1 << 20)).collect());
    numbers(&rows, "resident memory, MiB (RSS)", runs.iter().map(|r| r.resident as f64 / f64::from(1 << 20)).collect());
    numbers(&rows, "CPU, percent of a core", runs.iter().map(|r| r.idle_cpu * 100.0).collect());
}

fn row(rows: &Table, name: &str, mut values: Vec<Duration>) {
    values.sort_unstable();
    let cells = [table::quantile(&values, 0.5), values[0], values[values.len() - 1]];
    rows.row(std::iter::once(name.to_owned()).chain(cells.map(table::time)).collect());
}

fn numbers(rows: &Table, name: &str, mut values: Vec<f64>) {
    values.sort_unstable_by(f64::total_cmp);
    let cells = [values[values.len() / 2], values[0], values[values.len() - 1]];
    rows.row(std::iter::once(name.to_owned()).chain(cells.map(|v| format!("{v:.2}"))).collect());
}

async fn once(args: &Args, binary: &Path, dir: &Path, milestones: &[(&str, Milestone)]) -> anyhow::Result<Run> {
    let log = std::fs::File::create(dir.join("log"))?;
    let kubeconfig = dir.join("kubeconfig");
    let mut command = Command::new(binary);
    command.arg("up").arg("--data-dir").arg(dir.join("data")).arg("--kubeconfig").arg(&kubeconfig);
    if !args.full {
        command.arg("--control-plane-only");
    }
    command.args(&args.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    let launched = Instant::now();
    let mut child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
    let ready = tokio::time::timeout(Duration::from_secs(args.timeout), reach(&mut child, &kubeconfig, milestones, launched)).await;
    let result = match ready {
        Ok(Ok(reached)) => idle(&child, reached, Duration::from_secs(args.idle_seconds)).await,
        Ok(Err(error)) => Err(error),
        Err(_) => Err(anyhow::anyhow!("not ready after {} seconds", args.timeout)),
    };
    let stopped = stop(&mut child).await;
    if args.full {
        clean_up(binary, dir).await?;
    }
    let (mut run, stopped) = (result?, stopped?);
    run.stopped = stopped;
    Ok(run)
}

/// Waits for each milestone in turn; returns when each was reached.
async fn reach(child: &mut Child, kubeconfig: &Path, milestones: &[(&str, Milestone)], launched: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut reached = Vec::new();
    let mut server = None;
    for (name, milestone) in milestones {
        let mut last = String::new();
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("it ended with {status} before: {name} ({last})");
            }
            match look(*milestone, kubeconfig, &mut server).await {
                Ok(true) => break,
                Ok(false) => {}
                // Connections are refused at first; when it stays so the time limit tells.
                Err(error) => last = format!("{error:#}"),
            }
            tokio::time::sleep(LOOK).await;
        }
        reached.push(launched.elapsed());
    }
    Ok(reached)
}

async fn look(milestone: Milestone, kubeconfig: &Path, server: &mut Option<Server>) -> anyhow::Result<bool> {
    if milestone == Milestone::Kubeconfig && !kubeconfig.exists() {
        return Ok(false);
    }
    if milestone == Milestone::Said {
        return Ok(std::fs::read_to_string(kubeconfig.with_file_name("log"))?.contains(SAYS));
    }
    let server = match server {
        Some(server) => server,
        None => server.insert(Server::new(kubeconfig, 1)?),
    };
    let path = match milestone {
        Milestone::Kubeconfig | Milestone::Said => return Ok(true),
        Milestone::Readyz => "/readyz",
        Milestone::ServiceAccount => "/api/v1/namespaces/default/serviceaccounts/default",
        Milestone::NodeReady => "/api/v1/nodes",
    };
    let (status, body) = server.call(0, Call::get(path)).await?;
    if milestone != Milestone::NodeReady || !status.is_success() {
        return Ok(status.is_success());
    }
    let nodes: serde_json::Value = serde_json::from_slice(&body)?;
    let ready = |node: &serde_json::Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
    };
    Ok(nodes["items"].as_array().is_some_and(|nodes| !nodes.is_empty() && nodes.iter().all(ready)))
}

/// Lets it idle and reads what it costs.
async fn idle(child: &Child, reached: Vec<Duration>, time: Duration) -> anyhow::Result<Run> {
    let root = child.id().context("it has ended")?;
    // What is done once after the start is not idling.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let pids = process::tree(root);
    let (before, at) = (process::exact_cpu(&pids), Instant::now());
    tokio::time::sleep(time).await;
    let idle_cpu = process::exact_cpu(&pids).saturating_sub(before).as_secs_f64() / at.elapsed().as_secs_f64().max(1e-9);
    let after = Meter::new(pids.clone())?.read().context("a process of it has ended while idle")?;
    Ok(Run { reached, resident: after.resident, proportional: process::proportional(&pids), idle_cpu, stopped: Duration::ZERO })
}

/// Stops it as Ctrl-C does.
async fn stop(child: &mut Child) -> anyhow::Result<Duration> {
    let at = Instant::now();
    let Some(pid) = child.id() else { return Ok(Duration::ZERO) };
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGINT).context("interrupting it")?;
    match tokio::time::timeout(Duration::from_secs(60), child.wait()).await {
        Ok(status) => {
            status?;
            Ok(at.elapsed())
        }
        Err(_) => {
            child.kill().await?;
            bail!("it did not stop within a minute")
        }
    }
}

/// Removes what a node leaves behind on purpose: its running containers.
async fn clean_up(binary: &Path, dir: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(binary);
    command.arg("reset").arg("--data-dir").arg(dir.join("data")).arg("--kubeconfig").arg(dir.join("kubeconfig"));
    let out = command.stdin(Stdio::null()).output().await?;
    if !out.status.success() {
        bail!("reset: {}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}
