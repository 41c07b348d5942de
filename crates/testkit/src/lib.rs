//! Clusters in namespaces, fixtures and an image builder for tests. Never part of the product.
//!
//! [`etcd`] runs real etcd; [`fuzz`] grows and damages input; [`late()`] holds news back; [`lab`] makes nodes out of namespaces without a way out of the machine; [`image`] and [`registry`] make and serve
//! container images; [`tools`] finds the programs tests need, or says which are missing; [`wait_for`] waits for real
//! conditions. Nothing here may send a packet to anything but loopback and the lab's own namespaces.

pub mod etcd;
pub mod fuzz;
pub mod image;
pub mod lab;
mod late;
mod ports;
pub mod registry;
pub mod tools;
mod wait;

pub use late::late;
pub use ports::free_port;
pub use wait::wait_for;
