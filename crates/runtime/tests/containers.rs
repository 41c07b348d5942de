//! Real pods through CRI, on a host of its own.

mod node;

use anyhow::Result;
use ferrokube_cri::v1::*;
use ferrokube_testkit::lab::available;
use node::{RuntimeNode, pod, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_lives_from_create_to_remove() -> Result<()> {
    if !available("a_container_lives_from_create_to_remove") {
        return Ok(());
    }
    let mut node = RuntimeNode::start().await?;
    let sandbox = node.pod(pod("web")).await?;
    let id = node.create(&sandbox, script("main", "echo out; echo err >&2; hostname; sleep 1000")).await?;
    assert_eq!(node.status(&id).await?.state(), ContainerState::ContainerCreated);
    let started = std::time::Instant::now();
    node.runtime.start_container(StartContainerRequest { container_id: id.clone() }).await?;
    println!("start: {:?}", started.elapsed());
    let status = node.status(&id).await?;
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert!(status.started_at >= status.created_at);

    let answer = node.exec(&id, &["sh", "-c", "echo hi; echo no >&2; exit 3"]).await?;
    assert_eq!((answer.exit_code, answer.stdout.as_slice(), answer.stderr.as_slice()), (3, &b"hi\n"[..], &b"no\n"[..]));
    let mut lines = node.log("main")?;
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout F web"]);

    node.runtime.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 0 }).await?;
    let status = node.status(&id).await?;
    assert_eq!((status.state(), status.exit_code, status.reason.as_str()), (ContainerState::ContainerExited, 137, "Error"));
    for _ in 0..2 {
        node.runtime.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 5 }).await?;
    }
    for _ in 0..2 {
        node.runtime.remove_container(RemoveContainerRequest { container_id: id.clone() }).await?;
    }
    let error = node.status(&id).await.expect_err("it is gone").downcast::<tonic::Status>()?;
    assert_eq!(error.code(), tonic::Code::NotFound);
    for _ in 0..2 {
        node.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await?;
    }
    for _ in 0..2 {
        node.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await?;
    }
    assert!(node.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items.is_empty());
    let mounts = node.node.exec(["cat", "/proc/mounts"]).await?;
    assert!(!mounts.contains("/run/rt") && !mounts.contains("overlay /var/lib/rt"), "{mounts}");
    assert!(node.node.processes().iter().all(|process| process.command.get(1).is_none_or(|argument| argument != "shim")));
    Ok(())
}
