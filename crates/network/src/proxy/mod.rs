//! The service proxy: traffic to a service's addresses goes to one of its endpoints, by nftables.
//!
//! - `service`: what the API's objects mean. Pure.
//! - `plan`: services to rules. Pure.
//! - `sync`: the task that owns the kernel's table: notes what changed, plans that, applies the difference.
//! - `health`: `/healthz` of the proxy and of services with a health check node port.
//!
//! The rules stay when the proxy stops: traffic does not depend on this process. Starting again replaces the whole table
//! in one transaction, so nothing stale remains and no connection is cut.

mod health;
pub mod plan;
pub mod service;
mod sync;

use crate::cidr::Cidr;
use crate::nft::TableName;
use std::net::SocketAddr;

pub use sync::run;

/// The table of the service proxy.
pub const TABLE: TableName = TableName("ferrokube-proxy");

/// Settings of the proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node's Node object.
    pub node_name: String,
    /// Range of all pods: cluster traffic from elsewhere is masqueraded. Nothing is when absent.
    pub cluster_cidr: Option<Cidr>,
    /// Masquerade all traffic to services.
    pub masquerade_all: bool,
    /// Where to serve `/healthz` and `/livez` (10256 by convention); nowhere when absent.
    pub healthz: Option<SocketAddr>,
}
