//! The webhook backend: an `EventList` per batch, POSTed to the server of a kubeconfig file.

use super::sink::{Backend, BatchConfig, Mode, Sink, Truncate};
use super::{AuditError, Counts};
use crate::outbound::{OutboundError, Remote};
use bytes::{BufMut, Bytes, BytesMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long the server may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Tries of one batch, and the growth of the wait between them.
const TRIES: u32 = 5;
const FACTOR: f64 = 1.5;

/// `--audit-webhook-*`.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// The kubeconfig file that says where.
    pub kubeconfig: PathBuf,
    /// Wait before the second try.
    pub initial_backoff: Duration,
    /// When events are sent.
    pub mode: Mode,
    /// For mode batch.
    pub batch: BatchConfig,
    /// Limits on what is sent.
    pub truncate: Option<Truncate>,
}

impl WebhookConfig {
    /// The defaults of 1.36.
    pub fn new(kubeconfig: impl Into<PathBuf>) -> Self {
        WebhookConfig {
            kubeconfig: kubeconfig.into(),
            initial_backoff: Duration::from_secs(10),
            mode: Mode::Batch,
            batch: BatchConfig::webhook(),
            truncate: None,
        }
    }
}

/// The server.
pub(super) struct Hook {
    remote: Remote,
    backoff: Duration,
}

pub(super) fn open(config: &WebhookConfig, counts: Arc<Counts>) -> Result<Sink, AuditError> {
    let hook = Hook { remote: Remote::from_kubeconfig_file(&config.kubeconfig)?, backoff: config.initial_backoff };
    Ok(Sink::new(Backend::Webhook(hook), config.mode, config.batch, config.truncate, counts))
}

impl Hook {
    pub async fn send(&self, events: &[Bytes]) -> Result<(), OutboundError> {
        let mut body = BytesMut::new();
        body.put_slice(br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#);
        for (at, event) in events.iter().enumerate() {
            if at > 0 {
                body.put_u8(b',');
            }
            body.put_slice(event);
        }
        body.put_slice(b"]}");
        let body = body.freeze();
        let mut wait = self.backoff;
        for _ in 1..TRIES {
            match self.remote.post(body.clone(), TIMEOUT).await {
                Err(error) if error.is_transient() => tracing::debug!(%error, "audit webhook; trying again"),
                other => return other.map(drop),
            }
            tokio::time::sleep(wait).await;
            wait = wait.mul_f64(FACTOR);
        }
        self.remote.post(body, TIMEOUT).await.map(drop)
    }
}
