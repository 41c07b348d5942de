//! The sandbox that CRI is asked to make for a pod.

use super::{dns, resources};
use crate::config::Config;
use crate::runtime::{annotations, labels};
use ferrokube_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Pod, SeccompProfile};
use std::collections::BTreeMap;

/// Identity labels of a pod, by which everything of it is found again.
pub fn identity_labels(pod: &Pod) -> BTreeMap<String, String> {
    let meta = &pod.metadata;
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    BTreeMap::from([
        (labels::POD_NAME.into(), text(&meta.name)),
        (labels::POD_NAMESPACE.into(), text(&meta.namespace)),
        (labels::POD_UID.into(), text(&meta.uid)),
    ])
}

/// The configuration of a pod's sandbox.
pub fn config(pod: &Pod, attempt: u32, config: &Config, host_resolv: &dns::Resolv) -> cri::PodSandboxConfig {
    let meta = &pod.metadata;
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    let (namespace, name, uid) = (text(&meta.namespace), text(&meta.name), text(&meta.uid));
    let spec = pod.spec.clone().unwrap_or_default();
    let host_network = spec.host_network.unwrap_or(false);
    let (host, domain) = dns::hostname(pod, config);
    let fqdn = spec.set_hostname_as_fqdn.unwrap_or(false);
    let hostname = match domain {
        Some(domain) if fqdn => format!("{host}.{domain}"),
        _ => host,
    };
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    let grace = spec.termination_grace_period_seconds.unwrap_or(30);
    annotations.insert(annotations::POD_GRACE.into(), grace.to_string());
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.extend(identity_labels(pod));
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata { name: name.clone(), uid: uid.clone(), namespace: namespace.clone(), attempt }),
        // A pod in the host's network shares its host name too; a name here would change the host's.
        hostname: if host_network { String::new() } else { hostname },
        log_directory: config.log_dir(&namespace, &name, &uid).to_string_lossy().into_owned(),
        dns_config: Some(dns::dns(pod, config, host_resolv)),
        port_mappings: if host_network { Vec::new() } else { port_mappings(pod) },
        labels,
        annotations,
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: resources::pod_cgroup(&config.cgroup_root, pod),
            security_context: Some(security(pod, config)),
            sysctls: sysctls(pod),
            overhead: None,
            resources: None,
        }),
        windows: None,
    }
}

fn port_mappings(pod: &Pod) -> Vec<cri::PortMapping> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let mapping = |p: &k8s_openapi::api::core::v1::ContainerPort| cri::PortMapping {
        protocol: match p.protocol.as_deref() {
            Some("UDP") => cri::Protocol::Udp,
            Some("SCTP") => cri::Protocol::Sctp,
            _ => cri::Protocol::Tcp,
        }
        .into(),
        container_port: p.container_port,
        host_port: p.host_port.unwrap_or(0),
        host_ip: p.host_ip.clone().unwrap_or_default(),
    };
    ports.filter(|p| p.host_port.unwrap_or(0) > 0).map(mapping).collect()
}

fn sysctls(pod: &Pod) -> BTreeMap<String, String> {
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let list = context.and_then(|c| c.sysctls.as_ref());
    list.into_iter().flatten().map(|s| (s.name.replace('/', "."), s.value.clone())).collect()
}

/// Namespaces of the pod as CRI names them.
pub fn namespaces(pod: &Pod) -> cri::NamespaceOption {
    let Some(spec) = &pod.spec else { return cri::NamespaceOption::default() };
    let node_or = |on_node: Option<bool>, else_: cri::NamespaceMode| if on_node == Some(true) { cri::NamespaceMode::Node } else { else_ };
    let shared = if spec.share_process_namespace == Some(true) { cri::NamespaceMode::Pod } else { cri::NamespaceMode::Container };
    let users = (spec.host_users == Some(false)).then(|| cri::UserNamespace {
        mode: cri::NamespaceMode::Pod.into(),
        uids: Vec::new(),
        gids: Vec::new(),
    });
    cri::NamespaceOption {
        network: node_or(spec.host_network, cri::NamespaceMode::Pod).into(),
        pid: node_or(spec.host_pid, shared).into(),
        ipc: node_or(spec.host_ipc, cri::NamespaceMode::Pod).into(),
        target_id: String::new(),
        userns_options: users,
    }
}

fn security(pod: &Pod, config: &Config) -> cri::LinuxSandboxSecurityContext {
    let spec = pod.spec.clone().unwrap_or_default();
    let context = spec.security_context.clone().unwrap_or_default();
    let privileged = spec.containers.iter().any(|c| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true));
    let strict = context.supplemental_groups_policy.as_deref() == Some("Strict");
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: context.run_as_user.map(|value| cri::Int64Value { value }),
        run_as_group: context.run_as_group.map(|value| cri::Int64Value { value }),
        supplemental_groups: context.fs_group.into_iter().chain(context.supplemental_groups.into_iter().flatten()).collect(),
        supplemental_groups_policy: if strict { cri::SupplementalGroupsPolicy::Strict } else { cri::SupplementalGroupsPolicy::Merge }
            .into(),
        privileged,
        seccomp: Some(seccomp(context.seccomp_profile.as_ref(), config)),
        ..cri::LinuxSandboxSecurityContext::default()
    }
}

/// A seccomp profile as CRI takes it; without one the node's default.
pub fn seccomp(profile: Option<&SeccompProfile>, config: &Config) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let (kind, file) = match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => (ProfileType::RuntimeDefault, None),
        Some(("Localhost", file)) => (ProfileType::Localhost, file),
        Some(_) => (ProfileType::Unconfined, None),
        None if config.seccomp_default => (ProfileType::RuntimeDefault, None),
        None => (ProfileType::Unconfined, None),
    };
    let file = file.map(|f| config.root.join("seccomp").join(f).to_string_lossy().into_owned());
    cri::SecurityProfile { profile_type: kind.into(), localhost_ref: file.unwrap_or_default() }
}
