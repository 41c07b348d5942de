//! Where things are on disk, and the few file-system steps everything durable is made of.
//!
//! Several processes may use one store at once (the CRI server and `ferrokube image import`), so what must not
//! interleave happens under [`StoreLock`], which is only ever held for milliseconds, and what lasts longer is
//! protected from garbage collection by a [`Lease`], which dies with its process.

use super::error::{Error, IoContext as _, Result};
use super::reference::Digest;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// The folders of a store.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// Creates what is missing.
    pub fn create(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).doing(|| format!("resolve {}", root.display()))?;
        let paths = Self { root };
        let folders =
            [paths.blobs(), paths.ingest(), paths.layers(), paths.mounts("rootfs"), paths.mounts("volumes"), paths.leases(), paths.trash()];
        for folder in folders {
            fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
        }
        // Layers hold set-uid programs and other people's files: only root passes.
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&paths.root, fs::Permissions::from_mode(0o711)).doing(|| format!("chmod {}", paths.root.display()))?;
        for folder in [paths.layers(), paths.trash()] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).doing(|| format!("chmod {}", folder.display()))?;
        }
        Ok(paths)
    }

    /// The store's own folder.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// Manifests, indexes and configs by digest.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("content/blobs/sha256")
    }
    /// Layers being downloaded, possibly partial.
    pub fn ingest(&self) -> PathBuf {
        self.root.join("content/ingest")
    }
    /// Unpacked layers.
    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }
    /// Overlay mounts of one sort: `rootfs` or `volumes`.
    pub fn mounts(&self, sort: &str) -> PathBuf {
        self.root.join(sort)
    }
    /// What is in use by work in progress.
    pub fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }
    /// Out of use, about to be deleted.
    pub fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// Moves a file or folder out of use at once; [`Paths::empty_trash`] deletes it later.
    pub fn discard(&self, path: &Path) -> Result<()> {
        let to = self.trash().join(uuid::Uuid::new_v4().to_string());
        match fs::rename(path, &to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(format!("discard {}", path.display()), error)),
            _ => Ok(()),
        }
    }

    /// Deletes what was discarded. May take long; nobody waits for it.
    pub fn empty_trash(&self) {
        for entry in fs::read_dir(self.trash()).into_iter().flatten().flatten() {
            let path = entry.path();
            let result = if entry.file_type().is_ok_and(|t| t.is_dir()) { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(error) = result
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "failed to delete a discarded layer");
            }
        }
    }
}

/// Exclusive right to change what the store's files say, among threads and processes. Released on drop.
pub struct StoreLock {
    _file: File,
}

impl StoreLock {
    /// Waits for it.
    pub fn take(paths: &Paths) -> Result<Self> {
        let path = paths.root().join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path).doing(|| format!("open {}", path.display()))?;
        lock_file(&file).doing(|| format!("lock {}", path.display()))?;
        Ok(Self { _file: file })
    }
}

/// Waits for the lock on a file; it goes when the file is closed.
pub fn lock_file(file: &File) -> rustix::io::Result<()> {
    rustix::io::retry_on_intr(|| flock(file, FlockOperation::LockExclusive))
}

/// Work in progress: the digests it names are not garbage while it lives.
pub struct Lease {
    id: String,
    path: PathBuf,
    file: File,
    paths: Paths,
}

#[derive(Default, Deserialize, Serialize)]
struct LeaseRecord {
    digests: BTreeSet<Digest>,
}

impl Lease {
    /// An empty lease.
    pub fn take(paths: &Paths) -> Result<Self> {
        let _lock = StoreLock::take(paths)?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let path = paths.leases().join(&id);
        let options = File::options().create_new(true).read(true).write(true).open(&path);
        let file = options.doing(|| format!("create {}", path.display()))?;
        lock_file(&file).doing(|| format!("lock {}", path.display()))?;
        Ok(Self { id, path, file, paths: paths.clone() })
    }

    /// Names this lease in temporary files.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Protects more. Only after this may one look whether the content is already there.
    pub fn protect(&self, digests: impl IntoIterator<Item = Digest>) -> Result<()> {
        let _lock = StoreLock::take(&self.paths)?;
        let mut file = &self.file;
        let mut record = read_record(file);
        record.digests.extend(digests);
        let bytes = serde_json::to_vec(&record).map_err(|e| Error::Invalid(e.to_string()))?;
        let write =
            file.seek(std::io::SeekFrom::Start(0)).and_then(|_| file.write_all(&bytes)).and_then(|()| file.set_len(bytes.len() as u64));
        write.doing(|| format!("write {}", self.path.display()))
    }

    /// What live leases protect, and their names. Deletes those whose process has gone. Call under the lock.
    pub fn live(paths: &Paths, _lock: &StoreLock) -> Result<(BTreeSet<Digest>, BTreeSet<String>)> {
        let (mut digests, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for entry in fs::read_dir(paths.leases()).doing(|| "list leases".into())?.flatten() {
            let Ok(file) = File::options().read(true).write(true).open(entry.path()) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = fs::remove_file(entry.path()); // Nobody holds it.
                continue;
            }
            digests.extend(read_record(&file).digests);
            ids.insert(entry.file_name().to_string_lossy().into_owned());
        }
        Ok((digests, ids))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn read_record(mut file: &File) -> LeaseRecord {
    let mut bytes = Vec::new();
    let read = file.seek(std::io::SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes));
    read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Writes a whole file so that after a crash either the old or the new content is there.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", uuid::Uuid::new_v4().simple()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary))).doing(|| format!("write {}", path.display()))
}

/// Makes a rename in the folder of `path` durable.
pub fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Disk space and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Usage {
    /// Bytes, in whole blocks.
    pub bytes: u64,
    /// Files, directories and everything else.
    pub inodes: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// What a folder takes, hard links counted once. Files that vanish meanwhile are not an error.
pub fn usage_of(path: &Path) -> Usage {
    let (mut usage, mut seen) = (Usage::default(), std::collections::HashSet::new());
    add_usage(path, &mut usage, &mut seen);
    usage
}

fn add_usage(path: &Path, usage: &mut Usage, seen: &mut std::collections::HashSet<(u64, u64)>) {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(found) = fs::symlink_metadata(path) else { return };
    if found.nlink() > 1 && !found.is_dir() && !seen.insert((found.dev(), found.ino())) {
        return;
    }
    usage.bytes += found.blocks() * 512;
    usage.inodes += 1;
    if found.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            add_usage(&entry.path(), usage, seen);
        }
    }
}
