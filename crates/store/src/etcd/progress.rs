//! How a watch learns that it has everything up to a revision that did not concern it.
//!
//! etcd answers a progress request on the stream of the watch. Before 3.4.31 and 3.5.13 the answer may overtake events (and comes even
//! while the watch catches up), so that whoever believed it would miss them. With such an etcd a marker is written instead: a key
//! that sorts just before all of ours, and from which on the watch receives, for this purpose. Events of one watch are in order, so with
//! the marker's event everything before it has been delivered.

use super::Shared;
use super::call::Kind;
use super::error::Refusal;
use super::wire::kv_client::KvClient;
use super::wire::{PutRequest, RequestOp, TxnRequest, request_op};
use crate::Result;
use bytes::Bytes;

/// What asking does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// A progress request.
    Request,
    /// A write of the marker.
    Marker,
}

/// Whether something that was mended in these patches of 3.4 and 3.5 is mended in a version.
fn is_mended(version: &str, in_3_4: u32, in_3_5: u32) -> bool {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    let mut part = || parts.next().flatten();
    match (part(), part(), part()) {
        (Some(3), Some(4), patch) => patch.is_some_and(|p| p >= in_3_4),
        (Some(3), Some(5), patch) => patch.is_some_and(|p| p >= in_3_5),
        (Some(3), Some(minor), _) => minor > 5,
        (Some(major), ..) => major > 3,
        _ => false,
    }
}

/// Whether this version of etcd answers progress requests only when they are true.
pub(super) fn is_reliable(version: &str) -> bool {
    is_mended(version, 31, 13)
}

/// Whether this version has all that it acknowledged after it was killed, when it is the only member (etcd's issue 14370).
pub(super) fn keeps_writes(version: &str) -> bool {
    is_mended(version, 21, 5)
}

/// The marker, at or before which a watch must begin to see it: just before all keys that begin with `root` and a slash.
pub(super) fn marker(root: &[u8]) -> Bytes {
    [root, b".ferrokube-progress"].concat().into()
}

impl Shared {
    /// Writes a marker. Made twice it does what made once it does.
    pub(super) async fn write_marker(&self) -> Result<()> {
        let marker = &marker(&self.keys.root());
        let make = |channel| async move {
            let put = request_op::Request::RequestPut(PutRequest { key: marker.clone(), ..PutRequest::default() });
            let success = vec![RequestOp { request: Some(put) }];
            KvClient::new(channel).txn(TxnRequest { success, ..TxnRequest::default() }).await
        };
        self.caller.call(Kind::Read, make).await.map(drop).map_err(Refusal::plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_requests_are_believed_from_the_versions_on_that_mended_them() {
        for (version, reliable) in [
            ("3.3.99", false),
            ("3.4.23", false),
            ("3.4.31", true),
            ("3.5.1", false),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.6.0-rc.1", true),
            ("4.0.0", true),
            ("", false),
        ] {
            assert_eq!(is_reliable(version), reliable, "{version}");
        }
    }

    #[test]
    fn versions_that_lose_acknowledged_writes_are_known() {
        for (version, keeps) in [("3.4.20", false), ("3.4.23", true), ("3.5.1", false), ("3.5.4", false), ("3.5.5", true), ("3.6.0", true)]
        {
            assert_eq!(keeps_writes(version), keeps, "{version}");
        }
    }

    #[test]
    fn a_marker_sorts_before_all_keys_of_ours() {
        let marker = marker(b"/registry");
        assert!(marker < "/registry/" && marker > "/registry");
    }
}
