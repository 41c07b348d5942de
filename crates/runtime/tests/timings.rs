//! How long a pod's steps take and what a shim weighs. Prints; asserts only what would be absurd.
//! `cargo test --release -p ferrokube-runtime --test timings -- --ignored --nocapture`

mod node;

use std::time::{Duration, Instant};

use anyhow::Result;
use ferrokube_cri::v1::*;
use ferrokube_testkit::lab::available;
use node::{RuntimeNode, pod, script};

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn a_pods_steps() -> Result<()> {
    if !available("a_pods_steps") {
        return Ok(());
    }
    let mut node = RuntimeNode::start().await?;
    let mut times: [Vec<Duration>; 7] = Default::default();
    for round in 0..30 {
        let begin = Instant::now();
        let sandbox = node.pod(pod(&format!("p{round}"))).await?;
        times[0].push(begin.elapsed());
        let step = Instant::now();
        let id = node.create(&sandbox, script("main", "exec sleep 1000")).await?;
        times[1].push(step.elapsed());
        let step = Instant::now();
        node.runtime.start_container(StartContainerRequest { container_id: id.clone() }).await?;
        times[2].push(step.elapsed());
        times[3].push(begin.elapsed());
        let step = Instant::now();
        node.exec(&id, &["true"]).await?;
        times[4].push(step.elapsed());
        if round < 20 {
            let step = Instant::now();
            node.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await?;
            times[5].push(step.elapsed());
            let step = Instant::now();
            node.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await?;
            times[6].push(step.elapsed());
        }
    }
    let names = ["RunPodSandbox", "CreateContainer", "StartContainer", "all three", "ExecSync", "StopPodSandbox", "RemovePodSandbox"];
    for (name, times) in names.iter().zip(&mut times) {
        println!("{name:18} median {:?}, worst {:?}", median(times), times.last().copied().unwrap_or_default());
    }
    for process in node.node.processes() {
        if process.command.get(1).is_some_and(|argument| argument == "shim" || argument == "/var/lib/rt") {
            let memory = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid))?;
            let lines: Vec<&str> = memory
                .lines()
                .filter(|line| ["Rss:", "Pss:", "Private_Dirty:", "Anonymous:"].iter().any(|name| line.starts_with(name)))
                .collect();
            println!("{} {}", process.command[1], lines.join(" "));
            if process.command[1] == "shim" {
                break;
            }
        }
    }
    assert!(median(&mut times[3]) < Duration::from_secs(10));
    Ok(())
}
