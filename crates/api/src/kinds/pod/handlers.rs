//! Probes and lifecycle hooks.

use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;

/// What probes and hooks need to know of their pod.
pub type Grace = Option<i64>;

/// All probes of a container that runs for long.
pub fn probes(container: &Value, grace: Grace, path: &At, e: &mut Errors) {
    for (key, once) in [("livenessProbe", true), ("readinessProbe", false), ("startupProbe", true)] {
        let Some(probe) = get(container, key) else { continue };
        let at = path.child(key);
        self::probe(probe, grace, &at, e);
        if once && int(probe, "successThreshold") != Some(1) {
            e.invalid(&at.child("successThreshold"), &int(probe, "successThreshold").unwrap_or(0).into(), "must be 1");
        }
        if !once && let Some(n) = get(probe, "terminationGracePeriodSeconds") {
            e.invalid(&at.child("terminationGracePeriodSeconds"), n, "must not be set for readinessProbes");
        }
    }
}

fn probe(probe: &Value, grace: Grace, path: &At, e: &mut Errors) {
    handler(probe, grace, path, e);
    for key in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        check::non_negative(probe, key, path, e);
    }
    if let Some(n) = int(probe, "terminationGracePeriodSeconds").filter(|n| *n <= 0) {
        e.invalid(&path.child("terminationGracePeriodSeconds"), &n.into(), "must be greater than 0");
    }
}

/// The hooks of a container.
pub fn lifecycle(container: &Value, grace: Grace, path: &At, e: &mut Errors) {
    let Some(lifecycle) = get(container, "lifecycle") else { return };
    let path = path.child("lifecycle");
    for key in ["postStart", "preStop"] {
        if let Some(hook) = get(lifecycle, key) {
            handler(hook, grace, &path.child(key), e);
        }
    }
}

fn handler(h: &Value, grace: Grace, path: &At, e: &mut Errors) {
    type Action = fn(&Value, Grace, &At, &mut Errors);
    const ACTIONS: [(&str, Action); 5] =
        [("exec", exec), ("httpGet", http_get), ("tcpSocket", tcp_socket), ("grpc", tcp_socket), ("sleep", sleep)];
    let mut found = false;
    for (key, action) in ACTIONS {
        let Some(what) = get(h, key) else { continue };
        if found {
            e.forbidden(&path.child(key), "may not specify more than 1 handler type");
        } else {
            action(what, grace, &path.child(key), e);
        }
        found = true;
    }
    if !found {
        e.required(path, "must specify a handler type");
    }
}

fn exec(action: &Value, _: Grace, path: &At, e: &mut Errors) {
    if list(action, "command").is_empty() {
        e.required(&path.child("command"), "");
    }
}

fn http_get(action: &Value, _: Grace, path: &At, e: &mut Errors) {
    check::required(action, "path", path, e);
    check::port(get(action, "port"), &path.child("port"), e);
    let scheme = text(action, "scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        e.not_supported(&path.child("scheme"), &scheme.into(), &["HTTP", "HTTPS"]);
    }
    for header in list(action, "httpHeaders") {
        let name = text(header, "name");
        e.invalid_each(&path.child("httpHeaders"), name, names::http_header_name(name));
    }
}

fn tcp_socket(action: &Value, _: Grace, path: &At, e: &mut Errors) {
    check::port(get(action, "port"), &path.child("port"), e);
}

fn sleep(action: &Value, grace: Grace, path: &At, e: &mut Errors) {
    let seconds = int(action, "seconds").unwrap_or_default();
    if let Some(grace) = grace.filter(|grace| !(0..=*grace).contains(&seconds)) {
        let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        e.invalid(path, &seconds.into(), &why);
    }
}
