//! The server around the pipeline: configuration and start, sockets and TLS, limits, health, metrics.

pub mod answer;
pub mod config;
pub mod credentials;
pub mod health;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod names;
pub mod paths;
pub mod profile;
pub mod reload;
pub mod serving;
pub mod start;
pub(crate) mod streams;
pub mod tls;
mod turn;
pub(crate) mod zpages;

pub use config::{Config, KubeletAccess, NamedCertificate, Tls};
pub use credentials::ClientCas;
pub use reload::ConfigFile;
pub use serving::{MinTls, ServingConfig};
pub use start::{Running, StartError};
