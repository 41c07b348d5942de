//! Reads: keys, pages of ranges, and the present revision. All are linearizable: etcd confirms that the member is not behind.

use super::call::Kind;
use super::error::Refusal;
use super::wire::kv_client::KvClient;
use super::wire::{self, RangeRequest, RangeResponse};
use super::write::{signed, unsigned};
use super::{Answer, Shared};
use crate::{Error, KeyValue, Page, Result, Revision};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Keys in the first answer to a long range.
const FIRST: usize = 500;
/// Bytes that later answers should have; etcd counts in keys.
const ANSWER: usize = 8 << 20;
/// Keys in one answer at most.
const MOST: usize = 20_000;

/// Answers everyone who asks for the present revision. Whoever asks while a question is under way shares the next one: an answer is
/// never older than the question, and any number of readers costs one call at a time.
pub(super) async fn answer_present(shared: Arc<Shared>, mut asks: mpsc::UnboundedReceiver<Answer>) {
    let mut waiting: Vec<Answer> = Vec::new();
    while asks.recv_many(&mut waiting, usize::MAX >> 1).await > 0 {
        let present = shared.present().await;
        for answer in waiting.drain(..) {
            // Whoever no longer waits is not told.
            let _ = answer.send(present.clone());
        }
    }
}

fn revision_of(response: &RangeResponse) -> Revision {
    response.header.as_ref().map_or(0, |h| unsigned(h.revision))
}

impl Shared {
    pub(super) async fn fetch(&self, request: RangeRequest) -> std::result::Result<RangeResponse, Refusal> {
        let request = &request;
        let make = |channel| async move { KvClient::new(channel).max_decoding_message_size(usize::MAX).range(request.clone()).await };
        self.caller.call(Kind::Read, make).await
    }

    /// The present revision, by a call of its own.
    pub async fn present(&self) -> Result<Revision> {
        let request = RangeRequest { key: self.keys.root(), keys_only: true, ..RangeRequest::default() };
        let revision = revision_of(&self.fetch(request).await.map_err(Refusal::plain)?);
        self.reached(revision);
        Ok(revision)
    }

    /// [`crate::Store::get`].
    pub async fn get(&self, key: Bytes) -> Result<Option<KeyValue>> {
        let request = RangeRequest { key: self.keys.outward(key), ..RangeRequest::default() };
        let response = self.fetch(request).await.map_err(Refusal::plain)?;
        Ok(response.kvs.into_iter().next().map(|kv| self.item(kv)))
    }

    /// A key and its value, on this side.
    pub(super) fn item(&self, kv: wire::KeyValue) -> KeyValue {
        KeyValue {
            key: self.keys.inward(kv.key),
            value: kv.value,
            create_revision: unsigned(kv.create_revision),
            mod_revision: unsigned(kv.mod_revision),
        }
    }

    /// [`crate::Store::range`]. Long ranges are fetched in several answers, all of the same revision.
    pub async fn page(&self, start: Bytes, end: Bytes, at: Option<Revision>, limit: usize) -> Result<Page> {
        let mut walk = Walk::new(self, start, end, at);
        let wanted = |seen: usize| if limit == 0 { usize::MAX } else { limit - seen };
        let mut page = walk.step(self, wanted(0)).await?;
        while page.more && (limit == 0 || page.items.len() < limit) {
            let next = walk.step(self, wanted(page.items.len())).await?;
            page.more = next.more;
            page.items.extend(next.items);
        }
        Ok(page)
    }

    /// [`crate::Store::scan`]: each answer is a page.
    pub async fn pages(self: Arc<Self>, start: Bytes, end: Bytes, at: Option<Revision>) -> Result<BoxStream<'static, Result<Page>>> {
        let mut walk = Walk::new(&self, start, end, at);
        let first = walk.step(&self, usize::MAX).await?;
        let more = first.more;
        let rest = stream::unfold((self, walk, more), |(shared, mut walk, more)| async move {
            if !more {
                return None;
            }
            let page = walk.step(&shared, usize::MAX).await;
            let more = page.as_ref().is_ok_and(|p| p.more);
            Some((page, (shared, walk, more)))
        });
        Ok(stream::iter([Ok(first)]).chain(rest).boxed())
    }

    /// Adds to a refusal what etcd does not say: where the present or the past ends.
    pub(super) async fn explain(&self, refusal: Refusal, asked: Revision) -> Error {
        match refusal {
            Refusal::Compacted => match self.oldest().await {
                Ok(oldest) => Error::Compacted { oldest },
                Err(error) => error,
            },
            Refusal::Future => match self.present().await {
                Ok(current) => Error::Future { asked, current },
                Err(error) => error,
            },
            other => other.plain(),
        }
    }

    /// The revision that a key (in etcd's words) had at `at`, `None` when it was not there or none is asked for. Fails when that is
    /// compacted or in the future.
    pub(super) async fn stood_at(&self, key: Option<Bytes>, at: Revision) -> std::result::Result<Option<Revision>, Refusal> {
        let (count_only, key) = (key.is_none(), key.unwrap_or_else(|| self.keys.root()));
        let request = RangeRequest { key, revision: signed(at.max(1)), count_only, keys_only: !count_only, ..RangeRequest::default() };
        let response = self.fetch(request).await?;
        Ok(response.kvs.first().map(|kv| unsigned(kv.mod_revision)))
    }
}

/// A walk through a range, answer by answer, all of the same revision.
struct Walk {
    next: Bytes,
    end: Bytes,
    empty: bool,
    revision: Option<Revision>,
    /// What the answers' revision is called: before the first write etcd is at revision 1, and 0 means the present.
    shown: Revision,
    /// Keys in the next answer.
    answer: usize,
    /// Keys of the whole range, once known.
    count: Option<u64>,
}

impl Walk {
    fn new(shared: &Shared, start: Bytes, end: Bytes, at: Option<Revision>) -> Walk {
        Walk {
            empty: start >= end,
            next: shared.keys.outward(start),
            end: shared.keys.outward(end),
            revision: at.map(|at| at.max(1)),
            shown: at.unwrap_or(0),
            answer: FIRST,
            count: None,
        }
    }

    /// The next answer, of at most `limit` keys.
    async fn step(&mut self, shared: &Shared, limit: usize) -> Result<Page> {
        let request = RangeRequest {
            key: self.next.clone(),
            range_end: if self.empty { Bytes::new() } else { self.end.clone() },
            limit: self.answer.min(limit) as i64,
            revision: self.revision.map_or(0, signed),
            count_only: self.empty,
            ..RangeRequest::default()
        };
        let response = match shared.fetch(request).await {
            Ok(response) => response,
            Err(refusal) => return Err(shared.explain(refusal, self.revision.unwrap_or(0)).await),
        };
        if self.revision.is_none() {
            self.shown = revision_of(&response);
            self.revision = Some(self.shown);
        }
        if self.empty {
            return Ok(Page { items: Vec::new(), revision: self.shown, more: false, count: 0 });
        }
        let count = *self.count.get_or_insert(response.count.unsigned_abs());
        let bytes: usize = response.kvs.iter().map(|kv| kv.key.len() + kv.value.len() + 32).sum();
        self.answer = (ANSWER * response.kvs.len().max(1) / bytes.max(1)).clamp(1, MOST);
        if let Some(last) = response.kvs.last() {
            self.next = [&last.key[..], b"\0"].concat().into();
        }
        let more = response.more && !response.kvs.is_empty();
        let items = response.kvs.into_iter().map(|kv| shared.item(kv)).collect();
        Ok(Page { items, revision: self.shown, more, count })
    }
}
