//! Who a container runs as: numbers from what the pod, the image and the image's own `/etc/passwd` and `/etc/group` say.
//!
//! The files come from the image, so they are opened with the image as root: a link in them cannot lead to the node's files.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use ferrokube_cri::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::SpecError;

/// No user database is longer, in bytes.
const MAX_DATABASE: u64 = 1 << 20;

/// A user as the kernel knows one, and the home that the image gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one first.
    pub groups: Vec<u32>,
    /// Home directory; `/` when the image names none.
    pub home: String,
}

/// The lines of the image's user databases.
#[derive(Debug, Default)]
pub struct Databases {
    passwd: String,
    group: String,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl Databases {
    /// Reads them from a mounted root file system; what is missing is empty.
    pub fn read(rootfs: &Path) -> Result<Self, SpecError> {
        Ok(Self { passwd: read_inside(rootfs, "etc/passwd")?, group: read_inside(rootfs, "etc/group")? })
    }

    fn users(&self) -> impl Iterator<Item = Passwd<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Passwd { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
        })
    }

    /// Name, id and members.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or_default()))
        })
    }

    fn gid(&self, group: &str) -> Result<u32, SpecError> {
        match group.parse() {
            Ok(gid) => Ok(gid),
            Err(_) => self
                .groups()
                .find(|(name, _, _)| *name == group)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| SpecError::Invalid(format!("unable to find group {group}: no matching entries in group file"))),
        }
    }
}

fn read_inside(rootfs: &Path, path: &str) -> Result<String, SpecError> {
    let wrap = |error: std::io::Error| SpecError::Io(format!("reading /{path} of the image"), error);
    let root = std::fs::File::open(rootfs).map_err(wrap)?;
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let file = match openat2(root.as_fd(), path, how) {
        Ok(fd) => std::fs::File::from(fd),
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR | nix::errno::Errno::ELOOP) => return Ok(String::new()),
        Err(error) => return Err(wrap(error.into())),
    };
    if !file.metadata().map_err(wrap)?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_DATABASE).read_to_end(&mut bytes).map_err(wrap)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `user[:group]` as the pod says it, else as the image does; empty is root.
fn wanted(context: &LinuxContainerSecurityContext, image_user: &str) -> Result<String, SpecError> {
    let mut user = String::new();
    if let Some(uid) = &context.run_as_user {
        user = uid.value.to_string();
    }
    if !context.run_as_username.is_empty() {
        user.clone_from(&context.run_as_username);
    }
    if let Some(gid) = &context.run_as_group {
        if user.is_empty() {
            return Err(SpecError::Invalid("runAsGroup is specified without a runAsUser".to_owned()));
        }
        user = format!("{user}:{}", gid.value);
    }
    Ok(if user.is_empty() { image_user.to_owned() } else { user })
}

/// Decides who a container runs as.
pub fn resolve(context: &LinuxContainerSecurityContext, image_user: &str, databases: &Databases) -> Result<User, SpecError> {
    let wanted = wanted(context, image_user)?;
    let (name, group) = match wanted.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (wanted.as_str(), None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let numeric: Option<u32> = name.parse().ok();
    let entry = databases.users().find(|user| numeric.map_or(user.name == name, |uid| user.uid == uid));
    let uid = match (&entry, numeric) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => {
            return Err(SpecError::Invalid(format!("unable to find user {name}: no matching entries in passwd file")));
        }
    };
    let gid = match group {
        Some(group) => databases.gid(group)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut groups = vec![gid];
    if context.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge
        && let Some(entry) = &entry
    {
        let member = |list: &str| list.split(',').any(|member| member.trim() == entry.name);
        groups.extend(databases.groups().filter(|(_, _, list)| member(list)).map(|(_, gid, _)| gid));
    }
    for group in &context.supplemental_groups {
        groups.push(u32::try_from(*group).map_err(|_| SpecError::Invalid(format!("supplemental group {group} is out of range")))?);
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|group| seen.insert(*group));
    let home = entry.map(|entry| entry.home.to_owned()).filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
    Ok(User { uid, gid, groups, home })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrokube_cri::v1::Int64Value;

    fn databases() -> Databases {
        Databases {
            passwd: "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\nbroken\n".into(),
            group: "root:x:0:\napp:x:1001:\nvideo:x:44:other,app\ndisk:x:6:app\n".into(),
        }
    }

    fn context(uid: Option<i64>, gid: Option<i64>, name: &str) -> LinuxContainerSecurityContext {
        LinuxContainerSecurityContext {
            run_as_user: uid.map(|value| Int64Value { value }),
            run_as_group: gid.map(|value| Int64Value { value }),
            run_as_username: name.into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_pod_comes_before_the_image_and_names_are_looked_up() {
        let user = |context: &LinuxContainerSecurityContext, image: &str| {
            resolve(context, image, &databases()).map(|user| (user.uid, user.gid, user.groups, user.home))
        };
        let home = |path: &str| path.to_owned();
        let cases = [
            (context(None, None, ""), "", (0, 0, vec![0], home("/root"))),
            (context(None, None, ""), "app", (1000, 1001, vec![1001, 44, 6], home("/home/app"))),
            (context(None, None, ""), "app:video", (1000, 44, vec![44, 6], home("/home/app"))),
            (context(None, None, ""), "7:9", (7, 9, vec![9], home("/"))),
            (context(Some(1000), None, ""), "root", (1000, 1001, vec![1001, 44, 6], home("/home/app"))),
            (context(Some(4242), None, ""), "app", (4242, 0, vec![0], home("/"))),
            (context(Some(4242), Some(5), ""), "", (4242, 5, vec![5], home("/"))),
            (context(None, None, "app"), "", (1000, 1001, vec![1001, 44, 6], home("/home/app"))),
        ];
        for (context, image, expected) in cases {
            assert_eq!(user(&context, image).expect("a known user"), expected, "{context:?} {image}");
        }
    }

    #[test]
    fn unknown_names_and_a_group_alone_are_errors() {
        assert!(resolve(&context(None, None, "nobody"), "", &databases()).is_err());
        assert!(resolve(&context(None, None, ""), "app:nogroup", &databases()).is_err());
        assert!(resolve(&context(None, Some(5), ""), "app", &databases()).is_err());
    }

    #[test]
    fn the_policy_decides_about_the_groups_of_the_image() {
        let mut context = context(Some(1000), None, "");
        context.supplemental_groups = vec![77, 44];
        assert_eq!(resolve(&context, "", &databases()).expect("known").groups, [1001, 44, 6, 77]);
        context.set_supplemental_groups_policy(SupplementalGroupsPolicy::Strict);
        assert_eq!(resolve(&context, "", &databases()).expect("known").groups, [1001, 77, 44]);
    }

    #[test]
    fn a_link_in_the_image_does_not_reach_the_node() {
        let image = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(image.path().join("etc")).expect("a folder");
        std::os::unix::fs::symlink("/etc/hostname", image.path().join("etc/passwd")).expect("a link");
        let databases = Databases::read(image.path()).expect("reads");
        assert!(databases.passwd.is_empty() && databases.group.is_empty());
    }
}
