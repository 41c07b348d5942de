//! The container runtime: a CRI server with images, snapshots, sandboxes and per-pod shims.
//!
//! [`Runtime`] serves CRI v1 on a unix socket. What it is made of: [`image`] brings root file systems, [`spec`] decides what a container is to
//! be, [`shim`] is the process per pod that runs it and outlives everything above, [`engine`] ties them together, [`service`] puts that on the
//! wire and [`streaming`] serves exec, attach and port-forward. There is no pause process and no engine to install.
//!
//! It knows nothing of Kubernetes beyond CRI, and it must never hold anything about a running container that a restart would lose.

mod cgroup;
pub mod cni;
mod config;
pub mod engine;
mod error;
pub mod image;
mod sandbox;
mod seccomp;
mod server;
pub mod service;
pub mod shim;
mod spec;
pub mod streaming;
mod sys;

pub use cni::Cni;
pub use config::Config;
pub use error::{Error, Result};
pub use server::{Addresses, Runtime};
