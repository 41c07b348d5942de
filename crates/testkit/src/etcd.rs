//! Real etcd on loopback: one member or several, with or without TLS, that can be killed and started again.

use crate::{free_port, tools};
use anyhow::{Context as _, Result, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a member may take to serve.
const START: Duration = Duration::from_secs(120);

/// How the members run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many.
    pub members: usize,
    /// TLS with client certificates.
    pub tls: bool,
    /// `--quota-backend-bytes`.
    pub quota: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options { members: 1, tls: false, quota: None }
    }
}

#[derive(Debug)]
struct Member {
    name: String,
    client: u16,
    peer: u16,
    metrics: u16,
    process: Option<Child>,
}

/// The members. Dropping them ends them and removes their data.
#[derive(Debug)]
pub struct Etcd {
    program: PathBuf,
    dir: tempfile::TempDir,
    options: Options,
    members: Vec<Member>,
}

impl Etcd {
    /// Starts members and waits until they serve.
    pub fn start(options: Options) -> Result<Etcd> {
        let program = tools::etcd()?;
        let dir = tempfile::tempdir()?;
        if options.tls {
            write_certificates(dir.path())?;
        }
        let member =
            |n: usize| Member { name: format!("m{n}"), client: free_port(), peer: free_port(), metrics: free_port(), process: None };
        let members = (0..options.members).map(member).collect();
        let mut etcd = Etcd { program, dir, options, members };
        for n in 0..etcd.members.len() {
            etcd.launch(n)?;
        }
        for n in 0..etcd.members.len() {
            etcd.await_health(n)?;
        }
        Ok(etcd)
    }

    /// Client URLs.
    pub fn endpoints(&self) -> Vec<String> {
        let scheme = if self.options.tls { "https" } else { "http" };
        self.members.iter().map(|m| format!("{scheme}://127.0.0.1:{}", m.client)).collect()
    }

    /// With TLS: the files of the CA, of a client's certificate and of its key.
    pub fn client_files(&self) -> (PathBuf, PathBuf, PathBuf) {
        let file = |name: &str| self.dir.path().join(name);
        (file("ca.pem"), file("client.pem"), file("client-key.pem"))
    }

    /// Kills a member as a power cut would.
    pub fn kill(&mut self, n: usize) -> Result<()> {
        if let Some(mut process) = self.members[n].process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Starts a killed member again, on its data, and waits until it serves.
    pub fn restart(&mut self, n: usize) -> Result<()> {
        ensure!(self.members[n].process.is_none(), "member {n} runs");
        self.launch(n)?;
        self.await_health(n)
    }

    fn data_dir(&self, n: usize) -> PathBuf {
        self.dir.path().join(&self.members[n].name)
    }

    /// Copies the data of a killed member.
    pub fn back_up(&self, n: usize) -> Result<tempfile::TempDir> {
        ensure!(self.members[n].process.is_none(), "member {n} runs");
        let backup = tempfile::tempdir()?;
        tools::run(Command::new("cp").arg("-a").arg(self.data_dir(n)).arg(backup.path().join("data")))?;
        Ok(backup)
    }

    /// Gives a killed member the data that it had.
    pub fn restore(&self, n: usize, backup: &tempfile::TempDir) -> Result<()> {
        ensure!(self.members[n].process.is_none(), "member {n} runs");
        std::fs::remove_dir_all(self.data_dir(n))?;
        tools::run(Command::new("cp").arg("-a").arg(backup.path().join("data")).arg(self.data_dir(n))).map(drop)
    }

    /// Has a killed member serve clients at another port from now on, and returns the one it had: those who know only that one do
    /// not find it.
    pub fn move_to(&mut self, n: usize, port: u16) -> Result<u16> {
        ensure!(self.members[n].process.is_none(), "member {n} runs");
        Ok(std::mem::replace(&mut self.members[n].client, port))
    }

    /// The number of the member that leads.
    pub fn leader(&self) -> Result<usize> {
        let started = Instant::now();
        while started.elapsed() < START {
            for (n, member) in self.members.iter().enumerate().filter(|(_, m)| m.process.is_some()) {
                if http_get(member.metrics, "/metrics").is_ok_and(|text| text.contains("\netcd_server_is_leader 1\n")) {
                    return Ok(n);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("no member of etcd leads")
    }

    fn launch(&mut self, n: usize) -> Result<()> {
        let peers: Vec<String> = self.members.iter().map(|m| format!("{}=http://127.0.0.1:{}", m.name, m.peer)).collect();
        let client = self.endpoints().swap_remove(n);
        let member = &self.members[n];
        let dir = self.dir.path();
        let log = std::fs::File::options().create(true).append(true).open(dir.join(format!("{}.log", member.name)))?;
        let peer = format!("http://127.0.0.1:{}", member.peer);
        let mut command = Command::new(&self.program);
        command.arg("--name").arg(&member.name).arg("--data-dir").arg(self.data_dir(n));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &peers.join(","), "--listen-metrics-urls", &format!("http://127.0.0.1:{}", member.metrics)]);
        // Short, so that leases can be short as well and elections do not take long.
        command.args(["--heartbeat-interval", "40", "--election-timeout", "400", "--logger", "zap"]);
        if let Some(quota) = self.options.quota {
            command.args(["--quota-backend-bytes", &quota.to_string()]);
        }
        if self.options.tls {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(dir.join("ca.pem"));
            command.arg("--cert-file").arg(dir.join("server.pem")).arg("--key-file").arg(dir.join("server-key.pem"));
        }
        let process = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        self.members[n].process = Some(process.with_context(|| format!("cannot run {}", self.program.display()))?);
        Ok(())
    }

    fn await_health(&mut self, n: usize) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < START {
            let member = &mut self.members[n];
            let ended = member.process.as_mut().and_then(|p| p.try_wait().ok()).flatten();
            if let Some(status) = ended {
                let log = std::fs::read_to_string(self.dir.path().join(format!("m{n}.log"))).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                bail!("etcd member {n} ended with {status}: {tail:?}");
            }
            if http_get(member.metrics, "/health").is_ok_and(|text| text.contains("\"health\":\"true\"")) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("etcd member {n} does not serve")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for n in 0..self.members.len() {
            let _ = self.kill(n); // Best effort; there is nobody to tell.
        }
    }
}

fn http_get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn write_certificates(dir: &Path) -> Result<()> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "etcd-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    std::fs::write(dir.join("ca.pem"), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    for (name, names) in [("server", vec!["127.0.0.1".to_owned(), "localhost".to_owned()]), ("client", Vec::new())] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        std::fs::write(dir.join(format!("{name}.pem")), params.signed_by(&key, &issuer)?.pem())?;
        std::fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem())?;
    }
    Ok(())
}
