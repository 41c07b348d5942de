//! What pods share and what they are given: network, files, volumes, events.

mod node;

use std::time::Duration;

use anyhow::{Context as _, Result};
use ferrokube_cri::v1::*;
use ferrokube_testkit::lab::available;
use ferrokube_testkit::wait_for;
use node::{RuntimeNode, pod, script};

fn text(answer: &ExecSyncResponse) -> String {
    String::from_utf8_lossy(&answer.stdout).into_owned()
}

/// A CNI plug-in: a veth pair, an address from a counter, and a record of every call.
const PLUGIN: &str = r#"#!/bin/bash
set -e
config=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_ARGS $config" >> /var/log/cni.log
[ ! -e /run/cni-fails ] || { echo '{"cniVersion":"1.0.0","code":11,"msg":"no address left"}'; exit 1; }
host=v${CNI_CONTAINERID:0:12}
case $CNI_COMMAND in
ADD)
  number=$(($(cat /run/cni-count 2>/dev/null || echo 1) + 1)); echo $number > /run/cni-count
  ip link add $host type veth peer name tmp$number
  mkdir -p /run/netns; touch /run/netns/$host; mount --bind "$CNI_NETNS" /run/netns/$host
  ip link set tmp$number netns $host
  nsenter --net=/run/netns/$host sh -c "ip link set tmp$number name eth0; ip addr add 10.9.0.$number/24 dev eth0; ip link set eth0 up"
  ip link set $host up; umount /run/netns/$host; rm /run/netns/$host
  echo "{\"cniVersion\":\"1.0.0\",\"interfaces\":[{\"name\":\"$host\"},{\"name\":\"eth0\",\"sandbox\":\"$CNI_NETNS\"}],\"ips\":[{\"interface\":1,\"address\":\"10.9.0.$number/24\"}]}"
  ;;
DEL) ip link del $host 2>/dev/null || true ;;
esac
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_pod_network_is_asked_for_and_given_back() -> Result<()> {
    if !available("the_pod_network_is_asked_for_and_given_back") {
        return Ok(());
    }
    let mut node = RuntimeNode::start_with(vec!["/etc/cni/net.d".into(), "/var/lib/cni-bin".into()]).await?;
    let ready = async |node: &mut RuntimeNode| -> Result<RuntimeCondition> {
        let status = node.runtime.status(StatusRequest::default()).await?.into_inner().status.context("a status")?;
        status.conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").context("a condition")
    };
    let condition = ready(&mut node).await?;
    assert_eq!((condition.status, condition.reason.as_str()), (false, "NetworkPluginNotReady"));
    assert!(condition.message.contains("cni plugin not initialized"), "{}", condition.message);
    let error = node.pod(pod("early")).await.expect_err("no network yet").downcast::<tonic::Status>()?;
    assert!(error.message().contains("network is not ready"), "{}", error.message());
    // With the node's network a pod needs none.
    let mut own = pod("node");
    own.hostname = String::new();
    let options = &mut own.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("context").namespace_options;
    options.as_mut().expect("options").set_network(NamespaceMode::Node);
    let sandbox = node.pod(own).await?;
    let id = node.run(&sandbox, script("main", "sleep 1000")).await?;
    assert_eq!(text(&node.exec(&id, &["hostname"]).await?).trim(), "n1");
    assert!(text(&node.exec(&id, &["ls", "/sys/class/net"]).await?).contains("eth0"));

    node.node.exec(["mkdir", "-p", "/etc/cni/net.d", "/var/lib/cni-bin"]).await?;
    std::fs::write(node.node.outside("/var/lib/cni-bin/testnet"), PLUGIN)?;
    node.node.exec(["chmod", "755", "/var/lib/cni-bin/testnet"]).await?;
    let list = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"testnet","capabilities":{"portMappings":true}}]}"#;
    std::fs::write(node.node.outside("/etc/cni/net.d/10-test.conflist"), list)?;
    assert!(ready(&mut node).await?.status);

    let mut config = pod("web");
    config.port_mappings = vec![PortMapping { container_port: 80, host_port: 8080, ..Default::default() }];
    let sandbox = node.pod(config).await?;
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
    let status = node.runtime.pod_sandbox_status(request).await?.into_inner().status.context("a status")?;
    assert_eq!(status.network.context("a network")?.ip, "10.9.0.2");
    let id = node.run(&sandbox, script("main", "sleep 1000")).await?;
    let links = text(&node.exec(&id, &["ip", "addr"]).await?);
    assert!(links.contains("10.9.0.2/24") && links.contains("127.0.0.1/8"), "{links}");
    let stats = node.runtime.pod_sandbox_stats(PodSandboxStatsRequest { pod_sandbox_id: sandbox.clone() }).await?.into_inner();
    let linux = stats.stats.and_then(|stats| stats.linux).context("stats")?;
    assert_eq!(linux.network.and_then(|network| network.default_interface).context("an interface")?.name, "eth0");
    assert_eq!(linux.containers.len(), 1);
    node.crash_and_restart().await?;
    node.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await?;
    let calls = std::fs::read_to_string(node.node.outside("/var/log/cni.log"))?;
    let calls: Vec<&str> = calls.lines().collect();
    assert!(calls[0].starts_with("ADD") && calls[0].contains("K8S_POD_NAME=web;") && calls[0].contains("\"hostPort\":8080"), "{calls:?}");
    assert!(calls[1].starts_with("DEL") && calls[1].contains(&sandbox) && calls[1].contains("\"prevResult\""), "{calls:?}");

    // A plug-in that fails leaves nothing behind, and its words reach the caller.
    node.node.exec(["touch", "/run/cni-fails"]).await?;
    let error = node.pod(pod("unlucky")).await.expect_err("the plug-in fails").downcast::<tonic::Status>()?;
    assert!(error.message().contains("no address left"), "{}", error.message());
    assert_eq!(node.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_volumes_are_where_the_pod_wants_them() -> Result<()> {
    if !available("files_and_volumes_are_where_the_pod_wants_them") {
        return Ok(());
    }
    let mut node = RuntimeNode::start().await?;
    let mut config = pod("web");
    config.dns_config =
        Some(DnsConfig { servers: vec!["10.0.0.10".into()], searches: vec!["a.b".into()], options: vec!["ndots:5".into()] });
    let sysctls = [("net.ipv4.ip_unprivileged_port_start", "7"), ("kernel.shm_rmid_forced", "1")];
    config.linux.as_mut().expect("linux").sysctls = sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let sandbox = node.pod(config).await?;
    node.node.exec(["bash", "-c", "mkdir -p /var/lib/v/sub /var/lib/v/readonly && echo data > /var/lib/v/file"]).await?;
    let mount = |container_path: &str, host_path: &str| Mount {
        container_path: container_path.into(),
        host_path: host_path.into(),
        ..Default::default()
    };
    let mut config = script("main", "pwd; sleep 1000");
    config.working_dir = "/made/up".into();
    config.envs = vec![KeyValue { key: "A".into(), value: "b c".into() }];
    config.mounts = vec![
        mount("/data", "/var/lib/v"),
        Mount { readonly: true, ..mount("/data/readonly", "/var/lib/v/readonly") },
        mount("/dev/termination-log", "/var/lib/v/file"),
        Mount { propagation: MountPropagation::PropagationHostToContainer.into(), ..mount("/slave", "/var/lib/v") },
    ];
    let id = node.run(&sandbox, config).await?;
    let mut show = async |command: &str| -> Result<String> { Ok(text(&node.exec(&id, &["sh", "-c", command]).await?)) };
    assert_eq!(show("cat /etc/resolv.conf").await?, "search a.b\nnameserver 10.0.0.10\noptions ndots:5\n");
    assert_eq!(show("cat /etc/hostname; pwd; echo $A; echo $HOME; echo $HOSTNAME").await?, "web\n/made/up\nb c\n/root\nweb\n");
    assert_eq!(show("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced").await?, "7\n1\n");
    assert_eq!(
        show("echo x > /data/new; cat /data/new; touch /data/readonly/x 2>&1; cat /dev/termination-log")
            .await?
            .lines()
            .nth(1)
            .map(|line| line.contains("Read-only")),
        Some(true)
    );
    assert_eq!(show("df -k /dev/shm | tail -1 | awk '{print $2}'; stat -c %a /dev/shm").await?, "65536\n1777\n");
    let devices = show("ls /dev").await?;
    for device in ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue"] {
        assert!(devices.lines().any(|line| line == device), "{device} in {devices}");
    }
    assert_eq!(
        show("cat /sys/fs/cgroup/memory/memory.usage_in_bytes > /dev/null; echo $?; touch /sys/fs/cgroup/memory/x 2>/dev/null; echo $?")
            .await?,
        "0\n1\n"
    );
    // What is mounted on the node later is seen where the pod asked for that.
    node.node.exec(["bash", "-c", "mount -t tmpfs tmpfs /var/lib/v/sub && touch /var/lib/v/sub/late"]).await?;
    let seen = text(&node.exec(&id, &["sh", "-c", "ls /slave/sub; echo -; ls /data/sub"]).await?);
    assert_eq!(seen, "late\n-\n");

    // And the other way round, for a privileged container that asks for it.
    let mut config = script("mounter", "mkdir -p /shared/up && mount -t tmpfs tmpfs /shared/up && touch /shared/up/there; sleep 1000");
    config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("context").privileged = true;
    config.mounts = vec![Mount { propagation: MountPropagation::PropagationBidirectional.into(), ..mount("/shared", "/var/lib/v") }];
    node.run(&sandbox, config).await?;
    wait_for("the container's mount", Duration::from_secs(60), async || {
        anyhow::ensure!(node.node.exec(["ls", "/var/lib/v/up"]).await?.contains("there"));
        Ok(())
    })
    .await?;

    // A log that was moved away is opened anew.
    let id = node.run(&sandbox, script("chatty", "while true; do echo x; sleep 0.02; done")).await?;
    node.node.exec(["mv", "/var/log/pods/chatty.log", "/var/log/pods/chatty.log.1"]).await?;
    node.runtime.reopen_container_log(ReopenContainerLogRequest { container_id: id }).await?;
    wait_for("the new log", Duration::from_secs(60), async || {
        anyhow::ensure!(!node.log("chatty")?.is_empty());
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_as_it_happens() -> Result<()> {
    if !available("every_change_is_told_as_it_happens") {
        return Ok(());
    }
    let mut node = RuntimeNode::start().await?;
    let mut events = node.runtime.get_container_events(GetEventsRequest {}).await?.into_inner();
    let sandbox = node.pod(pod("web")).await?;
    let id = node.run(&sandbox, script("main", "exit 6")).await?;
    let mut next = async || -> Result<(String, ContainerEventType, Option<i32>)> {
        let event = tokio::time::timeout(Duration::from_secs(60), events.message()).await??.context("an event")?;
        let exit = event.containers_statuses.first().filter(|status| status.state() == ContainerState::ContainerExited);
        assert_eq!(event.pod_sandbox_status.as_ref().map(|status| status.id.as_str()), Some(sandbox.as_str()));
        Ok((event.container_id.clone(), event.container_event_type(), exit.map(|status| status.exit_code)))
    };
    use ContainerEventType::*;
    assert_eq!(next().await?, (sandbox.clone(), ContainerCreatedEvent, None));
    assert_eq!(next().await?, (sandbox.clone(), ContainerStartedEvent, None));
    assert_eq!(next().await?, (id.clone(), ContainerCreatedEvent, None));
    let (started, kind, _) = next().await?;
    assert_eq!((started, kind), (id.clone(), ContainerStartedEvent));
    assert_eq!(next().await?, (id.clone(), ContainerStoppedEvent, Some(6)));
    node.runtime.remove_container(RemoveContainerRequest { container_id: id.clone() }).await?;
    assert_eq!(next().await?.1, ContainerDeletedEvent);
    node.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await?;
    assert_eq!(next().await?.1, ContainerStoppedEvent);
    assert_eq!(next().await?.1, ContainerDeletedEvent);
    // A server that ends says so at once, although somebody listens and somebody else waits for a container.
    let sandbox = node.pod(pod("slow")).await?;
    let id = node.run(&sandbox, script("slow", "trap '' TERM; while true; do sleep 0.1; done")).await?;
    let mut waiting = node.runtime.clone();
    let stop = tokio::spawn(async move { waiting.stop_container(StopContainerRequest { container_id: id, timeout: 600 }).await });
    tokio::time::timeout(Duration::from_secs(60), node.terminate()).await??;
    assert!(stop.await?.is_err());
    tokio::time::timeout(Duration::from_secs(60), async { while let Ok(Some(_)) = events.message().await {} }).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_leaves_nothing() -> Result<()> {
    if !available("a_purge_leaves_nothing") {
        return Ok(());
    }
    let mut node = RuntimeNode::start().await?;
    let sandbox = node.pod(pod("web")).await?;
    node.run(&sandbox, script("main", "sleep 1000")).await?;
    node.terminate().await?;
    let socket = node.lab.dir().join("cri.sock");
    let command = [env!("CARGO_BIN_EXE_ferrokube-cri"), "purge", "/var/lib/rt", "/run/rt", &socket.to_string_lossy()].map(str::to_owned);
    node.node.exec(command).await?;
    assert!(node.node.processes().iter().all(|process| process.command.first().is_none_or(|name| name != "sleep")));
    assert!(!node.node.outside("/var/lib/rt").exists());
    let mounts = node.node.exec(["cat", "/proc/mounts"]).await?;
    assert!(!mounts.contains("/run/rt") && !mounts.contains("/var/lib/rt"), "{mounts}");
    Ok(())
}
