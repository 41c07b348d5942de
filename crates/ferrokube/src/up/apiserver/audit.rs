//! `--audit-*`.

use crate::flags::{duration, read};
use anyhow::Result;
use clap::{Args, ValueEnum};
use ferrokube_apiserver::audit::{AuditConfig, BatchConfig, LogConfig, Mode, Truncate, WebhookConfig};
use std::path::PathBuf;
use std::time::Duration;

/// When audit events are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum AuditMode {
    /// Buffered, in batches
    Batch,
    /// Before the response
    Blocking,
    /// Before the response, and nothing is served that cannot be written
    BlockingStrict,
}

impl From<AuditMode> for Mode {
    fn from(mode: AuditMode) -> Self {
        match mode {
            AuditMode::Batch => Mode::Batch,
            AuditMode::Blocking => Mode::Blocking,
            AuditMode::BlockingStrict => Mode::BlockingStrict,
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(super) struct AuditFlags {
    /// File with the audit policy; without it nothing is written
    #[arg(long, value_name = "FILE")]
    audit_policy_file: Option<PathBuf>,
    /// File to write audit events to, `-` for standard output
    #[arg(long, value_name = "FILE")]
    audit_log_path: Option<String>,
    /// Days for which old audit logs are kept; 0 is for ever
    #[arg(long, default_value_t = 366)]
    audit_log_maxage: u32,
    /// Old audit logs that are kept; 0 is all
    #[arg(long, default_value_t = 100)]
    audit_log_maxbackup: usize,
    /// Megabytes at which the audit log is rotated
    #[arg(long, default_value_t = 100)]
    audit_log_maxsize: u64,
    /// Compress old audit logs
    #[arg(long)]
    audit_log_compress: bool,
    /// When events are written to the log
    #[arg(long, value_enum, default_value = "blocking")]
    audit_log_mode: AuditMode,
    /// Events that wait for the log at most, in mode batch
    #[arg(long, default_value_t = 10_000)]
    audit_log_batch_buffer_size: usize,
    /// Events per write to the log, in mode batch
    #[arg(long, default_value_t = 1)]
    audit_log_batch_max_size: usize,
    /// How long an incomplete batch for the log waits
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    audit_log_batch_max_wait: Duration,
    /// Limit the batches for the log
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    audit_log_batch_throttle_enable: bool,
    /// Batches for the log per second
    #[arg(long, default_value_t = 0.0)]
    audit_log_batch_throttle_qps: f32,
    /// Batches for the log that may come at once
    #[arg(long, default_value_t = 0)]
    audit_log_batch_throttle_burst: u32,
    /// Cut events of the log that are too long
    #[arg(long)]
    audit_log_truncate_enabled: bool,
    /// Bytes of an event in the log at most, when they are cut
    #[arg(long, default_value_t = 102_400)]
    audit_log_truncate_max_event_size: usize,
    /// Bytes of a batch for the log at most, when they are cut
    #[arg(long, default_value_t = 10_485_760)]
    audit_log_truncate_max_batch_size: usize,
    /// Version of the events for the log
    #[arg(long, hide = true, value_parser = ["audit.k8s.io/v1"])]
    audit_log_version: Option<String>,
    /// Form of the log
    #[arg(long, hide = true, value_parser = ["json"])]
    audit_log_format: Option<String>,
    /// Kubeconfig of the webhook that gets audit events
    #[arg(long, value_name = "FILE")]
    audit_webhook_config_file: Option<PathBuf>,
    /// When events are sent to the webhook
    #[arg(long, value_enum, default_value = "batch")]
    audit_webhook_mode: AuditMode,
    /// Wait before the webhook is tried again
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    audit_webhook_initial_backoff: Duration,
    /// Events that wait for the webhook at most
    #[arg(long, default_value_t = 10_000)]
    audit_webhook_batch_buffer_size: usize,
    /// Events per batch
    #[arg(long, default_value_t = 400)]
    audit_webhook_batch_max_size: usize,
    /// How long an incomplete batch waits
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    audit_webhook_batch_max_wait: Duration,
    /// Limit the batches per second
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    audit_webhook_batch_throttle_enable: bool,
    /// Batches per second
    #[arg(long, default_value_t = 10.0)]
    audit_webhook_batch_throttle_qps: f32,
    /// Batches that may come at once
    #[arg(long, default_value_t = 15)]
    audit_webhook_batch_throttle_burst: u32,
    /// Cut events for the webhook that are too long
    #[arg(long)]
    audit_webhook_truncate_enabled: bool,
    /// Bytes of an event for the webhook at most, when they are cut
    #[arg(long, default_value_t = 102_400)]
    audit_webhook_truncate_max_event_size: usize,
    /// Bytes of a batch for the webhook at most, when they are cut
    #[arg(long, default_value_t = 10_485_760)]
    audit_webhook_truncate_max_batch_size: usize,
    /// Version of the events for the webhook
    #[arg(long, hide = true, value_parser = ["audit.k8s.io/v1"])]
    audit_webhook_version: Option<String>,
}

impl AuditFlags {
    pub fn config(&self) -> Result<Option<AuditConfig>> {
        let Some(policy) = &self.audit_policy_file else { return Ok(None) };
        let log_throttle = (self.audit_log_batch_throttle_qps, self.audit_log_batch_throttle_burst);
        let log = self.audit_log_path.as_ref().map(|path| LogConfig {
            max_size: self.audit_log_maxsize,
            max_age: self.audit_log_maxage,
            max_backups: self.audit_log_maxbackup,
            compress: self.audit_log_compress,
            mode: self.audit_log_mode.into(),
            batch: BatchConfig {
                buffer: self.audit_log_batch_buffer_size,
                max_size: self.audit_log_batch_max_size,
                max_wait: self.audit_log_batch_max_wait,
                throttle: self.audit_log_batch_throttle_enable.then_some(log_throttle),
            },
            truncate: truncate(
                self.audit_log_truncate_enabled,
                self.audit_log_truncate_max_event_size,
                self.audit_log_truncate_max_batch_size,
            ),
            ..LogConfig::new(path)
        });
        let throttle = (self.audit_webhook_batch_throttle_qps, self.audit_webhook_batch_throttle_burst);
        let webhook = self.audit_webhook_config_file.as_ref().map(|path| WebhookConfig {
            initial_backoff: self.audit_webhook_initial_backoff,
            mode: self.audit_webhook_mode.into(),
            batch: BatchConfig {
                buffer: self.audit_webhook_batch_buffer_size,
                max_size: self.audit_webhook_batch_max_size,
                max_wait: self.audit_webhook_batch_max_wait,
                throttle: self.audit_webhook_batch_throttle_enable.then_some(throttle),
            },
            truncate: truncate(
                self.audit_webhook_truncate_enabled,
                self.audit_webhook_truncate_max_event_size,
                self.audit_webhook_truncate_max_batch_size,
            ),
            ..WebhookConfig::new(path)
        });
        Ok(Some(AuditConfig { policy: read(policy)?, log, webhook }))
    }
}

fn truncate(enabled: bool, max_event: usize, max_batch: usize) -> Option<Truncate> {
    enabled.then_some(Truncate { max_event, max_batch })
}
