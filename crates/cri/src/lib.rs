//! The Container Runtime Interface on the wire: our own definition of runtime.v1.
