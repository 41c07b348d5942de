//! Kinds, types, metadata, selectors, patch and apply: the pure facts and algorithms of the Kubernetes API.
