//! Devices: the nodes that a container sees, and the rules that let it use them.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use ferrokube_cri::v1::Device;
use serde_json::{Value, json};

use super::SpecError;

/// `linux.devices` and `linux.resources.devices`.
#[derive(Debug, Default, PartialEq)]
pub struct Devices {
    /// Nodes to make.
    pub nodes: Vec<Value>,
    /// Rules, in order; the first one denies everything.
    pub rules: Vec<Value>,
}

/// What the kubelet asks for, or everything for a privileged container.
pub fn resolve(wanted: &[Device], privileged: bool) -> Result<Devices, SpecError> {
    if privileged {
        let mut nodes = Vec::new();
        collect(Path::new("/dev"), Path::new("/dev"), "rwm", &mut |node, _| nodes.push(node))?;
        return Ok(Devices { nodes, rules: vec![json!({"allow": true, "access": "rwm"})] });
    }
    let mut devices = Devices { nodes: Vec::new(), rules: vec![json!({"allow": false, "access": "rwm"})] };
    for device in wanted {
        if device.permissions.is_empty() || device.permissions.chars().any(|letter| !"rwm".contains(letter)) {
            return Err(SpecError::Invalid(format!("device {}: permissions {:?}", device.host_path, device.permissions)));
        }
        let target = if device.container_path.is_empty() { &device.host_path } else { &device.container_path };
        let host =
            std::fs::canonicalize(&device.host_path).map_err(|error| SpecError::Io(format!("device {:?}", device.host_path), error))?;
        let before = devices.nodes.len();
        collect(&host, Path::new(target), &device.permissions, &mut |node, rule| {
            devices.nodes.push(node);
            devices.rules.push(rule);
        })?;
        if devices.nodes.len() == before {
            return Err(SpecError::Invalid(format!("{:?} is not a device", device.host_path)));
        }
    }
    Ok(devices)
}

/// Folders that every container has of its own.
const OWN: [&str; 5] = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console"];

/// A device, or all devices below a folder.
fn collect(host: &Path, target: &Path, access: &str, add: &mut impl FnMut(Value, Value)) -> Result<(), SpecError> {
    let wrap = |error| SpecError::Io(format!("device {}", host.display()), error);
    let metadata = std::fs::symlink_metadata(host).map_err(wrap)?;
    if metadata.is_dir() {
        if OWN.iter().any(|own| target == Path::new(own)) {
            return Ok(());
        }
        for entry in std::fs::read_dir(host).map_err(wrap)? {
            let name = entry.map_err(wrap)?.file_name();
            // A device may go away while we look; that is not the container's trouble.
            let _ = collect(&host.join(&name), &target.join(&name), access, add);
        }
        return Ok(());
    }
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return Ok(()),
    };
    if OWN.iter().any(|own| target == Path::new(own)) {
        return Ok(());
    }
    let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    add(
        json!({"path": target, "type": kind, "major": major, "minor": minor, "fileMode": metadata.mode() & 0o7777,
               "uid": metadata.uid(), "gid": metadata.gid()}),
        json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access}),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_described_and_allowed_and_nothing_else() {
        let device = Device { host_path: "/dev/null".into(), container_path: "/dev/mine".into(), permissions: "rw".into() };
        let devices = resolve(&[device], false).expect("a device");
        assert_eq!(devices.nodes[0]["path"], "/dev/mine");
        assert_eq!((devices.nodes[0]["major"].as_u64(), devices.nodes[0]["minor"].as_u64()), (Some(1), Some(3)));
        assert_eq!(devices.rules[0]["allow"], false);
        assert_eq!(devices.rules[1]["access"], "rw");
    }

    #[test]
    fn files_and_strange_permissions_are_errors() {
        let device =
            |path: &str, permissions: &str| Device { host_path: path.into(), container_path: path.into(), permissions: permissions.into() };
        assert!(resolve(&[device("/etc/passwd", "r")], false).is_err());
        assert!(resolve(&[device("/dev/null", "x")], false).is_err());
        assert!(resolve(&[device("/dev/not-there", "r")], false).is_err());
    }
}
