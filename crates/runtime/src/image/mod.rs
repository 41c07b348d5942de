//! Images: from a registry or an archive to a mounted root file system.
//!
//! [`ImageStore`] is all that the container side needs; [`ImageServiceImpl`] serves it as CRI. The way of an image:
//! `reference` (what is meant) → `registry` or `archive` (where it comes from) → `unpack` into `layers` (one lower
//! directory for each diff id) → `catalog` (what it is called) → `mounts` (overlay for a container).
//!
//! Content comes from strangers: everything is checked against its digest before it is used, and nothing an image
//! says may reach a file outside its own layer.

mod archive;
mod catalog;
mod challenge;
mod compression;
mod content;
mod disk;
mod error;
mod layers;
mod mounts;
mod platform;
mod pull;
mod reference;
mod registry;
mod rootdir;
mod service;
mod spec;
mod store;
mod unpack;

pub use catalog::Image;
pub use disk::Usage;
pub use error::{Error, Result};
pub use platform::Platform;
pub use reference::{DEFAULT_REGISTRY, Digest, Reference};
pub use registry::Credentials;
pub use service::ImageServiceImpl;
pub use spec::ImageConfig;
pub use store::{Config, FsInfo, ImageStore};
