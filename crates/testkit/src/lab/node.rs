//! One host of a lab.

use super::{Holder, cgroup};
use anyhow::{Context as _, Result, bail};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};

/// Folders that a node has for itself; what the machine has in them is not seen.
const OWN_FOLDERS: [&str; 3] = ["/var/lib", "/var/log", "/opt"];

/// A host: dropped or killed, it goes with all of its processes, as in a power cut.
pub struct Node {
    name: String,
    address: String,
    dir: PathBuf,
    init: u32,
    _holder: Holder,
}

/// A process on a node.
#[derive(Clone, Debug)]
pub struct Process {
    /// As the machine numbers it; for signals from the test.
    pub pid: i32,
    /// Program and arguments.
    pub command: Vec<String>,
}

impl Node {
    pub(super) fn boot(name: &str, address: String, dir: PathBuf, cgroups: &cgroup::Tree, lab: &Holder) -> Result<Self> {
        for folder in OWN_FOLDERS.map(|folder| folder.trim_start_matches('/')).into_iter().chain(["home", "etc", "etc.work"]) {
            fs::create_dir_all(dir.join(folder))?;
        }
        let inside = dir.join("boot.sh");
        fs::write(&inside, boot_script(name, &dir, &cgroups.mount_script()))?;
        let doors = cgroups.add(name)?;
        let enter: String = doors.iter().map(|door| format!("echo $$ > {} || exit 1\n", door.display())).collect();
        let unshare = "exec unshare -n -m -u -i -p -C -f --kill-child --mount-proc --propagation private bash";
        let outside = format!("{enter}{unshare} {}", inside.display());
        let mut command = std::process::Command::new("nsenter");
        command.args(["-t", &lab.pid().to_string(), "-n", "-m", "bash", "-c", &outside]);
        let holder = Holder::start(command).with_context(|| format!("boot node {name}"))?;
        let init = only_child(holder.pid())?;
        Ok(Self { name: name.to_owned(), address, dir, init, _holder: holder })
    }

    /// Host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// IPv4 address on the LAN.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Process 1 of the node, as the machine numbers it.
    pub fn pid(&self) -> u32 {
        self.init
    }

    /// Its network namespace, for servers of the test that should live on the node.
    pub fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.init))
    }

    /// `HOME` of everything that runs on the node; same path inside and outside.
    pub fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// Where `path` of the node is on the machine, for its own folders.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.dir.join(path.trim_start_matches('/'))
    }

    /// A command that will run on the node, in its cgroups.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let pid = self.init.to_string();
        // What is started from outside has to enter the node's cgroups by itself; there they look like the roots.
        let enter = "for d in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do [ ! -e $d ] || echo $$ > $d; done; exec \"$@\"";
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-n", "-m", "-p", "-u", "-i", "-C", "--", "bash", "-c", enter, "node"]).args(args);
        command.env_clear().current_dir("/").kill_on_drop(true);
        command.env("HOME", self.home()).env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("TERM", "dumb");
        command
    }

    /// Runs a command to its end and returns what it printed; failure tells everything.
    pub async fn exec<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.exec_with(args, b"").await
    }

    /// The same, with something on its standard input.
    pub async fn exec_with<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Result<String> {
        use tokio::io::AsyncWriteExt as _;
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let mut child = self.command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("a pipe was asked for")?;
        let feed = async {
            let _ = stdin.write_all(input).await; // A command may well not read all of it.
            drop(stdin);
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), feed);
        let output = output?;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("{args:?} on {}: {}\n{}{}", self.name, output.status, stdout, stderr);
        }
        Ok(stdout)
    }

    /// Starts a command that stays; what it prints goes to `log`. Killed when the handle is dropped.
    pub fn spawn<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, log: &Path) -> Result<Child> {
        let file = File::options().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
        let mut command = self.command(args);
        Ok(command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?)
    }

    /// Everything that runs on the node, in nested process namespaces too.
    pub fn processes(&self) -> Vec<Process> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| self.has(*pid)).map(|pid| Process { pid, command: command_of(pid) }).collect()
    }

    /// Whether a process is below the node's process 1.
    fn has(&self, pid: i32) -> bool {
        let mut at = pid;
        for _ in 0..64 {
            if at == self.init as i32 {
                return true;
            }
            // What was started by nsenter has its parent outside, and tells by its process namespace.
            if same_pid_namespace(at, self.init as i32) {
                return true;
            }
            match parent_of(at) {
                Some(parent) if parent > 1 => at = parent,
                _ => return false,
            }
        }
        false
    }

    /// Sends SIGKILL to every process whose command `matches`, and says how many there were.
    pub fn kill_matching(&self, matches: impl Fn(&[String]) -> bool) -> usize {
        let victims: Vec<_> = self.processes().into_iter().filter(|process| matches(&process.command)).collect();
        for victim in &victims {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(victim.pid), nix::sys::signal::Signal::SIGKILL);
        }
        victims.len()
    }
}

/// What process 1 does: mounts of its own, then waits for the end of its pipe. Bash reaps what is orphaned meanwhile.
fn boot_script(name: &str, dir: &Path, cgroups: &str) -> String {
    let dir = dir.display();
    let binds: String = OWN_FOLDERS.iter().map(|folder| format!("mkdir -p {folder} && mount --bind {dir}{folder} {folder}\n")).collect();
    format!(
        "set -e\n\
         hostname {name}\n\
         mount --make-rshared /\n\
         mount -t tmpfs -o mode=755 tmpfs /run\n\
         mkdir -p /run/lock /run/netns\n\
         mount -t sysfs sysfs /sys\n\
         {cgroups}\
         {binds}\
         mount -t overlay -o lowerdir=/etc,upperdir={dir}/etc,workdir={dir}/etc.work overlay /etc\n\
         echo {name} > /etc/hostname\n\
         printf '127.0.0.1 localhost\\n::1 localhost\\n' > /etc/hosts\n\
         : > /etc/resolv.conf\n\
         ip link set lo up\n\
         echo ready\n\
         read -r _ || true\n"
    )
}

fn only_child(pid: u32) -> Result<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&path).unwrap_or_default();
    if let Some(child) = children.split_whitespace().next() {
        return Ok(child.parse()?);
    }
    let entries = fs::read_dir("/proc")?.flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let child = pids.find(|candidate| parent_of(*candidate) == Some(pid as i32));
    child.map(|child| child as u32).with_context(|| format!("process {pid} has no child"))
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn same_pid_namespace(one: i32, other: i32) -> bool {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    namespace(one).is_some() && namespace(one) == namespace(other)
}

fn command_of(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty()).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}
