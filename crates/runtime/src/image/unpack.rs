//! One layer's tar stream to one overlayfs lower directory.
//!
//! Layers are unpacked apart from each other, so that they are shared between images and done in parallel. Two
//! things an entry may need from the layers below are therefore only noted here ([`Needs`]) and given by
//! [`settle`] once these are present: attributes of parents that the layer does not list, and hard links to
//! files that the layer does not hold. This module must never write outside the directory it is given, and never
//! leave a layer that differs from its tar stream without an error.

use super::compression::decompress;
use super::error::{Error, Result};
use super::reference::Digest;
use super::rootdir::{self, Made, OPAQUE, RootDir};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::ffi::OsStr;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// What a layer still needs from those below it, and what a mount must know of it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Needs {
    /// Directories the layer has entries in without listing them, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<PathBuf>,
    /// Hard links (path, target) whose target is not in the layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<(PathBuf, PathBuf)>,
}

/// A layer that was unpacked.
#[derive(Clone, Debug, Default)]
pub struct Unpacked {
    /// Unfinished business.
    pub needs: Needs,
    /// The layer hides everything below it (opaque whiteout of `/`).
    pub opaque: bool,
    /// Disk space, in bytes, in whole blocks.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// Unpacks a (compressed) layer into the empty directory `dir` and checks what came out against `diff_id`.
pub fn unpack(layer: impl BufRead + Send, dir: &Path, diff_id: &Digest) -> Result<Unpacked> {
    let broken = |e: io::Error| Error::io("failed to read layer", e);
    let mut stream = Hashing { inner: decompress(layer).map_err(broken)?, hash: sha2::Sha256::new() };
    let mut writer = LayerWriter::new(dir)?;
    let mut archive = tar::Archive::new(&mut stream);
    for entry in archive.entries().map_err(broken)? {
        writer.apply(&mut entry.map_err(broken)?)?;
    }
    let unpacked = writer.finish()?;
    // Whatever follows the end of the archive belongs to the digest.
    io::copy(&mut stream, &mut io::sink()).map_err(broken)?;
    let actual = Digest::from_hash(&stream.hash.finalize());
    if actual != *diff_id {
        return Err(Error::DiffIdMismatch { expected: diff_id.clone(), actual });
    }
    Ok(unpacked)
}

struct Hashing<R> {
    inner: R,
    hash: sha2::Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.hash.update(&buf[..read]);
        Ok(read)
    }
}

struct LayerWriter {
    root: RootDir,
    done: Unpacked,
    /// Times of directories are set last, because writing into them changes them.
    times: Vec<(PathBuf, Timestamps)>,
    buffer: Vec<u8>,
}

/// The attributes of an entry, taken out of its headers.
struct Attributes {
    mode: Mode,
    uid: u32,
    gid: u32,
    times: Timestamps,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl LayerWriter {
    fn new(dir: &Path) -> Result<Self> {
        let root = RootDir::open(dir).map_err(|e| Error::io(format!("open {}", dir.display()), e))?;
        Ok(Self { root, done: Unpacked::default(), times: Vec::new(), buffer: vec![0; 128 * 1024] })
    }

    fn apply<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<()> {
        let raw = entry.path_bytes().into_owned();
        let path = clean(&raw)?;
        let failed = |e: io::Error| Error::io(format!("failed to apply layer entry {:?}", path.display()), e);
        match entry.header().entry_type() {
            EntryType::XGlobalHeader => return Ok(()),
            kind if path.as_os_str().is_empty() => {
                let attributes = attributes(entry).map_err(failed)?;
                return if kind == EntryType::Directory { self.root_attributes(attributes).map_err(failed) } else { Ok(()) };
            }
            _ => {}
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().map(Path::new)) else { return Ok(()) };
        let dir = self.parent(parent).map_err(failed)?;
        if let Some(hidden) = name.as_os_str().as_bytes().strip_prefix(b".wh.") {
            return match hidden {
                b".wh..opq" => self.hide_below(parent).map_err(failed),
                hidden if hidden.starts_with(b".wh.") => Ok(()), // Bookkeeping of aufs.
                b"" | b"." | b".." => Err(invalid(&path, "whiteout of nothing")),
                hidden => self.whiteout(&dir, Path::new(OsStr::from_bytes(hidden))).map_err(failed),
            };
        }
        self.write(entry, &dir, name, &path)
    }

    /// The directory an entry goes into, made when the layer does not list it.
    fn parent(&mut self, parent: &Path) -> io::Result<std::rc::Rc<OwnedFd>> {
        let mut made = Vec::new();
        let dir = self.root.dir_or_create(parent, &mut made)?;
        for Made { path, opaque } in made {
            self.count(0);
            if !opaque {
                self.done.needs.parents.push(path);
            }
        }
        Ok(dir)
    }

    fn hide_below(&mut self, dir: &Path) -> io::Result<()> {
        if dir.as_os_str().is_empty() {
            self.done.opaque = true; // Overlayfs ignores the attribute on the root of a layer.
            return Ok(());
        }
        let parent = self.root.dir(dir.parent().unwrap_or(Path::new("")))?;
        let name = Path::new(dir.file_name().unwrap_or_default());
        Ok(rootdir::set_xattr(&parent, name, OPAQUE, b"y")?)
    }

    /// A deletion of what is below. What this very layer holds under the name stays: a whiteout only hides older layers.
    fn whiteout(&mut self, dir: &OwnedFd, name: &Path) -> io::Result<()> {
        match rootdir::stat(dir, name) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => Ok(rootdir::set_xattr(dir, name, OPAQUE, b"y")?),
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)?;
                self.count(0);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn write<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, dir: &OwnedFd, name: &Path, path: &Path) -> Result<()> {
        let failed = |e: io::Error| Error::io(format!("failed to apply layer entry {:?}", path.display()), e);
        let kind = entry.header().entry_type();
        let attributes = attributes(entry).map_err(failed)?;
        if kind == EntryType::Link {
            let target = entry.link_name_bytes().ok_or_else(|| invalid(path, "hard link without a target"))?.into_owned();
            return self.link(dir, name, path, &clean(&target)?).map_err(failed);
        }
        let was_whiteout = self.make_room(dir, name, kind == EntryType::Directory).map_err(failed)?;
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                return self.file(entry, dir, name, attributes).map_err(failed);
            }
            EntryType::Directory => match fs::mkdirat(dir, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error.into())),
            },
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| invalid(path, "symbolic link without a target"))?;
                fs::symlinkat(OsStr::from_bytes(&target), dir, name).map_err(|e| failed(e.into()))?;
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                device(entry, dir, name).map_err(failed)?;
            }
            other => return Err(invalid(path, &format!("unhandled tar header type {:#x}", other.as_byte()))),
        }
        self.count(0);
        set_attributes(dir, name, kind, &attributes).map_err(failed)?;
        if kind == EntryType::Directory {
            if was_whiteout {
                rootdir::set_xattr(dir, name, OPAQUE, b"y").map_err(|e| failed(e.into()))?;
            }
            self.done.needs.parents.retain(|parent| parent != path); // Listed after all.
            self.times.push((path.to_owned(), attributes.times));
        }
        Ok(())
    }

    fn file<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, dir: &OwnedFd, name: &Path, attributes: Attributes) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?);
        let mut written = 0;
        loop {
            let read = entry.read(&mut self.buffer)?;
            if read == 0 {
                break;
            }
            file.write_all(&self.buffer[..read])?;
            written += read as u64;
        }
        if written != entry.size() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "layer ends inside a file"));
        }
        self.count(written);
        fs::fchown(&file, Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))?;
        fs::fchmod(&file, attributes.mode)?; // After the owner: changing that clears set-uid.
        for (key, value) in &attributes.xattrs {
            accept_unsupported(key, fs::fsetxattr(&file, key.as_str(), value, fs::XattrFlags::empty()))?;
        }
        Ok(fs::futimens(&file, &attributes.times)?)
    }

    fn link(&mut self, dir: &OwnedFd, name: &Path, path: &Path, target: &Path) -> io::Result<()> {
        if path == target {
            return Ok(());
        }
        self.make_room(dir, name, false)?;
        let source = self.root.dir(target.parent().unwrap_or(Path::new("")));
        let linked = source.and_then(|source| {
            let target = Path::new(target.file_name().unwrap_or_default());
            if rootdir::is_whiteout(&rootdir::stat(&source, target)?) {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(fs::linkat(&*source, target, dir, name, AtFlags::empty())?)
        });
        match linked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.done.needs.links.push((path.to_owned(), target.to_owned()));
                Ok(())
            }
            other => other,
        }
    }

    /// Removes what stands in the way of a new entry. Says whether that was a whiteout of this layer.
    fn make_room(&mut self, dir: &OwnedFd, name: &Path, for_directory: bool) -> io::Result<bool> {
        let found = match rootdir::stat(dir, name) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if for_directory && FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return Ok(false);
        }
        rootdir::remove_all(dir, name)?;
        self.root.forget();
        Ok(rootdir::is_whiteout(&found))
    }

    fn root_attributes(&mut self, attributes: Attributes) -> io::Result<()> {
        let dir = self.root.dir(Path::new(""))?;
        set_attributes(&dir, Path::new("."), EntryType::Directory, &attributes)?;
        self.times.push((PathBuf::new(), attributes.times));
        Ok(())
    }

    fn count(&mut self, bytes: u64) {
        self.done.inodes += 1;
        self.done.bytes += bytes.div_ceil(4096).max(1) * 4096;
    }

    fn finish(mut self) -> Result<Unpacked> {
        for (path, times) in std::mem::take(&mut self.times).into_iter().rev() {
            let set = self.root.dir(&path).and_then(|dir| Ok(fs::utimensat(&*dir, ".", &times, AtFlags::empty())?));
            match set {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(format!("failed to apply layer entry {:?}", path.display()), error));
                }
                _ => {} // Not found: a later entry of the layer replaced the directory.
            }
        }
        Ok(self.done)
    }
}

fn device<R: Read>(entry: &tar::Entry<'_, R>, dir: &OwnedFd, name: &Path) -> io::Result<()> {
    let header = entry.header();
    let kind = match header.entry_type() {
        EntryType::Char => FileType::CharacterDevice,
        EntryType::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let device = match kind {
        FileType::Fifo => 0,
        _ => fs::makedev(header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)),
    };
    Ok(fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device)?)
}

/// Owner, mode, extended attributes and times of anything but a regular file.
fn set_attributes(dir: &OwnedFd, name: &Path, kind: EntryType, attributes: &Attributes) -> io::Result<()> {
    fs::chownat(dir, name, Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != EntryType::Symlink {
        fs::chmodat(dir, name, attributes.mode, AtFlags::empty())?;
    }
    for (key, value) in &attributes.xattrs {
        accept_unsupported(key, rootdir::set_xattr(dir, name, key, value))?;
    }
    Ok(fs::utimensat(dir, name, &attributes.times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// File capabilities must not be lost silently; other attributes are worth what the file system can keep.
fn accept_unsupported(key: &str, result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::PERM) if key != "security.capability" => Ok(()),
        other => Ok(other?),
    }
}

fn attributes<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Attributes> {
    let mut xattrs = Vec::new();
    let mut nanoseconds = 0;
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            let Ok(key) = extension.key() else { continue };
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                if is_portable_xattr(name) {
                    xattrs.push((name.to_owned(), extension.value_bytes().to_vec()));
                }
            } else if key == "mtime" {
                nanoseconds = extension.value().ok().and_then(fraction).unwrap_or(0);
            }
        }
    }
    let header = entry.header();
    let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "owner out of range"));
    let time = Timespec { tv_sec: i64::try_from(header.mtime()?).unwrap_or(0), tv_nsec: nanoseconds };
    Ok(Attributes {
        mode: Mode::from_raw_mode(header.mode()? & 0o7777),
        uid: id(header.uid()?)?,
        gid: id(header.gid()?)?,
        times: Timestamps { last_access: time, last_modification: time },
        xattrs,
    })
}

/// Attributes that belong to the file. Those of overlayfs itself would let a layer redirect into other layers.
fn is_portable_xattr(name: &str) -> bool {
    !name.starts_with("trusted.") && !name.starts_with("user.overlay.") && name != "security.selinux" && !name.contains('\0')
}

/// Nanoseconds of `1700000000.123456789`.
fn fraction(time: &str) -> Option<i64> {
    let (_, digits) = time.split_once('.')?;
    let digits: String = digits.chars().chain("000000000".chars()).take(9).collect();
    digits.parse().ok()
}

/// A tar path as a clean relative path; empty is the root.
fn clean(raw: &[u8]) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(raw)).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                return Err(invalid(Path::new(OsStr::from_bytes(raw)), "path escapes the root of the layer"));
            }
        }
    }
    if raw.contains(&0) {
        return Err(invalid(&path, "path with a NUL byte"));
    }
    Ok(path)
}

fn invalid(path: &Path, why: &str) -> Error {
    Error::InvalidEntry { path: path.display().to_string(), why: why.to_owned() }
}

/// Gives `layer` what it [`Needs`] from `below` (top first), all lower directories.
pub fn settle(layer: &Path, below: &[PathBuf], needs: &Needs) -> Result<()> {
    let open = |path: &PathBuf| RootDir::open(path).map_err(|e| Error::io(format!("open {}", path.display()), e));
    let mut target = open(&layer.to_owned())?;
    let mut below = below.iter().map(open).collect::<Result<Vec<_>>>()?;
    for path in &needs.parents {
        let failed = |e: io::Error| Error::io(format!("failed to take over attributes of {:?}", path.display()), e);
        copy_directory_attributes(&mut target, &mut below, path).map_err(failed)?;
    }
    for (path, source) in &needs.links {
        let failed = |e: io::Error| Error::io(format!("failed to link {:?} to {:?}", path.display(), source.display()), e);
        copy_file(&mut target, &mut below, path, source).map_err(failed)?;
    }
    Ok(())
}

fn split(path: &Path) -> (&Path, &Path) {
    (path.parent().unwrap_or(Path::new("")), Path::new(path.file_name().unwrap_or_default()))
}

/// The topmost layer that says something about `path`: its parent directory there, and what it is.
fn find(below: &mut [RootDir], path: &Path) -> Option<(std::rc::Rc<OwnedFd>, fs::Stat)> {
    let (parent, name) = split(path);
    below.iter_mut().find_map(|layer| {
        let dir = layer.dir(parent).ok()?;
        let found = rootdir::stat(&dir, name).ok()?;
        Some((dir, found))
    })
}

fn copy_directory_attributes(target: &mut RootDir, below: &mut [RootDir], path: &Path) -> io::Result<()> {
    let Some((_, found)) = find(below, path) else { return Ok(()) };
    if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
        return Ok(());
    }
    let dir = target.dir(path)?;
    fs::chownat(&*dir, ".", Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)), AtFlags::empty())?;
    Ok(fs::chmodat(&*dir, ".", Mode::from_raw_mode(found.st_mode & 0o7777), AtFlags::empty())?)
}

fn copy_file(target: &mut RootDir, below: &mut [RootDir], path: &Path, source: &Path) -> io::Result<()> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "the target of the hard link is in no layer");
    let (from, found) = find(below, source).filter(|(_, found)| !rootdir::is_whiteout(found)).ok_or_else(missing)?;
    let (parent, name) = split(path);
    let (to, source_name) = (target.dir(parent)?, split(source).1);
    if rootdir::stat(&to, name).is_ok() {
        return Ok(()); // Settled before a crash.
    }
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "hard link to something that is not a file of a lower layer"));
    }
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut input = std::fs::File::from(fs::openat(from.as_fd(), source_name, read, Mode::empty())?);
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut output = std::fs::File::from(fs::openat(to.as_fd(), name, write, Mode::RUSR | Mode::WUSR)?);
    io::copy(&mut input, &mut output)?;
    fs::fchown(&output, Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)))?;
    fs::fchmod(&output, Mode::from_raw_mode(found.st_mode & 0o7777))?;
    let mut capability = [0; 64];
    if let Ok(length) = fs::fgetxattr(&input, "security.capability", &mut capability[..]) {
        fs::fsetxattr(&output, "security.capability", &capability[..length], fs::XattrFlags::empty())?;
    }
    let time = Timespec { tv_sec: found.st_mtime, tv_nsec: found.st_mtime_nsec as i64 };
    Ok(fs::futimens(&output, &Timestamps { last_access: time, last_modification: time })?)
}
