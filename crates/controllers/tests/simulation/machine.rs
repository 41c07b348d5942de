//! The kernel's clocks and dice, as a simulated run sees them: a run must follow from its seed, and names, UIDs, the order
//! of hash maps and times on the wall come from the kernel.
//!
//! Defining the C library's functions here puts these in their place for this test program. On the thread of a run the
//! clocks follow tokio's paused clock, with leaps of the wall clock on top, and random bytes come from the seed; every
//! other thread still gets what the kernel says.
#![expect(unsafe_code, reason = "stands in for two functions of the C library")]

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_uint, c_void};
use std::time::Duration;
use tokio::time::Instant;

/// Where the wall clock of every run begins: 2026-01-01T00:00:00Z.
const EPOCH: i64 = 1_767_225_600;
/// Where the monotonic clock begins.
const BOOT: i64 = 1000;

thread_local! {
    static DICE: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    /// When the run began; until then its clocks stand still.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    /// The last answer, which is also that to a question asked while tokio works out the next one.
    static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static ASKING: Cell<bool> = const { Cell::new(false) };
    /// How far the wall clock has leapt, in seconds.
    static LEAPT: Cell<i64> = const { Cell::new(0) };
}

/// From now on this thread's clocks and dice are simulated.
pub fn simulate(seed: u64) {
    DICE.with_borrow_mut(|dice| *dice = Some(StdRng::seed_from_u64(seed)));
}

/// The clocks begin to go with the paused clock of the runtime that this is called in.
pub fn begin() {
    BEGAN.set(Some(Instant::now()));
}

/// The wall clock is set by this many seconds, forth or back; nothing else notices.
pub fn leap(seconds: i64) {
    LEAPT.set(LEAPT.get() + seconds);
}

/// The time since the run began.
fn passed() -> Duration {
    if let Some(began) = BEGAN.get()
        && !ASKING.replace(true)
    {
        PASSED.set(began.elapsed().max(PASSED.get()));
        ASKING.set(false);
    }
    PASSED.get()
}

fn is_simulated() -> bool {
    // Not while the dice are being thrown, or the thread is ending.
    DICE.try_with(|dice| dice.try_borrow().is_ok_and(|d| d.is_some())).unwrap_or(false)
}

fn is_wall(clock: libc::clockid_t) -> bool {
    matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE | libc::CLOCK_TAI)
}

/// # Safety
///
/// As `clock_gettime(3)`: `to` points to a `timespec`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, to: *mut libc::timespec) -> c_int {
    let cpu = matches!(clock, libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID);
    if to.is_null() || cpu || !is_simulated() {
        // SAFETY: the kernel checks the address.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, to) } as c_int;
    }
    let passed = passed();
    let start = if is_wall(clock) { EPOCH + LEAPT.get() } else { BOOT };
    let time = libc::timespec { tv_sec: start + passed.as_secs() as i64, tv_nsec: i64::from(passed.subsec_nanos()) };
    // SAFETY: not null, and the caller's promise.
    unsafe { to.write(time) };
    0
}

/// # Safety
///
/// As `getrandom(2)`: `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    if buffer.is_null() || length == 0 || !is_simulated() {
        // SAFETY: the kernel checks the address.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) } as isize;
    }
    // SAFETY: not null, and the caller's promise; zeroed first, so that what the slice shows is initialised.
    let bytes = unsafe {
        buffer.cast::<u8>().write_bytes(0, length);
        std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length)
    };
    DICE.with_borrow_mut(|dice| dice.iter_mut().for_each(|d| d.fill_bytes(bytes)));
    length as isize
}
