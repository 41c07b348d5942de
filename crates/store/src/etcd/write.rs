//! Writes: one transaction each, that compares, changes, and on either way out says what stood there.

use super::Shared;
use super::call::Kind;
use super::error::Refusal;
use super::wire::compare::{CompareResult, CompareTarget, TargetUnion};
use super::wire::kv_client::KvClient;
use super::wire::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseOp, TxnRequest, TxnResponse, request_op, response_op,
};
use crate::{Committed, Error, Expect, Result, Revision};
use bytes::Bytes;
use std::time::Duration;

/// What a transaction does when its condition holds.
enum Change {
    Put { value: Bytes, lease: i64 },
    Delete,
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// Asks for a key's revision.
fn look(key: &Bytes) -> RequestOp {
    op(request_op::Request::RequestRange(RangeRequest { key: key.clone(), keys_only: true, ..RangeRequest::default() }))
}

fn compare(key: &Bytes, result: CompareResult, target: CompareTarget, union: TargetUnion) -> Vec<Compare> {
    vec![Compare { result: result.into(), target: target.into(), key: key.clone(), target_union: Some(union) }]
}

fn condition(key: &Bytes, expect: Expect, change: &Change) -> Vec<Compare> {
    use CompareResult::{Equal, Greater};
    use CompareTarget::{Create, Mod};
    match (expect, change) {
        (Expect::Any, Change::Put { .. }) => Vec::new(),
        (Expect::Any, Change::Delete) => compare(key, Greater, Create, TargetUnion::CreateRevision(0)),
        (Expect::Absent, _) => compare(key, Equal, Create, TargetUnion::CreateRevision(0)),
        (Expect::Revision(revision), _) => compare(key, Equal, Mod, TargetUnion::ModRevision(signed(revision))),
    }
}

/// etcd's revisions are signed.
pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// See [`signed`].
pub(super) fn unsigned(revision: i64) -> Revision {
    Revision::try_from(revision).unwrap_or(0)
}

fn transaction(key: &Bytes, expect: Expect, change: &Change) -> TxnRequest {
    let act = match change {
        Change::Put { value, lease } => {
            op(request_op::Request::RequestPut(PutRequest { key: key.clone(), value: value.clone(), lease: *lease }))
        }
        Change::Delete => {
            op(request_op::Request::RequestDeleteRange(DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() }))
        }
    };
    // Only an unconditional write has to ask what it replaces.
    let success = if expect == Expect::Any { vec![look(key), act] } else { vec![act] };
    TxnRequest { compare: condition(key, expect, change), success, failure: vec![look(key)] }
}

/// The revision that a [`look`] found.
fn seen(responses: &[ResponseOp]) -> Option<Revision> {
    responses.iter().find_map(|r| match &r.response {
        Some(response_op::Response::ResponseRange(range)) => range.kvs.first().map(|kv| unsigned(kv.mod_revision)),
        _ => None,
    })
}

impl Shared {
    /// [`crate::Store::put`].
    pub async fn put(&self, key: Bytes, value: Bytes, expect: Expect, ttl: Option<Duration>) -> Result<Committed> {
        let key = self.keys.outward(key);
        let mut change = Change::Put { value, lease: 0 };
        let mut forgotten = false;
        loop {
            let granted = match ttl {
                Some(ttl) => self.leases.lease_for(&self.caller, ttl).await?,
                None => 0,
            };
            if let Change::Put { lease, .. } = &mut change {
                *lease = granted;
            }
            match self.write(&key, expect, &change).await {
                // It expired between being handed out and being used (a clock that jumped, a restored etcd): a new one will do.
                Err(Refusal::LeaseNotFound) if granted != 0 && !forgotten => {
                    self.leases.forget(granted);
                    forgotten = true;
                }
                other => return self.committed(other, expect),
            }
        }
    }

    /// [`crate::Store::delete`].
    pub async fn delete(&self, key: Bytes, expect: Expect) -> Result<Committed> {
        if expect == Expect::Absent {
            // Nothing can be deleted that is not there.
            let actual = self.get(key).await?.map(|kv| kv.mod_revision);
            return Err(Error::Conflict { actual });
        }
        let outcome = self.write(&self.keys.outward(key), expect, &Change::Delete).await;
        self.committed(outcome, expect)
    }

    async fn write(&self, key: &Bytes, expect: Expect, change: &Change) -> std::result::Result<TxnResponse, Refusal> {
        let make = |channel| async move {
            let mut client = KvClient::new(channel).max_decoding_message_size(usize::MAX);
            client.txn(transaction(key, expect, change)).await
        };
        self.caller.call(Kind::Write, make).await
    }

    fn committed(&self, outcome: std::result::Result<TxnResponse, Refusal>, expect: Expect) -> Result<Committed> {
        let response = outcome.map_err(Refusal::plain)?;
        let seen = seen(&response.responses);
        if !response.succeeded {
            return Err(Error::Conflict { actual: seen });
        }
        let revision = response.header.map(|h| unsigned(h.revision)).filter(|revision| *revision > 0);
        let revision = revision.ok_or_else(|| Error::Unavailable("etcd did not tell the revision of a write".into()))?;
        self.reached(revision);
        let previous_revision = match expect {
            Expect::Any => seen,
            Expect::Absent => None,
            Expect::Revision(revision) => Some(revision),
        };
        Ok(Committed { revision, previous_revision })
    }
}
