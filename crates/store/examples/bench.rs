//! Figures of the embedded engine on this machine: `cargo run --release -p ferrokube-store --example bench [DIRECTORY]`.
//!
//! Writes per second of 1-KiB values, durable, by concurrency; then the time to open 100,000 keys of 2 KB, and memory per key.

use bytes::Bytes;
use ferrokube_store::embedded::{Embedded, Options};
use ferrokube_store::{Expect, Store, prefix_end};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const RUN: Duration = Duration::from_secs(3);

fn key(n: u64) -> Bytes {
    Bytes::from(format!("/registry/configmaps/default/object-{n:08}"))
}

/// Resident memory of this process, in KiB.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?.trim().trim_end_matches("kB").trim().parse().ok()
}

async fn writes(dir: &Path, concurrency: u64) -> Result<(), Failure> {
    let store = Arc::new(Embedded::open(dir, Options::default())?);
    let started = Instant::now();
    let tasks: Vec<_> = (0..concurrency)
        .map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let value = Bytes::from(vec![b'v'; 1024]);
                let mut took = Vec::new();
                for serial in 0.. {
                    let at = Instant::now();
                    if at - started > RUN {
                        break;
                    }
                    store.put(key(task << 24 | serial), value.clone(), Expect::Absent, None).await?;
                    took.push(at.elapsed());
                }
                Ok::<_, ferrokube_store::Error>(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    let elapsed = started.elapsed().as_secs_f64();
    took.sort_unstable();
    let quantile = |q: f64| took.get((took.len() as f64 * q) as usize).copied().unwrap_or_default();
    println!("| create 1 KiB at {concurrency} | {:.0}/s | {:.2?} | {:.2?} |", took.len() as f64 / elapsed, quantile(0.5), quantile(0.99));
    Ok(())
}

async fn opening(dir: &Path) -> Result<(), Failure> {
    const KEYS: u64 = 100_000;
    let store = Embedded::open(dir, Options::default())?;
    for chunk in 0..KEYS / 1000 {
        let puts = (chunk * 1000..chunk * 1000 + 1000).map(|n| store.put(key(n), Bytes::from(vec![n as u8; 2048]), Expect::Any, None));
        futures_util::future::try_join_all(puts).await?;
    }
    store.compact(store.revision().await?).await?;
    let size = store.size_on_disk().await?;
    drop(store);
    let before = resident_kib();
    let at = Instant::now();
    let store = Embedded::open(dir, Options::default())?;
    println!("| open {KEYS} keys of 2 KB ({} MB on disk) | {:.1?} | | |", size >> 20, at.elapsed());
    if let (Some(before), Some(after)) = (before, resident_kib()) {
        println!(
            "| resident memory grown by opening | {} KiB | {} bytes per key | |",
            after.saturating_sub(before),
            after.saturating_sub(before) * 1024 / KEYS
        );
    }
    let at = Instant::now();
    let page = store.range(Bytes::from_static(b"/"), prefix_end(b"/registry/"), None, 0).await?;
    println!("| read all {} values | {:.1?} | | |", page.items.len(), at.elapsed());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let base = std::env::args_os().nth(1).map_or_else(|| std::env::temp_dir().join("ferrokube-store-bench"), Into::into);
    println!("| what | | p50 | p99 |\n|---|---|---|---|");
    // First, in a process that has not used memory yet.
    opening(&base.join("open")).await?;
    for concurrency in [1, 16, 64, 256] {
        writes(&base.join(concurrency.to_string()), concurrency).await?;
    }
    std::fs::remove_dir_all(&base)?;
    Ok(())
}
