//! What only etcd can do: die and come back under load, lose its leader, run full, be slow for a watcher, ask for certificates.

use crate::harness::{Watch, connect, key, next_event, options, start};
use bytes::Bytes;
use ferrokube_store::etcd::{Alarm, Etcd, Tls};
use ferrokube_store::{Error, Event, Expect, Revision, Store, prefix_end};
use ferrokube_testkit::etcd::{self as real, Options};
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Writes its own keys until told to stop: which serial each acknowledged revision has, and which writes have no known outcome.
async fn write(store: Arc<Etcd>, writer: usize, over: Arc<AtomicBool>, acknowledged: Arc<AtomicUsize>) -> BTreeMap<Revision, (usize, u64)> {
    let mut done = BTreeMap::new();
    let mut serial = 0;
    while !over.load(Ordering::Relaxed) {
        serial += 1;
        let value = Bytes::from(format!("{writer} {serial}"));
        match store.put(key(writer), value, Expect::Any, None).await {
            Ok(committed) => {
                done.insert(committed.revision, (writer, serial));
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(Error::Unavailable(_)) => {}
            Err(e) => panic!("{e}"),
        }
    }
    done
}

/// Follows everything until `last` is known and reached.
async fn follow(mut watch: Watch, last: tokio::sync::watch::Receiver<Option<Revision>>) -> Vec<(Revision, usize, u64)> {
    let (mut seen, mut position) = (Vec::new(), 0);
    while last.borrow().is_none_or(|last| position < last) {
        let batch = watch.next().await.expect("goes on").expect("sound");
        position = batch.revision;
        for event in batch.events {
            let Event::Put(kv) = event else { panic!("nobody deletes") };
            let text = String::from_utf8(kv.value.to_vec()).expect("text");
            let (writer, serial) = text.split_once(' ').expect("two numbers");
            seen.push((kv.mod_revision, writer.parse().expect("a number"), serial.parse().expect("a number")));
        }
    }
    seen
}

/// Load and a watch, while `fault` happens; then what was seen is what was written.
async fn under_load(mut etcd: real::Etcd, fault: impl FnOnce(&mut real::Etcd, &dyn Fn(usize)) + Send + 'static) {
    let store = Arc::new(connect(&etcd).await);
    let base = store.revision().await.expect("revision");
    let watch = store.watch(key(0), key(99), base).await.expect("a watch");
    let last = tokio::sync::watch::channel(None);
    let follower = tokio::spawn(follow(watch, last.1));
    let (over, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writers: Vec<_> =
        (0..4).map(|w| tokio::spawn(write(Arc::clone(&store), w, Arc::clone(&over), Arc::clone(&acknowledged)))).collect();
    let counted = Arc::clone(&acknowledged);
    let faulty = tokio::task::spawn_blocking(move || {
        fault(&mut etcd, &|more: usize| {
            let (from, started) = (counted.load(Ordering::Relaxed), Instant::now());
            while counted.load(Ordering::Relaxed) < from + more {
                assert!(started.elapsed() < Duration::from_secs(60), "writes do not go on");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        etcd
    });
    // Kept: what was written is still to be watched.
    let _etcd = faulty.await.expect("the fault");
    over.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeMap::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("writes"));
    }
    last.0.send_replace(Some(store.revision().await.expect("revision")));
    store.request_progress().await.expect("asks");
    let seen = tokio::time::timeout(Duration::from_secs(60), follower).await.expect("the watch arrives").expect("watches");
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order, each once");
    let by_revision: BTreeMap<_, _> = seen.iter().map(|(revision, writer, serial)| (*revision, (*writer, *serial))).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|(revision, write)| by_revision.get(revision) != Some(write)).collect();
    assert!(lost.is_empty(), "acknowledged but not seen: {lost:?}");
    let mut serials: Vec<_> = seen.iter().map(|(_, writer, serial)| (*writer, *serial)).collect();
    serials.sort_unstable();
    assert!(serials.windows(2).all(|pair| pair[0] != pair[1]), "no write is made twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_doubled_when_etcd_is_killed_and_started_again_under_load() {
    let Some(etcd) = start(Options::default()) else { return };
    under_load(etcd, |etcd, more| {
        for _ in 0..3 {
            more(100);
            etcd.kill(0).expect("killed");
            etcd.restart(0).expect("started");
        }
        more(100);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_doubled_when_the_leader_of_three_is_killed_under_load() {
    let Some(etcd) = start(Options { members: 3, ..Options::default() }) else { return };
    under_load(etcd, |etcd, more| {
        more(100);
        let leader = etcd.leader().expect("one leads");
        etcd.kill(leader).expect("killed");
        more(100);
        etcd.restart(leader).expect("started");
        // The member that calls go to, whichever it is by now, goes as well.
        for member in 0..3 {
            etcd.kill(member).expect("killed");
            more(30);
            etcd.restart(member).expect("started");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_watch_that_is_too_slow_for_a_compaction_ends_with_compacted_and_without_a_gap() {
    let Some(etcd) = start(Options::default()) else { return };
    let store = connect(&etcd).await;
    let base = store.revision().await.expect("revision");
    let mut watch = store.watch(key(0), key(999), base).await.expect("a watch");
    // Far more than the stream's window and etcd's queue for a watch hold.
    let mut last = base;
    for n in 0..400 {
        last = store.put(key(n), Bytes::from(vec![1; 150_000]), Expect::Any, None).await.expect("written").revision;
    }
    store.compact(last).await.expect("compacted");
    let mut position = base;
    loop {
        match watch.next().await.expect("goes on or ends with an error") {
            Ok(batch) => {
                for event in batch.events {
                    assert_eq!(event.revision(), position + 1, "no gap");
                    position = event.revision();
                }
                assert!(position < last, "the watch was not slow enough for this test");
            }
            Err(Error::Compacted { oldest }) => {
                assert_eq!(oldest, last);
                break;
            }
            Err(e) => panic!("{e}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn at_the_quota_writes_are_refused_as_no_space_and_reads_go_on() {
    let Some(etcd) = start(Options { quota: Some(8 << 20), ..Options::default() }) else { return };
    let store = connect(&etcd).await;
    let mut written = 0;
    let error = loop {
        match store.put(key(written), Bytes::from(vec![1; 200_000]), Expect::Absent, None).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the quota is not held");
    };
    assert!(matches!(&error, Error::NoSpace { path } if path.contains("quota")), "{error}");
    assert_eq!(store.alarms().await.expect("alarms"), [Alarm::NoSpace]);
    assert_eq!(store.range(key(0), key(9999), None, 0).await.expect("reads").items.len(), written);
    // etcd before 3.5.2 refuses even transactions that only delete; nothing else may come of it.
    let deleted = store.delete(key(0), Expect::Any).await;
    assert!(matches!(deleted, Ok(_) | Err(Error::NoSpace { .. })), "{deleted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tls_needs_the_right_authority_and_a_client_certificate() {
    let Some(etcd) = start(Options { tls: true, ..Options::default() }) else { return };
    let (ca, cert, client_key) = etcd.client_files();
    let full = Tls { ca_file: Some(ca.clone()), cert_file: Some(cert.clone()), key_file: Some(client_key) };
    let allowed = ferrokube_store::etcd::Options { tls: full.clone(), ..options(&etcd) };
    let store = Etcd::connect(allowed).await.expect("connects");
    let with = |tls: Tls| {
        let options = ferrokube_store::etcd::Options { tls, timeout: Duration::from_secs(2), ..options(&etcd) };
        Etcd::connect(options)
    };
    store.put(key(1), Bytes::from_static(b"x"), Expect::Absent, None).await.expect("written");
    let error = with(Tls { ca_file: Some(ca), ..Tls::default() }).await.err().expect("no client certificate");
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    let error = with(Tls { ca_file: Some(cert), ..full }).await.err().expect("another authority").to_string();
    assert!(error.contains("certificate"), "the reason is told: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clusters_share_an_etcd_by_prefix_and_a_watch_passes_over_what_others_write() {
    let Some(etcd) = start(Options::default()) else { return };
    let ours = connect(&etcd).await;
    let theirs = ferrokube_store::etcd::Options { prefix: "/clusters/b".into(), ..options(&etcd) };
    let theirs = Etcd::connect(theirs).await.expect("connects");
    let base = ours.revision().await.expect("revision");
    let mut watch = ours.watch(key(0), key(9), base).await.expect("a watch");
    theirs.put(key(1), Bytes::from_static(b"b"), Expect::Absent, None).await.expect("absent there");
    ours.put(key(1), Bytes::from_static(b"a"), Expect::Absent, None).await.expect("absent here");
    for (store, value) in [(&ours, "a"), (&theirs, "b")] {
        let page = store.range(Bytes::from_static(b"/registry/"), prefix_end(b"/registry/"), None, 0).await.expect("reads");
        assert_eq!(page.items.iter().map(|kv| (&kv.key, &kv.value[..])).collect::<Vec<_>>(), [(&key(1), value.as_bytes())]);
    }
    theirs.put(key(2), Bytes::new(), Expect::Absent, None).await.expect("absent there");
    // A consistent read: nobody asks the watch, it has to come by itself.
    let wanted = ours.revision().await.expect("revision");
    let arrived = async {
        let mut events = Vec::new();
        loop {
            let batch = watch.next().await.expect("goes on").expect("sound");
            events.extend(batch.events);
            if batch.revision >= wanted {
                return events;
            }
        }
    };
    let events = tokio::time::timeout(Duration::from_secs(60), arrived).await.expect("passes over what others wrote");
    assert!(matches!(&events[..], [Event::Put(kv)] if kv.value == "a"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_snapshot_is_the_whole_database_with_its_checksum() {
    let Some(etcd) = start(Options::default()) else { return };
    let store = connect(&etcd).await;
    store.put(key(1), Bytes::from_static(b"the value to be found"), Expect::Absent, None).await.expect("written");
    let mut file = Vec::new();
    let summary = store.snapshot(&mut file).await.expect("a snapshot");
    assert_eq!(summary.bytes, file.len() as u64);
    assert!(file.windows(21).any(|w| w == b"the value to be found"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_watch_ends_when_etcd_comes_back_with_another_past_in_which_its_position_means_something_else() {
    for deleted in [false, true] {
        let Some(mut etcd) = start(Options::default()) else { return };
        let store = connect(&etcd).await;
        let base = store.put(key(0), Bytes::from_static(b"kept"), Expect::Absent, None).await.expect("written").revision;
        let mut watch = store.watch(key(0), key(99), base).await.expect("a watch");
        etcd.kill(0).expect("killed");
        let backup = etcd.back_up(0).expect("copied");
        etcd.restart(0).expect("started");
        // What an etcd acknowledges, tells its watchers and then loses.
        let lost = if deleted {
            store.delete(key(0), Expect::Any).await.expect("deleted").revision
        } else {
            store.put(key(1), Bytes::from_static(b"lost"), Expect::Absent, None).await.expect("written").revision
        };
        assert_eq!(next_event(&mut watch).await.revision(), lost);
        etcd.kill(0).expect("killed");
        etcd.restore(0, &backup).expect("as it was");
        // The watch is to find it only when others have written past its position.
        let known = etcd.move_to(0, ferrokube_testkit::free_port()).expect("moved");
        etcd.restart(0).expect("started");
        let other = connect(&etcd).await;
        let mut present = other.revision().await.expect("revision");
        while present <= lost + 1 {
            present = other.put(key(2), Bytes::from_static(b"other"), Expect::Any, None).await.expect("written").revision;
        }
        etcd.kill(0).expect("killed");
        etcd.move_to(0, known).expect("moved");
        etcd.restart(0).expect("started");
        let told = tokio::time::timeout(Duration::from_secs(60), watch.next()).await.expect("it notices").expect("an end with a reason");
        assert!(matches!(told, Err(Error::Rewritten { position }) if position >= lost), "{told:?}");
        assert!(watch.next().await.is_none());
    }
}
