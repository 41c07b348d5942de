//! Pod network and service proxy of one node.
//!
//! - [`node`]: what a node needs before its first pod, and how every trace of it goes again.
//! - [`cni`]: the plugin that connects a pod (run by the container runtime, one short process per call).
//! - [`proxy`]: service addresses to endpoints, by nftables.
//! - [`nft`], [`netlink`], [`conntrack`], [`netns`]: the kernel, each behind one thin module; pure Rust, no tools.
//!
//! The proxy knows the Kubernetes API through its client and nothing else; the plugin knows only its own folder and the
//! kernel. Network policy will be a third part beside them, with a table of its own.

pub mod cidr;
pub mod cni;
pub mod conntrack;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod node;
pub mod proxy;

pub use cidr::Cidr;
pub use node::NodeNetwork;

/// The number of a transport protocol, by its Kubernetes name in any case.
pub fn protocol_number(name: &str) -> Option<u8> {
    const NAMES: [(&str, libc::c_int); 3] = [("TCP", libc::IPPROTO_TCP), ("UDP", libc::IPPROTO_UDP), ("SCTP", libc::IPPROTO_SCTP)];
    let (_, number) = NAMES.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
    u8::try_from(*number).ok()
}
