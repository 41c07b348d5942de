//! A pod's containers as one list, in the order in which they start.

use k8s_openapi::api::core::v1::{Container as ContainerFields, EphemeralContainer, Pod};
use sha2::{Digest, Sha256};

/// What kind of container of a pod it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Runs to completion before the next starts.
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    /// An ordinary container.
    Main,
    /// Added later for debugging; never restarted.
    Ephemeral,
}

/// A container of a pod with what planning needs.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// Name.
    pub name: String,
    /// Kind of container.
    pub class: Class,
    /// Its fields; an ephemeral container is expressed in the same struct.
    pub fields: ContainerFields,
    /// Restart policy that applies: `Always`, `OnFailure` or `Never`.
    pub restart_policy: String,
    /// Hash of what cannot change under a running container.
    pub hash: String,
    /// For an ephemeral container: whose process namespace it joins.
    pub target: Option<String>,
}

/// What follows the exit of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing: it stays as it is.
    Stay,
    /// It is started again.
    Restart,
    /// All containers of the pod are.
    RestartAll,
}

impl ContainerSpec {
    /// What the container's own rules, or else its restart policy, ask for after this exit code.
    pub fn after(&self, exit_code: i32) -> After {
        for rule in self.fields.restart_policy_rules.iter().flatten() {
            let Some(codes) = &rule.exit_codes else { continue };
            let listed = codes.values.iter().flatten().any(|c| *c == exit_code);
            if listed == (codes.operator == "In") {
                return if rule.action == "RestartAllContainers" { After::RestartAll } else { After::Restart };
            }
        }
        let again = match self.restart_policy.as_str() {
            "Always" => true,
            "OnFailure" => exit_code != 0,
            _ => false,
        };
        if again { After::Restart } else { After::Stay }
    }

    /// Whether it is started again after this exit code, by itself or with all others.
    pub fn restarts_after(&self, exit_code: i32) -> bool {
        self.after(exit_code) != After::Stay
    }

    /// Whether one of its rules may restart all containers of the pod.
    pub fn may_restart_all(&self) -> bool {
        self.fields.restart_policy_rules.iter().flatten().any(|r| r.action == "RestartAllContainers")
    }
}

/// Init containers and sidecars in order, then main containers, then ephemeral ones.
pub fn containers_of(pod: &Pod) -> Vec<ContainerSpec> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let init = spec.init_containers.iter().flatten().map(|c| match c.restart_policy.as_deref() {
        Some("Always") => make(c, Class::Sidecar, "Always"),
        Some(own) => make(c, Class::Init, own),
        // An init container that fails is tried again unless the pod's policy is Never; one that succeeded is not.
        None => make(c, Class::Init, if policy == "Never" { "Never" } else { "OnFailure" }),
    });
    let main = spec.containers.iter().map(|c| make(c, Class::Main, c.restart_policy.as_deref().unwrap_or(policy)));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| {
        let mut made = make(&plain(c), Class::Ephemeral, "Never");
        made.target = c.target_container_name.clone().filter(|t| !t.is_empty());
        made
    });
    init.chain(main).chain(ephemeral).collect()
}

fn make(fields: &ContainerFields, class: Class, policy: &str) -> ContainerSpec {
    ContainerSpec {
        name: fields.name.clone(),
        class,
        restart_policy: policy.to_owned(),
        hash: hash(fields),
        fields: fields.clone(),
        target: None,
    }
}

/// Name and image are what may differ between the API and a running container (HashContainer since 1.32: only those).
fn hash(fields: &ContainerFields) -> String {
    let mut hasher = Sha256::new();
    hasher.update(fields.name.as_bytes());
    hasher.update([0]);
    hasher.update(fields.image.as_deref().unwrap_or_default().as_bytes());
    hasher.finalize().iter().take(4).map(|b| format!("{b:02x}")).collect()
}

fn plain(c: &EphemeralContainer) -> ContainerFields {
    let c = c.clone();
    ContainerFields {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        name: c.name,
        security_context: c.security_context,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
        ..ContainerFields::default()
    }
}
