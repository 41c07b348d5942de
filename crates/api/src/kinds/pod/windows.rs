//! Rules about the operating system of a pod: what Windows asks for, and what one system forbids the pods of the other.

use super::containers;
use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;

const MOST_CREDENTIAL_BYTES: usize = 64 << 10;
const DOMAIN_MAX: usize = 256;
const USER_MAX: usize = 104;

/// `windowsOptions` of a security context.
pub fn options(context: &Value, path: &At, e: &mut Errors) {
    let Some(options) = get(context, "windowsOptions") else { return };
    let path = path.child("windowsOptions");
    let said = |key: &str| get(options, key).and_then(Value::as_str);
    if let Some(name) = said("gmsaCredentialSpecName") {
        e.invalid_each(&path.child("gmsaCredentialSpecName"), name, names::dns1123_subdomain(name));
    }
    if let Some(spec) = said("gmsaCredentialSpec") {
        let at = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            e.invalid(&at, &spec.into(), "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > MOST_CREDENTIAL_BYTES {
            e.invalid(&at, &spec.into(), "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if let Some(user) = said("runAsUserName") {
        let at = path.child("runAsUserName");
        user_name(user).into_iter().for_each(|why| e.invalid(&at, &user.into(), &format!("runAsUserName{why}")));
    }
}

/// What is wrong with `[DOMAIN\\]USER`.
fn user_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec![" cannot be an empty string".to_owned()];
    }
    if name.bytes().any(|c| c.is_ascii_control()) {
        return vec![" cannot contain control characters".to_owned()];
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, user)) if user.contains('\\') => return vec![" cannot contain more than one backslash".to_owned()],
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut wrong = Vec::new();
    if domain.is_some_and(|d| d.len() >= DOMAIN_MAX) {
        wrong.push(format!("'s Domain length must be under {DOMAIN_MAX} characters"));
    }
    if domain.is_some_and(|d| !is_net_bios(d) && !is_dns(d)) {
        wrong.push("'s Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    if user.is_empty() {
        wrong.push("'s User cannot be empty".to_owned());
    } else if user.len() > USER_MAX {
        wrong.push(format!("'s User length must not be longer than {USER_MAX} characters"));
    }
    if !user.is_empty() && user.bytes().all(|c| b". ".contains(&c)) {
        wrong.push("'s User cannot contain only periods or spaces".to_owned());
    }
    if user.bytes().any(|c| br#""/\:;|=,+*?<>@[]"#.contains(&c)) {
        wrong.push(r#"'s User cannot contain the following characters: "/\:;|=,+*?<>@[]"#.to_owned());
    }
    wrong
}

fn is_net_bios(domain: &str) -> bool {
    const MOST_CHARACTERS: usize = 15;
    let fine = |c: char| !r#"\/:*?"<>|"#.contains(c);
    (1..=MOST_CHARACTERS).contains(&domain.chars().count()) && !domain.starts_with('.') && domain.chars().all(fine)
}

fn is_dns(domain: &str) -> bool {
    let label = |l: &str| l.len() <= names::LABEL_MAX && names::dns1123_label(&l.to_ascii_lowercase()).is_empty();
    domain.split('.').all(label)
}

fn host_process(context: &Value) -> Option<bool> {
    at(context, &["windowsOptions", "hostProcess"]).and_then(Value::as_bool)
}

/// Containers that are processes of a Windows host: all of a pod or none, and with the host's network.
pub fn host_processes(spec: &Value, path: &At, e: &mut Errors) {
    let pod = spec.get("securityContext").and_then(host_process);
    let (mut all, mut on_host) = (0, 0);
    containers::each(spec, path, |c, at| {
        let own = c.get("securityContext").and_then(host_process);
        all += 1;
        on_host += usize::from(own.or(pod) == Some(true));
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let at = at.child("securityContext");
            let at = at.child("windowsOptions");
            let why = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            e.invalid(&at.child("hostProcess"), &own.into(), &why);
        }
    });
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
        other => e.not_supported(&path.child("os"), &other.into(), &["linux", "windows"]),
    }
}

fn each_context<'a>(spec: &'a Value, path: &At, mut see: impl FnMut(&'a Value, &At)) {
    containers::each(spec, path, |c, at| {
        if let Some(context) = get(c, "securityContext") {
            see(context, &at.child("securityContext"));
        }
    });
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
