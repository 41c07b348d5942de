//! What a pod's containers share: namespaces without a process to hold them, and a few files.

pub mod files;
pub mod namespaces;
