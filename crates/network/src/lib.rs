//! Pod network, service proxy and network policy.
