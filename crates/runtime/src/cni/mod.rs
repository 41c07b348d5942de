//! The pod network, through CNI plug-ins as other programs (the exec protocol, specification 1.0 and 1.1).
//!
//! The runtime knows no network: it finds the configuration list that is in force, calls its plug-ins in order, and keeps what ADD answered
//! together with the list itself, so that DEL undoes what was done even when the configuration has changed since.

mod config;
mod result;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;

pub use config::NetworkList;
pub use result::addresses;

/// The interface of every pod.
pub const INTERFACE: &str = "eth0";

/// No plug-in takes longer.
const PLUGIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(120);

/// Why the network could not be set up, asked about or taken down.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// There is no configuration yet: the network is not ready.
    #[error("cni plugin not initialized: {0}")]
    NotInitialized(String),
    /// A plug-in answered with an error.
    #[error("plugin type={plugin:?} failed ({command}): {message}")]
    Plugin {
        /// Its type.
        plugin: String,
        /// ADD, DEL, CHECK...
        command: &'static str,
        /// What it said.
        message: String,
    },
}

/// Where configuration and plug-ins are.
#[derive(Debug, Clone)]
pub struct Cni {
    /// Directory of configuration lists; the first by name is in force.
    pub conf_dir: PathBuf,
    /// Directories of plug-ins.
    pub bin_dirs: Vec<PathBuf>,
}

/// The pod that a network is for.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// Sandbox id.
    pub id: String,
    /// Path of the pinned network namespace.
    pub netns: PathBuf,
    /// Pod name, namespace and UID.
    pub pod: (String, String, String),
    /// By capability (`portMappings`, `dns`, ...): what a plug-in that declares it is given.
    pub capabilities: Map<String, Value>,
}

/// What ADD did, kept for DEL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attached {
    /// The list that was in force.
    pub list: NetworkList,
    /// The last plug-in's result.
    pub result: Value,
    /// What plug-ins were given for their capabilities.
    #[serde(default)]
    pub capabilities: Map<String, Value>,
}

impl Cni {
    /// The list that is in force.
    pub fn current(&self) -> Result<NetworkList, CniError> {
        config::load(&self.conf_dir)
    }

    /// Connects a pod. When a plug-in fails, those before it are undone.
    pub async fn add(&self, attachment: &Attachment) -> Result<Attached, CniError> {
        let list = self.current()?;
        let mut previous = None;
        for plugin in &list.plugins {
            let config = list.plugin_config(plugin, &attachment.capabilities, previous.as_ref());
            match self.call("ADD", plugin, &config, attachment).await {
                Ok(output) => previous = Some(output),
                Err(error) => {
                    let result = previous.unwrap_or(Value::Null);
                    let partial = Attached { list, result, capabilities: attachment.capabilities.clone() };
                    if let Err(undo) = self.del(&partial, attachment).await {
                        tracing::warn!(sandbox = attachment.id, "undoing a failed network setup: {undo}");
                    }
                    return Err(error);
                }
            }
        }
        Ok(Attached { list, result: previous.unwrap_or(Value::Null), capabilities: attachment.capabilities.clone() })
    }

    /// Disconnects a pod: every plug-in of the list that connected it, last first. Plug-ins accept what is gone already.
    pub async fn del(&self, attached: &Attached, attachment: &Attachment) -> Result<(), CniError> {
        let previous = (!attached.result.is_null()).then_some(&attached.result);
        for plugin in attached.list.plugins.iter().rev() {
            let config = attached.list.plugin_config(plugin, &attached.capabilities, previous);
            self.call("DEL", plugin, &config, attachment).await?;
        }
        Ok(())
    }

    /// Asks whether a pod is still connected as ADD left it.
    pub async fn check(&self, attached: &Attached, attachment: &Attachment) -> Result<(), CniError> {
        if attached.list.disable_check {
            return Ok(());
        }
        for plugin in &attached.list.plugins {
            let config = attached.list.plugin_config(plugin, &attached.capabilities, Some(&attached.result));
            self.call("CHECK", plugin, &config, attachment).await?;
        }
        Ok(())
    }

    /// Calls one plug-in. Its output is JSON or nothing.
    async fn call(&self, command: &'static str, plugin: &Value, config: &Value, at: &Attachment) -> Result<Value, CniError> {
        let name = plugin["type"].as_str().unwrap_or_default();
        let fail = |message: String| CniError::Plugin { plugin: name.to_owned(), command, message };
        let program = self.find(name).map_err(fail)?;
        let (pod, namespace, uid) = &at.pod;
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={uid}",
            at.id
        );
        let path = std::env::join_paths(&self.bin_dirs).map_err(|error| fail(error.to_string()))?;
        let mut child = tokio::process::Command::new(&program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &at.id)
            .env("CNI_NETNS", &at.netns)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", arguments)
            .env("CNI_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| fail(format!("{}: {error}", program.display())))?;
        let mut stdin = child.stdin.take().ok_or_else(|| fail("no stdin".to_owned()))?;
        let input = config.to_string();
        let feed = async move {
            // A plug-in that fails early does not read; its answer says why.
            let _ = stdin.write_all(input.as_bytes()).await;
        };
        let output = tokio::time::timeout(PLUGIN_TIMEOUT, async { tokio::join!(feed, child.wait_with_output()).1 });
        let output = output.await.map_err(|_| fail(format!("no answer within {} s", PLUGIN_TIMEOUT.as_secs())))?;
        let output = output.map_err(|error| fail(error.to_string()))?;
        if !output.status.success() {
            return Err(fail(result::error_text(&output.stdout, &output.stderr)));
        }
        result::parse(&output.stdout).map_err(fail)
    }

    fn find(&self, name: &str) -> Result<PathBuf, String> {
        if name.is_empty() || name.contains('/') {
            return Err(format!("invalid plugin type {name:?}"));
        }
        let candidates = self.bin_dirs.iter().map(|dir| dir.join(name));
        for candidate in candidates {
            match std::fs::metadata(&candidate) {
                Ok(metadata) if metadata.is_file() => return Ok(candidate),
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(format!("{}: {error}", candidate.display())),
                _ => {}
            }
        }
        let dirs: Vec<String> = self.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
        Err(format!("failed to find plugin {name:?} in path {dirs:?}"))
    }
}

/// The capabilities that a pod's CRI config stands for.
pub fn capabilities(config: &ferrokube_cri::v1::PodSandboxConfig) -> Map<String, Value> {
    let mut all = Map::new();
    let ports: Vec<Value> = config
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port > 0)
        .map(|mapping| {
            json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": mapping.protocol().as_str_name().to_lowercase(),
                "hostIP": mapping.host_ip,
            })
        })
        .collect();
    if !ports.is_empty() {
        all.insert("portMappings".to_owned(), Value::Array(ports));
    }
    if let Some(dns) = &config.dns_config {
        all.insert("dns".to_owned(), json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options}));
    }
    if let Some(parent) = config.linux.as_ref().map(|linux| &linux.cgroup_parent).filter(|parent| !parent.is_empty()) {
        all.insert("cgroupPath".to_owned(), json!(parent));
    }
    all.insert("io.kubernetes.cri.pod-annotations".to_owned(), json!(config.annotations));
    all
}
