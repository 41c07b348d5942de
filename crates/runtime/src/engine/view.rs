//! Sandboxes and containers in the words of the interface.

use std::collections::BTreeMap;

use ferrokube_cri::v1::{self, ContainerState, PodSandboxState};
use serde_json::json;

use super::Engine;
use super::model::{Container, Sandbox, Status, namespace_options};

/// Whether labels have everything that a selector asks for.
pub fn matches_labels(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// Whether an id is the one asked for, or begins with it; an empty one asks for all.
fn matches_id(wanted: &str, id: &str) -> bool {
    id.starts_with(wanted)
}

impl Sandbox {
    fn cri_state(&self) -> PodSandboxState {
        if self.is_ready() { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
    }
}

impl Container {
    /// The state as the interface names it.
    pub fn cri_state(&self) -> ContainerState {
        match self.current() {
            Status::Created => ContainerState::ContainerCreated,
            Status::Running { .. } => ContainerState::ContainerRunning,
            Status::Exited(_) => ContainerState::ContainerExited,
        }
    }
}

impl Engine {
    /// ListPodSandbox.
    pub fn list_sandboxes(&self, filter: Option<&v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
        let nothing = v1::PodSandboxFilter::default();
        let filter = filter.unwrap_or(&nothing);
        let wanted = |sandbox: &Sandbox| {
            matches_id(&filter.id, &sandbox.id)
                && filter.state.as_ref().is_none_or(|state| state.state() == sandbox.cri_state())
                && matches_labels(&filter.label_selector, &sandbox.config.labels)
        };
        let entry = |sandbox: &Sandbox| v1::PodSandbox {
            id: sandbox.id.clone(),
            metadata: sandbox.config.metadata.clone(),
            state: sandbox.cri_state().into(),
            created_at: sandbox.created_at,
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
            runtime_handler: sandbox.runtime_handler.clone(),
        };
        self.sandboxes().iter().filter(|sandbox| wanted(sandbox)).map(|sandbox| entry(sandbox)).collect()
    }

    /// PodSandboxStatus, without the containers.
    pub fn sandbox_status(&self, sandbox: &Sandbox) -> v1::PodSandboxStatus {
        let mut ips = sandbox.state.lock().ips.clone().into_iter();
        let network =
            v1::PodSandboxNetworkStatus { ip: ips.next().unwrap_or_default(), additional_ips: ips.map(|ip| v1::PodIp { ip }).collect() };
        let options = namespace_options(&sandbox.config);
        v1::PodSandboxStatus {
            id: sandbox.id.clone(),
            metadata: sandbox.config.metadata.clone(),
            state: sandbox.cri_state().into(),
            created_at: sandbox.created_at,
            network: Some(network),
            linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options: Some(options) }) }),
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
            runtime_handler: sandbox.runtime_handler.clone(),
        }
    }

    /// What is told of a sandbox to those who debug.
    pub fn sandbox_info(&self, sandbox: &Sandbox) -> BTreeMap<String, String> {
        let state = sandbox.state.lock().clone();
        let info = json!({
            "netns": sandbox.netns(),
            "stateDirectory": sandbox.state_directory,
            "podInit": state.pod_init,
            "cniResult": state.network.map(|attached| attached.result),
        });
        [("info".to_owned(), info.to_string())].into()
    }

    /// ListContainers.
    pub fn list_containers(&self, filter: Option<&v1::ContainerFilter>) -> Vec<v1::Container> {
        let nothing = v1::ContainerFilter::default();
        let filter = filter.unwrap_or(&nothing);
        let wanted = |container: &Container| {
            matches_id(&filter.id, &container.id)
                && matches_id(&filter.pod_sandbox_id, &container.sandbox_id)
                && filter.state.as_ref().is_none_or(|state| state.state() == container.cri_state())
                && matches_labels(&filter.label_selector, &container.config().labels)
        };
        let entry = |container: &Container| {
            let config = container.config();
            v1::Container {
                id: container.id.clone(),
                pod_sandbox_id: container.sandbox_id.clone(),
                metadata: config.metadata.clone(),
                image: config.image.clone(),
                image_ref: container.record.image_ref.clone(),
                state: container.cri_state().into(),
                created_at: container.record.created_at,
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
                image_id: container.record.image_id.clone(),
            }
        };
        self.containers().iter().filter(|container| wanted(container)).map(|container| entry(container)).collect()
    }

    /// ContainerStatus.
    pub fn container_status(&self, container: &Container) -> v1::ContainerStatus {
        let config = container.config();
        let mut status = v1::ContainerStatus {
            id: container.id.clone(),
            metadata: config.metadata.clone(),
            state: container.cri_state().into(),
            created_at: container.record.created_at,
            image: Some(image_spec(container, config.image.clone().unwrap_or_default())),
            image_ref: container.record.image_ref.clone(),
            image_id: container.record.image_id.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: container.record.log_path.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
            resources: config
                .linux
                .as_ref()
                .and_then(|linux| linux.resources.clone())
                .map(|resources| v1::ContainerResources { linux: Some(resources), windows: None }),
            user: Some(v1::ContainerUser {
                linux: Some(v1::LinuxContainerUser {
                    uid: container.record.user.0.into(),
                    gid: container.record.user.1.into(),
                    supplemental_groups: container.record.groups.iter().map(|group| i64::from(*group)).collect(),
                }),
            }),
            stop_signal: cri_signal(container.record.stop_signal).into(),
            ..Default::default()
        };
        match container.current() {
            Status::Created => {}
            Status::Running { started_at, .. } => status.started_at = started_at,
            Status::Exited(exit) => {
                status.started_at = exit.started_at;
                status.finished_at = exit.finished_at;
                status.exit_code = exit.exit_code;
                status.reason = exit.reason;
                status.message = exit.message;
            }
        }
        status
    }

    /// What is told of a container to those who debug.
    pub fn container_info(&self, container: &Container) -> BTreeMap<String, String> {
        let bundle: serde_json::Value = super::model::load_json(&container.bundle().join("config.json")).unwrap_or_default();
        let info = json!({
            "sandboxID": container.sandbox_id,
            "pid": container.pid().unwrap_or(0),
            "cgroup": container.record.cgroup,
            "runtimeSpec": bundle,
        });
        [("info".to_owned(), info.to_string())].into()
    }
}

/// The image by the name that people know it by.
fn image_spec(container: &Container, mut spec: v1::ImageSpec) -> v1::ImageSpec {
    if !container.record.image_name.is_empty() {
        spec.image.clone_from(&container.record.image_name);
    }
    spec
}

/// The interface's name of a signal number.
fn cri_signal(number: i32) -> v1::Signal {
    let (low, high) = (crate::sys::sigrtmin(), crate::sys::sigrtmax());
    let name = match nix::sys::signal::Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) if number == low => "SIGRTMIN".to_owned(),
        Err(_) if number == high => "SIGRTMAX".to_owned(),
        Err(_) if number <= low + 15 => format!("SIGRTMINPLUS{}", number - low),
        Err(_) => format!("SIGRTMAXMINUS{}", high - number),
    };
    v1::Signal::from_str_name(&name).unwrap_or(v1::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_keep_their_names() {
        assert_eq!(cri_signal(15), v1::Signal::Sigterm);
        assert_eq!(cri_signal(crate::sys::sigrtmin() + 3), v1::Signal::Sigrtminplus3);
        assert_eq!(cri_signal(crate::sys::sigrtmax() - 2), v1::Signal::Sigrtmaxminus2);
    }

    #[test]
    fn a_selector_asks_for_some_of_the_labels() {
        let labels: BTreeMap<String, String> = [("a", "1"), ("b", "2")].map(|(name, value)| (name.into(), value.into())).into();
        let selector = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        assert!(matches_labels(&BTreeMap::new(), &labels));
        assert!(matches_labels(&selector("a", "1"), &labels));
        assert!(!matches_labels(&selector("a", "2"), &labels));
        assert!(!matches_labels(&selector("c", "1"), &labels));
    }
}
