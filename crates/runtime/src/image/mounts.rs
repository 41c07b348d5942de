//! Overlay mounts over unpacked layers: container root file systems, and read-only views for image volumes.
//!
//! The thin part that talks to the kernel. A mount that is gone (the machine was restarted) is made again over the
//! same upper directory. Must never delete an upper directory that is still mounted here.

use super::disk::{Paths, StoreLock, Usage, usage_of};
use super::error::{Error, IoContext as _, Result};
use super::layers::{EMPTY, Layers};
use super::reference::Digest;
use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

/// Mount options must fit a page.
const OPTIONS_LIMIT: usize = 4095;

/// The sorts of mounts, by folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Writable, for a container.
    Rootfs,
    /// Read-only, for an image volume.
    Volume,
}

impl Sort {
    const ALL: [Self; 2] = [Self::Rootfs, Self::Volume];

    fn folder(self) -> &'static str {
        match self {
            Self::Rootfs => "rootfs",
            Self::Volume => "volumes",
        }
    }
}

/// What a mount shows; in a file beside it, so that it can be made again and its layers are not collected.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
struct MountRecord {
    image: String,
    layers: Vec<Digest>,
}

/// All overlay mounts of a store.
#[derive(Clone, Debug)]
pub struct Mounts {
    paths: Paths,
    layers: Layers,
}

impl Mounts {
    /// Over these layers.
    pub fn new(paths: Paths, layers: Layers) -> Self {
        Self { paths, layers }
    }

    fn dir(&self, sort: Sort, id: &str) -> Result<PathBuf> {
        check_id(id)?;
        Ok(self.paths.mounts(sort.folder()).join(id))
    }

    /// Makes the mount, or finds it made, and says where it is.
    pub fn prepare(&self, sort: Sort, id: &str, image: &str, layers: &[Digest]) -> Result<PathBuf> {
        let dir = self.dir(sort, id)?;
        let record = MountRecord { image: image.to_owned(), layers: layers.to_vec() };
        {
            let _lock = StoreLock::take(&self.paths)?; // From here on the layers are in use.
            for layer in layers {
                self.layers.get(layer)?;
            }
            record_mount(&dir, &record)?;
        }
        let merged = dir.join("merged");
        let folders: &[&str] = if sort == Sort::Rootfs { &["upper", "work", "merged"] } else { &["merged"] };
        for folder in folders {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
        }
        if is_mounted(&merged) {
            return Ok(merged);
        }
        let mut lowers = self.layers.lowerdirs(layers)?;
        let options = match sort {
            Sort::Rootfs => {
                let dir = format!("../{}/{id}", sort.folder());
                copy_root_attributes(&self.paths.layers().join(&lowers[0]), &self.paths.mounts(sort.folder()).join(id).join("upper"))?;
                format!("lowerdir={},upperdir={dir}/upper,workdir={dir}/work", lowers.join(":"))
            }
            Sort::Volume => {
                if lowers.len() < 2 {
                    lowers.push(format!("{EMPTY}/fs")); // Without an upper directory overlayfs wants two lower ones.
                    lowers.dedup();
                }
                match lowers.len() {
                    1 => return bind_read_only(&self.paths.layers().join(&lowers[0]), &merged).map(|()| merged),
                    _ => format!("lowerdir={}", lowers.join(":")),
                }
            }
        };
        let flags = if sort == Sort::Volume { MountFlags::RDONLY } else { MountFlags::empty() };
        mount_overlay(&self.paths.layers(), &merged, options, flags)?;
        Ok(merged)
    }

    /// Unmounts and forgets. Nothing to do is not an error. Deletes in the background.
    pub fn remove(&self, sort: Sort, id: &str) -> Result<()> {
        let dir = self.dir(sort, id)?;
        let merged = dir.join("merged");
        while is_mounted(&merged) {
            rustix::mount::unmount(&merged, UnmountFlags::DETACH).doing(|| format!("unmount {}", merged.display()))?;
        }
        if dir.exists() {
            self.paths.discard(&dir)?;
            let paths = self.paths.clone();
            let spawned = std::thread::Builder::new().name("image-trash".into()).spawn(move || paths.empty_trash());
            spawned.doing(|| "start a thread".into())?;
        }
        Ok(())
    }

    /// Layers that mounts use.
    pub fn layers_in_use(&self) -> BTreeSet<Digest> {
        let mut used = BTreeSet::new();
        for dir in self.dirs() {
            if let Ok(record) = read_record(&dir) {
                used.extend(record.layers);
            }
        }
        used
    }

    fn dirs(&self) -> impl Iterator<Item = PathBuf> {
        let entries = Sort::ALL.map(|sort| fs::read_dir(self.paths.mounts(sort.folder())));
        entries.into_iter().flatten().flatten().flatten().map(|entry| entry.path())
    }

    /// Ids of prepared root file systems.
    pub fn rootfs_ids(&self) -> Vec<String> {
        let entries = fs::read_dir(self.paths.mounts(Sort::Rootfs.folder())).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// What a container has written.
    pub fn writable_usage(&self, id: &str) -> Result<Usage> {
        let upper = self.dir(Sort::Rootfs, id)?.join("upper");
        if !upper.exists() {
            return Err(Error::NotFound(format!("root file system of container {id:?}")));
        }
        Ok(usage_of(&upper))
    }
}

fn check_id(id: &str) -> Result<()> {
    let valid = (1..=200).contains(&id.len())
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if valid { Ok(()) } else { Err(Error::InvalidId(id.to_owned())) }
}

fn read_record(dir: &Path) -> Result<MountRecord> {
    let path = dir.join("mount.json");
    let bytes = fs::read(&path).doing(|| format!("read {}", path.display()))?;
    super::spec::decode(&bytes, "mount record")
}

fn record_mount(dir: &Path, record: &MountRecord) -> Result<()> {
    if let Ok(existing) = read_record(dir) {
        if existing != *record {
            return Err(Error::InUse(format!("{} is already made from image {}", dir.display(), existing.image)));
        }
        return Ok(());
    }
    fs::create_dir_all(dir).doing(|| format!("create {}", dir.display()))?;
    let bytes = serde_json::to_vec(record).map_err(|e| Error::Invalid(e.to_string()))?;
    // Not synced: after a power cut the container is gone, and so is the need for its record.
    let (temporary, path) = (dir.join("mount.json.tmp"), dir.join("mount.json"));
    fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, &path)).doing(|| format!("write {}", path.display()))
}

/// The merged root takes its attributes from the upper directory, so that one must look like the image's root.
fn copy_root_attributes(lower: &Path, upper: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let found = fs::metadata(lower).doing(|| format!("stat {}", lower.display()))?;
    std::os::unix::fs::chown(upper, Some(found.uid()), Some(found.gid())).doing(|| format!("chown {}", upper.display()))?;
    fs::set_permissions(upper, found.permissions()).doing(|| format!("chmod {}", upper.display()))
}

/// Whether something is mounted on a directory: it is on another device than its parent.
fn is_mounted(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev()).ok();
    let (Some(own), Some(parent)) = (device(dir), dir.parent().and_then(device)) else { return false };
    own != parent || is_mount_point(dir)
}

/// A bind mount of the same file system shows no other device; `statx` tells it apart.
fn is_mount_point(dir: &Path) -> bool {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
    rustix::fs::statx(rustix::fs::CWD, dir, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn bind_read_only(source: &Path, target: &Path) -> Result<()> {
    rustix::mount::mount_bind(source, target).doing(|| format!("mount {}", target.display()))?;
    rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, "").doing(|| format!("mount {}", target.display()))
}

/// Mounts with lower directories relative to `layers`. A thread of its own gets its own working directory for that.
fn mount_overlay(layers: &Path, target: &Path, options: String, flags: MountFlags) -> Result<()> {
    if options.len() > OPTIONS_LIMIT {
        return Err(Error::Invalid(format!("image has too many layers for one overlay mount: options of {} bytes", options.len())));
    }
    let options = CString::new(options).map_err(|_| Error::Invalid("mount options with a NUL byte".into()))?;
    let (layers, to) = (layers.to_owned(), target.to_owned());
    let mount = move || -> std::io::Result<()> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
        nix::unistd::chdir(&layers)?;
        Ok(rustix::mount::mount("overlay", &to, "overlay", flags, options.as_c_str())?)
    };
    let thread = std::thread::Builder::new().name("image-mount".into()).spawn(mount).doing(|| "start a thread".into())?;
    let result = thread.join().unwrap_or_else(|_| Err(std::io::Error::other("mount thread panicked")));
    result.doing(|| format!("failed to mount overlay on {}", target.display()))
}
