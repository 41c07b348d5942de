//! Stock clients at their daily work: kubectl of the minors beside the server's, helm, the Python client, kopf, kube-rs;
//! and our own client over the network.
//!
//! What a client prints or returns is compared with what it prints in front of the Go implementation. Every scenario has
//! a control plane of its own on a loopback port, without root. Where pods have to run, [`hollow`] plays a node.

mod helm;
mod hollow;
mod kube_rs;
mod kubectl;
mod plane;
mod python;
mod watches;
