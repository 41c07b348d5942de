//! Long lists are written piece by piece, several pieces at once: what one core would take a tenth of a second for, a client should
//! not wait for while others idle. Each piece is a task of its own, so that other requests get their turn in between.

use super::body::{BrokenOff, Pieces};
use bytes::Bytes;
use ferrokube_api::{Object, Status};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use std::future::ready;
use std::ops::Range;
use std::sync::Arc;
use tokio::task::JoinError;

/// Bytes of objects in one piece: about half a millisecond of work at most.
const PIECE: usize = 512 * 1024;
/// Pieces under way at once for one list, however many cores there are: others want some too.
const MOST_AT_ONCE: usize = 8;

/// Cuts a list of objects with these sizes into neighbours that make a piece.
fn cut(sizes: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let (mut pieces, mut begin, mut end, mut size) = (Vec::new(), 0, 0, 0);
    for next in sizes {
        (end, size) = (end + 1, size + next);
        if size >= PIECE {
            pieces.push(begin..end);
            (begin, size) = (end, 0);
        }
    }
    if begin < end {
        pieces.push(begin..end);
    }
    pieces
}

/// What became of the task of a piece.
type Made = Result<Result<Bytes, Status>, JoinError>;

/// A list of which the first piece is written. The others are written while they are asked for, a few ahead, so that a long list takes
/// as little memory as a short one.
pub struct Begun {
    /// The first piece.
    pub first: Bytes,
    /// What comes after it. None: that was all.
    pub rest: Option<Pieces>,
}

/// Whether a list of these objects makes more than a piece.
pub fn many(objects: &[Arc<Object>]) -> bool {
    objects.len() > 1 && objects[..objects.len() - 1].iter().map(|o| o.json.len()).sum::<usize>() >= PIECE
}

/// The pieces that `write` makes of the objects, in their order.
fn made<F>(objects: Vec<Arc<Object>>, write: F) -> BoxStream<'static, Made>
where
    F: Fn(&[Arc<Object>], &mut Vec<u8>) -> Result<(), Status> + Send + Sync + 'static,
{
    let piece = move |objects: &[Arc<Object>]| {
        let mut out = Vec::with_capacity(objects.iter().map(|o| o.json.len()).sum());
        write(objects, &mut out)?;
        Ok(Bytes::from(out))
    };
    let ranges = cut(objects.iter().map(|o| o.json.len()));
    if ranges.len() < 2 {
        return stream::once(ready(Ok(piece(&objects)))).boxed();
    }
    let at_once = std::thread::available_parallelism().map_or(1, |cores| cores.get()).min(MOST_AT_ONCE);
    let (objects, piece) = (Arc::new(objects), Arc::new(piece));
    let task = move |range: Range<usize>| {
        let (objects, piece) = (objects.clone(), piece.clone());
        tokio::spawn(async move { piece(&objects[range]) })
    };
    stream::iter(ranges).map(task).buffered(at_once).boxed()
}

/// What `write` makes of the objects, in their order. It gets some neighbours at a time and writes to an empty buffer.
///
/// # Errors
/// The first of those that `write` returns.
pub async fn written<F>(objects: Vec<Arc<Object>>, write: F) -> Result<Vec<Bytes>, Status>
where
    F: Fn(&[Arc<Object>], &mut Vec<u8>) -> Result<(), Status> + Send + Sync + 'static,
{
    made(objects, write).map(whole).try_collect().await
}

/// As [`written`], but only what `write` makes of the first of them is waited for.
///
/// # Errors
/// What `write` returns for those. What it returns later breaks the list off.
pub async fn begun<F>(objects: Vec<Arc<Object>>, write: F) -> Result<Begun, Status>
where
    F: Fn(&[Arc<Object>], &mut Vec<u8>) -> Result<(), Status> + Send + Sync + 'static,
{
    let more = many(&objects);
    let mut made = made(objects, write);
    let first = made.next().await.map_or(Ok(Bytes::new()), whole)?;
    Ok(Begun { first, rest: more.then(|| made.map(part).boxed()) })
}

/// A piece that its request waits for, where a panic goes on.
fn whole(made: Made) -> Result<Bytes, Status> {
    made.unwrap_or_else(|lost| match lost.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(cancelled) => Err(Status::internal(cancelled)),
    })
}

/// A piece that follows others which are sent already.
fn part(made: Made) -> Result<Bytes, BrokenOff> {
    let failed = match made {
        Ok(Ok(bytes)) => return Ok(bytes),
        Ok(Err(status)) => status.message,
        Err(lost) => lost.to_string(),
    };
    tracing::error!(why = failed, "a list broke off");
    Err(BrokenOff(failed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn objects(count: usize, filling: usize) -> Vec<Arc<Object>> {
        let zeros = "0".repeat(filling);
        let json = |n| format!(r#"{{"kind":"A","apiVersion":"v1","metadata":{{"name":"{zeros}{n:010}"}}}}"#);
        (0..count).map(|n| Arc::new(Object::from_json(json(n).into()).expect("an object"))).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn pieces_hold_every_object_once_and_in_order() {
        for (count, filling) in [(0, 1), (1, 1), (1, 2 * PIECE), (3, PIECE), (1000, 1), (1000, 5000)] {
            let all = objects(count, filling);
            let names: String = all.iter().map(|o| format!(",{}", o.key.name)).collect();
            let write = |objects: &[Arc<Object>], out: &mut Vec<u8>| {
                objects.iter().for_each(|o| out.extend_from_slice(format!(",{}", o.key.name).as_bytes()));
                Ok(())
            };
            let pieces = written(all.clone(), write).await.expect("nothing fails");
            assert!(pieces.concat() == names.as_bytes(), "{count} objects with {filling} bytes");
            assert!((pieces.len() > 1) == (count > 1 && count * filling > PIECE), "{count} objects with {filling} bytes");
            assert_eq!(pieces.len() > 1, many(&all), "{count} objects with {filling} bytes");
            let begun = begun(all, write).await.expect("nothing fails");
            assert_eq!(begun.rest.is_some(), pieces.len() > 1);
            let rest: Vec<_> = begun.rest.unwrap_or_else(|| stream::empty().boxed()).try_collect().await.expect("nothing breaks off");
            assert!([vec![begun.first], rest].concat().concat() == names.as_bytes(), "{count} objects with {filling} bytes");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn pieces_that_nobody_asks_for_are_not_written() {
        let (all, written) = (objects(300, 100_000), Arc::new(AtomicUsize::new(0)));
        let counted = written.clone();
        let write = move |objects: &[Arc<Object>], _: &mut Vec<u8>| {
            counted.fetch_add(objects.len(), Ordering::AcqRel);
            Ok(())
        };
        drop(begun(all, write).await.expect("nothing fails"));
        let most = (MOST_AT_ONCE + 1) * (PIECE / 100_000 + 1);
        assert!((1..=most).contains(&written.load(Ordering::Acquire)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_fails_fails_the_list() {
        let write = |objects: &[Arc<Object>], _: &mut Vec<u8>| match objects.iter().find(|o| o.key.name.ends_with("77")) {
            Some(bad) => Err(Status::internal(&bad.key.name[5000..])),
            None => Ok(()),
        };
        let failed = written(objects(300, 5000), write).await.expect_err("some fail");
        assert!(failed.message.contains("0000000077"), "{}", failed.message);
        // The first piece is fine: what is sent by then cannot be taken back.
        let mut rest = begun(objects(300, 50_000), write).await.expect("the first piece").rest.expect("more pieces");
        let broken = loop {
            match rest.next().await.expect("no end without an error") {
                Ok(_) => {}
                Err(broken) => break broken,
            }
        };
        assert!(broken.to_string().contains("0000000077"), "{broken}");
        let panics = |_: &[Arc<Object>], _: &mut Vec<u8>| -> Result<(), Status> { panic!("as the test wants it") };
        assert!(tokio::spawn(written(objects(300, 5000), panics)).await.expect_err("a panic").is_panic());
    }
}
