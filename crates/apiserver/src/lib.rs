//! The Kubernetes API server: one pipeline for every verb of every kind.
//!
//! Knows the store only as a trait and the kinds only as rows. No component of the cluster is known here.

pub mod admission;
pub mod attributes;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod cache;
pub mod objects;
pub mod tokens;
