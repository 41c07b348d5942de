//! The CNI plugin: what a container runtime runs to plug a pod into the pod network (CNI specification 1.1.0).
//!
//! The `ferrokube` binary is the plugin when `CNI_COMMAND` is set. One call is one short process: synchronous netlink, no
//! runtime, a few milliseconds. It must never write anything but the result (or the error) to standard output, and must
//! leave nothing behind when it fails: a failed ADD undoes what it did.
//!
//! `config` reads what the runtime hands over, `ipam` owns the addresses, `attach` makes and removes the pod's link,
//! `hostports` forwards host ports.

pub mod attach;
pub mod config;
pub mod hostports;
pub mod ipam;

use config::{Attachment, NetConf};
pub use config::{conflist, install};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Versions of the specification the plugin speaks.
pub const SUPPORTED_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// An error as the specification defines it: a code a runtime can act on, and words.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    /// Code of the specification (1-99) or of this plugin (100 and up).
    pub code: u32,
    /// What happened.
    pub message: String,
}

/// Codes of the specification that the plugin uses.
pub mod code {
    /// The version of the configuration is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// An environment variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Input or output failed.
    pub const IO_FAILURE: u32 = 5;
    /// The configuration is no JSON, or of the wrong shape.
    pub const DECODING_FAILURE: u32 = 6;
    /// The configuration says something impossible.
    pub const INVALID_CONFIG: u32 = 7;
    /// The node's part of the network is not there (STATUS).
    pub const NOT_AVAILABLE: u32 = 50;
    /// The kernel refused.
    pub const KERNEL: u32 = 100;
    /// No address left in the node's range.
    pub const NO_ADDRESS: u32 = 101;
    /// A host port is taken.
    pub const HOST_PORT: u32 = 102;
    /// CHECK found the attachment not as ADD left it.
    pub const CHECK_FAILED: u32 = 103;
}

impl CniError {
    /// An error with a code.
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<crate::netlink::Error> for CniError {
    fn from(e: crate::netlink::Error) -> Self {
        Self::new(code::KERNEL, e.to_string())
    }
}

/// Result of a plugin's command.
pub type Result<T> = std::result::Result<T, CniError>;

/// Whether this process was started as a CNI plugin.
pub fn requested() -> bool {
    std::env::var_os("CNI_COMMAND").is_some()
}

/// Runs the command in the environment and exits as the specification demands.
pub fn main() -> ExitCode {
    let mut input = Vec::new();
    let read = std::io::stdin().read_to_end(&mut input);
    let outcome = read.map_err(|e| CniError::new(code::IO_FAILURE, format!("read standard input: {e}"))).and_then(|_| {
        let env = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        run(&env, &input)
    });
    let (text, exit) = match outcome {
        Ok(Some(result)) => (result.to_string(), ExitCode::SUCCESS),
        Ok(None) => (String::new(), ExitCode::SUCCESS),
        Err(e) => {
            let version = version_of(&input).unwrap_or_else(|| "1.0.0".into());
            let body = json!({"cniVersion": version, "code": e.code, "msg": e.message, "details": ""});
            (body.to_string(), ExitCode::FAILURE)
        }
    };
    // A runtime that has gone away needs no answer.
    let _ = std::io::stdout().write_all(text.as_bytes());
    exit
}

/// Runs one command: `env` looks up the `CNI_*` variables, `input` is the network configuration.
///
/// # Errors
/// As the specification defines them; nothing is left half done.
pub fn run(env: &dyn Fn(&str) -> Option<String>, input: &[u8]) -> Result<Option<Value>> {
    let command = env("CNI_COMMAND").ok_or_else(|| missing("CNI_COMMAND"))?;
    if command == "VERSION" {
        let version = version_of(input).unwrap_or_else(|| "1.1.0".into());
        return Ok(Some(json!({"cniVersion": version, "supportedVersions": SUPPORTED_VERSIONS})));
    }
    let conf = NetConf::parse(input)?;
    if conf.kind == "loopback" {
        return loopback(&command, env, &conf);
    }
    match command.as_str() {
        "ADD" => attach::add(&conf, &attachment(env, true)?).map(Some),
        "DEL" => attach::del(&conf, &attachment(env, false)?).map(|()| None),
        "CHECK" => attach::check(&conf, &attachment(env, true)?).map(|()| None),
        "STATUS" => attach::status(&conf).map(|()| None),
        "GC" => attach::collect_garbage(&conf).map(|()| None),
        other => Err(CniError::new(code::INVALID_ENVIRONMENT, format!("unknown CNI_COMMAND: {other}"))),
    }
}

/// containerd wires the loopback interface through a plugin of that name; it costs us nothing to be that, too.
fn loopback(command: &str, env: &dyn Fn(&str) -> Option<String>, conf: &NetConf) -> Result<Option<Value>> {
    if command != "ADD" {
        return Ok(None);
    }
    let attachment = attachment(env, true)?;
    attach::loopback_up(&attachment)?;
    Ok(Some(json!({
        "cniVersion": conf.cni_version,
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": attachment.netns}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}],
    })))
}

fn attachment(env: &dyn Fn(&str) -> Option<String>, needs_netns: bool) -> Result<Attachment> {
    let container = env("CNI_CONTAINERID").ok_or_else(|| missing("CNI_CONTAINERID"))?;
    let ifname = env("CNI_IFNAME").ok_or_else(|| missing("CNI_IFNAME"))?;
    let netns = env("CNI_NETNS").map(PathBuf::from);
    if needs_netns && netns.is_none() {
        return Err(missing("CNI_NETNS"));
    }
    Attachment::new(container, ifname, netns)
}

fn missing(name: &str) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, format!("required environment variable {name} is not set"))
}

fn version_of(input: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(input).ok()?;
    Some(value.get("cniVersion")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(vars: &[(&str, &str)], input: &str) -> Result<Option<Value>> {
        let env = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        run(&env, input.as_bytes())
    }

    #[test]
    fn version_lists_what_the_plugin_speaks() {
        let out = call(&[("CNI_COMMAND", "VERSION")], r#"{"cniVersion":"1.0.0"}"#).expect("answers").expect("a result");
        assert_eq!(out["cniVersion"], "1.0.0");
        assert_eq!(out["supportedVersions"][4], "1.1.0");
    }

    #[test]
    fn bad_input_gets_the_code_of_the_specification() {
        let good = r#"{"cniVersion":"1.0.0","name":"n","type":"ferrokube","podCIDR":"10.244.0.0/24","dataDir":"/tmp"}"#;
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, u32);
        let cases: &[Case<'_>] = &[
            (&[], good, code::INVALID_ENVIRONMENT),
            (&[("CNI_COMMAND", "FLY")], good, code::INVALID_ENVIRONMENT),
            (&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "eth0")], good, code::INVALID_ENVIRONMENT),
            (&[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0")], good, code::INVALID_ENVIRONMENT),
            (&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "../a"), ("CNI_IFNAME", "eth0")], good, code::INVALID_ENVIRONMENT),
            (&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "a/b")], good, code::INVALID_ENVIRONMENT),
            (&[("CNI_COMMAND", "ADD")], "{", code::DECODING_FAILURE),
            (&[("CNI_COMMAND", "ADD")], r#"{"cniVersion":"9.0.0","name":"n","type":"ferrokube"}"#, code::INCOMPATIBLE_VERSION),
            (&[("CNI_COMMAND", "ADD")], r#"{"cniVersion":"1.0.0","name":"n","type":"ferrokube"}"#, code::INVALID_CONFIG),
        ];
        for (vars, input, want) in cases {
            assert_eq!(call(vars, input).expect_err("refused").code, *want, "{vars:?} {input}");
        }
    }
}
