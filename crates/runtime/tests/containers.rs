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
    assert_eq!(status.image.map(|image| image.image).as_deref(), Some(node::IMAGE));

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

#[tokio::test(flavor = "multi_thread")]
async fn containers_survive_a_crash_of_the_server_and_their_ends_are_seen() -> Result<()> {
    if !available("containers_survive_a_crash_of_the_server_and_their_ends_are_seen") {
        return Ok(());
    }
    let mut node = RuntimeNode::start().await?;
    let sandbox = node.pod(pod("stays")).await?;
    let stays = node.run(&sandbox, script("stays", "trap 'exit 5' TERM; i=0; while true; do echo $i; i=$((i+1)); sleep 0.1; done")).await?;
    let ends = node.run(&sandbox, script("ends", "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; exit 7")).await?;
    let done = node.run(&sandbox, script("done", "exit 3")).await?;
    let waiting = node.create(&sandbox, script("waiting", "exit 9")).await?;
    assert_eq!(node.ended(&done).await?.exit_code, 3);
    let before = node.status(&stays).await?;
    let pid_of = async |node: &mut RuntimeNode| -> Result<String> {
        let request = ContainerStatusRequest { container_id: stays.clone(), verbose: true };
        let info = node.runtime.container_status(request).await?.into_inner().info;
        let info: serde_json::Value = serde_json::from_str(&info["info"])?;
        Ok(info["pid"].to_string())
    };
    let pid = pid_of(&mut node).await?;
    // A container that ends while nobody serves.
    node.exec(&stays, &["touch", "/dev/shm/go"]).await?;
    node.crash_and_restart().await?;
    assert_eq!(node.ended(&ends).await?.exit_code, 7);
    assert_eq!(node.ended(&done).await?.exit_code, 3);
    assert_eq!(node.status(&waiting).await?.state(), ContainerState::ContainerCreated);
    let after = node.status(&stays).await?;
    assert_eq!(after, before);
    assert_eq!(pid_of(&mut node).await?, pid);
    assert_eq!(node.exec(&stays, &["hostname"]).await?.stdout, b"stays\n");
    node.runtime.start_container(StartContainerRequest { container_id: waiting.clone() }).await?;
    assert_eq!(node.ended(&waiting).await?.exit_code, 9);
    // The name is still taken.
    assert_eq!(node.pod(pod("stays")).await.expect_err("taken").downcast::<tonic::Status>()?.code(), tonic::Code::AlreadyExists);

    // A polite end, and the same again.
    node.terminate().await?;
    node.restart().await?;
    assert_eq!(node.status(&stays).await?, before);
    node.runtime.stop_container(StopContainerRequest { container_id: stays.clone(), timeout: 10 }).await?;
    assert_eq!(node.status(&stays).await?.exit_code, 5);
    let log = node.log("stays")?;
    let expected: Vec<String> = (0..log.len()).map(|number| format!("stdout F {number}")).collect();
    assert_eq!(log, expected, "no line is lost or doubled");
    node.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await?;
    assert!(node.runtime.list_containers(ListContainersRequest::default()).await?.into_inner().containers.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_shim_ends_its_pod() -> Result<()> {
    if !available("a_dead_shim_ends_its_pod") {
        return Ok(());
    }
    let mut node = RuntimeNode::start().await?;
    let sandbox = node.pod(pod("orphan")).await?;
    let id = node.run(&sandbox, script("main", "sleep 1000")).await?;
    for process in node.node.processes() {
        if process.command.get(1).is_some_and(|argument| argument == "shim") {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), nix::sys::signal::Signal::SIGKILL)?;
        }
    }
    let status = node.ended(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    assert!(node.node.processes().iter().all(|process| process.command.first().is_none_or(|name| name != "sleep")));
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
    let pod = node.runtime.pod_sandbox_status(request).await?.into_inner().status.expect("a status");
    assert_eq!(pod.state(), PodSandboxState::SandboxNotready);
    node.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await?;
    node.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why_in_the_usual_words() -> Result<()> {
    if !available("what_cannot_start_says_why_in_the_usual_words") {
        return Ok(());
    }
    let mut node = RuntimeNode::start().await?;
    let sandbox = node.pod(pod("bad")).await?;
    let cases = [
        ("missing", "no-such-program", "exec: \"no-such-program\": executable file not found in $PATH"),
        ("absolute", "/no/such/program", "exec: \"/no/such/program\": stat /no/such/program: no such file or directory"),
        ("directory", "/etc", "is a directory"),
        ("denied", "/etc/passwd", "permission denied"),
    ];
    for (name, command, words) in cases {
        let mut config = script(name, "");
        config.command = vec![command.into()];
        let id = node.create(&sandbox, config).await?;
        let error = node.runtime.start_container(StartContainerRequest { container_id: id.clone() }).await.expect_err("cannot start");
        assert!(error.message().contains(words), "{}", error.message());
        let status = node.status(&id).await?;
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 128));
        assert_eq!(status.reason, "StartError");
        assert!(status.message.contains(words), "{}", status.message);
        node.runtime.remove_container(RemoveContainerRequest { container_id: id }).await?;
    }
    let mut config = script("image", "");
    config.image = Some(ImageSpec { image: "localhost/none:1".into(), ..Default::default() });
    let error = node.create(&sandbox, config).await.expect_err("no image").downcast::<tonic::Status>()?;
    assert_eq!(error.code(), tonic::Code::NotFound);
    let id = node.run(&sandbox, script("main", "sleep 1000")).await?;
    let error = node.exec(&id, &["no-such-program"]).await.expect_err("no program").downcast::<tonic::Status>()?;
    assert!(error.message().contains("executable file not found in $PATH"), "{}", error.message());
    let request = ExecSyncRequest { container_id: id.clone(), cmd: vec!["sleep".into(), "100".into()], timeout: 1 };
    let error = node.runtime.exec_sync(request).await.expect_err("too slow");
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    assert!(node.exec(&id, &["ps"]).await?.stdout.windows(9).all(|part| part != b"sleep 100\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn confinement_is_what_the_pod_asks_for() -> Result<()> {
    if !available("confinement_is_what_the_pod_asks_for") {
        return Ok(());
    }
    let mut node = RuntimeNode::start().await?;
    let sandbox = node.pod(pod("confined")).await?;
    let show = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; id; unshare -n true; echo $?; touch /x; echo $? > /dev/stdout; sleep 1000";
    let context = |config: &mut ContainerConfig| config.linux.as_mut().and_then(|linux| linux.security_context.take()).expect("has one");

    let plain = script("plain", show);
    let mut strict = script("strict", show);
    let mut wanted = context(&mut strict);
    wanted.no_new_privs = true;
    wanted.readonly_rootfs = true;
    wanted.run_as_user = Some(Int64Value { value: 65534 });
    wanted.capabilities = Some(Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
    strict.linux.as_mut().expect("linux").security_context = Some(wanted);
    let mut open = script("open", show);
    let mut wanted = context(&mut open);
    wanted.privileged = true;
    open.linux.as_mut().expect("linux").security_context = Some(wanted);

    let mut seen = Vec::new();
    for config in [plain, strict, open] {
        let name = config.metadata.clone().expect("metadata").name;
        let id = node.run(&sandbox, config).await?;
        let shown = node.exec(&id, &["sh", "-c", show.trim_end_matches("; sleep 1000")]).await?;
        let lines: Vec<String> = String::from_utf8(shown.stdout)?.lines().map(|line| line.replace('\t', " ")).collect();
        ferrokube_testkit::wait_for("the container's own lines", std::time::Duration::from_secs(60), async || {
            let own: Vec<String> =
                node.log(&name)?.iter().filter_map(|line| line.strip_prefix("stdout F ")).map(|line| line.replace('\t', " ")).collect();
            anyhow::ensure!(own == lines, "{own:?} {lines:?}");
            Ok(())
        })
        .await?;
        seen.push(lines);
    }
    assert_eq!(seen[0][0], "CapEff: 00000000a80425fb");
    assert_eq!(seen[0][2..4], ["NoNewPrivs: 0", "Seccomp: 2"]);
    assert_eq!(seen[0][5..], ["1", "0"]);
    assert_eq!(seen[1][..4], ["CapEff: 0000000000000000", "CapBnd: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2"]);
    assert!(seen[1][4].starts_with("uid=65534(nobody) gid=65534(nobody)"), "{}", seen[1][4]);
    assert_eq!(seen[1][5..], ["1", "1"]);
    assert_eq!(seen[2][3], "Seccomp: 0");
    assert_eq!(seen[2][5..], ["0", "0"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_changed_and_told() -> Result<()> {
    if !available("limits_are_set_changed_and_told") {
        return Ok(());
    }
    let mut node = RuntimeNode::start().await?;
    let sandbox = node.pod(pod("limits")).await?;
    let resources = |memory: i64| LinuxContainerResources { memory_limit_in_bytes: memory, cpu_shares: 512, ..Default::default() };
    let mut config = script("main", "sleep 1000");
    config.linux.as_mut().expect("linux").resources = Some(resources(64 << 20));
    let id = node.run(&sandbox, config).await?;
    let stats = async |node: &mut RuntimeNode| -> Result<ContainerStats> {
        let request = ContainerStatsRequest { container_id: id.clone() };
        Ok(node.runtime.container_stats(request).await?.into_inner().stats.expect("stats"))
    };
    let available = |stats: &ContainerStats| {
        let memory = stats.memory.expect("memory");
        memory.available_bytes.expect("a limit").value + memory.working_set_bytes.expect("usage").value
    };
    let first = stats(&mut node).await?;
    assert_eq!(available(&first), 64 << 20);
    assert!(first.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).is_some_and(|used| used.value > 0));
    assert!(first.writable_layer.and_then(|layer| layer.used_bytes).is_some());
    let update = UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(resources(128 << 20)), ..Default::default() };
    node.runtime.update_container_resources(update).await?;
    assert_eq!(available(&stats(&mut node).await?), 128 << 20);
    let told = node.status(&id).await?.resources.and_then(|resources| resources.linux).expect("resources");
    assert_eq!(told.memory_limit_in_bytes, 128 << 20);

    // Too much of it ends the container, and says so.
    let mut greedy = script("greedy", "dd if=/dev/zero of=/dev/null bs=200M count=1");
    greedy.linux.as_mut().expect("linux").resources = Some(resources(20 << 20));
    greedy.command = vec!["dd".into(), "if=/dev/zero".into(), "of=/dev/null".into(), "bs=200M".into(), "count=1".into()];
    let id = node.run(&sandbox, greedy).await?;
    let status = node.ended(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_shared_when_the_pod_says_so() -> Result<()> {
    if !available("processes_are_shared_when_the_pod_says_so") {
        return Ok(());
    }
    let mut node = RuntimeNode::start().await?;
    let shared = |options: &mut Option<NamespaceOption>| options.as_mut().expect("options").set_pid(NamespaceMode::Pod);
    let mut config = pod("shared");
    shared(&mut config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("context").namespace_options);
    let sandbox = node.pod(config).await?;
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let mut config = script(name, &format!("exec sleep 10{}", name.len()));
        shared(&mut config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("context").namespace_options);
        config.command = vec!["sleep".into(), format!("1000{}", ids.len())];
        ids.push(node.run(&sandbox, config).await?);
    }
    let seen = String::from_utf8(node.exec(&ids[0], &["ps", "-o", "pid,comm,args"]).await?.stdout)?;
    assert!(seen.contains("sleep 10000") && seen.contains("sleep 10001"), "{seen}");
    assert!(seen.lines().any(|line| line.trim_start().starts_with("1 pause")), "{seen}");
    let root = node.exec(&ids[0], &["ls", "/proc/1/root/"]).await?;
    assert!(root.exit_code != 0 || root.stdout.is_empty(), "the node's files: {}", String::from_utf8_lossy(&root.stdout));
    node.runtime.stop_container(StopContainerRequest { container_id: ids[0].clone(), timeout: 0 }).await?;
    assert_eq!(node.status(&ids[1]).await?.state(), ContainerState::ContainerRunning);
    // An ephemeral container in the processes of one that has its own.
    let other = node.pod(pod("target")).await?;
    let target = node.run(&other, script("main", "exec sleep 4242")).await?;
    let mut debug = script("debug", "sleep 1000");
    let options = &mut debug.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("context").namespace_options;
    *options = Some(NamespaceOption { pid: NamespaceMode::Target.into(), target_id: target, ..Default::default() });
    let debug = node.run(&other, debug).await?;
    let seen = String::from_utf8(node.exec(&debug, &["ps"]).await?.stdout)?;
    assert!(seen.contains("sleep 4242"), "{seen}");
    Ok(())
}
