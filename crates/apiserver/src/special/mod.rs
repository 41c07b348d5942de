//! What some resources do that no row can say: views that write only a part, addresses of services, bindings, evictions,
//! tokens, reviews. Each file serves one of them; the verbs call in, nothing here talks to the store by itself.

pub mod actions;
pub mod eviction;
pub mod namespaces;
pub mod services;
pub mod views;
