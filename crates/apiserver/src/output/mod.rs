//! From what a verb found to bytes on the wire: negotiation, splicing, Tables and partial metadata.
//!
//! Objects stay bytes: a list is the stored bytes between a head and a tail, a watch event between two words. Only
//! Tables, YAML and other versions decode.

pub mod body;
pub mod canonical;
pub mod jsonpath;
pub mod list;
pub mod negotiate;
pub mod pieces;
pub mod present;
pub mod pretty;
pub mod protobuf;
pub mod table;
pub mod yaml;

pub use body::{Body, BrokenOff};
pub use negotiate::{Accept, Format, Shape};
