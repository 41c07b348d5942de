//! Cluster DNS: records from caches.
