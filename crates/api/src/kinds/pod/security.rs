//! Security contexts of pods and containers.

use super::{containers, windows};
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
    windows::options(context, &path, e);
    app_armor(context, &path, e);
    check::choice_if_set(context, "supplementalGroupsPolicy", &["Merge", "Strict"], &path, e);
    check::choice_if_set(context, "seLinuxChangePolicy", &["MountOption", "Recursive"], &path, e);
}

/// A pod with users of its own shares few namespaces with the host, and no raw devices.
pub fn host_users(spec: &Value, path: &At, e: &mut Errors) {
    const WHY: &str = "when `hostUsers` is false";
    if get(spec, "hostUsers") != Some(&Value::Bool(false)) {
        return;
    }
    for (key, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if flag(spec, key) {
            e.forbidden(&path.child(shown), WHY);
        }
    }
    containers::each(spec, path, |c, at| {
        if !list(c, "volumeDevices").is_empty() {
            e.forbidden(&at.child("volumeDevices"), WHY);
        }
    });
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
    if let Some(profile) = get(context, "appArmorProfile") {
        app_armor_profile(profile, &path.child("appArmorProfile"), e);
    }
}

/// An AppArmor profile.
pub fn app_armor_profile(profile: &Value, path: &At, e: &mut Errors) {
    const MOST_BYTES: usize = 4095;
    let at = path.child("localhostProfile");
    let file = get(profile, "localhostProfile").and_then(Value::as_str);
    match text(profile, "type") {
        "Localhost" => {
            match file {
                Some(f) if f.trim() != f => e.invalid(&at, &f.into(), "must not be padded with whitespace"),
                None | Some("") => e.required(&at, "must be set when AppArmor type is Localhost"),
                Some(_) => {}
            }
            if file.is_some_and(|f| f.len() > MOST_BYTES) {
                e.too_long(&at, MOST_BYTES);
            }
        }
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
    ids(context, &["runAsUser", "runAsGroup"], path, e);
    if let Some(mount) = get(context, "procMount").and_then(Value::as_str) {
        let at = path.child("procMount");
        check::choice_if_set(context, "procMount", &["Default", "Unmasked"], path, e);
        if mount == "Unmasked" && get(spec, "hostUsers") != Some(&Value::Bool(false)) {
            e.invalid(&at, &mount.into(), "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(context, path, e);
    if get(context, "allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        if flag(context, "privileged") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            e.invalid(path, context, why);
        }
        for _ in list_at(context, &["capabilities", "add"]).iter().filter(|c| *c == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            e.invalid(path, context, why);
        }
    }
    windows::options(context, path, e);
    app_armor(context, path, e);
}
