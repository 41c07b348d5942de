//! Long lists are written piece by piece, several pieces at once: what one core would take a tenth of a second for, a client should
//! not wait for while others idle. Each piece is a task of its own, so that other requests get their turn in between.

use bytes::Bytes;
use ferrokube_api::{Object, Status};
use futures_util::{StreamExt, TryStreamExt, stream};
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

/// What `write` makes of the objects, in their order. It gets some neighbours at a time and writes to an empty buffer.
///
/// # Errors
/// The first of those that `write` returns.
pub async fn written<F>(objects: Vec<Arc<Object>>, write: F) -> Result<Vec<Bytes>, Status>
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
        return Ok(vec![piece(&objects)?]);
    }
    let at_once = std::thread::available_parallelism().map_or(1, |cores| cores.get()).min(MOST_AT_ONCE);
    let (objects, piece) = (Arc::new(objects), Arc::new(piece));
    let task = |range: Range<usize>| {
        let (objects, piece) = (objects.clone(), piece.clone());
        tokio::spawn(async move { piece(&objects[range]) })
    };
    stream::iter(ranges).map(task).buffered(at_once).map(|done| done.unwrap_or_else(|lost| Err(fate(lost)))).try_collect().await
}

/// A panic goes on in the request that the piece belongs to.
fn fate(lost: JoinError) -> Status {
    match lost.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(cancelled) => Status::internal(cancelled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let pieces = written(all, write).await.expect("nothing fails");
            assert!(pieces.concat() == names.as_bytes(), "{count} objects with {filling} bytes");
            assert!((pieces.len() > 1) == (count > 1 && count * filling > PIECE), "{count} objects with {filling} bytes");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_fails_fails_the_list() {
        let write = |objects: &[Arc<Object>], _: &mut Vec<u8>| match objects.iter().find(|o| o.key.name.ends_with("77")) {
            Some(bad) => Err(Status::internal(&bad.key.name[5000..])),
            None => Ok(()),
        };
        let failed = written(objects(300, 5000), write).await.expect_err("some fail");
        assert!(failed.message.contains("0000000077"), "{}", failed.message);
    }
}
