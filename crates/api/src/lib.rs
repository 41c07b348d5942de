//! The pure facts and algorithms of the Kubernetes API: kinds, types, objects, selectors, patch and apply.
//!
//! Nothing here does I/O, knows a clock it was not given, or depends on another crate of the workspace. The API
//! server, its clients and the tools all read the same tables, so that a fact stands in one place.

pub mod apply;
pub mod change;
pub mod cron;
pub mod decode;
pub mod features;
pub mod field;
pub mod json;
pub mod kinds;
pub mod labels;
pub mod names;
pub mod object;
pub mod openapi;
pub mod ordered;
pub mod packer;
pub mod patch;
pub mod project;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod scan;
pub mod schema;
pub mod status;
pub mod time;

pub use change::{Change, Listings, News, Selection};
pub use json::Json;
pub use object::{Object, ObjectKey};
pub use status::{Cause, Reason, Status};
