//! What some resources do that no row can say: views that write only a part, addresses of services, bindings, evictions,
//! tokens, reviews, the health of components, who asks for a certificate and with what, who may look into devices. Each file serves one of them; the verbs call in, nothing here talks to the store by itself.

pub mod actions;
pub mod components;
pub mod devices;
pub mod eviction;
pub mod namespaces;
pub mod requestor;
pub mod services;
pub mod signing;
pub mod views;
