//! Very many objects: how long it takes to make them, to read them page by page, to watch them from the start, and what
//! one costs in memory.

use crate::api::{Room, fill};
use crate::list::pages;
use crate::load::{self, Until};
use crate::objects::Subject;
use crate::table::{self, Table};
use anyhow::bail;
use std::time::{Duration, Instant};

/// Measures with `count` objects and leaves them there.
pub(crate) async fn measure(room: &Room, subject: Subject, count: usize) -> anyhow::Result<()> {
    println!();
    let rows = Table::new(&load::COLUMNS);
    let kind = subject.name();
    let before = room.meter.read();
    fill(room, subject, count).await?.show(&rows, &format!("create {count} {kind}s"), 64);
    let path = subject.path(&room.namespace);
    let operation = {
        let (room, path) = (room.clone(), path.clone());
        move |_, _| {
            let (room, path) = (room.clone(), path.clone());
            async move { pages(&room, &path, count).await }
        }
    };
    load::run(1, Until::Count(1), &room.meter, operation).await.show(&rows, &format!("list {count} {kind}s, pages of 500"), 1);
    let (room_of_watch, path) = (room.clone(), path.clone());
    let operation = move |_, _| {
        let (room, path) = (room_of_watch.clone(), path.clone());
        async move { watch_all(&room, &path, count).await }
    };
    load::run(1, Until::Count(1), &room.meter, operation).await.show(&rows, &format!("watch {count} {kind}s from the start"), 1);
    // What was needed to make and to send them is given back after a while.
    tokio::time::sleep(Duration::from_secs(5)).await;
    if let Some((before, after)) = before.zip(room.meter.read()) {
        let grown = after.resident.saturating_sub(before.resident);
        println!("\nMemory: {}, {} bytes for each of {count} objects.", table::mebibytes(after.resident), grown / count as u64);
    }
    Ok(())
}

/// Reads a watch that begins with all objects, up to the bookmark behind the last; returns its bytes.
async fn watch_all(room: &Room, path: &str, count: usize) -> anyhow::Result<usize> {
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut lines = room.server.lines(0, &format!("{path}?{query}")).await?;
    let (mut seen, mut bytes, mut over, started) = (0, 0, false, Instant::now());
    while !over {
        let open = lines.next(|line| {
            bytes += line.len();
            over |= line.starts_with(br#"{"type":"BOOKMARK""#);
            seen += usize::from(line.starts_with(br#"{"type":"ADDED""#));
        });
        if !open.await? {
            bail!("the watch was closed after {seen} objects and {}", table::time(started.elapsed()));
        }
    }
    if seen < count {
        bail!("the watch began with {seen} objects of {count}");
    }
    Ok(bytes)
}
