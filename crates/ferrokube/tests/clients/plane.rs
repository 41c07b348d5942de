//! A control plane on loopback, and how programs are run against it.

use anyhow::{Context as _, Result, bail};
use ferrokube_testkit::wait_for;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// How long anything may take that a user would wait for. Generous: debug builds on busy machines run this.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// `ferrokube up --control-plane-only` in a folder of its own. Dropping it ends and removes it.
pub struct Plane {
    up: Mutex<Child>,
    dir: tempfile::TempDir,
    flags: Vec<String>,
}

/// Runs a scenario on a fresh control plane with a tool, or says what is missing for that. A failure tells what the
/// control plane logged.
pub async fn scenario<T>(name: &str, tool: impl FnOnce() -> Result<T>, body: impl AsyncFnOnce(&Plane, T) -> Result<()>) {
    scenario_with(&[], name, tool, body).await;
}

/// The same, on a control plane with flags of its own.
pub async fn scenario_with<T>(
    flags: &[&str],
    name: &str,
    tool: impl FnOnce() -> Result<T>,
    body: impl AsyncFnOnce(&Plane, T) -> Result<()>,
) {
    let tool = match tool() {
        Ok(tool) => tool,
        Err(error) => return eprintln!("SKIP: {name}: {error:#}"),
    };
    let plane = Plane::start(flags).unwrap_or_else(|e| panic!("{name}: {e:#}"));
    let result = async {
        plane.ready().await?;
        body(&plane, tool).await
    };
    if let Err(error) = result.await {
        panic!("{name}: {error:#}\n--- control plane:\n{}", plane.log());
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // It has to be gone before its folder goes.
        self.kill();
    }
}

impl Plane {
    fn start(flags: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ferrokube-clients-").tempdir()?;
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Ok(Self { up: Mutex::new(spawn(dir.path(), &flags)?), dir, flags })
    }

    fn kill(&self) {
        let mut up = self.up.lock().expect("nobody panics with it");
        let _ = up.kill();
        let _ = up.wait();
    }

    /// Ends it at once, as a crash does, and starts it again over what it wrote. At the same address if a flag names its port.
    pub async fn crash(&self) -> Result<()> {
        self.kill();
        *self.up.lock().expect("nobody panics with it") = spawn(self.dir.path(), &self.flags)?;
        self.ready().await
    }

    async fn ready(&self) -> Result<()> {
        wait_for("the control plane", PATIENCE, async || {
            if let Some(status) = self.up.lock().expect("nobody panics with it").try_wait()? {
                bail!("ferrokube up ended with {status}");
            }
            self.log().contains("Cluster ready").then_some(()).context("not ready")
        })
        .await
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The home of whoever runs programs here.
    pub fn home(&self) -> &Path {
        self.dir.path()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// A file in the home, for manifests and the like.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.home().join(name);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// A program with the administrator's kubeconfig and nothing of the developer's own settings.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.home()).env("HOME", self.home()).env("KUBECONFIG", self.kubeconfig());
        for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "KUBECACHEDIR", "HTTPS_PROXY", "https_proxy"] {
            command.env_remove(name);
        }
        command.kill_on_drop(true);
        command
    }

    /// Runs a program to its end. What it printed comes back; a failure says that too.
    pub async fn run<A: AsRef<OsStr>>(&self, program: &Path, args: &[A], input: &str) -> Result<String> {
        let mut command = self.command(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
        let mut stdin = child.stdin.take().context("its input")?;
        let feed = async move {
            // A program that does not read all of its input is not wrong.
            let _ = stdin.write_all(input.as_bytes()).await;
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), feed);
        let output = output?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            let args: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy()).collect();
            let program = program.file_name().unwrap_or_default().to_string_lossy();
            bail!("{program} {} ended with {}:\n{out}{err}", args.join(" "), output.status.code().unwrap_or(-1));
        }
        Ok(format!("{out}{err}"))
    }
}

/// Starts it, with a log of its own.
fn spawn(dir: &Path, flags: &[String]) -> Result<Child> {
    let binary = std::env::var("FERROKUBE_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ferrokube").to_owned());
    let log = std::fs::File::create(dir.join("log"))?;
    let mut command = std::process::Command::new(binary);
    command.args(["up", "--control-plane-only", "--data-dir"]).arg(dir.join("data"));
    command.arg("--kubeconfig").arg(dir.join("kubeconfig")).args(flags).env("HOME", dir);
    if !flags.iter().any(|flag| flag.starts_with("--port=")) {
        command.arg("--port=0");
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("cannot run ferrokube")
}
