//! The checks of the Pod Security Standards, one row each: what each forbids, from which version on, in which words.
//!
//! Pure functions over metadata and spec of a pod. Source: `pod-security-admission/policy`.

use super::policy::{Level, Policy};
use super::{containers, list};
use serde_json::Value;
use std::collections::BTreeSet;

/// What a pod does that it must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) reason: String,
    pub(super) detail: String,
}

/// What a check looks at.
#[derive(Clone, Copy)]
struct Pod<'a> {
    meta: &'a Value,
    spec: &'a Value,
    /// Minor version of the policy.
    version: u32,
}

type Run = fn(Pod<'_>) -> Option<Violation>;

struct Check {
    id: &'static str,
    level: Level,
    /// Minor version in which the check came.
    since: u32,
    run: Run,
    /// The check of the baseline that this one includes.
    instead_of: &'static str,
}

const fn baseline(id: &'static str, since: u32, run: Run) -> Check {
    Check { id, level: Level::Baseline, since, run, instead_of: "" }
}

const fn restricted(id: &'static str, since: u32, run: Run, instead_of: &'static str) -> Check {
    Check { id, level: Level::Restricted, since, run, instead_of }
}

/// In the order in which violations are told.
const CHECKS: &[Check] = &[
    baseline("appArmorProfile", 0, app_armor),
    baseline("capabilities_baseline", 0, capabilities_baseline),
    baseline("hostNamespaces", 0, host_namespaces),
    baseline("hostPathVolumes", 0, host_path),
    baseline("hostPorts", 0, host_ports),
    baseline("hostProbesAndHostLifecycle", 34, probe_hosts),
    baseline("privileged", 0, privileged),
    baseline("procMount", 0, proc_mount_baseline),
    baseline("seLinuxOptions", 0, se_linux),
    baseline("seccompProfile_baseline", 0, seccomp_baseline),
    baseline("sysctls", 0, sysctls),
    baseline("windowsHostProcess", 0, windows_host_process),
    restricted("allowPrivilegeEscalation", 8, privilege_escalation, ""),
    restricted("capabilities_restricted", 22, capabilities_restricted, "capabilities_baseline"),
    restricted("procMount_restricted", 35, proc_mount, "procMount"),
    restricted("restrictedVolumes", 0, volumes, "hostPathVolumes"),
    restricted("runAsNonRoot", 0, non_root, ""),
    restricted("runAsUser", 23, run_as_user, ""),
    restricted("seccompProfile_restricted", 19, seccomp_restricted, "seccompProfile_baseline"),
];

/// Everything the policy forbids that the pod does.
pub(super) fn violations(meta: &Value, spec: &Value, policy: Policy) -> Vec<Violation> {
    let pod = Pod { meta, spec, version: policy.version };
    let active = |c: &&Check| c.level <= policy.level && c.since <= policy.version;
    let replaced: Vec<&str> = CHECKS.iter().filter(active).map(|c| c.instead_of).collect();
    CHECKS.iter().filter(active).filter(|c| !replaced.contains(&c.id)).filter_map(|c| (c.run)(pod)).collect()
}

fn violation(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation { reason: reason.into(), detail: detail.into() })
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn quoted<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    items.into_iter().map(|i| format!("{i:?}")).collect::<Vec<_>>().join(", ")
}

/// `container "a"` or `containers "a", "b"`.
fn named(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names.iter().copied()))
}

fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

impl<'a> Pod<'a> {
    fn security(&self) -> &'a Value {
        &self.spec["securityContext"]
    }

    /// Names of containers whose security context is as `bad` says.
    fn containers_with(&self, bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        containers(self.spec).filter(|c| bad(&c["securityContext"])).map(name).collect()
    }

    /// `pod`, `containers "a"`, joined by `and`: who sets something bad in their security context.
    fn setters(&self, bad: impl Fn(&Value) -> bool) -> Option<String> {
        let mut who = Vec::new();
        if bad(self.security()) {
            who.push("pod".to_owned());
        }
        let names = self.containers_with(bad);
        if !names.is_empty() {
            who.push(named(&names));
        }
        (!who.is_empty()).then(|| who.join(" and "))
    }

    /// Security contexts of the pod and of all containers.
    fn contexts(&self) -> impl Iterator<Item = &'a Value> {
        std::iter::once(self.security()).chain(containers(self.spec).map(|c| &c["securityContext"]))
    }

    fn windows(&self) -> bool {
        self.version >= 25 && self.spec["os"]["name"] == "windows"
    }

    /// Since 1.35, what a pod does inside its own user namespace counts less.
    fn own_users(&self) -> bool {
        self.version >= 35 && self.spec["hostUsers"] == false
    }

    fn annotations(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.meta["annotations"].as_object().into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
    }
}

fn app_armor(pod: Pod<'_>) -> Option<Violation> {
    let bad = |context: &Value| context["appArmorProfile"]["type"].as_str().is_some_and(|t| t != "RuntimeDefault" && t != "Localhost");
    let mut details = Vec::new();
    let mut forbidden = 0;
    if let Some(who) = pod.setters(bad) {
        let types: BTreeSet<&str> = pod.contexts().filter(|c| bad(c)).filter_map(|c| c["appArmorProfile"]["type"].as_str()).collect();
        forbidden += types.len();
        details.push(format!("{who} must not set AppArmor profile type to {}", quoted(types)));
    }
    let mut annotations: Vec<String> = pod
        .annotations()
        .filter(|(k, v)| {
            k.starts_with("container.apparmor.security.beta.kubernetes.io/")
                && !(v.is_empty() || *v == "runtime/default" || v.starts_with("localhost/"))
        })
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    annotations.sort();
    forbidden += annotations.len();
    details.extend(annotations);
    if details.is_empty() {
        return None;
    }
    violation(plural("forbidden AppArmor profile", "forbidden AppArmor profiles", forbidden), details.join(", "))
}

const HARMLESS_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Containers that add other capabilities than allowed, and which.
fn added<'a>(pod: Pod<'a>, allowed: &[&str]) -> Option<String> {
    let extra = |context: &'a Value| {
        list(&context["capabilities"], "add").filter_map(Value::as_str).filter(|c| !allowed.contains(c)).collect::<Vec<_>>()
    };
    let names: Vec<&str> = containers(pod.spec).filter(|c| !extra(&c["securityContext"]).is_empty()).map(name).collect();
    let forbidden: BTreeSet<&str> = containers(pod.spec).flat_map(|c| extra(&c["securityContext"])).collect();
    (!names.is_empty()).then(|| format!("{} must not include {} in securityContext.capabilities.add", named(&names), quoted(forbidden)))
}

fn capabilities_baseline(pod: Pod<'_>) -> Option<Violation> {
    violation("non-default capabilities", added(pod, HARMLESS_CAPABILITIES)?)
}

fn capabilities_restricted(pod: Pod<'_>) -> Option<Violation> {
    if pod.windows() {
        return None;
    }
    let keeps = pod.containers_with(|s| !list(&s["capabilities"], "drop").any(|c| c == "ALL"));
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeps)));
    }
    details.extend(added(pod, &["NET_BIND_SERVICE"]));
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn host_namespaces(pod: Pod<'_>) -> Option<Violation> {
    let shared: Vec<String> =
        ["hostNetwork", "hostPID", "hostIPC"].iter().filter(|f| pod.spec[**f] == true).map(|f| format!("{f}=true")).collect();
    if shared.is_empty() { None } else { violation("host namespaces", shared.join(", ")) }
}

fn host_path(pod: Pod<'_>) -> Option<Violation> {
    let names: Vec<&str> = list(pod.spec, "volumes").filter(|v| !v["hostPath"].is_null()).map(name).collect();
    if names.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(names)))
}

fn host_ports(pod: Pod<'_>) -> Option<Violation> {
    let port = |p: &Value| p["hostPort"].as_i64().filter(|p| *p != 0);
    let names: Vec<&str> = containers(pod.spec).filter(|c| list(c, "ports").any(|p| port(p).is_some())).map(name).collect();
    let ports: BTreeSet<String> = containers(pod.spec).flat_map(|c| list(c, "ports").filter_map(port)).map(|p| p.to_string()).collect();
    if names.is_empty() {
        return None;
    }
    let what = plural("hostPort", "hostPorts", ports.len());
    let uses = plural("uses", "use", names.len());
    violation("hostPort", format!("{} {uses} {what} {}", named(&names), ports.into_iter().collect::<Vec<_>>().join(", ")))
}

fn probe_hosts(pod: Pod<'_>) -> Option<Violation> {
    fn hosts(container: &Value) -> impl Iterator<Item = &str> {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|p| &container[p]);
        let handlers = ["postStart", "preStop"].map(|h| &container["lifecycle"][h]);
        let hosts = probes.into_iter().chain(handlers).flat_map(|h| [&h["httpGet"]["host"], &h["tcpSocket"]["host"]]);
        hosts.filter_map(Value::as_str).filter(|h| !h.is_empty())
    }
    let names: BTreeSet<&str> = containers(pod.spec).filter(|c| hosts(c).next().is_some()).map(name).collect();
    let forbidden: BTreeSet<&str> = containers(pod.spec).flat_map(hosts).collect();
    if names.is_empty() {
        return None;
    }
    let what = plural("probe or lifecycle host", "probe or lifecycle hosts", forbidden.len());
    let uses = plural("uses", "use", names.len());
    let names: Vec<&str> = names.into_iter().collect();
    violation("probe or lifecycle host", format!("{} {uses} {what} {}", named(&names), quoted(forbidden)))
}

fn privileged(pod: Pod<'_>) -> Option<Violation> {
    let names = pod.containers_with(|s| s["privileged"] == true);
    if names.is_empty() { None } else { violation("privileged", format!("{} must not set securityContext.privileged=true", named(&names))) }
}

fn proc_mount_baseline(pod: Pod<'_>) -> Option<Violation> {
    if pod.own_users() { None } else { proc_mount(pod) }
}

fn proc_mount(pod: Pod<'_>) -> Option<Violation> {
    let bad = |s: &Value| s["procMount"].as_str().is_some_and(|p| p != "Default");
    let names = pod.containers_with(bad);
    let types: BTreeSet<&str> =
        containers(pod.spec).map(|c| &c["securityContext"]).filter(|s| bad(s)).filter_map(|s| s["procMount"].as_str()).collect();
    if names.is_empty() {
        return None;
    }
    violation("procMount", format!("{} must not set securityContext.procMount to {}", named(&names), quoted(types)))
}

fn se_linux(pod: Pod<'_>) -> Option<Violation> {
    let allowed = |t: &str| {
        matches!(t, "" | "container_t" | "container_init_t" | "container_kvm_t") || (t == "container_engine_t" && pod.version >= 31)
    };
    let text = |s: &Value, field: &str| s["seLinuxOptions"][field].as_str().unwrap_or_default().to_owned();
    let bad_type = |s: &Value| !allowed(&text(s, "type"));
    let sets = |s: &Value, field: &str| !text(s, field).is_empty();
    let who = pod.setters(|s| bad_type(s) || sets(s, "user") || sets(s, "role"))?;
    let mut what = Vec::new();
    let types: BTreeSet<String> = pod.contexts().filter(|s| bad_type(s)).map(|s| text(s, "type")).collect();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", "types", types.len()), quoted(types.iter().map(String::as_str))));
    }
    for field in ["user", "role"] {
        if pod.contexts().any(|s| sets(s, field)) {
            what.push(format!("{field} may not be set"));
        }
    }
    violation("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")))
}

fn seccomp_type(context: &Value) -> Option<&str> {
    context["seccompProfile"]["type"].as_str()
}

fn seccomp_good(kind: &str) -> bool {
    kind == "RuntimeDefault" || kind == "Localhost"
}

/// Where profiles stood before there were fields.
pub(super) const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(super) const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Who sets a profile that is not allowed.
fn seccomp_bad(pod: Pod<'_>) -> Option<String> {
    let bad = |s: &Value| seccomp_type(s).is_some_and(|t| !seccomp_good(t));
    let who = pod.setters(bad)?;
    let types: BTreeSet<&str> = pod.contexts().filter(|s| bad(s)).filter_map(seccomp_type).collect();
    Some(format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(types)))
}

fn seccomp_baseline(pod: Pod<'_>) -> Option<Violation> {
    if pod.version >= 19 {
        return violation("seccompProfile", seccomp_bad(pod)?);
    }
    let allowed = |v: &str| v == "runtime/default" || v == "docker/default" || v.starts_with("localhost/");
    let of_pod = |k: &str| {
        let own = |container: &str| containers(pod.spec).any(|c| name(c) == container);
        k == SECCOMP_POD || k.strip_prefix(SECCOMP_CONTAINER).is_some_and(own)
    };
    let bad: BTreeSet<String> = pod.annotations().filter(|(k, v)| of_pod(k) && !allowed(v)).map(|(k, v)| format!("{k}={v:?}")).collect();
    if bad.is_empty() {
        None
    } else {
        violation(
            "seccompProfile",
            format!("forbidden {} {}", plural("annotation", "annotations", bad.len()), bad.into_iter().collect::<Vec<_>>().join(", ")),
        )
    }
}

fn seccomp_restricted(pod: Pod<'_>) -> Option<Violation> {
    if pod.windows() {
        return None;
    }
    if let Some(detail) = seccomp_bad(pod) {
        return violation("seccompProfile", detail);
    }
    if seccomp_type(pod.security()).is_some() {
        return None;
    }
    let open = pod.containers_with(|s| seccomp_type(s).is_none());
    if open.is_empty() {
        return None;
    }
    let detail = format!("pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"", named(&open));
    violation("seccompProfile", detail)
}

/// Sysctls that are safe, with the minor version in which they became so.
const SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: Pod<'_>) -> Option<Violation> {
    let safe = |n: &str| SYSCTLS.iter().any(|(s, since)| *s == n && *since <= pod.version);
    let bad: Vec<&str> = list(pod.security(), "sysctls").map(name).filter(|n| !safe(n)).collect();
    if bad.is_empty() { None } else { violation("forbidden sysctls", bad.join(", ")) }
}

fn windows_host_process(pod: Pod<'_>) -> Option<Violation> {
    let who = pod.setters(|s| s["windowsOptions"]["hostProcess"] == true)?;
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn privilege_escalation(pod: Pod<'_>) -> Option<Violation> {
    let names = pod.containers_with(|s| s["allowPrivilegeEscalation"] != false);
    if names.is_empty() || pod.windows() {
        return None;
    }
    violation("allowPrivilegeEscalation != false", format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&names)))
}

const HARMLESS_VOLUMES: &[&str] =
    &["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "image"];

fn volumes(pod: Pod<'_>) -> Option<Violation> {
    let kind = |v: &Value| v.as_object().into_iter().flatten().find(|(k, v)| *k != "name" && !v.is_null()).map(|(k, _)| k.clone());
    // A volume without source is an emptyDir.
    let bad = |v: &&Value| kind(v).is_some_and(|k| !HARMLESS_VOLUMES.contains(&k.as_str()));
    let names: Vec<&str> = list(pod.spec, "volumes").filter(bad).map(name).collect();
    let kinds: BTreeSet<String> = list(pod.spec, "volumes").filter(bad).filter_map(kind).collect();
    if names.is_empty() {
        return None;
    }
    let (volume, uses) = (plural("volume", "volumes", names.len()), plural("uses", "use", names.len()));
    let what = plural("restricted volume type", "restricted volume types", kinds.len());
    violation("restricted volume types", format!("{volume} {} {uses} {what} {}", quoted(names), quoted(kinds.iter().map(String::as_str))))
}

fn non_root(pod: Pod<'_>) -> Option<Violation> {
    if pod.own_users() {
        return None;
    }
    let reason = "runAsNonRoot != true";
    if let Some(who) = pod.setters(|s| s["runAsNonRoot"] == false) {
        return violation(reason, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    if pod.security()["runAsNonRoot"] == true {
        return None;
    }
    let open = pod.containers_with(|s| s["runAsNonRoot"].is_null());
    if open.is_empty() { None } else { violation(reason, format!("pod or {} must set securityContext.runAsNonRoot=true", named(&open))) }
}

fn run_as_user(pod: Pod<'_>) -> Option<Violation> {
    if pod.own_users() {
        return None;
    }
    let who = pod.setters(|s| s["runAsUser"].as_i64() == Some(0))?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}
