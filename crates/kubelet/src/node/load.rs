//! How busy the machine is: CPU time between two looks at it, for `usageNanoCores` of the node in `/stats/summary`.
//!
//! The eviction loop looks at the machine anyway and leaves what it saw here, so a question finds an earlier reading. Must never
//! tell the average of a long time as if it were now.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Readings that are kept are at least so far apart.
const APART: Duration = Duration::from_secs(5);
/// A rate over less is noise: the kernel counts in hundredths of a second.
const SHORTEST: Duration = Duration::from_secs(1);
/// A rate over more says nothing of now.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    cpu_nanos: u64,
}

/// The last two readings of the machine's CPU time.
#[derive(Debug, Default)]
pub struct Load(Mutex<(Option<Reading>, Option<Reading>)>);

impl Load {
    /// Keeps a reading, unless there is one of just now.
    pub fn note(&self, at: Instant, cpu_nanos: u64) {
        let mut kept = self.0.lock();
        if kept.1.is_none_or(|last| at.saturating_duration_since(last.at) >= APART) {
            *kept = (kept.1, Some(Reading { at, cpu_nanos }));
        }
    }

    /// Nanocores in use since the older of the readings that still speaks of now.
    pub fn rate(&self, at: Instant, cpu_nanos: u64) -> Option<u64> {
        let kept = *self.0.lock();
        let age = |r: &Reading| at.saturating_duration_since(r.at);
        let since = [kept.0, kept.1].into_iter().flatten().find(|r| (SHORTEST..=LONGEST).contains(&age(r)))?;
        let used = u128::from(cpu_nanos.checked_sub(since.cpu_nanos)?) * 1_000_000_000;
        u64::try_from(used / age(&since).as_nanos()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let (load, start) = (Load::default(), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(load.rate(start, 5), None, "nothing to compare with");
        load.note(start, 0);
        assert_eq!(load.rate(start + Duration::from_millis(10), 10_000_000), None, "too short");
        assert_eq!(load.rate(after(2), 1_000_000_000), Some(500_000_000));
        load.note(after(2), 1_000_000_000);
        load.note(after(10), 10_000_000_000);
        assert_eq!(load.rate(after(11), 11_000_000_000), Some(1_000_000_000), "the reading of just after the first was not kept");
        load.note(after(20), 10_000_000_000);
        assert_eq!(load.rate(after(22), 10_000_000_000), Some(0), "since the one before the last");
        assert_eq!(load.rate(after(200), 200_000_000_000), None, "too long ago");
        assert_eq!(load.rate(after(22), 0), None, "another count");
    }
}
