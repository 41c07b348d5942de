//! A writer process is killed with SIGKILL at random points, hundreds of times over the same directory. What it had told its parent
//! was acknowledged must be there, every time; nothing may be there that was never asked for.

use bytes::Bytes;
use ferrokube_store::embedded::{Embedded, Options};
use ferrokube_store::{Event, Expect, Revision, Store, prefix_end};
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DIR: &str = "FERROKUBE_CRASH_TEST_DIR";
const ROUND: &str = "FERROKUBE_CRASH_TEST_ROUND";
const KEYS: u64 = 40;
const WRITERS: u64 = 8;
const KILLS: u32 = 300;
const BUDGET: Duration = Duration::from_secs(18);

fn options() -> Options {
    Options { segment_bytes: 64 << 10, ..Options::default() }
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("/k/{n:03}"))
}

/// Not a test of its own: the process that is killed. It prints one line for each acknowledged write, and before for each that it asks for.
#[test]
#[ignore = "run as a child by the crash test"]
fn writer_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let round: u64 = std::env::var(ROUND).ok().and_then(|r| r.parse().ok()).expect("a round");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    say("\n".into()); // Ends the line that the test harness has begun.
    runtime.block_on(async {
        let store = Embedded::open(Path::new(&dir), options()).expect("opens after a kill");
        let writers = (0..WRITERS).map(|w| write_forever(&store, w, round));
        futures_util::future::join_all(writers).await;
    });
}

fn say(line: String) {
    // One write call per line: the parent sees whole lines only.
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("the parent reads");
}

async fn write_forever(store: &Embedded, writer: u64, round: u64) {
    for serial in 0u64.. {
        // Each writer has its own keys, so the parent knows the order of writes to a key.
        let n = (serial * WRITERS + writer) % KEYS;
        let id = format!("{round}.{writer}.{serial}");
        let delete = serial % 7 == 6;
        let done = if delete {
            say(format!("ask {n} -\n"));
            store.delete(key(n), Expect::Any).await
        } else {
            say(format!("ask {n} {id}\n"));
            let padding = ".".repeat((serial as usize * 37) % 900);
            store.put(key(n), Bytes::from(format!("{id} {padding}")), Expect::Any, None).await
        };
        match done {
            Ok(done) => say(format!("ack {n} {} {}\n", if delete { "-" } else { &id }, done.revision)),
            Err(ferrokube_store::Error::Conflict { actual: None }) if delete => say(format!("ack {n} - 0\n")),
            Err(e) => panic!("{e}"),
        }
        // So that kills also meet the cleaner at work.
        if writer == 0 && serial % 5 == 4 {
            let current = store.revision().await.expect("revision");
            store.compact(current.saturating_sub(100)).await.expect("compacts");
        }
    }
}

/// What the parent knows of a key: the last acknowledged state, and all that was asked for after (by several children, perhaps).
#[derive(Default, Clone)]
struct Known {
    acknowledged: Option<String>,
    asked: Vec<Option<String>>,
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9_at_any_point() {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut known: BTreeMap<u64, Known> = BTreeMap::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15 ^ u64::from(std::process::id());
    let mut last_acknowledged: Revision = 0;
    let (started, mut kills, mut writes) = (Instant::now(), 0, 0u64);
    while kills < KILLS && started.elapsed() < BUDGET {
        let lines = run_and_kill(dir.path(), kills, random(&mut seed));
        kills += 1;
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            // The test harness of the child has lines of its own.
            let Some(n) = words.get(1).filter(|_| matches!(words[0], "ask" | "ack")).and_then(|n| n.parse().ok()) else { continue };
            let value = words.get(2).filter(|v| **v != "-").map(|v| v.to_string());
            let key = known.entry(n).or_default();
            if words[0] == "ask" {
                key.asked.push(value);
            } else if words[0] == "ack" {
                *key = Known { acknowledged: value, asked: Vec::new() };
                let revision: Revision = words[3].parse().expect("a revision");
                last_acknowledged = last_acknowledged.max(revision);
                writes += 1;
            }
        }
        // Every few kills the parent looks; in between the next child recovers on its own, over and over.
        if kills % 10 == 0 || kills == KILLS {
            runtime.block_on(verify(dir.path(), &mut known, last_acknowledged));
        }
    }
    runtime.block_on(verify(dir.path(), &mut known, last_acknowledged));
    eprintln!("{kills} kills, {writes} acknowledged writes, {:?}", started.elapsed());
    let segments = std::fs::read_dir(dir.path()).expect("lists").count();
    assert!(!dir.path().join("segment-0000000001.log").exists() && segments < 20, "segments were dropped while this ran; {segments} files");
    assert!(kills >= 100, "only {kills} kills within {BUDGET:?}");
    assert!(writes > 1000, "only {writes} writes");
}

/// Runs the writer for a random short time and kills it; returns the lines it said.
fn run_and_kill(dir: &Path, round: u32, random: u64) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "writer_process", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the writer starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut lines = Vec::new();
    // Some are killed while they open the store, most after a random number of lines and then a random moment.
    let wanted = if random.is_multiple_of(8) { 0 } else { random % 400 };
    let mut line = String::new();
    while (lines.len() as u64) < wanted && out.read_line(&mut line).is_ok_and(|n| n > 0) {
        lines.push(std::mem::take(&mut line));
    }
    std::thread::sleep(Duration::from_micros(random >> 32 & 0xfff));
    let exited = child.try_wait().expect("waits");
    child.kill().expect("kills");
    if exited.is_some() {
        let mut why = String::new();
        let _ = std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut why);
        panic!("the writer ended by itself: {why}");
    }
    child.wait().expect("reaped");
    lines.extend(out.lines().map_while(Result::ok));
    lines
}

async fn verify(dir: &Path, known: &mut BTreeMap<u64, Known>, last_acknowledged: Revision) {
    let store = Embedded::open(dir, options()).expect("opens after a kill");
    let revision = store.revision().await.expect("revision");
    assert!(revision >= last_acknowledged, "revision {revision} went back behind {last_acknowledged}");
    let (start, end) = (Bytes::from_static(b"/k/"), prefix_end(b"/k/"));
    let page = store.range(start.clone(), end.clone(), None, 0).await.expect("reads");
    let mut found: BTreeMap<Bytes, String> = BTreeMap::new();
    for kv in page.items {
        let id = String::from_utf8_lossy(&kv.value).split(' ').next().unwrap_or_default().to_string();
        assert!(found.insert(kv.key.clone(), id).is_none(), "{:?} is there twice", kv.key);
    }
    for n in 0..KEYS {
        let (key, state) = (key(n), known.entry(n).or_default());
        let got = found.get(&key).cloned();
        let allowed = got == state.acknowledged || state.asked.contains(&got);
        assert!(allowed, "{key:?} holds {got:?}; acknowledged {:?}, asked for {:?}", state.acknowledged, state.asked);
        // What is shown now has been read, so from now on it may not change by itself.
        *state = Known { acknowledged: got, asked: Vec::new() };
    }
    history_is_whole(&store, start, end, revision).await;
}

/// History has every revision once and ends in the present state.
async fn history_is_whole(store: &Embedded, start: Bytes, end: Bytes, revision: Revision) {
    let after = match store.watch(start.clone(), end.clone(), 0).await {
        Ok(_) => 0,
        Err(ferrokube_store::Error::Compacted { oldest }) => oldest,
        Err(e) => panic!("{e}"),
    };
    let mut watch = store.watch(start, end, after).await.expect("a watch");
    store.request_progress().await.expect("progress");
    let mut next = after + 1;
    while next <= revision {
        let batch = watch.next().await.expect("goes on").expect("sound");
        for event in batch.events {
            assert_eq!(Event::revision(&event), next);
            next += 1;
        }
    }
}
