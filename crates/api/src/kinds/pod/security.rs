//! Security contexts of pods and containers.

use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
const ID_MAX: i64 = i32::MAX as i64;

fn ids(context: &Value, keys: &[&str], path: &At, e: &mut Errors) {
    keys.iter().for_each(|key| check::within(context, key, 0, ID_MAX, path, e));
}

/// `securityContext` of a pod; `spec_path` is the path of the spec.
pub fn pod(spec: &Value, spec_path: &At, e: &mut Errors) {
    host_users(spec, spec_path, e);
    let Some(context) = get(spec, "securityContext") else { return };
    let path = spec_path.child("securityContext");
    ids(context, &["fsGroup", "runAsUser", "runAsGroup"], &path, e);
    let groups = path.child("supplementalGroups");
    for (i, gid) in list(context, "supplementalGroups").iter().enumerate() {
        if gid.as_i64().is_some_and(|n| !(0..=ID_MAX).contains(&n)) {
            e.invalid(&groups.index(i), gid, &names::inclusive_range(0, ID_MAX));
        }
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        e.invalid(&path.child("shareProcessNamespace"), &true.into(), why);
    }
    sysctls(context, spec, &path, e);
    check::choice_if_set(context, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], &path, e);
    seccomp(context, &path, e);
    app_armor(context, &path, e);
    check::choice_if_set(context, "supplementalGroupsPolicy", &["Merge", "Strict"], &path, e);
    check::choice_if_set(context, "seLinuxChangePolicy", &["MountOption", "Recursive"], &path, e);
}

fn host_users(spec: &Value, path: &At, e: &mut Errors) {
    if get(spec, "hostUsers") != Some(&Value::Bool(false)) {
        return;
    }
    for (key, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if flag(spec, key) {
            e.forbidden(&path.child(shown), "when `pod.Spec.HostUsers` is false");
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let segment = |s: &str| {
        let b = s.as_bytes();
        !b.is_empty() && edge(b[0]) && edge(b[b.len() - 1]) && b.iter().all(|c| edge(*c) || b"-_".contains(c))
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn sysctls(context: &Value, spec: &Value, path: &At, e: &mut Errors) {
    const FORM: &str =
        r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    let path = path.child("sysctls");
    let all = list(context, "sysctls");
    for (i, sysctl) in all.iter().enumerate() {
        let (item, name) = (path.index(i), text(sysctl, "name"));
        let at = item.child("name");
        if name.is_empty() {
            e.required(&at, "");
        } else if !is_sysctl(name) {
            e.invalid(&at, &name.into(), FORM);
        } else if all[..i].iter().any(|s| text(s, "name") == name) {
            e.duplicate(&at, &name.into());
        }
        let dotted = name.replace('/', ".");
        if flag(spec, "hostNetwork") && dotted.starts_with("net.") {
            e.invalid(&at, &name.into(), "may not be specified when 'hostNetwork' is true");
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p)) || dotted == "kernel.sem";
        if flag(spec, "hostIPC") && ipc {
            e.invalid(&at, &name.into(), "may not be specified when 'hostIPC' is true");
        }
    }
}

fn seccomp(context: &Value, path: &At, e: &mut Errors) {
    let Some(profile) = get(context, "seccompProfile") else { return };
    let path = path.child("seccompProfile");
    let kind = text(profile, "type");
    if kind.is_empty() {
        e.required(&path.child("type"), "type is required when seccompProfile is set");
    } else if !PROFILES.contains(&kind) {
        e.not_supported(&path.child("type"), &kind.into(), &PROFILES);
    }
    let at = path.child("localhostProfile");
    match (kind == "Localhost", get(profile, "localhostProfile").and_then(Value::as_str)) {
        (true, None) => e.required(&at, "must be set when seccomp type is Localhost"),
        (true, Some(file)) => check::local_path(file, &at, e),
        (false, Some(_)) => e.invalid(&at, profile, "can only be set when seccomp type is Localhost"),
        (false, None) => {}
    }
}

fn app_armor(context: &Value, path: &At, e: &mut Errors) {
    let Some(profile) = get(context, "appArmorProfile") else { return };
    let path = path.child("appArmorProfile");
    let at = path.child("localhostProfile");
    let file = get(profile, "localhostProfile").and_then(Value::as_str);
    match text(profile, "type") {
        "Localhost" => match file {
            None => e.required(&at, "must be set when AppArmor type is Localhost"),
            Some(f) if f.trim() != f => e.invalid(&at, &f.into(), "must not be padded with whitespace"),
            Some("") => e.required(&at, "must be set when AppArmor type is Localhost"),
            Some(f) if f.len() > 4095 => e.too_long(&at, 4095),
            Some(_) => {}
        },
        "RuntimeDefault" | "Unconfined" => {
            if let Some(f) = file {
                e.invalid(&at, &f.into(), "can only be set when AppArmor type is Localhost");
            }
        }
        "" => e.required(&path.child("type"), "type is required when appArmorProfile is set"),
        other => e.not_supported(&path.child("type"), &other.into(), &PROFILES),
    }
}

/// `securityContext` of a container.
pub fn container(context: &Value, spec: &Value, path: &At, e: &mut Errors) {
    if get(context, "privileged").is_some() && flag(context, "privileged") {
        if get(context, "allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            e.invalid(path, context, why);
        }
    } else if get(context, "allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        let admin = list_at(context, &["capabilities", "add"]).iter().any(|c| c == "CAP_SYS_ADMIN");
        if admin {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            e.invalid(path, context, why);
        }
    }
    ids(context, &["runAsUser", "runAsGroup"], path, e);
    if let Some(mount) = get(context, "procMount").and_then(Value::as_str) {
        let at = path.child("procMount");
        if !matches!(mount, "Default" | "Unmasked") {
            e.not_supported(&at, &mount.into(), &["Default", "Unmasked"]);
        }
        if mount == "Unmasked" && get(spec, "hostUsers") != Some(&Value::Bool(false)) {
            e.invalid(&at, &mount.into(), "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(context, path, e);
    app_armor(context, path, e);
}

fn host_process(context: &Value) -> Option<bool> {
    at(context, &["windowsOptions", "hostProcess"]).and_then(Value::as_bool)
}

/// Containers that are processes of a Windows host: all of a pod or none, and with the host's network.
pub fn host_processes(spec: &Value, path: &At, e: &mut Errors) {
    let pod = spec.get("securityContext").and_then(host_process);
    let (mut all, mut on_host) = (0, 0);
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        let lists = path.child(key);
        for (i, c) in list(spec, key).iter().enumerate() {
            let own = c.get("securityContext").and_then(host_process);
            all += 1;
            on_host += usize::from(own.or(pod) == Some(true));
            if let (Some(pod), Some(own)) = (pod, own)
                && pod != own
            {
                let at = lists.index(i);
                let at = at.child("securityContext");
                let at = at.child("windowsOptions");
                let why = format!("pod hostProcess value must be identical if both are specified, was {pod}");
                e.invalid(&at.child("hostProcess"), &own.into(), &why);
            }
        }
    }
    if on_host == 0 {
        return;
    }
    if on_host != all {
        let why = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        e.invalid(path, &"".into(), why);
    }
    if !flag(spec, "hostNetwork") {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        e.invalid(&path.child("hostNetwork"), &false.into(), why);
    }
}

const NOT_FOR_WINDOWS: &str = "cannot be set for a windows pod";

/// What the operating system of a pod forbids.
pub fn operating_system(spec: &Value, path: &At, e: &mut Errors) {
    let Some(os) = get(spec, "os") else { return };
    match text(os, "name") {
        "linux" => linux(spec, path, e),
        "windows" => windows(spec, path, e),
        "" => e.required(&path.child("os").child("name"), ""),
        other => e.not_supported(&path.child("os").child("name"), &other.into(), &["linux", "windows"]),
    }
}

fn each_context<'a>(spec: &'a Value, path: &At, mut see: impl FnMut(&'a Value, &At)) {
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        let lists = path.child(key);
        for (i, c) in list(spec, key).iter().enumerate() {
            if let Some(context) = get(c, "securityContext") {
                see(context, &lists.index(i).child("securityContext"));
            }
        }
    }
}

fn linux(spec: &Value, path: &At, e: &mut Errors) {
    let mut see = |context: &Value, at: &At| {
        if has(context, "windowsOptions") {
            e.forbidden(&at.child("windowsOptions"), "windows options cannot be set for a linux pod");
        }
    };
    if let Some(context) = get(spec, "securityContext") {
        see(context, &path.child("securityContext"));
    }
    each_context(spec, path, see);
}

fn windows(spec: &Value, path: &At, e: &mut Errors) {
    const POD: [&str; 11] = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "seLinuxChangePolicy",
    ];
    const CONTAINER: [&str; 10] = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    let mut refuse = |context: &Value, keys: &[&str], at: &At| {
        for key in keys.iter().filter(|k| has(context, k)) {
            e.forbidden(&at.child(key), NOT_FOR_WINDOWS);
        }
    };
    if let Some(context) = get(spec, "securityContext") {
        refuse(context, &POD, &path.child("securityContext"));
    }
    refuse(spec, &["hostUsers", "shareProcessNamespace"], path);
    let hosts = ["hostPID", "hostIPC"].into_iter().filter(|k| flag(spec, k)).collect::<Vec<_>>();
    refuse(spec, &hosts, path);
    each_context(spec, path, |context, at| refuse(context, &CONTAINER, at));
}
