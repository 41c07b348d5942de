//! What the components that run as processes of their own have in common: the way to the API server, the port they serve
//! health and metrics on, the election among their like, and the signals that end them.

mod connection;
mod election;
pub mod gates;
pub mod ignored;
mod pages;
mod pod_resources;
mod serve;

pub use connection::{ConnectionFlags, client};
pub use election::{ElectionFlags, check_times, identity, lead};
pub use serve::ServingFlags;

use ferrokube_api::features::Features;
use ferrokube_client::Client;
use ferrokube_client::metrics::Metrics;
use serde_json::Value;

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

/// The name of this machine, as it says it.
pub fn hostname() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
