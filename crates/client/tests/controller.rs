//! The harness of controllers: what one key does to the others.

use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

type Runs = Arc<Mutex<HashMap<&'static str, Vec<Instant>>>>;

/// Runs a controller whose key `bad` panics, and `failing` fails, always.
fn start(queue: &Queue<&'static str>, workers: usize) -> (Runs, tokio::task::JoinHandle<()>) {
    let (runs, queue) = (Runs::default(), queue.clone());
    let seen = runs.clone();
    let task = tokio::spawn(async move {
        let reconcile = |key: &'static str| {
            let seen = seen.clone();
            async move {
                seen.lock().entry(key).or_default().push(Instant::now());
                match key {
                    "bad" => panic!("an object that nobody thought of"),
                    "failing" => Err("no"),
                    _ => Ok(Next::Wait),
                }
            }
        };
        controller::run::<_, &str, _, _>("test", queue, workers, reconcile).await;
    });
    (runs, task)
}

#[tokio::test(start_paused = true)]
async fn a_key_that_panics_backs_off_alone_and_its_worker_goes_on() {
    let queue = Queue::new();
    let (runs, task) = start(&queue, 1);
    for key in ["bad", "failing", "good"] {
        queue.add(key);
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let of = |key: &str| runs.lock().get(key).cloned().unwrap_or_default();
    assert_eq!(of("good").len(), 1, "the only worker came to it");
    for key in ["bad", "failing"] {
        // 5 ms, doubled each time: the eleventh wait would end after ten seconds.
        let times = of(key);
        assert_eq!(times.len(), 11, "{key}");
        let waits: Vec<u128> = times.windows(2).map(|w| (w[1] - w[0]).as_millis()).collect();
        assert!(waits.iter().zip(0..).all(|(wait, n)| *wait >= 5 << n), "{key}: {waits:?}");
    }
    queue.add("good");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(of("good").len(), 2, "others are served at once, whatever the bad ones do");
    assert!(!task.is_finished());
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_queue_may_say_how_many_work_on_it() {
    let queue: Queue<u32> = Queue::new().worked_by(Some(3));
    for key in 0..5 {
        queue.add(key);
    }
    let (at_once, most) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    let (counted, peak, worked) = (at_once.clone(), most.clone(), queue.clone());
    let task = tokio::spawn(async move {
        let reconcile = |_| {
            let (at_once, most) = (counted.clone(), peak.clone());
            async move {
                *at_once.lock() += 1;
                let now = *at_once.lock();
                let peak = (*most.lock()).max(now);
                *most.lock() = peak;
                tokio::time::sleep(Duration::from_secs(1)).await;
                *at_once.lock() -= 1;
                Ok(Next::Wait)
            }
        };
        controller::run::<_, &str, _, _>("test", worked, 1, reconcile).await;
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((*most.lock(), *at_once.lock(), queue.len()), (3, 0, 0));
    task.abort();
}
