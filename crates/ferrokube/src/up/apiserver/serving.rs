//! How requests are served: limits, times, TLS, browsers, the end.

use crate::flags::{TlsVersion, duration};
use clap::Args;
use ferrokube_apiserver::{Config, ServingConfig};
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub(super) struct ServingFlags {
    /// Requests that only read, at one time
    #[arg(long, default_value_t = 400)]
    max_requests_inflight: usize,
    /// Requests that change something, at one time
    #[arg(long, default_value_t = 200)]
    max_mutating_requests_inflight: usize,
    /// Share the two limits out by priority levels and queue fairly
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    enable_priority_and_fairness: bool,
    /// How long lists that continue and watches that resume find their place at least; 0 keeps all history
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    etcd_compaction_interval: Duration,
    /// How long a request may take
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1m")]
    request_timeout: Duration,
    /// How long events live
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    event_ttl: Duration,
    /// Seconds that a watch lives at least when it names no time
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    min_request_timeout: u64,
    /// The oldest TLS that is spoken
    #[arg(long, value_enum, default_value = "VersionTLS12")]
    tls_min_version: TlsVersion,
    /// Cipher suites of TLS 1.2 [default: all that are safe]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tls_cipher_suites: Vec<String>,
    /// Directives of Strict-Transport-Security, such as max-age=31536000
    #[arg(long, value_name = "DIRECTIVES", value_delimiter = ',')]
    strict_transport_security_directives: Vec<String>,
    /// Regular expressions of the origins whose pages may ask
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    cors_allowed_origins: Vec<String>,
    /// Probability with which an HTTP/2 client is asked to connect anew, at most 0.02
    #[arg(long, default_value_t = 0.0)]
    goaway_chance: f64,
    /// Streams of an HTTP/2 connection; 0 leaves it to the server
    #[arg(long, default_value_t = 0)]
    http2_max_streams_per_connection: u32,
    /// Show at /debug/pprof where the processor's time goes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    profiling: bool,
    /// How long a server that is about to stop goes on serving while it is not ready
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    shutdown_delay_duration: Duration,
    /// How long watches go on once no more connections are accepted
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    shutdown_watch_termination_grace_period: Duration,
    /// Host and port by which the server is reached from outside, for OpenID discovery
    #[arg(long, value_name = "HOST", default_value = "")]
    external_hostname: String,
    /// Where OpenID discovery says that the keys of service-account tokens are [default: at this server]
    #[arg(long, value_name = "URL", default_value = "")]
    service_account_jwks_uri: String,
}

impl ServingFlags {
    pub fn apply(&self, config: &mut Config) {
        config.max_reading = self.max_requests_inflight;
        config.max_mutating = self.max_mutating_requests_inflight;
        config.priority_and_fairness = self.enable_priority_and_fairness;
        config.compaction = self.etcd_compaction_interval;
        config.request_timeout = self.request_timeout;
        config.event_ttl = self.event_ttl;
        config.jwks_uri.clone_from(&self.service_account_jwks_uri);
        config.external_host.clone_from(&self.external_hostname);
        config.serving = ServingConfig {
            min_tls: self.tls_min_version.into(),
            cipher_suites: self.tls_cipher_suites.clone(),
            hsts: self.strict_transport_security_directives.clone(),
            cors: self.cors_allowed_origins.clone(),
            goaway_chance: self.goaway_chance,
            http2_streams: self.http2_max_streams_per_connection,
            profiling: self.profiling,
            min_request_timeout: Duration::from_secs(self.min_request_timeout),
            shutdown_delay: self.shutdown_delay_duration,
            watch_grace: self.shutdown_watch_termination_grace_period,
        };
    }
}
