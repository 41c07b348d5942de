//! Controllers on a bad day: errors, lost answers, delays, stale reads, watches that break or fall silent, restarts of theirs
//! and of the API server, one that is away for a minute, a webhook that hangs, a leader that stands still and goes on after
//! another has taken its place, a clock that jumps. Whatever happens, no pod is lost and none is there twice once it is over,
//! and what must never be is not there for a moment either: each scenario says what that is, and looks for it in everything
//! that was ever written (`history.rs`).
//!
//! Each seed is a run of its own, in a process of its own, on a paused clock and with dice of its own (`machine.rs`), so
//! that the same seed is the same run. `SIMULATION_SEEDS=2000` runs that many of each scenario (from `SIMULATION_FIRST` on);
//! with `--exact` and the name of a scenario's test, `SIMULATION_SEED=17` runs only that one, and `SIMULATION_TRACE=1` shows
//! every request of it.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod available;
mod checks;
mod claims;
mod faults;
mod history;
mod jobs;
mod kubelets;
mod ledger;
mod machine;
mod memory;
mod meter;
mod order;
mod ordered;
mod scenario;
mod server;
mod sizes;
mod workloads;
mod world;

use scenario::{Scenario, run};
use serde_json::{Value, json};
use std::process::Command;

/// Of each scenario, in the normal suite.
const SEEDS: u64 = 10;

pub const APPS: &str = "/apis/apps/v1/namespaces/default";
pub const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
pub const CORE: &str = "/api/v1/namespaces/default";
pub const CRONS: &str = "/apis/batch/v1/namespaces/default/cronjobs";
pub const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
pub const AWAY: &str = "/api/v1/namespaces/away";

/// Sets these fields.
fn add(to: &mut Value, more: Value) {
    for (key, value) in more.as_object().unwrap() {
        to[key] = value.clone();
    }
}

fn workload(name: &str, image: &str, more: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": image}], "terminationGracePeriodSeconds": 1}}});
    add(&mut spec, more);
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

/// A job whose pods have these labels.
fn job(name: &str, labels: Value, more: Value) -> Value {
    let mut all = json!({"app": name});
    add(&mut all, labels);
    let mut spec =
        json!({"template": {"metadata": {"labels": all}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    add(&mut spec, more);
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|e| panic!("{name}={v:?}: {e}")))
}

/// Runs a seed in this process, on a thread that nothing has run on before.
fn here<S: Scenario>(seed: u64) {
    let thread = std::thread::spawn(move || {
        machine::simulate(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run::<S>(seed))
    });
    let trace = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    println!("seed {seed}: {trace}");
}

/// Runs a seed in a process of its own: what a process keeps (tables made once, tokio's count of runtimes) is then as new.
/// Returns its trace, or what it said when it failed.
fn apart(test: &str, seed: u64) -> Result<String, String> {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", test, "--nocapture"]).env("SIMULATION_SEED", seed.to_string());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let trace = said.lines().find_map(|l| l.split_once(&format!("seed {seed}: ")).map(|(_, trace)| trace.to_owned()));
    match trace {
        Some(trace) if output.status.success() => Ok(trace),
        _ => Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// Runs the seeds of a scenario; `test` is the name of its test.
fn seeds<S: Scenario>(test: &str) {
    if let Some(seed) = number("SIMULATION_SEED") {
        return here::<S>(seed);
    }
    let first = number("SIMULATION_FIRST").unwrap_or(0);
    let mut failed = Vec::new();
    for seed in first..first + number("SIMULATION_SEEDS").unwrap_or(SEEDS) {
        if let Err(said) = apart(test, seed) {
            eprintln!("{said}");
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?} of {test} failed");
}

#[test]
fn no_pod_is_lost_or_there_twice_whatever_goes_wrong() {
    seeds::<workloads::Wanted>("no_pod_is_lost_or_there_twice_whatever_goes_wrong");
}

#[test]
fn jobs_end_and_are_counted_as_their_pods_ended() {
    seeds::<jobs::Jobs>("jobs_end_and_are_counted_as_their_pods_ended");
}

#[test]
fn pods_of_stateful_sets_keep_their_order_and_claims() {
    seeds::<ordered::Sets>("pods_of_stateful_sets_keep_their_order_and_claims");
}

#[test]
fn sizes_stay_within_bounds_and_shrink_late() {
    seeds::<sizes::Sizes>("sizes_stay_within_bounds_and_shrink_late");
}

#[test]
fn a_volume_has_one_claim_and_a_claim_one_volume() {
    seeds::<claims::Claims>("a_volume_has_one_claim_and_a_claim_one_volume");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| apart("no_pod_is_lost_or_there_twice_whatever_goes_wrong", seed).unwrap_or_else(|said| panic!("{said}"));
    let [once, again, other] = [7, 7, 8].map(run);
    assert_eq!(once, again);
    assert_ne!(once, other);
}
