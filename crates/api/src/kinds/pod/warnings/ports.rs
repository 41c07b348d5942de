//! Ports of containers that stand in each other's way.

use super::{Out, tell};
use crate::field::At;
use crate::kinds::json::*;
use crate::kinds::pod::containers;
use serde_json::Value;

/// A port that was seen, and what its path says.
struct Seen<'a> {
    port: &'a Value,
    path: String,
}

fn host_port(port: &Value) -> i64 {
    int(port, "hostPort").unwrap_or_default()
}

/// Warns about ports of a pod, over all its containers.
pub fn warn(spec: &Value, path: &At, out: &mut Out) {
    let mut seen: Vec<Seen> = Vec::new();
    containers::each(spec, path, |c, at| {
        let ports = at.child("ports");
        for (i, port) in list(c, "ports").iter().enumerate() {
            let at = ports.index(i);
            if !text(port, "hostIP").is_empty() && host_port(port) == 0 {
                tell(out, &at, &format!("hostIP set without hostPort: {}", shown(port)));
            }
            let same_port = |other: &&Seen| ["containerPort", "protocol"].iter().all(|key| same(port.get(key), other.port.get(key)));
            for other in seen.iter().filter(same_port) {
                if let Some(how) = clash(port, other.port) {
                    tell(out, &at, &format!("{how} port definition with {}", other.path));
                }
            }
            seen.push(Seen { port, path: at.to_string() });
        }
    });
}

/// How two definitions of one container port clash.
fn clash(port: &Value, other: &Value) -> Option<&'static str> {
    let (mine, theirs) = (host_port(port), host_port(other));
    let (my_ip, their_ip) = (text(port, "hostIP"), text(other, "hostIP"));
    if mine == theirs && my_ip == their_ip {
        Some("duplicate")
    } else if mine == 0 || theirs == 0 {
        Some("overlapping")
    } else {
        Some("dangerously ambiguous").filter(|_| mine == theirs && my_ip.is_empty() != their_ip.is_empty())
    }
}

/// A port as upstream prints it.
fn shown(port: &Value) -> String {
    let number = |key: &str| int(port, key).unwrap_or_default();
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        text(port, "name"),
        number("hostPort"),
        number("containerPort"),
        text(port, "protocol"),
        text(port, "hostIP")
    )
}
