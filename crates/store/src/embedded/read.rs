//! Reads: choose versions under the lock, then fetch their values by position without it.

use super::Shared;
use super::format::{RECORD_LEN, Record};
use super::index::Index;
use super::segment::{Place, Segment};
use crate::{Error, KeyValue, Page, Result, Revision};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;

/// Up to this many values are read on the calling thread: they are nearly always in the page cache.
const INLINE: usize = 128;
/// From this many values on, all cores read.
const PARALLEL: usize = 4096;
/// Neighbouring records are fetched by one read of at most this size...
const RUN: usize = 1 << 20;
/// ...when no more than this lies between them.
const GAP: u32 = 4096;

/// Bytes of records in one page of a scan.
const SCAN_PAGE: usize = 4 << 20;

/// A version whose value is still to be fetched.
pub(super) struct Located {
    pub segment: Arc<Segment>,
    pub place: Place,
}

/// The versions of one page.
pub(super) struct Selection {
    pub located: Vec<Located>,
    revision: Revision,
    more: bool,
    count: u64,
}

/// One key, now.
pub(super) fn get(shared: &Shared, key: &[u8]) -> Result<Option<KeyValue>> {
    let state = shared.state.read();
    state.serving()?;
    let Some(version) = state.index.current(key) else { return Ok(None) };
    let segment = state.segment(version.place.segment)?;
    drop(state);
    fetch(&[Located { segment, place: version.place }]).map(|mut values| values.pop())
}

/// Whether `at` can be read: neither compacted nor to come.
pub(super) fn check_revision(index: &Index, at: Revision) -> Result<()> {
    if at < index.compacted() {
        return Err(Error::Compacted { oldest: index.compacted() });
    }
    if at > index.revision() {
        return Err(Error::Future { asked: at, current: index.revision() });
    }
    Ok(())
}

/// Chooses the versions of a page.
pub(super) fn select(shared: &Shared, start: &[u8], end: &[u8], at: Option<Revision>, limit: usize) -> Result<Selection> {
    let state = shared.state.read();
    state.serving()?;
    let at = at.unwrap_or(state.index.revision());
    check_revision(&state.index, at)?;
    let mut found = Selection { located: Vec::new(), revision: at, more: false, count: 0 };
    for (_, version) in state.index.range(start, end, at) {
        found.count += 1;
        if limit == 0 || found.located.len() < limit {
            found.located.push(Located { segment: state.segment(version.place.segment)?, place: version.place });
        }
    }
    found.more = found.count > found.located.len() as u64;
    Ok(found)
}

/// Fetches the values of a page.
pub(super) fn page(selection: Selection) -> Result<Page> {
    let items = fetch(&selection.located)?;
    Ok(Page { items, revision: selection.revision, more: selection.more, count: selection.count })
}

/// Fetches the values of everything that was chosen, page by page.
pub(super) fn pages(selection: Selection) -> BoxStream<'static, Result<Page>> {
    let Selection { located, revision, count, .. } = selection;
    let rest = Some(located.into_iter());
    let next = move |rest: Option<std::vec::IntoIter<Located>>| async move {
        let mut rest = rest?;
        let sizes = rest.as_slice().iter().scan(0, |size, l| {
            *size += l.place.len as usize;
            Some(*size)
        });
        // One at least, however large.
        let length = sizes.take_while(|size| *size <= SCAN_PAGE).count().max(1);
        let located: Vec<Located> = rest.by_ref().take(length).collect();
        let more = rest.len() > 0;
        let page = off_runtime_when_large(length, move || page(Selection { located, revision, more, count })).await;
        // Nothing follows an error.
        let rest = Some(rest).filter(|_| more && page.is_ok());
        Some((page, rest))
    };
    stream::unfold(rest, next).boxed()
}

/// Runs `work` that reads `count` values: here when it is quick, on a blocking thread otherwise.
pub(super) async fn off_runtime_when_large<T: Send + 'static>(
    count: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if count <= INLINE || tokio::runtime::Handle::try_current().is_err() {
        return work();
    }
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Error::Unavailable(format!("reading: {e}"))))
}

/// Fetches records, in the order given; very many (the caches at start) on all cores.
pub(super) fn fetch(located: &[Located]) -> Result<Vec<KeyValue>> {
    let mut order: Vec<usize> = (0..located.len()).collect();
    order.sort_unstable_by_key(|i| (located[*i].place.segment, located[*i].place.offset));
    let threads = if located.len() < PARALLEL { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
    let mut values: Vec<Option<KeyValue>> = vec![None; located.len()];
    if threads == 1 {
        fetch_part(located, &order, |i, value| values[i] = Some(value))?;
        return Ok(values.into_iter().flatten().collect());
    }
    let parts: Vec<Result<Vec<(usize, KeyValue)>>> = std::thread::scope(|scope| {
        let run = |part| {
            move || {
                let mut found = Vec::new();
                fetch_part(located, part, |i, value| found.push((i, value))).map(|()| found)
            }
        };
        let threads: Vec<_> = order.chunks(order.len().div_ceil(threads)).map(|part| scope.spawn(run(part))).collect();
        let panicked = || Err(Error::Unavailable("a thread that reads panicked".into()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
    });
    for part in parts {
        part?.into_iter().for_each(|(i, value)| values[i] = Some(value));
    }
    Ok(values.into_iter().flatten().collect())
}

/// Fetches the records of `order`, which is by place, reading neighbours together.
fn fetch_part(located: &[Located], order: &[usize], mut each: impl FnMut(usize, KeyValue)) -> Result<()> {
    let mut buffer = Vec::new();
    let mut rest = order;
    while let Some(first) = rest.first().map(|i| &located[*i]) {
        let (count, len) = run_length(located, rest);
        buffer.resize(len, 0);
        first.segment.read(u64::from(first.place.offset), &mut buffer)?;
        for i in &rest[..count] {
            let place = located[*i].place;
            let from = (place.offset - first.place.offset) as usize;
            each(*i, decode(&first.segment, place, &buffer[from..from + place.len as usize])?);
        }
        rest = &rest[count..];
    }
    Ok(())
}

/// How many of the places at the front of `order` are read together, and how many bytes that is.
fn run_length(located: &[Located], order: &[usize]) -> (usize, usize) {
    let first = located[order[0]].place;
    let mut end = first.offset + first.len;
    let mut count = 1;
    for i in &order[1..] {
        let place = located[*i].place;
        let stop = place.offset + place.len;
        if place.segment != first.segment || place.offset > end + GAP || (stop - first.offset) as usize > RUN {
            break;
        }
        end = end.max(stop);
        count += 1;
    }
    (count, (end - first.offset) as usize)
}

/// A record as a key and value of their own, so that what is kept of it keeps nothing else in memory.
fn decode(segment: &Segment, place: Place, bytes: &[u8]) -> Result<KeyValue> {
    debug_assert!(bytes.len() >= RECORD_LEN);
    let record =
        Record::decode_checked(bytes).ok_or_else(|| segment.corrupted(format!("record at offset {} fails its checksum", place.offset)))?;
    Ok(KeyValue {
        key: Bytes::copy_from_slice(record.key),
        value: Bytes::copy_from_slice(record.value),
        create_revision: record.create,
        mod_revision: record.revision,
    })
}
