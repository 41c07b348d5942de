//! How components reach the API.
//!
//! A component (scheduler, controllers, kubelet, proxy, dns) receives a [`Client`] and knows nothing else: not whether
//! the API server is in its own process or on another machine, never the store. What crosses this crate is requests of
//! the Kubernetes API and [`Change`](ferrokube_api::Change)s of subscriptions; in the same process a change carries the
//! very `Arc` that the watch cache holds.
//!
//! - [`Client`]: verbs, typed or dynamic.
//! - [`Caches`]/[`Cache`]: shared local copies of a kind, fed by one subscription each.
//! - [`queue::Queue`] and [`controller::run`]: the harness of a level-triggered controller.
//! - [`events::Recorder`], [`leader::Election`], [`metrics::Metrics`].
//! - [`http::HttpTransport`], [`reflect`], [`kubeconfig`] and [`accounts`]: the network side; [`reviews`]: who asks a component's own server.

pub mod accounts;
pub mod cache;
mod client;
pub mod controller;
mod correlate;
mod error;
pub mod events;
pub mod http;
pub mod kubeconfig;
pub mod leader;
pub mod metrics;
pub mod queue;
pub mod reflect;
pub mod reviews;
mod transport;
mod typed;

pub use cache::{Cache, Caches, Delta, Index, Scope};
pub use client::{Client, DeleteOptions, ListOptions, Patch, Target, percent_encoded};
pub use error::{Error, Optional};
pub use ferrokube_api::{Change, Listings, News, Object, ObjectKey, Selection, Status};
pub use k8s_openapi;
pub use transport::{Transport, TransportError};
pub use typed::{Named, Resource};

/// Result of a request.
pub type Result<T> = std::result::Result<T, Error>;
