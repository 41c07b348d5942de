//! How many seats a request takes: lists by what they are expected to weigh, writes by the watchers that hear of them.
//!
//! Source: `util/flowcontrol/request` with SizeBasedListCostEstimate.

use crate::ApiServer;
use crate::request::{Query, RequestInfo};
use std::time::Duration;

/// Bytes of a list per seat.
const LIST_BYTES: usize = 100_000;
/// Seats of a list at most.
const LIST_MAX: u32 = 100;
/// Watchers per seat of a write.
const WATCHERS: usize = 10;
/// Seats of a write at most.
const WRITE_MAX: u32 = 10;
/// How long the event of a write keeps a seat busy.
const EVENT: Duration = Duration::from_millis(5);

/// Seats while a request is worked on, and for a while after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    during: u32,
    after: u32,
    linger: Duration,
}

impl Width {
    /// One seat.
    pub const ONE: Width = Width { during: 1, after: 0, linger: Duration::ZERO };

    /// A list of `items` out of `count` objects that weigh `bytes` together.
    pub fn list(items: usize, count: usize, bytes: usize) -> Self {
        let weight = if count == 0 { 0 } else { (bytes as u128 * items.min(count) as u128 / count as u128) as usize };
        Width { during: (weight.div_ceil(LIST_BYTES) as u32).clamp(1, LIST_MAX), ..Width::ONE }
    }

    /// A write that so many watchers hear of.
    pub fn write(watchers: usize) -> Self {
        let work = watchers / WATCHERS;
        if work == 0 {
            return Width::ONE;
        }
        let after = (work as u32).min(WRITE_MAX);
        // The same work by fewer seats takes longer.
        Width { during: 1, after, linger: EVENT.mul_f64(work as f64 / f64::from(after)) }
    }

    /// The same with at most so many seats.
    pub fn capped(self, max: u32) -> Self {
        let after = self.after.min(max);
        let linger = if after < self.after { self.linger.mul_f64(f64::from(self.after) / f64::from(after.max(1))) } else { self.linger };
        Width { during: self.during.min(max), after, linger }
    }

    /// Seats that are held.
    pub fn seats(self) -> u32 {
        self.during.max(self.after)
    }

    /// How long they are held after the request.
    pub fn after(self) -> Option<Duration> {
        (self.after > 0).then_some(self.linger)
    }

    /// For the dump: seats during, seats after.
    pub(super) fn parts(self) -> (u32, u32, Duration) {
        (self.during, self.after, self.linger)
    }
}

impl ApiServer {
    /// The width of a request.
    pub(crate) fn width(&self, info: &RequestInfo, query: &Query) -> Width {
        if !info.resource_request || !info.subresource.is_empty() {
            return Width::ONE;
        }
        let cache = || self.caches.get(&info.group, &info.resource);
        match info.verb.as_str() {
            "list" => cache().map_or(Width::ONE, |c| listed(&c, query)),
            "watch" if query.flag("sendInitialEvents") => cache().map_or(Width::ONE, |c| listed(&c, query)),
            "create" | "update" | "patch" | "delete" => cache().map_or(Width::ONE, |c| Width::write(c.watchers())),
            _ => Width::ONE,
        }
    }
}

fn listed(cache: &crate::cache::KindCache, query: &Query) -> Width {
    let (count, bytes) = cache.size();
    let limit = query.get("limit").parse::<usize>().unwrap_or(0);
    Width::list(if limit > 0 { limit } else { count }, count, bytes)
}
