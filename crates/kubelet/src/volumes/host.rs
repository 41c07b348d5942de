//! The thin part of volumes that touches mounts and owners.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

fn told<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> String + '_ {
    move |e| format!("{}: {e}", path.display())
}

/// A directory with exactly this mode.
pub fn directory(path: &Path, mode: u32) -> Result<(), String> {
    std::fs::create_dir_all(path).map_err(told(path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(told(path))
}

/// A tmpfs of its own at `path`, at most `limit` bytes; left as it is when one is there.
pub fn tmpfs(path: &Path, limit: Option<i64>) -> Result<(), String> {
    directory(path, 0o755)?;
    if is_mount_point(path) {
        return Ok(());
    }
    let options = limit.filter(|l| *l > 0).map(|l| format!("size={l}"));
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), options.as_deref()).map_err(told(path))
}

fn is_mount_point(path: &Path) -> bool {
    let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    path.parent().is_some_and(|parent| device(path) != device(parent))
}

/// What a group may do with a volume that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write.
    Write,
}

impl Access {
    fn of_directories(self) -> u32 {
        0o2110 | self.of_files()
    }

    fn of_files(self) -> u32 {
        if self == Access::Write { 0o660 } else { 0o440 }
    }
}

/// The group owns everything below and new files get it too (fsGroup). Links are never followed: they may lead out of the volume.
pub fn give_to_group(path: &Path, group: u32, access: Access) -> Result<(), String> {
    lchown(path, None, Some(group)).map_err(told(path))?;
    let metadata = std::fs::symlink_metadata(path).map_err(told(path))?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let wanted = if metadata.is_dir() { access.of_directories() } else { access.of_files() };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(metadata.mode() & 0o7777 | wanted)).map_err(told(path))?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).map_err(told(path))?.flatten() {
            give_to_group(&entry.path(), group, access)?;
        }
    }
    Ok(())
}

/// Whether the root of a volume is the group's already, so that what is below need not be looked at (`OnRootMismatch`).
pub fn is_of_group(path: &Path, group: u32, access: Access) -> bool {
    let wanted = access.of_directories();
    std::fs::metadata(path).is_ok_and(|m| m.gid() == group && m.mode() & wanted == wanted)
}

/// Checks (and for the OrCreate types makes) a hostPath.
pub fn host_path(path: &str, kind: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    let found = std::fs::metadata(&path).ok();
    let is = |test: fn(&std::fs::FileType) -> bool| found.as_ref().is_some_and(|m| test(&m.file_type()));
    let fail = |what: &str| Err(format!("hostPath type check failed: {} is not a {what}", path.display()));
    match kind {
        // Without a type nothing is checked; a runtime that is asked to bind what is not there makes a directory.
        "" if found.is_none() => std::fs::create_dir_all(&path).map_err(told(&path))?,
        "" => {}
        "DirectoryOrCreate" if found.is_none() => directory(&path, 0o755)?,
        "FileOrCreate" if found.is_none() => std::fs::File::create(&path).map(drop).map_err(told(&path))?,
        "DirectoryOrCreate" | "Directory" if !is(std::fs::FileType::is_dir) => return fail("directory"),
        "FileOrCreate" | "File" if !is(std::fs::FileType::is_file) => return fail("file"),
        "Socket" if !is(FileTypeExt::is_socket) => return fail("socket file"),
        "CharDevice" if !is(FileTypeExt::is_char_device) => return fail("character device"),
        "BlockDevice" if !is(FileTypeExt::is_block_device) => return fail("block device"),
        "DirectoryOrCreate" | "Directory" | "FileOrCreate" | "File" | "Socket" | "CharDevice" | "BlockDevice" => {}
        other => return Err(format!("{other} is an invalid volume type")),
    }
    Ok(path)
}

/// Unmounts everything at and below `root`, deepest first, then removes the directories; never the files of another filesystem.
pub fn remove_tree(root: &Path) -> Result<(), String> {
    if !root.exists() {
        return Ok(());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| format!("/proc/self/mountinfo: {e}"))?;
    let mut below: Vec<PathBuf> =
        mounts.lines().filter_map(|l| l.split(' ').nth(4)).map(unescaped).filter(|p| p.starts_with(root)).collect();
    below.sort();
    for point in below.iter().rev() {
        umount2(point, MntFlags::MNT_DETACH).map_err(told(point))?;
    }
    std::fs::remove_dir_all(root).map_err(told(root))
}

/// mountinfo writes space, tab, newline and backslash as octal.
fn unescaped(text: &str) -> PathBuf {
    let mut out = text.to_owned();
    for (code, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(code, plain);
    }
    PathBuf::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_given_what_is_in_the_volume_and_nothing_that_links_in_it_lead_to() {
        let (volume, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (file, other) = (volume.path().join("file"), outside.path().join("other"));
        std::fs::write(&file, "").unwrap();
        std::fs::write(&other, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let before = std::fs::metadata(&other).unwrap();
        std::os::unix::fs::symlink(&other, volume.path().join("link")).unwrap();
        // Any user may give files to a group of their own; tests of root to any.
        let group = before.gid();
        let group = if before.uid() == 0 { group + 7 } else { group };
        assert!(!is_of_group(volume.path(), group, Access::Write));
        give_to_group(volume.path(), group, Access::Read).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(
            (std::fs::metadata(volume.path()).unwrap().mode() & 0o2550, is_of_group(volume.path(), group, Access::Write)),
            (0o2550, false)
        );
        give_to_group(volume.path(), group, Access::Write).unwrap();
        let after = std::fs::metadata(&file).unwrap();
        assert_eq!((after.gid(), after.mode() & 0o7777), (group, 0o660));
        assert!(is_of_group(volume.path(), group, Access::Write));
        let untouched = std::fs::metadata(&other).unwrap();
        assert_eq!((untouched.gid(), untouched.mode()), (before.gid(), before.mode()));
    }
}
