//! Replacing a set of files at once, as the kubelet's atomic writer: files are in a time-stamped directory, `..data`
//! points at it, and what users see points through `..data`. A reader sees the old set or the new one, never a mixture.

use super::host::{Access, give_to_group};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Result;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

/// A file to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, when it is not root.
    pub owner: Option<u32>,
}

/// Files by relative path.
pub type Payload = BTreeMap<PathBuf, File>;

const DATA: &str = "..data";

/// Makes the volume at `root` hold exactly the payload; returns whether anything was written.
pub fn write(root: &Path, payload: &Payload, group: Option<u32>) -> Result<bool> {
    let current = std::fs::read_link(root.join(DATA)).ok();
    if current.as_ref().is_some_and(|c| holds(&root.join(c), payload)) {
        return Ok(false);
    }
    let name = format!("..{}.{:08x}", jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S"), rand::random::<u32>());
    let fresh = root.join(&name);
    std::fs::create_dir(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        put(&fresh.join(path), file)?;
    }
    if let Some(group) = group {
        give_to_group(root, group, Access::Read).map_err(std::io::Error::other)?;
    }
    let staging = root.join("..data_tmp");
    match std::fs::remove_file(&staging) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    symlink(&name, &staging)?;
    std::fs::rename(&staging, root.join(DATA))?;
    show(root, payload)?;
    match current {
        Some(old) => std::fs::remove_dir_all(root.join(old))?,
        None => {}
    }
    Ok(true)
}

fn put(path: &Path, file: &File) -> Result<()> {
    use std::io::Write;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    out.write_all(&file.data)?;
    if file.owner.is_some() {
        chown(path, file.owner, None)?;
    }
    // Set explicitly: the umask does not apply to what the user asked for.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(file.mode))
}

/// Whether a directory holds exactly these files.
fn holds(directory: &Path, payload: &Payload) -> bool {
    let same = payload.iter().all(|(path, file)| std::fs::read(directory.join(path)).is_ok_and(|d| d == file.data));
    same && count(directory) == payload.len()
}

fn count(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
}

/// The visible names: a link for each first path component, and none for what is gone.
fn show(root: &Path, payload: &Payload) -> Result<()> {
    let wanted: BTreeSet<&std::ffi::OsStr> = payload.keys().filter_map(|p| p.iter().next()).collect();
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), root.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    for entry in std::fs::read_dir(root)?.flatten() {
        let name = entry.file_name();
        let ours = entry.file_type().is_ok_and(|t| t.is_symlink());
        if ours && !name.to_string_lossy().starts_with("..") && !wanted.contains(name.as_os_str()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files.iter().map(|(p, d)| (PathBuf::from(p), File { data: d.as_bytes().into(), mode: 0o644, owner: None })).collect()
    }

    #[test]
    fn a_set_of_files_is_replaced_whole_and_old_names_vanish() {
        let root = tempfile::tempdir().unwrap();
        assert!(write(root.path(), &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert!(!write(root.path(), &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert_eq!(std::fs::read_to_string(root.path().join("d/b")).unwrap(), "2");
        assert!(write(root.path(), &payload(&[("a", "3")]), None).unwrap());
        assert_eq!(std::fs::read_to_string(root.path().join("a")).unwrap(), "3");
        assert!(!root.path().join("d").exists());
        let versions =
            std::fs::read_dir(root.path()).unwrap().flatten().filter(|e| e.file_name().to_string_lossy().starts_with("..2")).count();
        assert_eq!(versions, 1);
    }

    #[test]
    fn the_mode_that_was_asked_for_is_the_mode_of_the_file() {
        let root = tempfile::tempdir().unwrap();
        let file = File { data: b"x".to_vec(), mode: 0o400, owner: None };
        write(root.path(), &Payload::from([(PathBuf::from("key"), file)]), None).unwrap();
        let mode = std::fs::metadata(root.path().join("key")).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o400);
    }

    #[test]
    fn a_group_that_the_files_are_given_to_may_read_them() {
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().unwrap();
        let file = File { data: b"x".to_vec(), mode: 0o400, owner: None };
        let group = std::fs::metadata(root.path()).unwrap().gid();
        write(root.path(), &Payload::from([(PathBuf::from("d/key"), file)]), Some(group)).unwrap();
        let mode = |path: &str| std::fs::metadata(root.path().join(path)).unwrap().permissions().mode() & 0o2777;
        assert_eq!((mode("d/key"), mode("..data") & 0o2050, mode(".") & 0o2050), (0o440, 0o2050, 0o2050));
    }
}
