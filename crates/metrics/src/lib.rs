//! `metrics.k8s.io`: what nodes and pods use right now, for `kubectl top` and autoscalers. An extension API server as
//! metrics-server is one: the API server authenticates and authorizes, and passes requests on because of an APIService.
//!
//! - [`summary`]: what a kubelet tells at `/stats/summary`, as the few facts needed.
//! - [`usage`]: facts to numbers: nanocores, bytes, and over which time. Pure.
//! - `scrape`: asks kubelets through the API server, when somebody asks and not otherwise.
//! - `listing`: nodes and pods as the API has them.
//! - `routes` and `answers`: a path to a question, numbers to objects. Pure.
//! - [`Server`]: the HTTPS server; [`register`]: APIService, Service and EndpointSlice, through the API like anybody's.
//! - [`role`]: what it may do, and what people may read.
//!
//! Must never: ask a kubelet while nobody asks here, answer anybody but the API server, or touch a metrics-server that
//! somebody else has installed.

mod answers;
mod listing;
mod register;
pub mod role;
mod routes;
mod scrape;
mod server;
pub mod summary;
pub mod usage;

pub use register::{Registration, register, withdraw};
pub use server::{Config, Server, ServerError};

/// Group that is served.
const GROUP: &str = "metrics.k8s.io";
/// Version that is served.
const VERSION: &str = "v1beta1";
/// Namespace of the Service.
const NAMESPACE: &str = "kube-system";
/// Name of the Service.
const SERVICE: &str = "metrics-server";

#[cfg(test)]
mod tests;
