//! The one way in which calls are made: to the member in use, on to the next one when it cannot serve, again for as long as
//! that can be right and the time lasts.

use super::connect::Members;
use super::error::{Failure, Refusal, elapsed, judge};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// Pauses between attempts once every member has been tried: doubled up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// A read leaves a member that is silent for this long.
const SILENCE: Duration = Duration::from_secs(3);

/// What making a call twice would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: it may always be made again.
    Read,
    /// It might be done twice, or undo what somebody did meanwhile: it is made again only when it certainly had no effect.
    Write,
}

/// Makes calls.
pub(super) struct Caller {
    pub members: Members,
    /// How long a call may take, all attempts together.
    pub timeout: Duration,
}

impl Caller {
    /// Calls until it succeeds, must not be repeated, or time is up.
    pub async fn call<T, F, Fut>(&self, kind: Kind, make: F) -> Result<T, Refusal>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut pause = PAUSE.0;
        let mut attempts = 0;
        loop {
            let patience = if kind == Kind::Read { deadline.min(Instant::now() + SILENCE) } else { deadline };
            let (number, member, channel) = self.members.active();
            let failure: Failure = match tokio::time::timeout_at(patience, make(channel)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => judge(&status, &member.url),
                Err(_) => elapsed(&member.url),
            };
            if failure.unfit {
                self.members.leave(number);
            }
            let again = failure.transient && (kind == Kind::Read || failure.without_effect);
            attempts += 1;
            let wait = if failure.unfit && attempts % self.members.len() != 0 { Duration::ZERO } else { pause };
            if !again || Instant::now() + wait >= deadline {
                return Err(failure.error);
            }
            tracing::debug!(error = ?failure.error, ?wait, "a call to etcd is made again");
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}
