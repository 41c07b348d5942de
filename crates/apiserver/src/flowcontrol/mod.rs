//! Priority and fairness: every request that is not a stream takes seats of its priority level while it is worked on.
//!
//! A request is classified by the FlowSchemas (`classify`), its width is estimated (`width`), and its level (`level`) lets
//! it in, queues it, or refuses it with 429. Levels lend seats that they do not need (`borrow`). A request that finds
//! room takes one atomic step and no lock. Source: KEP-1040, `apiserver/pkg/util/flowcontrol`.

mod borrow;
mod classify;
mod dump;
mod level;
mod metrics;
mod plan;
mod reconcile;
mod width;

pub use classify::Schema;
pub use level::Ticket;

use crate::attributes::UserInfo;
use crate::objects::Objects;
use crate::request::RequestInfo;
use arc_swap::ArcSwap;
use ferrokube_api::Status;
use ferrokube_api::status::{Details, Reason};
use level::Entry;
use plan::Plan;
use std::sync::Arc;
use std::time::{Duration, Instant};
pub use width::Width;

/// Longest time in a queue, whatever the time limit of requests.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The flow control of a server.
pub struct FlowControl {
    plan: ArcSwap<Plan>,
    seats: u32,
    wait: Duration,
}

/// 429 in the words of the Go server.
pub(crate) fn too_many() -> Status {
    let mut status = Status::failure(429, Reason::TooManyRequests, "Too many requests, please try again later.");
    status.details = Some(Details { retry_after_seconds: 1, ..Details::default() });
    status
}

impl FlowControl {
    /// With the mandatory objects only; [`FlowControl::run`] takes the others in. `seats` are shared by all levels;
    /// a request waits for a quarter of its time limit.
    pub fn new(seats: usize, request_timeout: Duration) -> Self {
        let seats = u32::try_from(seats).unwrap_or(u32::MAX).max(1);
        FlowControl { plan: ArcSwap::from_pointee(Plan::mandatory(seats)), seats, wait: (request_timeout / 4).min(MAX_WAIT) }
    }

    /// The schema that a request falls under.
    pub fn classify(&self, info: &RequestInfo, user: &UserInfo) -> Arc<Schema> {
        self.plan.load().classify(info, user)
    }

    /// Takes seats, at once or after a wait; 429 when the level has none and will not have any soon.
    pub async fn enter(&self, schema: &Arc<Schema>, info: &RequestInfo, user: &UserInfo, width: Width) -> Result<Ticket, Status> {
        let level = &schema.level;
        if let Some(ticket) = level.try_enter(width) {
            schema.counts.immediate();
            return Ok(ticket);
        }
        let began = Instant::now();
        let flow = schema.flow(info, user);
        let waiting = match level.queue(schema, flow, width) {
            Entry::Granted(ticket) => {
                schema.counts.immediate();
                return Ok(ticket);
            }
            Entry::Refused(reason) => {
                schema.counts.refused(reason);
                return Err(too_many());
            }
            Entry::Waiting(waiting) => waiting,
        };
        match tokio::time::timeout(self.wait, waiting.granted()).await {
            Ok(Some(ticket)) => {
                schema.counts.waited(began.elapsed());
                Ok(ticket)
            }
            _ => {
                schema.counts.refused(level::Refusal::TimeOut);
                Err(too_many())
            }
        }
    }

    /// Follows the objects and moves seats between levels; never returns.
    pub async fn run(self: Arc<Self>, objects: Arc<dyn Objects>, loopback: Arc<dyn crate::objects::Loopback>) {
        tokio::join!(reconcile::run(&self, &*objects, &*loopback), borrow::run(&self));
    }
}

impl std::fmt::Debug for FlowControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FlowControl({} seats)", self.seats)
    }
}

#[cfg(test)]
mod tests;
