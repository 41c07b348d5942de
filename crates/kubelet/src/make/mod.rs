//! From a pod's spec to what CRI is asked to make: pure, given what was looked up before.
//!
//! Source: the kubelet's `kuberuntime_sandbox.go`, `kuberuntime_container*.go`, `pkg/kubelet/network/dns`.

pub mod container;
pub mod dns;
pub mod env;
pub mod resources;
pub mod sandbox;
