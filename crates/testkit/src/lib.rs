//! Clusters in namespaces, fixtures and an image builder for tests. Never part of the product.
