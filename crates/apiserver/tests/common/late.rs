//! A store whose watches tell late when the run is asked for that: see `ferrokube_testkit::late`.

use bytes::Bytes;
use ferrokube_store::embedded::Embedded;
use ferrokube_store::{Batch, Committed, Expect, KeyValue, Page, Result, Revision, Store};
use ferrokube_testkit::late;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;

pub struct LateStore(pub Arc<Embedded>);

impl Store for LateStore {
    fn put(&self, key: Bytes, value: Bytes, expect: Expect, ttl: Option<Duration>) -> BoxFuture<'_, Result<Committed>> {
        self.0.put(key, value, expect, ttl)
    }

    fn delete(&self, key: Bytes, expect: Expect) -> BoxFuture<'_, Result<Committed>> {
        self.0.delete(key, expect)
    }

    fn get(&self, key: Bytes) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        self.0.get(key)
    }

    fn range(&self, start: Bytes, end: Bytes, at: Option<Revision>, limit: usize) -> BoxFuture<'_, Result<Page>> {
        self.0.range(start, end, at, limit)
    }

    fn scan(&self, start: Bytes, end: Bytes, at: Option<Revision>) -> BoxFuture<'_, Result<BoxStream<'static, Result<Page>>>> {
        self.0.scan(start, end, at)
    }

    fn watch(&self, start: Bytes, end: Bytes, after: Revision) -> BoxFuture<'_, Result<BoxStream<'static, Result<Batch>>>> {
        let watch = self.0.watch(start, end, after);
        Box::pin(async move { watch.await.map(late) })
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        self.0.revision()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>> {
        self.0.compact(revision)
    }

    fn request_progress(&self) -> BoxFuture<'_, Result<()>> {
        self.0.request_progress()
    }

    fn size_on_disk(&self) -> BoxFuture<'_, Result<u64>> {
        self.0.size_on_disk()
    }
}
