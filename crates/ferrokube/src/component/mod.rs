//! What the components that run as processes of their own have in common: the way to the API server, the port they serve
//! health and metrics on, the election among their like, and the signals that end them.

mod election;
pub mod gates;
pub mod ignored;
mod pages;
mod pod_resources;
mod serve;

pub use election::{ElectionFlags, check_times, identity, lead};
pub use serve::ServingFlags;

use anyhow::{Context, Result};
use clap::Args;
use ferrokube_api::features::Features;
use ferrokube_client::http::{Credentials, HttpTransport};
use ferrokube_client::metrics::Metrics;
use ferrokube_client::{Client, kubeconfig};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One component of this process.
pub struct Component {
    /// Its name, in metrics, events and at `/statusz`.
    pub name: &'static str,
    /// Its own requests.
    pub client: Client,
    /// What it counts.
    pub metrics: Metrics,
    /// Which features there are.
    pub features: Features,
    /// What `/configz` shows.
    pub configuration: Value,
    /// Whether it shows what pods take at `/metrics/resources`.
    pub pod_resources: bool,
}

/// The way to the API server.
#[derive(Args, Clone, Debug)]
pub struct ConnectionFlags {
    /// Where the API server is and who we are
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Features by name; most may only be set to what they are
    #[arg(long, value_name = "NAME=BOOL,...")]
    feature_gates: Vec<Features>,
    #[arg(long, short = 'v', hide = true)]
    v: Option<u8>,
    #[command(flatten)]
    ignored: ignored::Everywhere,
}

/// The name of this machine, as it says it.
pub fn hostname() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A client as the user of a kubeconfig.
pub fn client(path: &Path, agent: &str) -> Result<Client> {
    let (endpoint, credentials) = kubeconfig::load(path, crate::kubeconfig::parse_yaml)?;
    Ok(Client::new(Arc::new(HttpTransport::new(&endpoint, credentials)?), agent))
}

impl ConnectionFlags {
    fn path(&self) -> Result<&Path> {
        self.kubeconfig.as_deref().context("--kubeconfig is missing: it says where the API server is and who we are")
    }

    /// Which features there are.
    pub fn features(&self) -> Features {
        gates::of(&self.feature_gates)
    }

    /// A component that is ourselves.
    pub fn component(&self, name: &'static str, configuration: Value) -> Result<Component> {
        let (client, features) = (client(self.path()?, name)?, self.features());
        Ok(Component { name, client, metrics: Metrics::default(), features, configuration, pod_resources: false })
    }

    /// The CA of the kubeconfig's cluster, PEM; empty when it names none.
    pub fn ca(&self) -> Result<String> {
        let (endpoint, _) = kubeconfig::load(self.path()?, crate::kubeconfig::parse_yaml)?;
        Ok(endpoint.ca_pem.map(|pem| String::from_utf8_lossy(&pem).into_owned()).unwrap_or_default())
    }

    /// The same server without any identity yet; see [`HttpTransport::acting_with`].
    pub fn nobody(&self) -> Result<HttpTransport> {
        let (endpoint, _) = kubeconfig::load(self.path()?, crate::kubeconfig::parse_yaml)?;
        Ok(HttpTransport::new(&endpoint, Credentials::default())?)
    }
}
