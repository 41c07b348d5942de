//! Backoff of restarts and pulls: nothing at first, then 10 s doubling to 300 s, forgotten after ten good minutes.
//!
//! Source: client-go `flowcontrol.Backoff` as the kubelet uses it for `CrashLoopBackOff` and `ImagePullBackOff`.

use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    since: Instant,
}

/// Backoff per key (a container's name, an image).
#[derive(Debug, Default)]
pub struct Backoff {
    entries: HashMap<String, Entry>,
}

impl Backoff {
    /// Time left until the key may be tried again, with the whole delay it is serving.
    pub fn remaining(&self, key: &str, now: Instant) -> Option<(Duration, Duration)> {
        let entry = self.entries.get(key)?;
        let left = (entry.since + entry.delay).checked_duration_since(now)?;
        (!left.is_zero()).then_some((left, entry.delay))
    }

    /// Counts a failure at `now`: the next try has to wait, longer each time.
    pub fn failed(&mut self, key: &str, now: Instant) {
        let next = match self.entries.get(key) {
            Some(e) if now.duration_since(e.since) <= 2 * LONGEST => (e.delay * 2).min(LONGEST),
            _ => FIRST,
        };
        self.entries.insert(key.to_owned(), Entry { delay: next, since: now });
    }

    /// A container ended at `ended` after it had run since `started`: the wait counts from its end; a long good run forgets all.
    pub fn ended(&mut self, key: &str, ran: Duration, ended: Instant) {
        match self.entries.get_mut(key) {
            Some(_) if ran >= 2 * LONGEST => drop(self.entries.remove(key)),
            Some(entry) => entry.since = ended,
            None => {}
        }
    }

    /// A restart happens now: the one after it has to wait longer.
    pub fn restarted(&mut self, key: &str, now: Instant) {
        let delay = self.entries.get(key).map_or(FIRST, |e| (e.delay * 2).min(LONGEST));
        self.entries.insert(key.to_owned(), Entry { delay, since: now });
    }

    /// Forgets a key.
    pub fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_immediate_then_ten_seconds_doubling_to_five_minutes() {
        let mut backoff = Backoff::default();
        let mut delays = Vec::new();
        let mut now = Instant::now();
        for _ in 0..8 {
            backoff.ended("app", Duration::from_secs(1), now);
            let wait = backoff.remaining("app", now).map_or(Duration::ZERO, |(left, _)| left);
            delays.push(wait.as_secs());
            now += wait;
            backoff.restarted("app", now);
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_good_minutes_forget_the_past() {
        let mut backoff = Backoff::default();
        backoff.restarted("app", Instant::now());
        backoff.ended("app", Duration::from_secs(600), Instant::now());
        assert!(backoff.remaining("app", Instant::now()).is_none());
    }
}
