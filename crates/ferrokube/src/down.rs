//! `ferrokube down` and `reset`: end the cluster on this machine and remove every trace of it from the kernel; `reset`
//! removes its data too.

use crate::kubeconfig;
use crate::layout::Layout;
use crate::up::preflight::{pid_file, running};
use anyhow::{Context, Result, bail};
use clap::Args;
use ferrokube_cri::v1 as cri;
use ferrokube_cri::v1::runtime_service_client::RuntimeServiceClient;
use ferrokube_runtime::{Cni, Runtime};
use hyper_util::rt::TokioIo;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Options of `down` and `reset`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The cluster's data directory, as given to `up`
    #[arg(long, value_name = "DIR", env = "FERROKUBE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Seconds that pods get to stop before they are killed
    #[arg(long, default_value_t = 10)]
    pub grace: u64,
    /// Name of the cluster in the kubeconfig
    #[arg(long, default_value = "ferrokube")]
    pub name: String,
    /// Kubeconfig that `reset` takes the cluster out of [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// How long the serving process may take to stop.
const STOP: Duration = Duration::from_secs(30);

/// Ends the cluster; the data stays, so that `up` continues it.
pub async fn down(options: &Options) -> Result<()> {
    let root = nix::unistd::geteuid().is_root();
    let layout = Layout::new(options.data_dir.clone(), root);
    if !layout.data.exists() {
        eprintln!("There is no cluster in {}.", layout.data.display());
        return Ok(());
    }
    stop_process(&layout.data).await?;
    if root && layout.runtime().exists() {
        end_pods(&layout, options.grace).await.context("ending pods")?;
        clear_kernel(&layout)?;
    }
    eprintln!("The cluster is down. Its data is kept in {}; `ferrokube reset` removes it.", layout.data.display());
    Ok(())
}

/// Ends the cluster and removes its data and its entry in the kubeconfig.
pub async fn reset(options: &Options) -> Result<()> {
    let layout = Layout::new(options.data_dir.clone(), nix::unistd::geteuid().is_root());
    let ours = ["pki", "store"].iter().any(|d| layout.data.join(d).exists());
    if layout.data.exists() && !ours {
        bail!("{} does not look like Ferrokube's data directory; nothing was removed", layout.data.display());
    }
    down(options).await?;
    if let Some(path) = options.kubeconfig.clone().or_else(kubeconfig::default_path) {
        kubeconfig::remove(&path, &options.name)?;
    }
    remove(&layout.data)?;
    eprintln!("Removed {}.", layout.data.display());
    Ok(())
}

/// Removes a directory. One that somebody mounted something on is emptied and stays.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => Ok(()),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).with_context(|| format!("removing {}", path.display())),
        _ => Ok(()),
    }
}

async fn stop_process(data: &Path) -> Result<()> {
    let Some(pid) = running(data) else { return Ok(()) };
    let gone = process(pid).with_context(|| format!("looking at process {pid} of {}", pid_file(data).display()))?;
    kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("stopping process {pid}"))?;
    if tokio::time::timeout(STOP, gone.readable()).await.is_err() {
        bail!("process {pid} did not stop within {} s", STOP.as_secs());
    }
    Ok(())
}

/// Becomes readable when the process ends.
#[expect(unsafe_code, reason = "pidfd_open has no wrapper in nix; tokio wants the promise that the descriptor stays ours")]
fn process(pid: i32) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: the call takes two numbers and returns a new descriptor or an error.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if raw < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let raw = i32::try_from(raw)?;
    // SAFETY: the descriptor is new and nobody else owns it; the AsyncFd keeps it until it is dropped.
    let watched = unsafe { AsyncFd::register(OwnedFd::from_raw_fd(raw)) }?;
    Ok(watched)
}

/// Starts the runtime just to end everything it has.
async fn end_pods(layout: &Layout, grace: u64) -> Result<()> {
    let runtime = Runtime::start(ferrokube_runtime::Config {
        root: layout.runtime(),
        state: layout.run.clone(),
        socket: layout.cri_socket(),
        cni: Some(Cni { conf_dir: layout.cni_conf(), bin_dirs: vec![layout.cni_bin()] }),
        seccomp_root: layout.kubelet().join("seccomp"),
        ..ferrokube_runtime::Config::new()
    })
    .await?;
    let client = RuntimeServiceClient::new(channel(layout.cri_socket()));
    let ended = end_all(client, grace).await;
    runtime.shutdown().await;
    ended
}

fn channel(socket: PathBuf) -> Channel {
    let dial = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(dial)
}

async fn end_all(client: RuntimeServiceClient<Channel>, grace: u64) -> Result<()> {
    let containers = client.clone().list_containers(cri::ListContainersRequest::default()).await?.into_inner().containers;
    let running = containers.into_iter().filter(|c| c.state() == cri::ContainerState::ContainerRunning);
    let stops =
        running.map(|c| {
            let mut client = client.clone();
            async move {
                client.stop_container(cri::StopContainerRequest { container_id: c.id, timeout: i64::try_from(grace).unwrap_or(0) }).await
            }
        });
    for stopped in futures_util::future::join_all(stops).await {
        stopped?;
    }
    let sandboxes = client.clone().list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?.into_inner().items;
    let removals = sandboxes.into_iter().map(|s| {
        let mut client = client.clone();
        async move {
            client.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: s.id.clone() }).await?;
            client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: s.id }).await
        }
    });
    for removed in futures_util::future::join_all(removals).await {
        removed?;
    }
    Ok(())
}

/// Mounts, links, routes, rules and cgroups; the pods are dead.
fn clear_kernel(layout: &Layout) -> Result<()> {
    ferrokube_network::node::tear_down().context("removing the pod network")?;
    for root in [layout.kubelet().join("pods"), layout.runtime(), layout.run.clone()] {
        unmount_below(&root)?;
    }
    let pods = names(&layout.kubelet().join("pods"));
    remove_logs(layout, &pods)?;
    remove(&layout.kubelet().join("pods"))?;
    remove(&layout.run)?;
    remove_cgroups(&pods);
    Ok(())
}

fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// Logs of the pods that this node had; another cluster's pods may log into the same place.
fn remove_logs(layout: &Layout, pods: &[String]) -> Result<()> {
    for log in names(&layout.pod_logs) {
        if pods.iter().any(|uid| log.ends_with(&format!("_{uid}"))) {
            remove(&layout.pod_logs.join(log))?;
        }
    }
    // Only when nothing else is in it.
    let _ = std::fs::remove_dir(&layout.pod_logs);
    Ok(())
}

fn unmount_below(root: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let points = mounts.lines().filter_map(|l| l.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|p| p.starts_with(root)).collect();
    below.sort();
    for point in below.iter().rev() {
        umount2(point, MntFlags::MNT_DETACH).with_context(|| format!("unmounting {}", point.display()))?;
    }
    Ok(())
}

/// Cgroups of the pods that this node had, in every hierarchy. The levels above them may hold other clusters' pods and go
/// only when they are empty.
fn remove_cgroups(pods: &[String]) {
    let mount = Path::new("/sys/fs/cgroup");
    let hierarchies = names(mount).into_iter().map(|h| mount.join(h)).filter(|p| p.is_dir()).chain([mount.to_owned()]);
    for hierarchy in hierarchies {
        let levels = ["kubepods/burstable", "kubepods/besteffort", "kubepods", "ferrokube"].map(|l| hierarchy.join(l));
        for level in &levels {
            pods.iter().for_each(|uid| remove_cgroup(&level.join(format!("pod{uid}"))));
        }
        levels.iter().for_each(|level| drop(std::fs::remove_dir(level)));
    }
}

/// Depth first: a cgroup can be removed only when it has no children. What is still in use is told and left.
fn remove_cgroup(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).for_each(|e| remove_cgroup(&e.path()));
    if let Err(e) = std::fs::remove_dir(directory) {
        tracing::warn!("cgroup {} is left: {e}", directory.display());
    }
}
