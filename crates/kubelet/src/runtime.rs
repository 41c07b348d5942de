//! The kubelet's end of CRI: one connection, what runs for a pod, and events about it.
//!
//! This is the only place that knows how the runtime is reached. Nothing here decides anything.

use ferrokube_cri::v1::image_service_client::ImageServiceClient;
use ferrokube_cri::v1::runtime_service_client::RuntimeServiceClient;
use ferrokube_cri::v1::{self as cri, ContainerState, PodSandboxState};
use futures_util::future::try_join_all;
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, Uri};

/// Labels by which the kubelet finds its own (kubernetes `pkg/kubelet/types/labels.go`).
pub mod labels {
    #![allow(missing_docs, reason = "the names say it")]
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
}

/// Annotations in which the kubelet keeps what it must know again after a restart.
pub mod annotations {
    #![allow(missing_docs, reason = "the names say it")]
    pub const HASH: &str = "io.kubernetes.container.hash";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub const TERMINATION_FILE: &str = "ferrokube.io/termination-file";
    pub const RESOURCES: &str = "ferrokube.io/resources";
    pub const LIFE: &str = "ferrokube.io/life";
    pub const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// Why the runtime did not do what it was asked.
pub type CriError = tonic::Status;

/// Both services of a runtime over one connection.
#[derive(Clone, Debug)]
pub struct Cri {
    /// Sandboxes and containers.
    pub runtime: RuntimeServiceClient<Channel>,
    /// Images.
    pub images: ImageServiceClient<Channel>,
}

/// A container as the runtime reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Name in the pod.
    pub name: String,
    /// Sandbox it belongs to.
    pub sandbox: String,
    /// What the runtime says.
    pub status: cri::ContainerStatus,
}

impl Container {
    /// State as an enum.
    pub fn state(&self) -> ContainerState {
        self.status.state()
    }

    /// Whether a process runs.
    pub fn running(&self) -> bool {
        self.state() == ContainerState::ContainerRunning
    }

    /// An annotation.
    pub fn annotation(&self, name: &str) -> &str {
        self.status.annotations.get(name).map_or("", String::as_str)
    }

    /// How often the container had been restarted when this instance was made.
    pub fn restarts(&self) -> u32 {
        self.annotation(annotations::RESTART_COUNT).parse().unwrap_or(0)
    }
}

/// Everything the runtime has of one pod, newest first.
#[derive(Clone, Debug)]
pub struct Observed {
    /// When looking began: of two observations the one that began later is the truth.
    pub at: tokio::time::Instant,
    /// Sandboxes.
    pub sandboxes: Vec<cri::PodSandboxStatus>,
    /// Containers.
    pub containers: Vec<Container>,
}

impl Observed {
    /// Nothing is known yet.
    pub fn nothing() -> Self {
        Observed { at: tokio::time::Instant::now(), sandboxes: Vec::new(), containers: Vec::new() }
    }

    /// The newest sandbox, when it is ready.
    pub fn ready_sandbox(&self) -> Option<&cri::PodSandboxStatus> {
        self.sandboxes.first().filter(|s| s.state() == PodSandboxState::SandboxReady)
    }

    /// The newest instance of a container.
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest instance of a container in the given sandbox.
    pub fn latest_in(&self, sandbox: &str, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name && c.sandbox == sandbox)
    }

    /// Whether a process of the pod runs.
    pub fn any_running(&self) -> bool {
        self.containers.iter().any(Container::running)
    }
}

/// The pod that something in the runtime belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodIdentity {
    /// `metadata.uid`.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `spec.terminationGracePeriodSeconds`, as its sandbox remembers it.
    pub grace: Option<i64>,
}

fn identity(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> Option<PodIdentity> {
    let get = |name: &str| labels.get(name).cloned();
    let grace = annotations.get(annotations::POD_GRACE).and_then(|g| g.parse().ok());
    Some(PodIdentity { uid: get(labels::POD_UID)?, namespace: get(labels::POD_NAMESPACE)?, name: get(labels::POD_NAME)?, grace })
}

impl Cri {
    /// Prepares a connection to `endpoint` (`unix:///path` or a path); it is made at the first call and again after it broke.
    pub fn connect(endpoint: &str, timeout: Duration) -> Result<Self, tonic::transport::Error> {
        let path = PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
        let dial = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The authority is not used over a socket, but HTTP/2 wants one.
        let channel = Endpoint::from_static("http://localhost").timeout(timeout).connect_with_connector_lazy(dial);
        Ok(Cri {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(16 << 20),
            images: ImageServiceClient::new(channel).max_decoding_message_size(16 << 20),
        })
    }

    /// Everything the runtime has of a pod.
    pub async fn observe(&self, uid: &str) -> Result<Observed, CriError> {
        let at = tokio::time::Instant::now();
        let selector = BTreeMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
        let filter = cri::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
        let sandboxes = cri::ListPodSandboxRequest { filter: Some(filter) };
        let filter = cri::ContainerFilter { label_selector: selector, ..Default::default() };
        let containers = cri::ListContainersRequest { filter: Some(filter) };
        let (mut one, mut two) = (self.runtime.clone(), self.runtime.clone());
        let (sandboxes, containers) = tokio::try_join!(one.list_pod_sandbox(sandboxes), two.list_containers(containers))?;
        let sandboxes = sandboxes.into_inner().items.into_iter().map(|s| self.sandbox_status(s.id));
        let containers = containers.into_inner().containers.into_iter().map(|c| self.container_status(c));
        let (sandboxes, containers) = tokio::try_join!(try_join_all(sandboxes), try_join_all(containers))?;
        let mut observed =
            Observed { at, sandboxes: sandboxes.into_iter().flatten().collect(), containers: containers.into_iter().flatten().collect() };
        observed.sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        observed.containers.sort_by_key(|c| std::cmp::Reverse(c.status.created_at));
        Ok(observed)
    }

    /// `None` when it went in between.
    async fn sandbox_status(&self, id: String) -> Result<Option<cri::PodSandboxStatus>, CriError> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: false };
        let answer = self.runtime.clone().pod_sandbox_status(request).await;
        Ok(unless_gone(answer)?.and_then(|r| r.into_inner().status))
    }

    async fn container_status(&self, container: cri::Container) -> Result<Option<Container>, CriError> {
        let request = cri::ContainerStatusRequest { container_id: container.id, verbose: false };
        let answer = unless_gone(self.runtime.clone().container_status(request).await)?;
        let name = container.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default();
        let make = |status| Container { name, sandbox: container.pod_sandbox_id, status };
        Ok(answer.and_then(|r| r.into_inner().status).map(make))
    }

    /// The pods that the runtime has anything of.
    pub async fn pods(&self) -> Result<Vec<PodIdentity>, CriError> {
        let (mut one, mut two) = (self.runtime.clone(), self.runtime.clone());
        let (sandboxes, containers) = tokio::try_join!(
            one.list_pod_sandbox(cri::ListPodSandboxRequest::default()),
            two.list_containers(cri::ListContainersRequest::default())
        )?;
        let mut pods: Vec<PodIdentity> = sandboxes.into_inner().items.iter().filter_map(|s| identity(&s.labels, &s.annotations)).collect();
        pods.extend(containers.into_inner().containers.iter().filter_map(|c| identity(&c.labels, &c.annotations)));
        let mut seen = std::collections::HashSet::new();
        pods.retain(|p| seen.insert(p.uid.clone()));
        Ok(pods)
    }

    /// Sends the UID of a pod whenever something of it changed in the runtime, for as long as anyone listens.
    /// A runtime without `GetContainerEvents` is listed once a second instead (the generic PLEG's period).
    pub async fn watch(self, changed: mpsc::Sender<String>) {
        loop {
            match self.stream_events(&changed).await {
                Err(e) if e.code() == tonic::Code::Unimplemented => return self.relist(changed).await,
                Err(e) => tracing::debug!("container events: {e}"),
                Ok(()) => {}
            }
            if changed.is_closed() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            // Whatever happened while the stream was down is found by looking at every pod once.
            for pod in self.pods().await.unwrap_or_default() {
                if changed.send(pod.uid).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn stream_events(&self, changed: &mpsc::Sender<String>) -> Result<(), CriError> {
        // No deadline on the stream: the channel's timeout is for unary calls and would cut it.
        let mut request = tonic::Request::new(cri::GetEventsRequest {});
        request.set_timeout(Duration::from_secs(365 * 24 * 3600));
        let mut events = self.runtime.clone().get_container_events(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            let uid = event.pod_sandbox_status.and_then(|s| s.metadata).map(|m| m.uid);
            let Some(uid) = uid else { continue };
            if changed.send(uid).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn relist(&self, changed: mpsc::Sender<String>) {
        let mut known: HashMap<String, (String, i32)> = HashMap::new();
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            let Ok(now) = self.states().await.inspect_err(|e| tracing::warn!("the container runtime does not answer: {e}")) else {
                continue;
            };
            let differs = |id: &String, is: &(String, i32), other: &HashMap<String, (String, i32)>| other.get(id) != Some(is);
            let mut pods: Vec<String> = now.iter().filter(|(id, is)| differs(id, is, &known)).map(|(_, is)| is.0.clone()).collect();
            pods.extend(known.iter().filter(|(id, is)| differs(id, is, &now)).map(|(_, is)| is.0.clone()));
            pods.sort_unstable();
            pods.dedup();
            for uid in pods {
                if changed.send(uid).await.is_err() {
                    return;
                }
            }
            known = now;
        }
    }

    /// (pod UID, state) of every sandbox and container, by id.
    async fn states(&self) -> Result<HashMap<String, (String, i32)>, CriError> {
        let (mut one, mut two) = (self.runtime.clone(), self.runtime.clone());
        let (sandboxes, containers) = tokio::try_join!(
            one.list_pod_sandbox(cri::ListPodSandboxRequest::default()),
            two.list_containers(cri::ListContainersRequest::default())
        )?;
        let uid = |labels: &BTreeMap<String, String>| labels.get(labels::POD_UID).cloned();
        let sandboxes = sandboxes.into_inner().items.into_iter().filter_map(|s| Some((s.id, (uid(&s.labels)?, s.state))));
        let containers = containers.into_inner().containers.into_iter().filter_map(|c| Some((c.id, (uid(&c.labels)?, c.state))));
        Ok(sandboxes.chain(containers).collect())
    }

    /// Name, version and API version of the runtime.
    pub async fn version(&self) -> Result<cri::VersionResponse, CriError> {
        let request = cri::VersionRequest { version: "0.1.0".into() };
        Ok(self.runtime.clone().version(request).await?.into_inner())
    }
}

/// NotFound is an answer, not an error.
pub fn unless_gone<T>(answer: Result<T, CriError>) -> Result<Option<T>, CriError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.code() == tonic::Code::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The log file of an instance of a container below the pod's log directory: `<container>/<restarts>.log`.
pub fn log_path(container: &str, restarts: u32) -> PathBuf {
    Path::new(container).join(format!("{restarts}.log"))
}
