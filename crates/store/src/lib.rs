//! The storage trait with etcd's semantics, and the embedded durable engine.
