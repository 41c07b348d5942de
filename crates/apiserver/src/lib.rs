//! The Kubernetes API server: one pipeline for every verb of every kind.
