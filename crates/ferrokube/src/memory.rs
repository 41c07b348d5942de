//! Memory that is free goes back to the system when there is nothing to do.
//!
//! The allocator gives freed pages back while it is asked for new ones, and each thread keeps some for itself. So what a burst of
//! work (the start, a large list) has used would stay resident for as long as the process is idle afterwards. Threads of the runtime
//! therefore tidy up before they sleep, each at most once in a while, and never while there is work.
//!
//! The same holds for code: more than half of what stays resident ran only while everything was starting, or in the last burst of
//! work. It is unmapped soon after the start, and whenever work has been followed by rest; the page cache keeps it, and what does run
//! again is mapped again when it runs.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A thread tidies up once in this time at most.
const PERIOD: Duration = Duration::from_secs(2);

/// Who uses less processor time than this in a period (2 % of a core) rests.
const REST: Duration = Duration::from_millis(40);
/// Periods of rest after which work counts as over.
const RESTED: u32 = 5;

static ROUND: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static TIDIED: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "the allocator is a C library, and advice to the kernel is about addresses")]
mod raw {
    use std::ops::Range;

    unsafe extern "C" {
        fn mi_collect(force: bool);
    }

    /// Gives back what the thread keeps and what is free in all of the process.
    pub(super) fn give_back() {
        // SAFETY: takes a flag by value, may be called at any time, and touches only memory that is not in use.
        unsafe { mi_collect(true) }
    }

    /// Unmaps pages of a mapping of a file that nobody can have written to.
    pub(super) fn unmap(addresses: &Range<usize>) {
        // SAFETY: the pages are as the file has them (see `unchanging`), so whoever touches one finds it again unchanged.
        // It is advice: when the kernel does not take it, nothing has happened.
        unsafe { libc::madvise(addresses.start as *mut libc::c_void, addresses.len(), libc::MADV_DONTNEED) };
    }
}

/// The addresses of a line of `/proc/self/maps` when it is a part of this program that cannot have been written to: its code, and
/// the constants before it. What lies behind the code holds addresses that the loader filled in, though it is read-only by now.
fn unchanging(line: &str, program: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights, offset) = (words.next()?, words.next()?, words.next()?);
    let of_program = line.ends_with(program) && line.as_bytes().get(line.len() - program.len() - 1) == Some(&b' ');
    if !of_program || !(rights == "r-xp" || rights == "r--p" && offset.bytes().all(|digit| digit == b'0')) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

fn unmap_code() {
    let Ok(program) = std::env::current_exe() else { return };
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    let program = program.to_string_lossy();
    maps.lines().filter_map(|line| unchanging(line, &program)).for_each(|addresses| raw::unmap(&addresses));
}

/// Notices when work is over.
#[derive(Default)]
struct Work {
    /// Processor time up to the last period.
    spent: Duration,
    /// Since work was seen last.
    rested: u32,
    worked: bool,
}

impl Work {
    /// After a period, up to which so much processor time was used: whether work is over now.
    fn is_over(&mut self, spent: Duration) -> bool {
        let works = spent.saturating_sub(self.spent) > REST;
        self.spent = spent;
        self.rested = if works { 0 } else { self.rested.saturating_add(1) };
        self.worked |= works;
        let over = self.worked && self.rested == RESTED;
        self.worked &= !over;
        over
    }
}

/// Processor time of this process, of all threads.
fn spent() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(microseconds.try_into().unwrap_or(0))
}

/// Says now and then that it is time to tidy up. Never ends.
pub(crate) async fn rounds() {
    tokio::time::sleep(PERIOD).await;
    unmap_code();
    let mut work = Work { spent: spent(), ..Work::default() };
    loop {
        ROUND.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PERIOD).await;
        if work.is_over(spent()) {
            unmap_code();
        }
    }
}

/// What a thread of the runtime does before it sleeps.
pub(crate) fn before_sleep() {
    let round = ROUND.load(Ordering::Relaxed);
    if TIDIED.replace(round) != round {
        raw::give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_can_have_written_to_is_unmapped() {
        let table = [
            ("55d0c0a00000-55d0c3000000 r--p 00000000 fe:00 7   /usr/bin/ferrokube", Some(0x55d0_c0a0_0000..0x55d0_c300_0000)),
            ("55d0c3000000-55d0c4000000 r-xp 02600000 fe:00 7   /usr/bin/ferrokube", Some(0x55d0_c300_0000..0x55d0_c400_0000)),
            ("55d0c4000000-55d0c4400000 r--p 03600000 fe:00 7   /usr/bin/ferrokube", None),
            ("55d0c4400000-55d0c4401000 rw-p 03a00000 fe:00 7   /usr/bin/ferrokube", None),
            ("7f0000000000-7f0000100000 r-xp 00000000 fe:00 8   /lib/libc.so.6", None),
            ("7f0000000000-7f0000100000 r-xp 00000000 fe:00 8   /opt/usr/bin/ferrokube", None),
            ("7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0", None),
            ("", None),
        ];
        for (line, expected) in table {
            assert_eq!(unchanging(line, "/usr/bin/ferrokube"), expected, "{line}");
        }
    }

    #[test]
    fn work_is_over_once_when_rest_has_followed_it() {
        let mut work = Work::default();
        let mut spent = Duration::ZERO;
        let mut period = |used: u64| {
            spent += Duration::from_millis(used);
            work.is_over(spent)
        };
        assert!((0..20).all(|_| !period(1)), "there was no work");
        assert!(!period(900) && (0..4).all(|_| !period(5)) && !period(500), "work goes on");
        assert!((0..4).all(|_| !period(5)) && period(5), "now it is over");
        assert!((0..20).all(|_| !period(5)), "and over once only");
    }

    #[test]
    fn code_goes_on_after_it_was_unmapped() {
        unmap_code();
        assert_eq!([3, 1, 2].iter().map(|n| format!("{n}")).collect::<Vec<_>>().join(" "), "3 1 2");
    }
}
