//! Audit: who did what, when, and what came of it, as `audit.k8s.io/v1` events.
//!
//! A request carries a [`Trail`]. Without a policy it is empty and every step returns at once; nothing is gathered.
//! With one, the policy is asked as soon as the user is known; a request at level None costs that question and no more.
//! Events go to the sinks as finished bytes: nothing behind a sink may change what is reported.

mod event;
mod log;
mod policy;
mod sink;
mod trail;
mod webhook;

pub use log::LogConfig;
pub use sink::{BatchConfig, Mode, Truncate};
pub use trail::Trail;
pub use webhook::WebhookConfig;

use crate::server::metrics::head;
use policy::Policy;
use serde::Deserialize;
use sink::Sink;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much of a request is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[allow(missing_docs, reason = "the names are those of audit.k8s.io")]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    fn name(self) -> &'static str {
        ["None", "Metadata", "Request", "RequestResponse"][self as usize]
    }
}

/// When in the life of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of audit.k8s.io")]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    fn name(self) -> &'static str {
        ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"][self as usize]
    }

    /// One bit per stage.
    pub fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Policy and where events go: `--audit-policy-file`, `--audit-log-*`, `--audit-webhook-*`.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// Content of the policy file.
    pub policy: String,
    /// The log, if any.
    pub log: Option<LogConfig>,
    /// The webhook, if any.
    pub webhook: Option<WebhookConfig>,
}

/// Why audit cannot be set up.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum AuditError {
    #[error("audit policy: {0}")]
    Policy(String),
    #[error("audit log {path}: {source}")]
    Log { path: String, source: std::io::Error },
    #[error("audit webhook: {0}")]
    Webhook(#[from] crate::outbound::OutboundError),
}

/// The audit of a server.
pub struct Audit {
    policy: Policy,
    sinks: Vec<Sink>,
    counts: Arc<Counts>,
}

/// What is counted.
#[derive(Default)]
struct Counts {
    events: AtomicU64,
    levels: [AtomicU64; 4],
    /// Events that a sink did not take: (log, webhook).
    failed: [AtomicU64; 2],
    rejected: AtomicU64,
}

impl Audit {
    /// Reads the policy and opens the sinks; `None` when there is nowhere to write to.
    pub fn start(config: &AuditConfig) -> Result<Option<Arc<Self>>, AuditError> {
        let policy = Policy::parse(&config.policy)?;
        let counts = Arc::new(Counts::default());
        let mut sinks = Vec::new();
        if let Some(log) = &config.log {
            sinks.push(log::open(log, counts.clone())?);
        }
        if let Some(webhook) = &config.webhook {
            sinks.push(webhook::open(webhook, counts.clone())?);
        }
        Ok((!sinks.is_empty()).then(|| Arc::new(Audit { policy, sinks, counts })))
    }

    /// Writes what waits in batches; called when no more requests come.
    pub async fn stop(&self) {
        for sink in &self.sinks {
            sink.stop().await;
        }
    }

    /// `apiserver_audit_*`.
    pub(crate) fn metrics(&self, out: &mut String) {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let name = "apiserver_audit_event_total";
        head(out, name, "counter", "[ALPHA] Counter of audit events generated and sent to the audit backend.");
        let _ = writeln!(out, "{name} {}", read(&self.counts.events));
        let name = "apiserver_audit_level_total";
        head(out, name, "counter", "[ALPHA] Counter of policy levels for audit events (1 per request).");
        for (level, count) in self.counts.levels.iter().enumerate() {
            let _ = writeln!(out, "{name}{{level=\"{}\"}} {}", ["None", "Metadata", "Request", "RequestResponse"][level], read(count));
        }
        let name = "apiserver_audit_error_total";
        head(
            out,
            name,
            "counter",
            "[ALPHA] Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.",
        );
        for (plugin, count) in ["log", "webhook"].into_iter().zip(&self.counts.failed) {
            let _ = writeln!(out, "{name}{{plugin=\"{plugin}\"}} {}", read(count));
        }
        let name = "apiserver_audit_requests_rejected_total";
        head(out, name, "counter", "[ALPHA] Counter of apiserver requests rejected due to an error in audit logging backend.");
        let _ = writeln!(out, "{name} {}", read(&self.counts.rejected));
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Audit({} sinks)", self.sinks.len())
    }
}
