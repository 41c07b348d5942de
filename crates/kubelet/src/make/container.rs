//! The container that CRI is asked to make.

use super::env::{ConfigError, Lookup, environment, expand};
use super::{resources, sandbox};
use crate::config::Config;
use crate::pod::spec::{Class, ContainerSpec};
use crate::runtime::{annotations, labels, log_path};
use ferrokube_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was looked up and made before a container can be described.
pub struct Inputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub spec: &'a ContainerSpec,
    /// How often it has been restarted before.
    pub restarts: u32,
    /// The life of the pod that it is made for.
    pub life: u32,
    /// The image, as the runtime knows it after the pull.
    pub image: &'a cri::Image,
    /// Environment sources.
    pub lookup: &'a Lookup,
    /// Where each volume of the pod is on this host.
    pub volumes: &'a BTreeMap<String, VolumeSource>,
    /// The pod's managed `/etc/hosts`, when it has one.
    pub hosts_file: Option<&'a Path>,
    /// File that becomes the termination log.
    pub termination_file: &'a Path,
    /// Id of the container whose processes an ephemeral one joins.
    pub target_id: Option<&'a str>,
    /// Memory of the node, bytes.
    pub node_memory: i64,
    /// Node configuration.
    pub config: &'a Config,
}

/// Where a volume comes from on this host.
#[derive(Clone, Debug, PartialEq)]
pub enum VolumeSource {
    /// A directory or file.
    Path(PathBuf),
    /// An image, mounted by the runtime.
    Image(Box<cri::ImageSpec>),
}

/// Describes the container for CRI.
pub fn config(inputs: &Inputs<'_>) -> Result<cri::ContainerConfig, ConfigError> {
    let Inputs { pod, spec, .. } = inputs;
    let fields = &spec.fields;
    verify_user(inputs)?;
    let env = environment(pod, fields, inputs.lookup)?;
    let value = |name: &str| env.iter().rev().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    let expand_all = |list: &Option<Vec<String>>| list.iter().flatten().map(|t| expand(t, value)).collect::<Vec<_>>();
    let mounts = mounts(inputs, &value)?;
    let mut labels = sandbox::identity_labels(pod);
    labels.insert(labels::CONTAINER_NAME.into(), spec.name.clone());
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: spec.name.clone(), attempt: inputs.restarts }),
        image: Some(cri::ImageSpec {
            image: inputs.image.id.clone(),
            user_specified_image: fields.image.clone().unwrap_or_default(),
            ..cri::ImageSpec::default()
        }),
        command: expand_all(&fields.command),
        args: expand_all(&fields.args),
        working_dir: fields.working_dir.clone().unwrap_or_default(),
        envs: env.iter().map(|(key, v)| cri::KeyValue { key: key.clone(), value: v.clone().into() }).collect(),
        mounts,
        labels,
        annotations: annotations_of(inputs),
        log_path: log_path(&spec.name, inputs.restarts).to_string_lossy().into_owned(),
        stdin: fields.stdin.unwrap_or(false),
        stdin_once: fields.stdin_once.unwrap_or(false),
        tty: fields.tty.unwrap_or(false),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources::linux(pod, fields.resources.as_ref(), inputs.node_memory)),
            security_context: Some(security(inputs)),
        }),
        ..cri::ContainerConfig::default()
    })
}

fn annotations_of(inputs: &Inputs<'_>) -> BTreeMap<String, String> {
    let fields = &inputs.spec.fields;
    BTreeMap::from([
        (annotations::HASH.into(), inputs.spec.hash.clone()),
        (annotations::RESTART_COUNT.into(), inputs.restarts.to_string()),
        (annotations::LIFE.into(), inputs.life.to_string()),
        (annotations::TERMINATION_PATH.into(), fields.termination_message_path.clone().unwrap_or_default()),
        (annotations::TERMINATION_POLICY.into(), fields.termination_message_policy.clone().unwrap_or_default()),
        (annotations::TERMINATION_FILE.into(), inputs.termination_file.to_string_lossy().into_owned()),
        // What it is given now: a later resize is told from it, by a later kubelet too.
        (annotations::RESOURCES.into(), serde_json::to_string(&fields.resources.clone().unwrap_or_default()).unwrap_or_default()),
    ])
}

fn run_as(inputs: &Inputs<'_>) -> (Option<i64>, Option<i64>) {
    let own = inputs.spec.fields.security_context.as_ref();
    let pod = inputs.pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let user = own.and_then(|c| c.run_as_user).or(pod.and_then(|c| c.run_as_user));
    let group = own.and_then(|c| c.run_as_group).or(pod.and_then(|c| c.run_as_group));
    (user, group)
}

/// The user CRI is told: ours, else the image's, by number or by name.
fn user_or_images(inputs: &Inputs<'_>) -> (Option<i64>, String) {
    match (run_as(inputs).0, &inputs.image.uid) {
        (Some(user), _) => (Some(user), String::new()),
        (None, Some(uid)) => (Some(uid.value), String::new()),
        (None, None) => (None, inputs.image.username.clone()),
    }
}

/// `runAsNonRoot` (the kubelet's `verifyRunAsNonRoot`).
fn verify_user(inputs: &Inputs<'_>) -> Result<(), ConfigError> {
    let own = inputs.spec.fields.security_context.as_ref().and_then(|c| c.run_as_non_root);
    let pod = inputs.pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|c| c.run_as_non_root);
    if own.or(pod) != Some(true) {
        return Ok(());
    }
    let pod_name = format!("{:?}", crate::pod::title(inputs.pod));
    let container = &inputs.spec.name;
    let image = inputs.image;
    match (run_as(inputs).0, image.uid.as_ref(), image.username.as_str()) {
        (Some(0), _, _) => {
            Err(ConfigError(format!("container's runAsUser breaks non-root policy (pod: {pod_name}, container: {container})")))
        }
        (Some(_), _, _) => Ok(()),
        (None, Some(uid), _) if uid.value == 0 => {
            Err(ConfigError(format!("container has runAsNonRoot and image will run as root (pod: {pod_name}, container: {container})")))
        }
        (None, None, "") => {
            Err(ConfigError(format!("container has runAsNonRoot and image will run as root (pod: {pod_name}, container: {container})")))
        }
        (None, None, name) => Err(ConfigError(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root (pod: {pod_name}, container: {container})"
        ))),
        (None, Some(_), _) => Ok(()),
    }
}

fn mounts(inputs: &Inputs<'_>, value: &dyn Fn(&str) -> Option<String>) -> Result<Vec<cri::Mount>, ConfigError> {
    let fields = &inputs.spec.fields;
    let mut mounts = Vec::new();
    for mount in fields.volume_mounts.iter().flatten() {
        mounts.push(volume_mount(inputs, fields, mount, value)?);
    }
    let taken = |mounts: &[cri::Mount], path: &str| mounts.iter().any(|m| m.container_path == path);
    if let Some(hosts) = inputs.hosts_file.filter(|_| !taken(&mounts, "/etc/hosts")) {
        mounts.push(bind(hosts, "/etc/hosts", false));
    }
    let termination = fields.termination_message_path.as_deref().filter(|p| !p.is_empty());
    if let Some(path) = termination.filter(|p| !taken(&mounts, p)) {
        mounts.push(bind(inputs.termination_file, path, false));
    }
    Ok(mounts)
}

fn bind(host: &Path, container: &str, readonly: bool) -> cri::Mount {
    cri::Mount { host_path: host.to_string_lossy().into_owned(), container_path: container.to_owned(), readonly, ..cri::Mount::default() }
}

fn volume_mount(
    inputs: &Inputs<'_>,
    fields: &Container,
    mount: &k8s_openapi::api::core::v1::VolumeMount,
    value: &dyn Fn(&str) -> Option<String>,
) -> Result<cri::Mount, ConfigError> {
    let missing = || ConfigError(format!("cannot find volume {:?} to mount into container {:?}", mount.name, fields.name));
    let source = inputs.volumes.get(&mount.name).ok_or_else(missing)?;
    let sub = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => Some(path.clone()),
        (_, Some(expr)) if !expr.is_empty() => Some(expand(expr, value)),
        _ => None,
    };
    if let Some(sub) = &sub {
        stays_inside(sub)?;
    }
    let path = if mount.mount_path.starts_with('/') { mount.mount_path.clone() } else { format!("/{}", mount.mount_path) };
    let readonly = mount.read_only.unwrap_or(false);
    let mut made = match source {
        VolumeSource::Path(root) => {
            let refuse = |e: std::io::Error| {
                tracing::warn!(volume = mount.name, "subPath {:?} cannot be had: {e}", sub.as_deref().unwrap_or_default());
                ConfigError(format!("failed to prepare subPath for volumeMount {:?} of container {:?}", mount.name, fields.name))
            };
            let host = sub_path(root, sub.as_deref()).map_err(refuse)?;
            bind(&host, &path, readonly || is_only_read(inputs.pod, &mount.name))
        }
        VolumeSource::Image(image) => cri::Mount {
            container_path: path,
            readonly: true,
            image: Some((**image).clone()),
            image_sub_path: sub.unwrap_or_default(),
            ..cri::Mount::default()
        },
    };
    made.propagation = match mount.mount_propagation.as_deref() {
        Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
        Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
        _ => cri::MountPropagation::PropagationPrivate,
    }
    .into();
    made.recursive_read_only = readonly && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
    Ok(made)
}

/// Whether no container may write to a volume, whatever its mounts say: what it holds belongs to the API, or the pod says so of its claim.
fn is_only_read(pod: &Pod, volume: &str) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.find(|v| v.name == volume).is_some_and(|v| {
        let of_api = v.config_map.is_some() || v.secret.is_some() || v.downward_api.is_some() || v.projected.is_some();
        of_api || v.persistent_volume_claim.as_ref().is_some_and(|c| c.read_only == Some(true))
    })
}

fn stays_inside(sub: &str) -> Result<(), ConfigError> {
    let relative = Path::new(sub);
    if relative.is_absolute() {
        return Err(ConfigError(format!("error SubPath `{sub}` must not be an absolute path")));
    }
    match relative.components().any(|c| matches!(c, std::path::Component::ParentDir)) {
        true => Err(ConfigError(format!("unable to provision SubPath `{sub}`: must not contain '..'"))),
        false => Ok(()),
    }
}

/// A path below a volume that never leaves it. Where nothing is there a directory is made with the mode of the volume itself, so that
/// who may write to the one may write to the other.
fn sub_path(root: &Path, sub: Option<&str>) -> std::io::Result<PathBuf> {
    let Some(sub) = sub else { return Ok(root.to_owned()) };
    let (full, base) = (root.join(sub), root.canonicalize()?);
    let made = !full.exists();
    if made {
        std::fs::create_dir_all(&full)?;
    }
    let real = full.canonicalize()?;
    if !real.starts_with(&base) {
        return Err(std::io::Error::other("it is outside of the volume"));
    }
    if made {
        std::fs::set_permissions(&real, std::fs::metadata(&base)?.permissions())?;
    }
    Ok(real)
}

const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
];
const MASKED_MORE: [&str; 3] = ["/proc/scsi", "/sys/devices/virtual/powercap", "/sys/devices/system/cpu/cpu0/thermal_throttle"];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn security(inputs: &Inputs<'_>) -> cri::LinuxContainerSecurityContext {
    let own = inputs.spec.fields.security_context.clone().unwrap_or_default();
    let pod = inputs.pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    let group = run_as(inputs).1;
    let (user, username) = user_or_images(inputs);
    let mut namespaces = sandbox::namespaces(inputs.pod);
    if let (Class::Ephemeral, Some(target)) = (inputs.spec.class, inputs.target_id) {
        namespaces.pid = cri::NamespaceMode::Target.into();
        namespaces.target_id = target.to_owned();
    }
    let privileged = own.privileged.unwrap_or(false);
    let hidden = !privileged && own.proc_mount.as_deref() != Some("Unmasked");
    let list = |paths: &mut dyn Iterator<Item = &&str>| if hidden { paths.map(|p| (*p).to_owned()).collect() } else { Vec::new() };
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let strict = pod.supplemental_groups_policy.as_deref() == Some("Strict");
    cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces),
        run_as_user: user.map(|value| cri::Int64Value { value }),
        run_as_username: username,
        run_as_group: group.map(|value| cri::Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: pod.fs_group.into_iter().chain(pod.supplemental_groups.into_iter().flatten()).collect(),
        supplemental_groups_policy: if strict { cri::SupplementalGroupsPolicy::Strict } else { cri::SupplementalGroupsPolicy::Merge }
            .into(),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: list(&mut MASKED.iter().chain(&MASKED_MORE)),
        readonly_paths: list(&mut READONLY.iter()),
        seccomp: Some(if privileged && own.seccomp_profile.is_none() {
            cri::SecurityProfile { profile_type: cri::security_profile::ProfileType::Unconfined.into(), localhost_ref: String::new() }
        } else {
            sandbox::seccomp(own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()), inputs.config)
        }),
        ..cri::LinuxContainerSecurityContext::default()
    }
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
