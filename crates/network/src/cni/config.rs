//! What a runtime hands the plugin: the network configuration and the attachment.

use super::{CniError, Result, SUPPORTED_VERSIONS, code};
use crate::cidr::Cidr;
use crate::node::NodeNetwork;
use serde::Deserialize;
use serde_json::json;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Name of the network and of the plugin's executable.
pub const PLUGIN: &str = "ferrokube";
/// Name of the configuration file.
pub const CONF_FILE: &str = "10-ferrokube.conflist";

/// The network configuration list for a node, as [`install`] writes it.
pub fn conflist(node: &NodeNetwork) -> String {
    let plugin = json!({
        "type": PLUGIN,
        "podCIDR": node.pod_cidr,
        "dataDir": node.data_dir,
        "mtu": node.mtu,
        "capabilities": {"portMappings": true},
    });
    let list = json!({"cniVersion": "1.0.0", "name": PLUGIN, "plugins": [plugin]});
    format!("{list:#}\n")
}

/// Puts the plugin where a runtime looks for it: links to `executable` in `bin_dir` (under our name and as `loopback`,
/// which containerd asks for), and the configuration list in `conf_dir`, ahead of others by its name.
///
/// # Errors
/// A folder or file cannot be written.
pub fn install(node: &NodeNetwork, executable: &Path, bin_dir: &Path, conf_dir: &Path) -> io::Result<()> {
    fs::create_dir_all(bin_dir)?;
    fs::create_dir_all(conf_dir)?;
    for name in [PLUGIN, "loopback"] {
        let link = bin_dir.join(name);
        // Somebody else's loopback plugin in a shared folder does as well.
        let foreign = name != PLUGIN && fs::symlink_metadata(&link).is_ok_and(|m| !m.is_symlink());
        if foreign || fs::read_link(&link).is_ok_and(|target| target == executable) {
            continue;
        }
        let fresh = bin_dir.join(format!(".{name}.new"));
        remove_if_there(&fresh)?;
        symlink(executable, &fresh)?;
        fs::rename(&fresh, &link)?;
    }
    // A runtime watches the folder: it must never see half a file.
    let fresh = conf_dir.join(format!(".{PLUGIN}.new"));
    fs::write(&fresh, conflist(node))?;
    fs::rename(&fresh, conf_dir.join(CONF_FILE))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// One plugin's configuration as the runtime passes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    /// Version the result must have.
    pub cni_version: String,
    /// Name of the network.
    #[serde(default)]
    pub name: String,
    /// Plugin name: ours, or `loopback`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The node's range of pod addresses; the first one is the gateway.
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<Cidr>,
    /// Where address reservations are kept.
    data_dir: Option<PathBuf>,
    /// Largest packet of pod links in bytes; 1500 when absent.
    pub mtu: Option<u32>,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    /// GC only: attachments that are still in use.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<ValidAttachment>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeConfig {
    #[serde(default)]
    port_mappings: Option<Vec<PortMapping>>,
}

/// A host port to forward to the pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Port on the node; 0 means none.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// `tcp` (default), `udp` or `sctp`.
    #[serde(default)]
    pub protocol: Option<String>,
    /// Node address to listen on; all when empty.
    #[serde(default, rename = "hostIP")]
    pub host_ip: Option<String>,
}

/// An attachment the runtime still knows (GC).
#[derive(Clone, Debug, Deserialize)]
pub struct ValidAttachment {
    /// Container (sandbox) id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Interface name in the pod.
    pub ifname: String,
}

impl NetConf {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// No JSON, an unknown version, or a setting is missing.
    pub fn parse(input: &[u8]) -> Result<Self> {
        let conf: Self = serde_json::from_slice(input)
            .map_err(|e| CniError::new(code::DECODING_FAILURE, format!("decode network configuration: {e}")))?;
        if !SUPPORTED_VERSIONS.contains(&conf.cni_version.as_str()) {
            let message = format!("incompatible CNI version {}; supported are {SUPPORTED_VERSIONS:?}", conf.cni_version);
            return Err(CniError::new(code::INCOMPATIBLE_VERSION, message));
        }
        if conf.kind != "loopback" {
            conf.pod_cidr()?;
            conf.data_dir()?;
        }
        Ok(conf)
    }

    /// The node's pod range.
    ///
    /// # Errors
    /// The setting is missing or has no room for a pod.
    pub fn pod_cidr(&self) -> Result<Cidr> {
        let cidr = self.pod_cidr.ok_or_else(|| CniError::new(code::INVALID_CONFIG, "podCIDR is required"))?;
        if cidr.size() < 4 {
            return Err(CniError::new(code::INVALID_CONFIG, format!("podCIDR {cidr} has no room for a pod")));
        }
        Ok(cidr)
    }

    /// Where reservations are kept.
    ///
    /// # Errors
    /// The setting is missing.
    pub fn data_dir(&self) -> Result<&PathBuf> {
        self.data_dir.as_ref().ok_or_else(|| CniError::new(code::INVALID_CONFIG, "dataDir is required"))
    }

    /// The pods' gateway: the first address of the range.
    ///
    /// # Errors
    /// As [`Self::pod_cidr`].
    pub fn gateway(&self) -> Result<Ipv4Addr> {
        let cidr = self.pod_cidr()?;
        Ok(cidr.nth(1).expect("a range with room for a pod has a first address"))
    }

    /// Host ports to forward, without empty ones.
    pub fn port_mappings(&self) -> Vec<PortMapping> {
        let all = self.runtime_config.port_mappings.clone().unwrap_or_default();
        all.into_iter().filter(|m| m.host_port != 0).collect()
    }
}

/// One interface of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Container (sandbox) id.
    pub container: String,
    /// Interface name in the pod.
    pub ifname: String,
    /// Path of the pod's network namespace; absent when it has gone.
    pub netns: Option<PathBuf>,
}

impl Attachment {
    /// An attachment with valid names.
    ///
    /// # Errors
    /// A name has characters the specification forbids.
    pub fn new(container: String, ifname: String, netns: Option<PathBuf>) -> Result<Self> {
        let id_ok = container.starts_with(|c: char| c.is_ascii_alphanumeric())
            && container.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
            && container.len() <= 512;
        let name_ok = (1..=15).contains(&ifname.len())
            && !matches!(ifname.as_str(), "." | "..")
            && !ifname.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
        if !id_ok {
            return Err(CniError::new(code::INVALID_ENVIRONMENT, format!("invalid CNI_CONTAINERID: {container:?}")));
        }
        if !name_ok {
            return Err(CniError::new(code::INVALID_ENVIRONMENT, format!("invalid CNI_IFNAME: {ifname:?}")));
        }
        Ok(Self { container, ifname, netns })
    }

    /// The name of the link's end on the node: the same for the same attachment, different for different ones, and
    /// recognizably ours.
    pub fn host_link(&self) -> String {
        format!("{HOST_LINK_PREFIX}{:012x}", fnv(&[self.container.as_bytes(), b"/", self.ifname.as_bytes()]) >> 16)
    }
}

/// Links on the node that belong to pods start with this.
pub const HOST_LINK_PREFIX: &str = "fkv";

/// FNV-1a: stable over versions and processes, unlike the standard library's hasher.
fn fnv(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|p| p.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
