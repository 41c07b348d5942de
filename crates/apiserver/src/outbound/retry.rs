//! Asking again: webhooks of authentication and authorization are given some time to come back before a request fails for them.

use super::{OutboundError, Remote};
use bytes::Bytes;
use std::time::Duration;

/// Waits between tries.
const BACKOFF: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_millis(750), Duration::from_millis(1125), Duration::from_millis(1688)];

impl Remote {
    /// [`Remote::post`], again after a wait as long as that may help.
    pub async fn post_patiently(&self, body: Bytes, timeout: Duration) -> Result<Bytes, OutboundError> {
        for wait in BACKOFF {
            match self.post(body.clone(), timeout).await {
                Err(error) if error.is_transient() => tokio::time::sleep(wait).await,
                other => return other,
            }
        }
        self.post(body, timeout).await
    }
}
