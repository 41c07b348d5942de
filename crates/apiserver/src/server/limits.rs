//! How many requests may be under way: readers and writers are counted apart, streams not at all, members of
//! system:masters are never refused. Beyond the limit a request waits a little, then gets 429.

use crate::attributes::UserInfo;
use crate::authz::privileged;
use crate::request::RequestInfo;
use ferrokube_api::Status;
use ferrokube_api::status::{Details, Reason};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests under way.
#[derive(Debug)]
pub struct Limits {
    reading: AtomicUsize,
    mutating: AtomicUsize,
    max_reading: usize,
    max_mutating: usize,
}

/// A place among the requests under way; dropping it frees the place.
#[derive(Debug)]
pub struct Seat<'l>(Option<&'l AtomicUsize>);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if let Some(counter) = self.0 {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Limits {
    /// 0 means no limit.
    pub fn new(max_reading: usize, max_mutating: usize) -> Self {
        Limits { reading: AtomicUsize::new(0), mutating: AtomicUsize::new(0), max_reading, max_mutating }
    }

    /// Takes a place.
    pub fn enter(&self, info: &RequestInfo, user: &UserInfo) -> Result<Seat<'_>, Status> {
        if info.long_running() {
            return Ok(Seat(None));
        }
        let reads = matches!(info.verb.as_str(), "get" | "list" | "watch");
        let (counter, max) = if reads { (&self.reading, self.max_reading) } else { (&self.mutating, self.max_mutating) };
        let before = counter.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Some(counter));
        if max > 0 && before >= max && !privileged(user) {
            let mut status = Status::failure(429, Reason::TooManyRequests, "Too many requests, please try again later.");
            status.details = Some(Details { retry_after_seconds: 1, ..Details::default() });
            return Err(status);
        }
        Ok(seat)
    }

    /// Requests under way: (reading, mutating).
    pub fn current(&self) -> (usize, usize) {
        (self.reading.load(Ordering::Relaxed), self.mutating.load(Ordering::Relaxed))
    }
}
