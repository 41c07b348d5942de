//! What a request asks for, read from its line and its query. Nothing here looks at the body.

pub mod body;
pub mod content;
pub mod info;
pub mod query;

pub use body::RequestBody;
pub use info::RequestInfo;
pub use query::Query;
