//! From what the kubelet asks for to an OCI bundle.
//!
//! [`build`] is a decision and no action: it reads the image's user databases and the node's devices, and says what the container is to be.
//! The bundle has two parts: `config.json` for libcontainer, and [`Security`] for what is done to the process last (see `shim::helper`).

mod capabilities;
pub mod devices;
pub mod mounts;
mod resources;
mod signals;
pub mod user;

use std::path::{Path, PathBuf};

use ferrokube_cri::v1::security_profile::ProfileType;
use ferrokube_cri::v1::{ContainerConfig, LinuxContainerSecurityContext, SecurityProfile};
use serde_json::{Value, json};

pub use mounts::{ImageVolume, PodFiles};
pub use resources::{NodeLimits, resources};
pub use signals::stop_signal;
pub use user::User;

use crate::image::ImageConfig;

/// Why a container cannot be what it is asked to be.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It makes sense, but not here.
    #[error("{0}")]
    Unsupported(String),
    /// Something on the node could not be read or made.
    #[error("{0}: {1}")]
    Io(String, #[source] std::io::Error),
}

/// The search path of a container whose image names none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kernel files that say more about the node than a container should read.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// Kernel files that a container may read only.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// How a container gets one of its namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceChoice {
    /// Its own.
    New,
    /// That at a path.
    Join(PathBuf),
    /// The node's.
    Node,
}

/// The namespaces that a pod decides on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// Network.
    pub network: NamespaceChoice,
    /// IPC.
    pub ipc: NamespaceChoice,
    /// Host name.
    pub uts: NamespaceChoice,
    /// Processes.
    pub pid: NamespaceChoice,
}

/// Everything that a container follows from.
pub struct Input<'a> {
    /// Sandbox id.
    pub sandbox_id: &'a str,
    /// What the kubelet asks for.
    pub config: &'a ContainerConfig,
    /// What the image says.
    pub image: &'a ImageConfig,
    /// Mounted root file system.
    pub rootfs: &'a Path,
    /// The pod's namespaces.
    pub namespaces: Namespaces,
    /// The pod's files.
    pub files: PodFiles,
    /// Image volumes among the mounts, already prepared.
    pub image_volumes: &'a [ImageVolume],
    /// Cgroup of the container.
    pub cgroup: &'a str,
    /// What the kernel accounts for.
    pub node: NodeLimits,
    /// Name of the pod's host.
    pub hostname: &'a str,
}

/// What [`build`] decides.
#[derive(Debug)]
pub struct Decision {
    /// `config.json`.
    pub config: Value,
    /// Bounding set.
    pub capabilities: Vec<String>,
    /// Ambient set.
    pub ambient: Vec<String>,
    /// No privileges can be gained.
    pub no_new_privileges: bool,
    /// The seccomp profile; none is unconfined.
    pub seccomp: Option<SeccompChoice>,
    /// Who it runs as.
    pub user: User,
    /// Working directory, to be made when the image lacks it.
    pub working_dir: PathBuf,
}

/// Which seccomp profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeccompChoice {
    /// The runtime's own.
    RuntimeDefault,
    /// A file on the node.
    Localhost(PathBuf),
}

/// Decides what a container is to be.
pub fn build(input: &Input<'_>) -> Result<Decision, SpecError> {
    let nothing = Default::default();
    let linux = input.config.linux.as_ref();
    let context = linux.and_then(|linux| linux.security_context.as_ref()).unwrap_or(&nothing);
    let limits = linux.and_then(|linux| linux.resources.clone()).unwrap_or_default();
    let user = user::resolve(context, &input.image.user, &user::Databases::read(input.rootfs)?)?;
    let capabilities = capabilities::resolve(context.capabilities.as_ref(), context.privileged)?;
    let ambient = capabilities::ambient(context.capabilities.as_ref(), &capabilities)?;
    let devices = devices::resolve(&input.config.devices, context.privileged)?;
    if !input.config.cdi_devices.is_empty() {
        return Err(SpecError::Unsupported("CDI devices are not supported by this runtime".to_owned()));
    }
    let working_dir = working_dir(input.config, input.image);
    let mut resources = resources(&limits, input.node);
    resources.insert("devices".to_owned(), Value::Array(devices.rules));
    let mut all_mounts = mounts::system(context.privileged, input.node.v2, input.cgroup);
    all_mounts.extend(mounts::shared(&input.files, &input.config.mounts, context.readonly_rootfs));
    all_mounts.extend(mounts::requested(&input.config.mounts, input.image_volumes)?);
    let mut linux = json!({
        "cgroupsPath": input.cgroup,
        "namespaces": namespaces(&input.namespaces, input.node.v2 && !context.privileged),
        "resources": resources,
        "devices": devices.nodes,
    });
    if mounts::needs_shared_root(&input.config.mounts) {
        linux["rootfsPropagation"] = json!("shared");
    }
    if !context.privileged {
        linux["maskedPaths"] = paths(&context.masked_paths, &MASKED);
        linux["readonlyPaths"] = paths(&context.readonly_paths, &READONLY);
    }
    let mut process = json!({
        "terminal": input.config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": arguments(input.config, input.image)?,
        "env": environment(input, &user)?,
        "cwd": working_dir,
        "noNewPrivileges": context.no_new_privs,
    });
    if let Some(profile) = apparmor(context)? {
        process["apparmorProfile"] = json!(profile);
    }
    let config = json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": input.rootfs, "readonly": context.readonly_rootfs},
        "mounts": all_mounts,
        "annotations": {
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": input.sandbox_id,
        },
        "linux": linux,
    });
    Ok(Decision { config, capabilities, ambient, no_new_privileges: context.no_new_privs, seccomp: seccomp(context)?, user, working_dir })
}

fn paths(wanted: &[String], default: &[&str]) -> Value {
    if wanted.is_empty() { json!(default) } else { json!(wanted) }
}

fn namespaces(choice: &Namespaces, own_cgroup: bool) -> Value {
    let mut all = vec![json!({"type": "mount"})];
    let pod = [("network", &choice.network), ("ipc", &choice.ipc), ("uts", &choice.uts), ("pid", &choice.pid)];
    for (kind, choice) in pod {
        match choice {
            NamespaceChoice::New => all.push(json!({"type": kind})),
            NamespaceChoice::Join(path) => all.push(json!({"type": kind, "path": path})),
            NamespaceChoice::Node => {}
        }
    }
    if own_cgroup {
        all.push(json!({"type": "cgroup"}));
    }
    Value::Array(all)
}

/// The pod's command replaces the image's entrypoint and with it the image's arguments; the pod's arguments replace only those.
fn arguments(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, SpecError> {
    let arguments: Vec<String> = if config.command.is_empty() {
        let tail = if config.args.is_empty() { &image.cmd } else { &config.args };
        image.entrypoint.iter().chain(tail).cloned().collect()
    } else {
        config.command.iter().chain(&config.args).cloned().collect()
    };
    if arguments.is_empty() {
        return Err(SpecError::Invalid("no command specified".to_owned()));
    }
    Ok(arguments)
}

fn working_dir(config: &ContainerConfig, image: &ImageConfig) -> PathBuf {
    let wanted = [&config.working_dir, &image.working_dir].into_iter().find(|path| !path.is_empty());
    wanted.map_or_else(|| PathBuf::from("/"), |path| mounts::clean(path))
}

/// The image's environment, then the pod's, where a later value of a name takes the place of the earlier one.
fn environment(input: &Input<'_>, user: &User) -> Result<Vec<String>, SpecError> {
    let mut all: Vec<String> = vec![DEFAULT_PATH.to_owned()];
    if input.config.tty {
        all.push("TERM=xterm".to_owned());
    }
    all.push(format!("HOSTNAME={}", input.hostname));
    let mut set = |entry: String| {
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name).len();
        match all.iter_mut().find(|held| held.len() > name && held.as_bytes()[name] == b'=' && held[..name] == entry[..name]) {
            Some(held) => *held = entry,
            None => all.push(entry),
        }
    };
    for entry in &input.image.env {
        set(entry.clone());
    }
    for pair in &input.config.envs {
        let value = std::str::from_utf8(&pair.value)
            .map_err(|_| SpecError::Unsupported(format!("the value of environment variable {:?} is not UTF-8", pair.key)))?;
        if pair.key.is_empty() || pair.key.contains('=') || pair.key.contains('\0') || value.contains('\0') {
            return Err(SpecError::Invalid(format!("invalid environment variable {:?}", pair.key)));
        }
        set(format!("{}={value}", pair.key));
    }
    if !all.iter().any(|entry| entry.starts_with("HOME=")) {
        all.push(format!("HOME={}", user.home));
    }
    Ok(all)
}

/// A privileged container is never confined; otherwise what is not said is not confined either.
fn seccomp(context: &LinuxContainerSecurityContext) -> Result<Option<SeccompChoice>, SpecError> {
    match &context.seccomp {
        _ if context.privileged => Ok(None),
        Some(profile) => match profile.profile_type() {
            ProfileType::RuntimeDefault => Ok(Some(SeccompChoice::RuntimeDefault)),
            ProfileType::Unconfined => Ok(None),
            ProfileType::Localhost if profile.localhost_ref.is_empty() => {
                Err(SpecError::Invalid("seccomp profile of type Localhost without a file".to_owned()))
            }
            ProfileType::Localhost => Ok(Some(SeccompChoice::Localhost(PathBuf::from(&profile.localhost_ref)))),
        },
        None => Ok(None),
    }
}

/// Without AppArmor in the kernel only a profile that somebody named is an error; with it, the runtime brings no profile of its own.
fn apparmor(context: &LinuxContainerSecurityContext) -> Result<Option<String>, SpecError> {
    let Some(SecurityProfile { localhost_ref, .. }) =
        context.apparmor.as_ref().filter(|profile| profile.profile_type() == ProfileType::Localhost && !context.privileged)
    else {
        return Ok(None);
    };
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'));
    if !enabled {
        return Err(SpecError::Unsupported("apparmor is not supported".to_owned()));
    }
    Ok(Some(localhost_ref.trim_start_matches("localhost/").to_owned()))
}

/// The `process` of an exec: that of the container, with another command.
pub fn exec_process(container: &Value, command: &[String], tty: bool) -> Value {
    let mut process = container["process"].clone();
    process["args"] = json!(command);
    process["terminal"] = json!(tty);
    if tty
        && let Some(environment) = process["env"].as_array_mut()
        && !environment.iter().any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("TERM=")))
    {
        environment.push(json!("TERM=xterm"));
    }
    process
}

#[cfg(test)]
mod tests;
