//! Exec, attach and port-forward streams: a small HTTP server on loopback that the kubelet passes its clients' connections to, byte for byte.
//!
//! What is below the HTTP upgrade is in layers that know nothing of each other's insides: `spdy` and `websocket` carry streams, `remote` speaks
//! the `channel.k8s.io` protocols over either, `forward` does the same for ports. A URL is good once (`tokens`).

mod forward;
mod http;
mod pipes;
mod remote;
pub mod spdy;
mod tokens;
mod websocket;

pub use http::serve;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::engine::{AttachTarget, ExecTarget};

/// What a URL stands for.
#[derive(Debug, Clone)]
pub enum Target {
    /// A command in a container.
    Exec {
        /// Which.
        target: ExecTarget,
        /// Whether the client wants stdin, stdout, stderr.
        streams: (bool, bool, bool),
    },
    /// A container's own streams.
    Attach(AttachTarget),
    /// Ports of a pod.
    PortForward {
        /// Sandbox id.
        sandbox: String,
        /// Those that a websocket client may reach; a SPDY client names them itself.
        ports: Vec<u16>,
    },
}

/// Where streams are served, and the URLs that were given out.
#[derive(Debug, Clone)]
pub struct Streaming {
    address: SocketAddr,
    tokens: Arc<tokens::Tokens>,
}

impl Streaming {
    /// For a server that listens at this address.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, tokens: Arc::default() }
    }

    /// A URL at which a request will be served, once, within a minute.
    pub fn url(&self, target: Target) -> String {
        let kind = match &target {
            Target::Exec { .. } => "exec",
            Target::Attach(_) => "attach",
            Target::PortForward { .. } => "portforward",
        };
        format!("http://{}/{kind}/{}", self.address, self.tokens.put(target))
    }
}
