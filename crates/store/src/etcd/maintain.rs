//! Compaction, size, alarms and snapshots.

use super::call::Kind;
use super::error::{Refusal, judge};
use super::wire::kv_client::KvClient;
use super::wire::maintenance_client::MaintenanceClient;
use super::wire::watch_client::WatchClient;
use super::wire::{
    AlarmRequest, AlarmType, CompactionRequest, SnapshotRequest, StatusRequest, WatchCreateRequest, WatchRequest, WatchResponse,
    watch_request,
};
use super::write::{signed, unsigned};
use super::{Etcd, Shared};
use crate::{Error, Result, Revision};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// What a member says of itself.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Version of the server.
    pub version: String,
    /// Bytes of its database file.
    pub size: u64,
    /// Bytes of it that are in use.
    pub in_use: u64,
    /// The revision it has reached.
    pub revision: Revision,
    /// What it complains of.
    pub errors: Vec<String>,
}

/// An alarm that is raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// A member's database has reached its quota: writes are refused until space was made and the alarm disarmed.
    NoSpace,
    /// A member's data differs from the others'.
    Corrupt,
}

/// A snapshot that was taken.
#[derive(Clone, Debug)]
pub struct SnapshotSummary {
    /// Bytes written.
    pub bytes: u64,
}

/// How long the answer to where the past ends may take: etcd looks at such watches every 100 ms.
const OLDEST: Duration = Duration::from_secs(3);

impl Shared {
    /// The status of the member in use.
    pub(super) async fn status(&self) -> Result<MemberStatus> {
        let make = |channel| async move { MaintenanceClient::new(channel).status(StatusRequest {}).await };
        let status = self.caller.call(Kind::Read, make).await.map_err(Refusal::plain)?;
        Ok(MemberStatus {
            version: status.version,
            size: status.db_size.unsigned_abs(),
            in_use: status.db_size_in_use.unsigned_abs(),
            revision: status.header.map_or(0, |h| unsigned(h.revision)),
            errors: status.errors,
        })
    }

    /// [`crate::Store::compact`]. What is compacted further already is no error.
    pub(super) async fn compact(&self, revision: Revision) -> Result<()> {
        if revision == 0 {
            return Ok(());
        }
        let request = CompactionRequest { revision: signed(revision), physical: false };
        let make = |channel| async move { KvClient::new(channel).compact(request).await };
        match self.caller.call(Kind::Read, make).await {
            Ok(_) | Err(Refusal::Compacted) => Ok(()),
            Err(refusal) => Err(self.explain(refusal, revision).await),
        }
    }

    /// The oldest revision that can be read. etcd tells it only to a watch that asks for something older.
    pub(super) async fn oldest(&self) -> Result<Revision> {
        let key = self.keys.root();
        let make = |channel| {
            let create = WatchCreateRequest { key: key.clone(), start_revision: 1, ..WatchCreateRequest::default() };
            let request = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
            async move { WatchClient::new(channel).watch(futures_util::stream::iter([request]).chain_pending()).await }
        };
        let mut responses = self.caller.call(Kind::Read, make).await.map_err(Refusal::plain)?;
        let told = async {
            while let Ok(Some(WatchResponse { compact_revision, .. })) = responses.message().await {
                if compact_revision > 0 {
                    return Some(unsigned(compact_revision));
                }
            }
            None
        };
        match tokio::time::timeout(OLDEST, told).await {
            Ok(Some(oldest)) => Ok(oldest),
            // The present can always be read.
            _ => self.present().await,
        }
    }
}

/// A request stream that stays open after its items: etcd ends a watch when its requests end.
trait ChainPending: futures_util::Stream + Sized {
    fn chain_pending(self) -> futures_util::stream::Chain<Self, futures_util::stream::Pending<Self::Item>> {
        futures_util::StreamExt::chain(self, futures_util::stream::pending())
    }
}
impl<S: futures_util::Stream> ChainPending for S {}

impl Etcd {
    /// The status of the member in use.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn status(&self) -> Result<MemberStatus> {
        self.shared.status().await
    }

    /// The alarms that are raised, of all members.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn alarms(&self) -> Result<Vec<Alarm>> {
        let make = |channel| async move { MaintenanceClient::new(channel).alarm(AlarmRequest::default()).await };
        let response = self.shared.caller.call(Kind::Read, make).await.map_err(Refusal::plain)?;
        let alarms = response.alarms.iter().filter_map(|member| match member.alarm() {
            AlarmType::None => None,
            AlarmType::Nospace => Some(Alarm::NoSpace),
            AlarmType::Corrupt => Some(Alarm::Corrupt),
        });
        Ok(alarms.collect())
    }

    /// Writes the member's database as it is now: the file that `etcdutl snapshot restore` takes. It ends with its SHA-256, which etcd
    /// computed. The writer is flushed, not synced.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when etcd or the writer fails on the way.
    pub async fn snapshot(&self, to: &mut (impl AsyncWrite + Unpin + Send)) -> Result<SnapshotSummary> {
        let (_, member, channel) = self.shared.caller.members.active();
        let refused = |status: &tonic::Status| judge(status, &member.url).error.plain();
        let failed = |e: std::io::Error| Error::Unavailable(format!("writing the snapshot: {e}"));
        let mut client = MaintenanceClient::new(channel).max_decoding_message_size(usize::MAX);
        let mut parts = client.snapshot(SnapshotRequest {}).await.map_err(|s| refused(&s))?.into_inner();
        let (mut bytes, mut remaining) = (0, 0);
        while let Some(part) = parts.message().await.map_err(|s| refused(&s))? {
            to.write_all(&part.blob).await.map_err(failed)?;
            bytes += part.blob.len() as u64;
            remaining = part.remaining_bytes;
        }
        to.flush().await.map_err(failed)?;
        if remaining != 0 || bytes == 0 {
            return Err(Error::Unavailable(format!("the snapshot of {} ended {remaining} bytes early", member.url)));
        }
        Ok(SnapshotSummary { bytes })
    }
}
