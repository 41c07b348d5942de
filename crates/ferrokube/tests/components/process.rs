//! Processes of the binary, and how tests talk to them.

use bytes::Bytes;
use ferrokube_client::http::{Credentials, Endpoint, HttpTransport};
use ferrokube_client::{Client, Transport, kubeconfig};
use ferrokube_testkit::free_port;
use http::{Method, Request};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long anything may take: debug builds on busy machines run this.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until there is an answer.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

fn spawn(arguments: &[&str], log: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("a log");
    let binary = std::env::var("FERROKUBE_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ferrokube").to_owned());
    let errors = log.try_clone().expect("a log");
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::null()).stdout(log).stderr(errors).kill_on_drop(true);
    command.spawn().expect("the binary starts")
}

fn parse(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|e| e.to_string())
}

/// An API server process and its administrator.
pub struct Server {
    _folder: tempfile::TempDir,
    data: PathBuf,
    process: Child,
    pub client: Client,
}

/// A component with a port of its own.
pub struct Manager {
    process: Child,
    port: u16,
    admin: Credentials,
    log: PathBuf,
}

impl Server {
    /// Starts an API server and waits until it is ready.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let directory = format!("--data-dir={}", data.display());
        let log = folder.path().join("apiserver.log");
        let mut process = spawn(&["apiserver", &directory, "--bind-address=127.0.0.1", "--secure-port=0"], &log);
        let client = until("the API server to be ready", async || {
            if let Ok(Some(status)) = process.try_wait() {
                panic!("the API server ended with {status}: {}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            let (endpoint, credentials) = kubeconfig::load(&data.join("admin.conf"), parse).ok()?;
            if endpoint.server.ends_with(":0") {
                return None;
            }
            let client = Client::new(Arc::new(HttpTransport::new(&endpoint, credentials).ok()?), "test");
            client.send(Method::GET, "/readyz", None, Bytes::new()).await.ok()?;
            Some(client)
        })
        .await;
        Server { _folder: folder, data, process, client }
    }

    fn component(&self, command: &str, user: &str, more: &[&str]) -> Manager {
        let port = free_port();
        let kubeconfig = format!("--kubeconfig={}", self.data.join(format!("{user}.conf")).display());
        let ca = format!("--client-ca-file={}", self.data.join("pki/ca.crt").display());
        let (address, port_flag) = ("--bind-address=127.0.0.1", format!("--secure-port={port}"));
        let arguments = [&[command, &kubeconfig, &ca, address, &port_flag], more].concat();
        let log = self.data.join(format!("{command}-{port}.log"));
        let process = spawn(&arguments, &log);
        let (_, admin) = kubeconfig::load(&self.data.join("admin.conf"), parse).expect("a kubeconfig");
        Manager { process, port, admin, log }
    }

    /// The kubeconfig of a user, but with the address of a port where nobody listens, and the address of the server.
    pub fn misled(&self, user: &str) -> (PathBuf, String) {
        let path = self.data.join(format!("{user}.conf"));
        let (endpoint, _) = kubeconfig::load(&path, parse).expect("a kubeconfig");
        let text = std::fs::read_to_string(&path).expect("it was read before");
        let misled = self.data.join(format!("{user}-misled.conf"));
        std::fs::write(&misled, text.replace(&endpoint.server, &format!("https://127.0.0.1:{}", free_port()))).expect("a file");
        (misled, endpoint.server)
    }

    /// Starts a controller manager.
    pub fn manager(&self, more: &[&str]) -> Manager {
        self.component("controller-manager", "controller-manager", more)
    }

    /// Starts a scheduler.
    pub fn scheduler(&self, more: &[&str]) -> Manager {
        self.component("scheduler", "scheduler", more)
    }

    /// An object or a list, if it is there.
    pub async fn try_get(&self, path: &str) -> Option<Value> {
        let answer = self.client.send(Method::GET, path, None, Bytes::new()).await.ok()?;
        serde_json::from_slice(answer.body()).ok()
    }

    /// Creates an object.
    pub async fn post(&self, path: &str, object: Value) {
        let body = Bytes::from(object.to_string());
        self.client.send(Method::POST, path, Some("application/json"), body).await.unwrap_or_else(|e| panic!("POST {path}: {e}"));
    }

    /// Ends it.
    pub async fn stop(mut self) {
        end(&mut self.process).await;
    }
}

/// Ends a process as a user would; whether it called that a success.
async fn end(process: &mut Child) -> bool {
    let pid = process.id().and_then(|p| i32::try_from(p).ok()).expect("it runs");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).expect("ours");
    tokio::time::timeout(PATIENCE, process.wait()).await.expect("it ends").expect("a status").success()
}

impl Manager {
    /// What it has said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills it without mercy.
    pub async fn kill(&mut self) {
        self.process.kill().await.expect("ours");
    }

    /// Ends it cleanly.
    pub async fn stop(&mut self) -> bool {
        end(&mut self.process).await
    }

    /// A page as the administrator sees it; `None` while nobody listens.
    pub async fn page(&self, path: &str) -> Option<(u16, String)> {
        self.ask(path, self.admin.clone()).await
    }

    /// A page as anybody sees it.
    pub async fn page_as_nobody(&self, path: &str) -> Option<(u16, String)> {
        self.ask(path, Credentials::default()).await
    }

    async fn ask(&self, path: &str, credentials: Credentials) -> Option<(u16, String)> {
        let endpoint = Endpoint { server: format!("https://127.0.0.1:{}", self.port), insecure: true, ..Endpoint::default() };
        let transport = HttpTransport::new(&endpoint, credentials).expect("an address");
        let answer = transport.send(Request::get(path).body(Bytes::new()).expect("a request")).await.ok()?;
        Some((answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned()))
    }
}
