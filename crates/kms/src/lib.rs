//! The Key Management Service interface: our own definition of v2.
//!
//! The API server is its client; a plug-in on the same machine, behind a Unix socket, serves it. Nothing here has
//! behaviour, so nothing here may grow any.

/// `v2`: messages, [`v2::key_management_service_client`], [`v2::key_management_service_server`], and the envelope that
/// stands in the store. Maps are `BTreeMap`s, so that an encoded message is the same bytes every time.
#[expect(missing_docs, reason = "generated from names, numbers and types; the meaning is in the interface's own documentation")]
#[allow(clippy::all, reason = "generated")]
pub mod v2 {
    tonic::include_proto!("v2");
}
