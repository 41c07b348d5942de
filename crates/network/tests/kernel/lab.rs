//! A network of its own for every test: the test runs again in a child process inside `unshare -n -m`, where there is no
//! interface but loopback, so no packet can leave the machine. Pods are network namespaces connected by our own plugin.

use ferrokube_network::cni;
use ferrokube_network::netns;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const MARK: &str = "FERROKUBE_NETWORK_LAB";
/// Longer than anything takes here on a busy machine, shorter than a connection attempt that is dropped.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `test` inside a lab. Without root it says so and skips.
pub fn inside(name: &str, test: impl FnOnce(&Lab)) {
    if std::env::var_os(MARK).is_some() {
        let lab = Lab::new();
        test(&lab);
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: {name}: needs root (network namespaces, nftables)");
        return;
    }
    let exe = std::env::current_exe().expect("a test knows its executable");
    let status = Command::new("unshare")
        .args(["-n", "-m", "--propagation", "private"])
        .arg(exe)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .status()
        .expect("unshare (util-linux) is missing");
    assert!(status.success(), "{name} failed in its lab");
}

/// The node under test.
pub struct Lab {
    pub node: ferrokube_network::NodeNetwork,
    _dir: tempfile::TempDir,
}

/// A pod.
pub struct Pod {
    pub netns: File,
    pub container: String,
    pub address: Ipv4Addr,
}

static NEXT_POD: AtomicU32 = AtomicU32::new(1);

impl Lab {
    fn new() -> Self {
        let mut route = ferrokube_network::netlink::route::Route::open().expect("netlink");
        assert_eq!(route.default_link().expect("routes"), None, "a lab has no uplink");
        let dir = tempfile::tempdir().expect("temporary folder");
        let node = ferrokube_network::NodeNetwork {
            cluster_cidr: "10.244.0.0/16".parse().expect("valid"),
            pod_cidr: "10.244.0.0/24".parse().expect("valid"),
            service_cidr: "10.96.0.0/12".parse().expect("valid"),
            mtu: None,
            data_dir: dir.path().to_owned(),
        };
        ferrokube_network::node::set_up(&node).expect("node set-up");
        Self { node, _dir: dir }
    }

    /// One plugin's configuration, as a runtime derives it from the list.
    pub fn conf(&self, runtime_config: Value) -> Vec<u8> {
        let list: Value = serde_json::from_str(&cni::config::conflist(&self.node)).expect("the list is JSON");
        let mut conf = list["plugins"][0].clone();
        conf["cniVersion"] = list["cniVersion"].clone();
        conf["name"] = list["name"].clone();
        conf["runtimeConfig"] = runtime_config;
        conf.to_string().into_bytes()
    }

    /// Runs the plugin as a runtime would.
    pub fn cni(&self, command: &str, container: &str, netns: Option<&str>, runtime_config: Value) -> cni::Result<Option<Value>> {
        let env = |name: &str| match name {
            "CNI_COMMAND" => Some(command.to_owned()),
            "CNI_CONTAINERID" => Some(container.to_owned()),
            "CNI_IFNAME" => Some("eth0".to_owned()),
            "CNI_NETNS" => netns.map(str::to_owned),
            _ => None,
        };
        cni::run(&env, &self.conf(runtime_config))
    }

    pub fn pod(&self) -> Pod {
        self.pod_with(json!({})).expect("ADD")
    }

    pub fn pod_with(&self, runtime_config: Value) -> cni::Result<Pod> {
        let netns = new_netns();
        let container = format!("pod{}", NEXT_POD.fetch_add(1, Ordering::Relaxed));
        let result = self.cni("ADD", &container, Some(&path_of(&netns)), runtime_config)?.expect("ADD has a result");
        let text = result["ips"][0]["address"].as_str().expect("an address").trim_end_matches("/32").to_owned();
        let address = text.parse().expect("an IPv4 address");
        Ok(Pod { netns, container, address })
    }

    pub fn remove(&self, pod: &Pod) {
        self.cni("DEL", &pod.container, Some(&path_of(&pod.netns)), json!({})).expect("DEL");
    }
}

fn new_netns() -> File {
    let make = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may unshare");
        File::open("/proc/thread-self/ns/net").expect("proc is mounted")
    };
    std::thread::spawn(make).join().expect("no panic")
}

pub fn path_of(netns: &File) -> String {
    format!("/proc/self/fd/{}", netns.as_raw_fd())
}

impl Pod {
    /// Runs something in the pod's network.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::within(&self.netns, work).expect("enter the pod")
    }

    /// Serves TCP and UDP on a port: answers with `name` and the address the client seems to have.
    pub fn serve(&self, port: u16, name: &'static str) {
        self.run(|| serve(Ipv4Addr::UNSPECIFIED, port, name));
    }
}

/// As [`Pod::serve`], in the calling thread's network namespace.
pub fn serve(address: Ipv4Addr, port: u16, name: &'static str) {
    let tcp = TcpListener::bind((address, port)).expect("bind TCP");
    let udp = UdpSocket::bind((address, port)).expect("bind UDP");
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().map_or(String::new(), |a| a.ip().to_string());
            let _ = write!(stream, "{name} {peer}");
        }
    });
    std::thread::spawn(move || {
        let mut buf = [0; 64];
        while let Ok((_, peer)) = udp.recv_from(&mut buf) {
            let _ = udp.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
        }
    });
}

/// What a client got: who answered and as whom it was seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    pub server: String,
    pub seen_as: String,
}

fn answer(text: &str) -> Answer {
    let (server, seen_as) = text.split_once(' ').unwrap_or((text, ""));
    Answer { server: server.into(), seen_as: seen_as.into() }
}

/// Connects by TCP and reads the answer.
pub fn tcp(address: Ipv4Addr, port: u16) -> io::Result<Answer> {
    let mut stream = connect(address, port, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(answer(&text))
}

fn connect(address: Ipv4Addr, port: u16, patience: Duration) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::V4(SocketAddrV4::new(address, port)), patience)
}

/// A connection attempt that must come to nothing, in whatever way.
pub fn assert_unreachable(what: &str, address: Ipv4Addr, port: u16) {
    assert!(connect(address, port, Duration::from_secs(2)).is_err(), "{what}");
}

/// A UDP client that may ask several times from one port.
pub fn udp_from(socket: &UdpSocket, address: Ipv4Addr, port: u16) -> io::Result<Answer> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((address, port))?;
    socket.send(b"?")?;
    let mut buf = [0; 64];
    let n = socket.recv(&mut buf)?;
    Ok(answer(&String::from_utf8_lossy(&buf[..n])))
}

/// Asks once by UDP.
pub fn udp(address: Ipv4Addr, port: u16) -> io::Result<Answer> {
    udp_from(&UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?, address, port)
}

/// A connection attempt that must be refused, which is to say that nobody has to wait until he gives up.
pub fn assert_refused(what: &str, attempt: impl FnOnce() -> io::Result<Answer>) {
    let error = attempt().expect_err(what);
    // The latter is how a read says that its time is over.
    assert!(!matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{what}: {error}");
}

/// The rules as the `nft` tool shows them, when it is there: for the eyes of whoever reads a failed test.
pub fn show_rules() {
    if Path::new("/usr/sbin/nft").exists() {
        let _ = Command::new("/usr/sbin/nft").args(["list", "ruleset"]).status();
    }
}
