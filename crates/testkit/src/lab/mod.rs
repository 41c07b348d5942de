//! A lab: hosts out of namespaces, on a LAN of their own, without any way out of the machine.
//!
//! [`Lab::new`] makes a network and mount namespace without an uplink; [`Lab::node`] makes a host in it: its own
//! network, mounts, host name, processes and cgroups, with `/run`, `/var/lib`, `/var/log` and `/etc` of its own, and
//! an address in 192.168.77.0/24 on a bridge, without a default route. Everything ends with the test, also when it is
//! killed: each host's process 1 lives only as long as a pipe from the test stays open.
//!
//! Nothing here may touch the machine's own network, mounts or firewall.

mod cgroup;
mod node;

pub use node::{Node, Process};

use crate::tools;
use anyhow::{Context as _, Result, bail, ensure};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// What a lab needs on the machine, by Debian package.
const PROGRAMS: [(&str, &str); 4] = [("unshare", "util-linux"), ("nsenter", "util-linux"), ("ip", "iproute2"), ("bash", "bash")];

/// Network of the LAN; nodes get .10 and up.
pub const LAN: &str = "192.168.77";

/// What labs are called, followed by the process that made them.
const PREFIX: &str = "ferrokube-lab-";

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// The outer namespace, with the switch that nodes are plugged into.
pub struct Lab {
    name: String,
    dir: tempfile::TempDir,
    holder: Holder,
    nodes: AtomicU32,
    cgroups: cgroup::Tree,
}

/// What is missing for labs on this machine; `None` when nothing is.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("root".to_owned());
    }
    let absent = PROGRAMS.iter().find(|(program, _)| tools::in_path(program).is_none())?;
    Some(format!("the program {} (Debian package {})", absent.0, absent.1))
}

/// Whether labs work here; prints what is missing when they do not.
pub fn available(test: &str) -> bool {
    match missing() {
        Some(what) => {
            eprintln!("SKIP: {test} needs {what}");
            false
        }
        None => true,
    }
}

impl Lab {
    /// An empty lab. Fails when something is missing or when the lab would not be isolated.
    pub fn new() -> Result<Self> {
        if let Some(what) = missing() {
            bail!("a lab needs {what}");
        }
        sweep_folders();
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir()?;
        let script = "ip link set lo up && ip link add lan0 type bridge && ip link set lan0 up && echo ready && read -r _";
        let mut unshare = Command::new("unshare");
        unshare.args(["-n", "-m", "--propagation", "private", "bash", "-c", script]);
        let holder = Holder::start(unshare).context("make the lab's namespace")?;
        let lab = Self { cgroups: cgroup::Tree::new(&name)?, name, dir, holder, nodes: AtomicU32::new(0) };
        lab.check_isolated()?;
        Ok(lab)
    }

    /// No interface of the lab leads anywhere.
    fn check_isolated(&self) -> Result<()> {
        let net = PathBuf::from(format!("/proc/{}/net", self.holder.pid()));
        let own = std::fs::read_link(format!("/proc/{}/ns/net", self.holder.pid()))?;
        ensure!(own != std::fs::read_link("/proc/self/ns/net")?, "the lab shares the machine's network namespace");
        let routes = std::fs::read_to_string(net.join("route")).unwrap_or_default();
        let default4 = routes.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some("00000000"));
        let routes = std::fs::read_to_string(net.join("ipv6_route")).unwrap_or_default();
        let default6 = routes.lines().any(|line| line.starts_with(&format!("{} 00 ", "0".repeat(32))) && !line.ends_with(" lo"));
        ensure!(!default4 && !default6, "an interface with a default route is visible in the lab: refusing to start");
        Ok(())
    }

    /// A new host with this name.
    pub fn node(&self, name: &str) -> Result<Node> {
        let number = self.nodes.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.path().join(name);
        let address = format!("{LAN}.{}", 10 + number);
        let node = Node::boot(name, address, dir, &self.cgroups, &self.holder)?;
        self.plug(&node, number)?;
        Ok(node)
    }

    /// A cable from the node to the switch.
    fn plug(&self, node: &Node, number: u32) -> Result<()> {
        let (port, pid) = (format!("port{number}"), node.pid().to_string());
        self.ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        self.ip(&["link", "set", &port, "master", "lan0", "up"])?;
        let inside = |args: &[&str]| tools::run(Command::new("nsenter").args(["-t", &pid, "-n", "ip"]).args(args));
        inside(&["link", "set", "lo", "up"])?;
        inside(&["addr", "add", &format!("{}/24", node.address()), "dev", "eth0"])?;
        inside(&["link", "set", "eth0", "up"])?;
        Ok(())
    }

    fn ip(&self, args: &[&str]) -> Result<String> {
        tools::run(Command::new("nsenter").args(["-t", &self.holder.pid().to_string(), "-n", "ip"]).args(args))
    }

    /// The network namespace of the LAN's switch, for servers that belong to no node (see `Registry::start_in`).
    pub fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder.pid()))
    }

    /// Gives the switch itself an address, so that servers in [`Lab::netns`] can be reached from nodes.
    pub fn add_address(&self, host: u8) -> Result<String> {
        let address = format!("{LAN}.{host}");
        self.ip(&["addr", "add", &format!("{address}/24"), "dev", "lan0"])?;
        Ok(address)
    }

    /// A folder of the lab, visible in every node under the same path.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Names the lab in cgroups and temporary files.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Whether something was made by a lab whose process is gone.
fn is_abandoned(name: &str) -> bool {
    let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
    maker.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// Removes folders that killed test runs left behind. Their mounts went with their namespaces.
fn sweep_folders() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if is_abandoned(&entry.file_name().to_string_lossy()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A process that holds namespaces open for as long as the test lives: it reads from a pipe that only the test has.
struct Holder {
    child: Child,
    _pipe: ChildStdin,
}

impl Holder {
    /// Starts it and waits for its `ready`.
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (Some(pipe), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else { bail!("pipes were asked for") };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim() != "ready" {
            drop(pipe);
            let output = child.wait_with_output()?;
            bail!("{command:?} failed: {}{}", line, String::from_utf8_lossy(&output.stderr));
        }
        Ok(Self { child, _pipe: pipe })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
