//! One writer and many watchers of the same collection: how soon each sees a write, and how many deliveries a second there are.
//! The writer goes on when everyone has seen its last write.

use crate::api::Room;
use crate::connect::{Call, Lines};
use crate::objects::{Subject, revision_of};
use crate::table::{self, Table};
use anyhow::{Context, bail};
use futures_util::future::try_join_all;
use http::Method;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Watchers that share a connection at most, as in Go's client, which opens another one then.
const PER_CONNECTION: usize = 100;
/// A delivery that takes longer is a lost one.
const PATIENCE: Duration = Duration::from_secs(30);

/// What writer and watchers share.
struct Shared {
    /// Number of the write under way and when it was sent.
    sent: watch::Sender<(usize, Instant)>,
    /// Watchers that have seen it.
    seen: AtomicUsize,
    watchers: usize,
    all: Notify,
}

/// Measures with each number of watchers.
pub(crate) async fn measure(room: &Room, numbers: &[usize], time: Duration) -> anyhow::Result<()> {
    println!();
    let rows = Table::new(&["watch ConfigMaps", "writes/s", "events/s", "p50", "p99", "p99.9", "CPU/event", "server RSS"]);
    for watchers in numbers {
        one(room, *watchers, time, &rows).await?;
        room.clear(Subject::ConfigMap).await?;
    }
    Ok(())
}

async fn one(room: &Room, watchers: usize, time: Duration, rows: &Table) -> anyhow::Result<()> {
    let path = Subject::ConfigMap.path(&room.namespace);
    let body = Subject::ConfigMap.body(&room.namespace, "watched", "", 0);
    let made = room.server.ok(0, Call::new(Method::POST, path.as_str(), body)).await?;
    let mut revision = revision_of(&made).context("an answer without resourceVersion")?;
    let shared = Arc::new(Shared { sent: watch::channel((0, Instant::now())).0, seen: AtomicUsize::new(0), watchers, all: Notify::new() });
    let connections = watchers.div_ceil(PER_CONNECTION).max(room.server.connections()).min(watchers);
    let server = room.server.again(connections)?;
    let mut following: Vec<Vec<_>> = (0..connections).map(|_| Vec::new()).collect();
    for n in 0..watchers {
        let lines = server.lines(n, &format!("{path}?watch=1&resourceVersion={revision}")).await?;
        following[n % connections].push(follow(lines, Arc::clone(&shared)));
    }
    // A task for each connection, not for each watch: the machine is there for the server.
    let mut tasks: tokio::task::JoinSet<_> = following.into_iter().map(try_join_all).collect();
    let before = room.meter.read();
    let (started, mut writes) = (Instant::now(), 0);
    while started.elapsed() < time {
        writes += 1;
        shared.seen.store(0, Ordering::Release);
        shared.sent.send_replace((writes, Instant::now()));
        let body = Subject::ConfigMap.body(&room.namespace, "watched", &revision, writes);
        let all_seen = shared.all.notified();
        let written = room.server.ok(0, Call::new(Method::PUT, format!("{path}/watched"), body)).await?;
        revision = revision_of(&written).context("an answer without resourceVersion")?;
        tokio::select! {
            () = all_seen => {}
            ended = tasks.join_next() => match ended {
                Some(Ok(Err(error))) => return Err(error),
                _ => bail!("a watch has ended"),
            },
            () = tokio::time::sleep(PATIENCE) => bail!("only {} of {watchers} watchers have seen write {writes}", shared.seen.load(Ordering::Acquire)),
        }
    }
    let elapsed = started.elapsed();
    let usage = before.zip(room.meter.read());
    // Number 0 tells the watchers that it is over; one more write wakes them.
    shared.sent.send_replace((0, Instant::now()));
    room.server.ok(0, Call::new(Method::DELETE, format!("{path}/watched"), bytes::Bytes::new())).await?;
    let mut took = Vec::new();
    while let Some(part) = tasks.join_next().await {
        took.extend(part??.into_iter().flatten());
    }
    took.sort_unstable();
    let cpu = usage.map(|(a, b)| b.cpu.saturating_sub(a.cpu) / (took.len().max(1) as u32));
    rows.row(vec![
        format!("{watchers} watchers"),
        table::rate(writes, elapsed),
        table::rate(took.len(), elapsed),
        table::time(table::quantile(&took, 0.5)),
        table::time(table::quantile(&took, 0.99)),
        table::time(table::quantile(&took, 0.999)),
        table::known(cpu.map(table::time)),
        table::known(usage.map(|(_, b)| table::mebibytes(b.resident))),
    ]);
    Ok(())
}

/// Reads a watch to the end of the measurement; returns how long each event took since its write was sent.
async fn follow(mut lines: Lines, shared: Arc<Shared>) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::new();
    loop {
        let mut failed = None;
        let mut over = false;
        let open = lines.next(|line| {
            if line.starts_with(br#"{"type":"ERROR""#) {
                failed = Some(String::from_utf8_lossy(line).into_owned());
                return;
            }
            let (write, sent) = *shared.sent.borrow();
            if write == 0 {
                over = true;
                return;
            }
            took.push(sent.elapsed());
            // There is one write under way at a time, so one event is one more watcher that has seen it.
            if shared.seen.fetch_add(1, Ordering::AcqRel) + 1 == shared.watchers {
                shared.all.notify_one();
            }
        });
        let open = open.await?;
        if let Some(error) = failed {
            bail!("a watch failed: {error}");
        }
        if over {
            return Ok(took);
        }
        if !open {
            bail!("a watch was closed by the server");
        }
    }
}
