//! A lab host that runs the container runtime, and a CRI client for it.

#![allow(dead_code, reason = "each test uses a part")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ferrokube_cri::v1::image_service_client::ImageServiceClient;
use ferrokube_cri::v1::runtime_service_client::RuntimeServiceClient;
use ferrokube_cri::v1::*;
use ferrokube_testkit::lab::{Lab, Node};
use ferrokube_testkit::{image, wait_for};
use tonic::transport::{Channel, Endpoint, Uri};

/// The image that the runtime starts with.
pub const IMAGE: &str = "localhost/test/busybox:latest";

/// A host with a runtime.
pub struct RuntimeNode {
    /// Before the lab, whose end waits for that of all processes.
    pub node: Node,
    pub lab: Lab,
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
    server: tokio::process::Child,
    network: Vec<String>,
}

impl RuntimeNode {
    /// Boots a host and starts the runtime on it.
    pub async fn start() -> Result<Self> {
        Self::start_with(Vec::new()).await
    }

    /// With arguments for the network.
    pub async fn start_with(network: Vec<String>) -> Result<Self> {
        let lab = Lab::new()?;
        let node = lab.node("n1")?;
        image::busybox()?.build().write_oci_tar(&lab.dir().join("busybox.tar"), Some(IMAGE))?;
        node.exec(["mkdir", "-p", "/var/log/pods"]).await?;
        import(&node, &lab)?;
        let (server, channel) = serve(&lab, &node, &network).await?;
        let (runtime, images) = clients(channel);
        Ok(Self { lab, node, runtime, images, server, network })
    }

    /// `kill -9`, and a new one.
    pub async fn crash_and_restart(&mut self) -> Result<()> {
        for process in self.node.processes() {
            if process.command.get(1).is_some_and(|argument| argument == "/var/lib/rt") {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), nix::sys::signal::Signal::SIGKILL)?;
            }
        }
        self.server.wait().await?;
        self.restart().await
    }

    /// A new one, after the old one has ended.
    pub async fn restart(&mut self) -> Result<()> {
        let (server, channel) = serve(&self.lab, &self.node, &self.network).await?;
        self.server = server;
        (self.runtime, self.images) = clients(channel);
        Ok(())
    }

    /// Ends the server the polite way.
    pub async fn terminate(&mut self) -> Result<()> {
        for process in self.node.processes() {
            if process.command.get(1).is_some_and(|argument| argument == "/var/lib/rt") {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), nix::sys::signal::Signal::SIGTERM)?;
            }
        }
        self.server.wait().await?;
        Ok(())
    }

    /// Runs a pod sandbox.
    pub async fn pod(&mut self, config: PodSandboxConfig) -> Result<String> {
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        Ok(self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// Makes a container.
    pub async fn create(&mut self, pod: &str, config: ContainerConfig) -> Result<String> {
        let request = CreateContainerRequest { pod_sandbox_id: pod.into(), config: Some(config), sandbox_config: None };
        Ok(self.runtime.create_container(request).await?.into_inner().container_id)
    }

    /// Makes and starts a container.
    pub async fn run(&mut self, pod: &str, config: ContainerConfig) -> Result<String> {
        let id = self.create(pod, config).await?;
        self.runtime.start_container(StartContainerRequest { container_id: id.clone() }).await?;
        Ok(id)
    }

    /// Its status.
    pub async fn status(&mut self, id: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.runtime.container_status(request).await?.into_inner().status.context("a status")
    }

    /// Waits for its end.
    pub async fn ended(&mut self, id: &str) -> Result<ContainerStatus> {
        let client = self.runtime.clone();
        wait_for("the container to end", Duration::from_secs(120), async || {
            let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
            let status = client.clone().container_status(request).await?.into_inner().status.context("a status")?;
            anyhow::ensure!(status.state() == ContainerState::ContainerExited, "{status:?}");
            Ok(status)
        })
        .await
    }

    /// Runs a command in it.
    pub async fn exec(&mut self, id: &str, command: &[&str]) -> Result<ExecSyncResponse> {
        let cmd = command.iter().map(|part| (*part).to_owned()).collect();
        Ok(self.runtime.exec_sync(ExecSyncRequest { container_id: id.into(), cmd, timeout: 60 }).await?.into_inner())
    }

    /// What it wrote, without times.
    pub fn log(&self, name: &str) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(self.node.outside(&format!("/var/log/pods/{name}.log")))?;
        Ok(text.lines().map(|line| line.split_once(' ').map_or(line, |(_, rest)| rest).to_owned()).collect())
    }
}

fn clients(channel: Channel) -> (RuntimeServiceClient<Channel>, ImageServiceClient<Channel>) {
    (RuntimeServiceClient::new(channel.clone()), ImageServiceClient::new(channel))
}

/// Puts the image where the runtime will look for it.
fn import(node: &Node, lab: &Lab) -> Result<()> {
    let archive = lab.dir().join("busybox.tar");
    let store = node.outside("/var/lib/rt/images");
    std::fs::create_dir_all(&store)?;
    let store = ferrokube_runtime::image::ImageStore::open(&store, Default::default())?;
    store.import_archive(&archive, None)?;
    Ok(())
}

async fn serve(lab: &Lab, node: &Node, network: &[String]) -> Result<(tokio::process::Child, Channel)> {
    let socket = lab.dir().join("cri.sock");
    // Another build of it can be measured.
    let program = std::env::var("FERROKUBE_CRI").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ferrokube-cri").to_owned());
    let mut command: Vec<String> = vec![program, "/var/lib/rt".to_owned(), "/run/rt".to_owned()];
    command.push(socket.to_string_lossy().into_owned());
    command.extend(network.iter().cloned());
    let server = node.spawn(&command, &lab.dir().join("server.log"))?;
    let path: PathBuf = socket.clone();
    let connect = async || {
        let path = path.clone();
        let connector = Connector(path);
        let channel = Endpoint::try_from("http://cri.invalid")?.connect_with_connector(connector).await?;
        let mut client = RuntimeServiceClient::new(channel.clone());
        client.version(VersionRequest { version: "v1".into() }).await?;
        Ok(channel)
    };
    let log = lab.dir().join("server.log");
    let channel = wait_for("the runtime to serve", Duration::from_secs(60), connect)
        .await
        .with_context(|| std::fs::read_to_string(log).unwrap_or_default())?;
    Ok((server, channel))
}

/// A connector for a unix socket.
#[derive(Clone)]
struct Connector(PathBuf);

impl tonic::codegen::Service<Uri> for Connector {
    type Response = hyper_util::rt::TokioIo<tokio::net::UnixStream>;
    type Error = std::io::Error;
    type Future = futures_util::future::BoxFuture<'static, std::io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { Ok(hyper_util::rt::TokioIo::new(tokio::net::UnixStream::connect(path).await?)) })
    }
}

/// A pod without a network plug-in.
pub fn pod(name: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata { name: name.into(), uid: format!("uid-{name}"), namespace: "default".into(), attempt: 0 }),
        hostname: name.into(),
        log_directory: "/var/log/pods".into(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: format!("/kubepods/pod{name}"),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container that runs a shell script.
pub fn script(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: vec!["sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() }),
                seccomp: Some(SecurityProfile::default()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}
