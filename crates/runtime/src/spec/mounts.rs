//! The mounts of a container: what every container has, what its pod shares, and what the kubelet asks for.

use std::path::{Path, PathBuf};

use ferrokube_cri::v1::{Mount, MountPropagation};
use serde_json::{Value, json};

use super::SpecError;
use crate::shim::helper::Propagation;

/// Files and directories that all containers of a pod share.
#[derive(Debug, Clone, Default)]
pub struct PodFiles {
    /// `/dev/shm`.
    pub shm: PathBuf,
    /// `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// `/etc/hostname`.
    pub hostname: PathBuf,
    /// `/etc/hosts`, unless the kubelet brings its own.
    pub hosts: PathBuf,
}

/// A mount that an image volume asks for, with the image's content where it can be bound from.
#[derive(Debug, Clone)]
pub struct ImageVolume {
    /// Index into the container's mounts.
    pub mount: usize,
    /// Where the content is on the node.
    pub source: PathBuf,
}

fn mount(destination: &str, kind: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": kind, "options": options})
}

fn bind(destination: &str, source: &Path, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

/// What every container has. `cgroup` is the container's own.
pub fn system(privileged: bool, v2: bool, cgroup: &str) -> Vec<Value> {
    let access = if privileged { "rw" } else { "ro" };
    let mut all = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
    ];
    if v2 {
        all.push(mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]));
        return all;
    }
    // libcontainer would find the container's cgroups by a pid that means another process when the PID namespace is shared; we know them.
    all.push(mount("/sys/fs/cgroup", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755"]));
    for controller in crate::cgroup::controllers() {
        let source = crate::cgroup::folder(controller, cgroup);
        let options = ["bind", "rprivate", "nosuid", "noexec", "nodev", access];
        all.push(bind(&format!("/sys/fs/cgroup/{controller}"), &source, &options));
    }
    all
}

/// What the pod shares, except where the kubelet mounts something there itself.
pub fn shared(files: &PodFiles, wanted: &[Mount], readonly_rootfs: bool) -> Vec<Value> {
    let access = if readonly_rootfs { "ro" } else { "rw" };
    let candidates: [(&str, &Path, &[&str]); 4] = [
        ("/etc/hostname", &files.hostname, &["rbind", "rprivate", access]),
        ("/etc/hosts", &files.hosts, &["rbind", "rprivate", access]),
        ("/etc/resolv.conf", &files.resolv_conf, &["rbind", "rprivate", access]),
        ("/dev/shm", &files.shm, &["rbind", "rprivate", "rw"]),
    ];
    let taken = |destination: &str| wanted.iter().any(|mount| clean(&mount.container_path) == Path::new(destination));
    candidates
        .iter()
        .filter(|(destination, source, _)| !taken(destination) && !source.as_os_str().is_empty())
        .map(|(destination, source, options)| bind(destination, source, options))
        .collect()
}

/// What the kubelet asks for, parents before what is mounted inside them.
pub fn requested(wanted: &[Mount], images: &[ImageVolume]) -> Result<Vec<Value>, SpecError> {
    let mut ordered: Vec<(usize, &Mount)> = wanted.iter().enumerate().collect();
    ordered.sort_by_key(|(_, mount)| clean(&mount.container_path).components().count());
    ordered.into_iter().map(|(index, mount)| one(index, mount, images)).collect()
}

fn one(index: usize, mount: &Mount, images: &[ImageVolume]) -> Result<Value, SpecError> {
    if mount.container_path.is_empty() {
        return Err(SpecError::Invalid(format!("mount of {:?} has no container path", mount.host_path)));
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(SpecError::Unsupported("ID-mapped mounts are not supported by this runtime".to_owned()));
    }
    let mut options = vec!["rbind", propagation_kind(mount)];
    if let Some(volume) = images.iter().find(|volume| volume.mount == index) {
        options.push("ro");
        return Ok(bind(&mount.container_path, &volume.source, &options));
    }
    if mount.recursive_read_only {
        if !mount.readonly {
            return Err(SpecError::Invalid("recursive read-only mount needs to be read-only".to_owned()));
        }
        if mount.propagation() != MountPropagation::PropagationPrivate {
            return Err(SpecError::Invalid("recursive read-only mount needs private propagation".to_owned()));
        }
        options.push("rro");
    }
    options.push(if mount.readonly { "ro" } else { "rw" });
    Ok(bind(&mount.container_path, &source(&mount.host_path)?, &options))
}

fn propagation_kind(mount: &Mount) -> &'static str {
    match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    }
}

/// How each requested mount passes on others, in the order in which they are mounted.
pub fn propagation(wanted: &[Mount]) -> Vec<Propagation> {
    let mut ordered: Vec<&Mount> = wanted.iter().collect();
    ordered.sort_by_key(|mount| clean(&mount.container_path).components().count());
    let one = |mount: &&Mount| Propagation { path: clean(&mount.container_path), kind: propagation_kind(mount).to_owned() };
    ordered.iter().map(one).collect()
}

/// The source with its links followed; one that does not exist becomes a directory, as the interface asks.
fn source(host_path: &str) -> Result<PathBuf, SpecError> {
    let wrap = |error| SpecError::Io(format!("failed to prepare mount source {host_path:?}"), error);
    match std::fs::canonicalize(host_path) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && Path::new(host_path).is_absolute() => {
            std::fs::create_dir_all(host_path).map_err(wrap)?;
            std::fs::canonicalize(host_path).map_err(wrap)
        }
        Err(error) => Err(wrap(error)),
    }
}

/// Whether a mount shows the container's own mounts to the node, for which the container's root must be shared too.
pub fn needs_shared_root(wanted: &[Mount]) -> bool {
    wanted.iter().any(|mount| mount.propagation() == MountPropagation::PropagationBidirectional)
}

/// A path without `.`, `..` and doubled separators.
pub fn clean(path: &str) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            std::path::Component::Normal(name) => cleaned.push(name),
            std::path::Component::ParentDir => {
                cleaned.pop();
            }
            _ => {}
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(container_path: &str, host_path: &Path) -> Mount {
        Mount { container_path: container_path.into(), host_path: host_path.to_string_lossy().into_owned(), ..Default::default() }
    }

    fn options(mount: &Value) -> Vec<&str> {
        mount["options"].as_array().expect("options").iter().filter_map(Value::as_str).collect()
    }

    #[test]
    fn parents_are_mounted_before_what_is_inside_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let mounts = requested(&[to("/a/b/c", folder.path()), to("/a", folder.path()), to("/a/b/", folder.path())], &[]).expect("fine");
        let order: Vec<&str> = mounts.iter().filter_map(|mount| mount["destination"].as_str()).collect();
        assert_eq!(order, ["/a", "/a/b/", "/a/b/c"]);
    }

    #[test]
    fn options_follow_access_and_propagation() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut mount = to("/x", folder.path());
        assert_eq!(options(&requested(&[mount.clone()], &[]).expect("fine")[0]), ["rbind", "rprivate", "rw"]);
        mount.readonly = true;
        mount.recursive_read_only = true;
        assert_eq!(options(&requested(&[mount.clone()], &[]).expect("fine")[0]), ["rbind", "rprivate", "rro", "ro"]);
        mount.set_propagation(MountPropagation::PropagationHostToContainer);
        assert!(requested(&[mount.clone()], &[]).is_err());
        mount.recursive_read_only = false;
        assert_eq!(options(&requested(&[mount], &[]).expect("fine")[0]), ["rbind", "rslave", "ro"]);
    }

    #[test]
    fn a_missing_source_becomes_a_directory() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("new/dir");
        requested(&[to("/x", &missing)], &[]).expect("made");
        assert!(missing.is_dir());
    }

    #[test]
    fn the_kubelets_hosts_file_replaces_ours() {
        let path = PathBuf::from("/p");
        let files = PodFiles { shm: path.clone(), resolv_conf: path.clone(), hostname: path.clone(), hosts: path };
        let mounts = shared(&files, &[to("/etc//hosts", Path::new("/k"))], false);
        assert!(mounts.iter().all(|mount| mount["destination"] != "/etc/hosts"));
        assert_eq!(mounts.len(), 3);
    }
}
