//! The container runtime: a CRI server with images, snapshots, sandboxes and per-pod shims.

pub mod image;
