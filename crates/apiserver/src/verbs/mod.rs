//! One file per verb. A verb receives a request that is authenticated and authorized, and answers with what it found or
//! wrote; how that goes over the wire is not its business.

pub mod continuation;
pub mod create;
pub mod delete;
pub mod list;
pub mod options;
pub mod patch;
pub mod update;
pub mod watch;

use crate::output::Body;
use crate::output::list::Many;
use ferrokube_api::Object;
use serde_json::Value;
use std::sync::Arc;

/// What a verb answers with.
pub enum Answer {
    /// An object of the row, in the row's version.
    One(u16, Arc<Object>),
    /// A value of another kind (Scale, Status, TokenRequest, ...).
    Value(u16, Value),
    /// A page of a list.
    Many(Many),
    /// Something that is no object: a stream, a proxied answer.
    Raw(http::Response<Body>),
}
