//! What happens between a decoded object and an acknowledged write: metadata, admission, hooks, validation, the store
//! transaction. Every write of every kind goes through `create` or `update` here; nothing else puts into the store.

pub mod admit;
pub mod commit;
pub mod managed;
pub mod options;
pub mod prepare;
pub mod rules;

pub use options::WriteOptions;
pub use rules::View;
