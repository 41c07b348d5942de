//! The Container Runtime Interface on the wire: our own definition of runtime.v1.
//!
//! Both ends of the interface use it: the kubelet as a client, the runtime as a server. The definition is `proto/runtime_v1.proto`, which
//! `examples/from_facts.rs` writes; nothing here has behaviour, so nothing here may grow any.

/// `runtime.v1`: messages, [`v1::runtime_service_client`], [`v1::runtime_service_server`], [`v1::image_service_client`] and
/// [`v1::image_service_server`]. Maps are `BTreeMap`s, so that an encoded message is the same bytes every time.
#[expect(missing_docs, reason = "generated from a table of names, numbers and types; the meaning is in the interface's own documentation")]
#[allow(clippy::all, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}
