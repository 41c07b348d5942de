//! How many requests may be under way: readers and writers are counted apart, streams not at all, members of
//! system:masters are never refused. Beyond the limit a request gets 429. With priority and fairness it only counts.

use crate::ApiServer;
use crate::admission::Outcome;
use crate::attributes::UserInfo;
use crate::authz::privileged;
use crate::flowcontrol::{Ticket, too_many};
use crate::request::{Query, RequestInfo};
use ferrokube_api::Status;
use parking_lot::Mutex;
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
            return Err(too_many());
        }
        Ok(seat)
    }

    /// Requests under way: (reading, mutating).
    pub fn current(&self) -> (usize, usize) {
        (self.reading.load(Ordering::Relaxed), self.mutating.load(Ordering::Relaxed))
    }
}

impl ApiServer {
    /// Room for a request: one of those in flight, and seats of its priority level. Held until the answer is made; of a
    /// watch, until its stream begins. Other streams need no room.
    pub(crate) async fn room(
        &self,
        info: &RequestInfo,
        query: &Query,
        user: &UserInfo,
        outcome: &Mutex<Outcome>,
    ) -> Result<(Seat<'_>, Option<Ticket>), Status> {
        let seat = self.limits.enter(info, user)?;
        let Some(flow) = self.flow.as_ref().filter(|_| !info.long_running() || info.verb == "watch") else { return Ok((seat, None)) };
        let schema = flow.classify(info, user);
        outcome.lock().flow = Some(schema.clone());
        let ticket = flow.enter(&schema, info, user, self.width(info, query)).await?;
        Ok((seat, Some(ticket)))
    }
}
