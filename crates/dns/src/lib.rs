//! Cluster DNS: names of services and pods, answered from the shared caches; other names forwarded.
//!
//! - [`records`]: what Services, EndpointSlices and Namespaces say, as the few facts an answer needs. Kept up to date by
//!   one task.
//! - [`zone`]: a question to an answer, by the Kubernetes DNS specification. Pure.
//! - `handler`: a message to a message: rules of the protocol, metrics.
//! - `forward`: names that are not the cluster's, to upstream servers, with a small cache.
//! - `server`: sockets.
//! - [`register`]: the Service `kube-dns` and its EndpointSlice, through the API like anybody's.
//!
//! Must never: forward a name of the cluster's zone, forward to itself, or answer that a name does not exist before the
//! caches are complete.

mod forward;
mod handler;
mod http;
mod metrics;
pub mod records;
pub mod register;
mod server;
pub mod zone;

pub use forward::upstreams_of;
pub use register::{Registration, register};
pub use server::{Config, Server};
