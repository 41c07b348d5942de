//! The RuntimeService of CRI v1: from the wire to the engine and back, and nothing in between.

mod status;

use std::sync::Arc;

use ferrokube_cri::v1;
use ferrokube_cri::v1::runtime_service_server::RuntimeService;
use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status};

use crate::engine::{AttachTarget, Engine, ExecTarget};
use crate::error::Error;
use crate::streaming::{Streaming, Target};

/// Entries in one message of a streamed list.
const CHUNK: usize = 64;

/// The service.
#[derive(Debug)]
pub struct RuntimeServer {
    engine: Arc<Engine>,
    streaming: Streaming,
}

impl RuntimeServer {
    /// Over this engine; streams are served at the address that `streaming` has.
    pub fn new(engine: Arc<Engine>, streaming: Streaming) -> Self {
        Self { engine, streaming }
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = BoxStream<'static, Result<T, Status>>;

fn answer<T>(value: T) -> Answer<T> {
    Ok(Response::new(value))
}

/// Sends a list in messages of a limited size.
fn chunks<T: Clone + Send + 'static, M: Send + 'static>(all: &[T], message: impl Fn(Vec<T>) -> M) -> Answer<Streamed<M>> {
    let messages: Vec<Result<M, Status>> = all.chunks(CHUNK).map(|chunk| Ok(message(chunk.to_vec()))).collect();
    answer(stream::iter(messages).boxed())
}

#[tonic::async_trait]
impl RuntimeService for RuntimeServer {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        answer(status::version())
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        answer(status::status(&self.engine.config, request.into_inner().verbose))
    }

    async fn runtime_config(&self, _: Request<v1::RuntimeConfigRequest>) -> Answer<v1::RuntimeConfigResponse> {
        let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: v1::CgroupDriver::Cgroupfs.into() };
        answer(v1::RuntimeConfigResponse { linux: Some(linux) })
    }

    async fn update_runtime_config(&self, _: Request<v1::UpdateRuntimeConfigRequest>) -> Answer<v1::UpdateRuntimeConfigResponse> {
        // The network is configured by its own files; the pod range that comes this way is for runtimes that write them.
        answer(v1::UpdateRuntimeConfigResponse {})
    }

    async fn run_pod_sandbox(&self, request: Request<v1::RunPodSandboxRequest>) -> Answer<v1::RunPodSandboxResponse> {
        let pod_sandbox_id = self.engine.run_sandbox(request.into_inner()).await?;
        answer(v1::RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(&self, request: Request<v1::StopPodSandboxRequest>) -> Answer<v1::StopPodSandboxResponse> {
        self.engine.stop_sandbox(&request.into_inner().pod_sandbox_id).await?;
        answer(v1::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(&self, request: Request<v1::RemovePodSandboxRequest>) -> Answer<v1::RemovePodSandboxResponse> {
        self.engine.remove_sandbox(&request.into_inner().pod_sandbox_id).await?;
        answer(v1::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(&self, request: Request<v1::PodSandboxStatusRequest>) -> Answer<v1::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let sandbox = self.engine.sandbox(&request.pod_sandbox_id)?;
        let containers = self.engine.containers_of(&sandbox.id);
        answer(v1::PodSandboxStatusResponse {
            status: Some(self.engine.sandbox_status(&sandbox)),
            info: if request.verbose { self.engine.sandbox_info(&sandbox) } else { Default::default() },
            containers_statuses: containers.iter().map(|container| self.engine.container_status(container)).collect(),
            timestamp: crate::engine::model::now(),
        })
    }

    async fn list_pod_sandbox(&self, request: Request<v1::ListPodSandboxRequest>) -> Answer<v1::ListPodSandboxResponse> {
        answer(v1::ListPodSandboxResponse { items: self.engine.list_sandboxes(request.into_inner().filter.as_ref()) })
    }

    type StreamPodSandboxesStream = Streamed<v1::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(&self, request: Request<v1::StreamPodSandboxesRequest>) -> Answer<Self::StreamPodSandboxesStream> {
        let all = self.engine.list_sandboxes(request.into_inner().filter.as_ref());
        chunks(&all, |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes })
    }

    async fn create_container(&self, request: Request<v1::CreateContainerRequest>) -> Answer<v1::CreateContainerResponse> {
        let container_id = self.engine.create_container(request.into_inner()).await?;
        answer(v1::CreateContainerResponse { container_id })
    }

    async fn start_container(&self, request: Request<v1::StartContainerRequest>) -> Answer<v1::StartContainerResponse> {
        self.engine.start_container(&request.into_inner().container_id).await?;
        answer(v1::StartContainerResponse {})
    }

    async fn stop_container(&self, request: Request<v1::StopContainerRequest>) -> Answer<v1::StopContainerResponse> {
        let request = request.into_inner();
        self.engine.stop_container(&request.container_id, request.timeout).await?;
        answer(v1::StopContainerResponse {})
    }

    async fn remove_container(&self, request: Request<v1::RemoveContainerRequest>) -> Answer<v1::RemoveContainerResponse> {
        self.engine.remove_container(&request.into_inner().container_id).await?;
        answer(v1::RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: Request<v1::ListContainersRequest>) -> Answer<v1::ListContainersResponse> {
        answer(v1::ListContainersResponse { containers: self.engine.list_containers(request.into_inner().filter.as_ref()) })
    }

    type StreamContainersStream = Streamed<v1::StreamContainersResponse>;

    async fn stream_containers(&self, request: Request<v1::StreamContainersRequest>) -> Answer<Self::StreamContainersStream> {
        let all = self.engine.list_containers(request.into_inner().filter.as_ref());
        chunks(&all, |containers| v1::StreamContainersResponse { containers })
    }

    async fn container_status(&self, request: Request<v1::ContainerStatusRequest>) -> Answer<v1::ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.engine.container(&request.container_id)?;
        answer(v1::ContainerStatusResponse {
            status: Some(self.engine.container_status(&container)),
            info: if request.verbose { self.engine.container_info(&container) } else { Default::default() },
        })
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        self.engine.update_resources(request.into_inner()).await?;
        answer(v1::UpdateContainerResourcesResponse {})
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        self.engine.update_sandbox_resources(&request.into_inner().pod_sandbox_id)?;
        answer(v1::UpdatePodSandboxResourcesResponse {})
    }

    async fn reopen_container_log(&self, request: Request<v1::ReopenContainerLogRequest>) -> Answer<v1::ReopenContainerLogResponse> {
        self.engine.reopen_log(&request.into_inner().container_id).await?;
        answer(v1::ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        answer(self.engine.exec_sync(request.into_inner()).await?)
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        let request = request.into_inner();
        if request.cmd.is_empty() {
            return Err(Error::InvalidArgument("no command specified".to_owned()).into());
        }
        if request.tty && request.stderr {
            return Err(Error::InvalidArgument("tty and stderr cannot both be true".to_owned()).into());
        }
        if !(request.stdin || request.stdout || request.stderr) {
            return Err(Error::InvalidArgument("one of stdin, stdout, or stderr must be set".to_owned()).into());
        }
        let container = self.engine.check_running(&request.container_id)?.id.clone();
        let streams = (request.stdin, request.stdout, request.stderr);
        let target = ExecTarget { container, command: request.cmd, tty: request.tty, stdin: request.stdin };
        answer(v1::ExecResponse { url: self.streaming.url(Target::Exec { target, streams }) })
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        let request = request.into_inner();
        if request.tty && request.stderr {
            return Err(Error::InvalidArgument("tty and stderr cannot both be true".to_owned()).into());
        }
        if !(request.stdin || request.stdout || request.stderr) {
            return Err(Error::InvalidArgument("one of stdin, stdout, or stderr must be set".to_owned()).into());
        }
        let container = self.engine.check_running(&request.container_id)?;
        let target = AttachTarget {
            container: container.id.clone(),
            tty: container.config().tty,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        answer(v1::AttachResponse { url: self.streaming.url(Target::Attach(target)) })
    }

    async fn port_forward(&self, request: Request<v1::PortForwardRequest>) -> Answer<v1::PortForwardResponse> {
        let request = request.into_inner();
        let sandbox = self.engine.sandbox(&request.pod_sandbox_id)?;
        if !sandbox.is_ready() {
            return Err(Error::FailedPrecondition(format!("sandbox container {:?} is not running", sandbox.id)).into());
        }
        let ports = request.port.iter().map(|port| u16::try_from(*port)).collect::<Result<Vec<u16>, _>>();
        let ports = ports.map_err(|_| Error::InvalidArgument(format!("invalid ports {:?}", request.port)))?;
        let target = Target::PortForward { sandbox: sandbox.id.clone(), ports };
        answer(v1::PortForwardResponse { url: self.streaming.url(target) })
    }

    async fn container_stats(&self, request: Request<v1::ContainerStatsRequest>) -> Answer<v1::ContainerStatsResponse> {
        let stats = self.engine.one_container_stats(&request.into_inner().container_id).await?;
        answer(v1::ContainerStatsResponse { stats: Some(stats) })
    }

    async fn list_container_stats(&self, request: Request<v1::ListContainerStatsRequest>) -> Answer<v1::ListContainerStatsResponse> {
        let stats = self.engine.list_container_stats(request.into_inner().filter).await?;
        answer(v1::ListContainerStatsResponse { stats })
    }

    type StreamContainerStatsStream = Streamed<v1::StreamContainerStatsResponse>;

    async fn stream_container_stats(&self, request: Request<v1::StreamContainerStatsRequest>) -> Answer<Self::StreamContainerStatsStream> {
        let all = self.engine.list_container_stats(request.into_inner().filter).await?;
        chunks(&all, |container_stats| v1::StreamContainerStatsResponse { container_stats })
    }

    async fn pod_sandbox_stats(&self, request: Request<v1::PodSandboxStatsRequest>) -> Answer<v1::PodSandboxStatsResponse> {
        let stats = self.engine.one_sandbox_stats(&request.into_inner().pod_sandbox_id).await?;
        answer(v1::PodSandboxStatsResponse { stats: Some(stats) })
    }

    async fn list_pod_sandbox_stats(&self, request: Request<v1::ListPodSandboxStatsRequest>) -> Answer<v1::ListPodSandboxStatsResponse> {
        let stats = self.engine.list_sandbox_stats(request.into_inner().filter).await?;
        answer(v1::ListPodSandboxStatsResponse { stats })
    }

    type StreamPodSandboxStatsStream = Streamed<v1::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let all = self.engine.list_sandbox_stats(request.into_inner().filter).await?;
        chunks(&all, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats })
    }

    async fn checkpoint_container(&self, _: Request<v1::CheckpointContainerRequest>) -> Answer<v1::CheckpointContainerResponse> {
        Err(Error::Unimplemented("checkpointing containers is not supported by this runtime".to_owned()).into())
    }

    type GetContainerEventsStream = Streamed<v1::ContainerEventResponse>;

    async fn get_container_events(&self, _: Request<v1::GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        let receiver = self.engine.subscribe();
        let events = stream::unfold(Some(receiver), |receiver| async {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Ok(event) => Some((Ok(event), Some(receiver))),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(missed)) => {
                    Some((Err(Status::data_loss(format!("{missed} events were missed; list again"))), None))
                }
                Err(tokio::sync::broadcast::error::RecvError::Closed) => None,
            }
        });
        // A stream without an end would hold up a graceful shutdown.
        let stop = self.engine.stopping();
        answer(events.take_until(async move { stop.cancelled().await }).boxed())
    }

    async fn list_metric_descriptors(&self, _: Request<v1::ListMetricDescriptorsRequest>) -> Answer<v1::ListMetricDescriptorsResponse> {
        answer(v1::ListMetricDescriptorsResponse::default())
    }

    async fn list_pod_sandbox_metrics(&self, _: Request<v1::ListPodSandboxMetricsRequest>) -> Answer<v1::ListPodSandboxMetricsResponse> {
        // No descriptors, so no metrics: usage is told by the stats calls.
        answer(v1::ListPodSandboxMetricsResponse::default())
    }

    type StreamPodSandboxMetricsStream = Streamed<v1::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        answer(stream::empty().boxed())
    }
}
