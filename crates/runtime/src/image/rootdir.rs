//! A directory that nothing inside it can lead out of.
//!
//! Layers come from strangers: a symbolic link in one entry must never decide where another entry is written.
//! Parents are resolved by the kernel inside the directory (`openat2`, `RESOLVE_IN_ROOT`) and every last component
//! is handled without following links. Nothing here takes a path apart and trusts it afterwards.

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Extended attribute that makes an overlay directory hide what is below it.
pub const OPAQUE: &str = "trusted.overlay.opaque";

/// The directory.
pub struct RootDir {
    fd: OwnedFd,
    /// The parent used last: entries of a layer come directory by directory.
    last: Option<(PathBuf, Rc<OwnedFd>)>,
}

/// What made a directory along the way.
pub struct Made {
    /// Relative path of the directory.
    pub path: PathBuf,
    /// It took the place of a whiteout of the same layer, so it hides what is below.
    pub opaque: bool,
}

impl RootDir {
    /// Opens an existing directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd, last: None })
    }

    /// The directory `path` (relative, cleaned) inside the root; links in it resolve inside the root.
    pub fn dir(&mut self, path: &Path) -> io::Result<Rc<OwnedFd>> {
        if let Some((last, fd)) = &self.last
            && last == path
        {
            return Ok(fd.clone());
        }
        let fd = Rc::new(open_in(self.fd.as_fd(), path, OFlags::DIRECTORY)?);
        self.last = Some((path.to_owned(), fd.clone()));
        Ok(fd)
    }

    /// Like [`RootDir::dir`], but creates what is missing with mode 0755, and reports it.
    pub fn dir_or_create(&mut self, path: &Path, made: &mut Vec<Made>) -> io::Result<Rc<OwnedFd>> {
        match self.dir(path) {
            Ok(fd) => return Ok(fd),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
            Err(error) => return Err(error),
        }
        let mut reached = PathBuf::new();
        for component in path.components() {
            let parent = self.dir(&reached)?;
            reached.push(component);
            let mut opaque = false;
            match stat(&parent, component.as_ref()) {
                Ok(found) if is_whiteout(&found) => {
                    fs::unlinkat(&*parent, component.as_os_str(), AtFlags::empty())?;
                    opaque = true;
                }
                Ok(_) => continue, // A directory, or a link to one: the next round tells.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            fs::mkdirat(&*parent, component.as_os_str(), Mode::from_raw_mode(0o755))?;
            fs::chmodat(&*parent, component.as_os_str(), Mode::from_raw_mode(0o755), AtFlags::empty())?; // Whatever the umask.
            if opaque {
                set_xattr(&parent, component.as_ref(), OPAQUE, b"y")?;
            }
            made.push(Made { path: reached.clone(), opaque });
        }
        self.dir(path)
    }

    /// Forgets the remembered parent: something on the way to it may have been replaced.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

/// Opens `path` under `root` for looking at it (`O_PATH`), never leaving `root`.
pub fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    loop {
        match fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS) {
            Err(Errno::AGAIN | Errno::INTR) => continue, // A rename raced with the walk.
            other => return Ok(other?),
        }
    }
}

/// `lstat` of a name in a directory.
pub fn stat(dir: &OwnedFd, name: &Path) -> rustix::io::Result<Stat> {
    fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Whether a file is overlayfs' mark for "deleted below".
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Sets an extended attribute on a name in a directory, not following a link.
pub fn set_xattr(dir: &OwnedFd, name: &Path, key: &str, value: &[u8]) -> rustix::io::Result<()> {
    // There is no `setxattrat` before Linux 6.13; the directory is pinned by its descriptor all the same.
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    fs::lsetxattr(path, key, value, fs::XattrFlags::empty())
}

/// Removes a name with everything in it, not following links.
pub fn remove_all(dir: &OwnedFd, name: &Path) -> io::Result<()> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let inner = fs::openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    for entry in fs::Dir::read_from(&inner)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            use std::os::unix::ffi::OsStrExt as _;
            remove_all(&inner, Path::new(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes())))?;
        }
    }
    Ok(fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}
