//! How answers and connections are served beyond what the API asks: for browsers, for balanced load, for a gentle end.
//!
//! All of it is off unless said otherwise, and then costs a look at an empty list.

use crate::output::Body;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, HeaderMap, HeaderValue, ORIGIN, STRICT_TRANSPORT_SECURITY,
};
use http::{Method, Response, StatusCode};
use regex::Regex;
use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use std::time::Duration;

/// What a client of another origin may do.
const METHODS: HeaderValue = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE, PATCH");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, X-Requested-With, If-Modified-Since",
);

/// `--tls-min-version`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinTls {
    /// `VersionTLS12`.
    #[default]
    Tls12,
    /// `VersionTLS13`.
    Tls13,
}

/// Serving, as flags say.
#[derive(Clone, Debug)]
pub struct ServingConfig {
    /// `--tls-min-version`.
    pub min_tls: MinTls,
    /// `--tls-cipher-suites` for TLS 1.2, by Go's names; empty is all that are safe.
    pub cipher_suites: Vec<String>,
    /// `--strict-transport-security-directives`.
    pub hsts: Vec<String>,
    /// `--cors-allowed-origins`: regular expressions.
    pub cors: Vec<String>,
    /// `--goaway-chance`: the probability with which an HTTP/2 connection is asked to come anew after a request.
    pub goaway_chance: f64,
    /// `--http2-max-streams-per-connection`; 0 leaves it to the server.
    pub http2_streams: u32,
    /// `--profiling`: whether `/debug/pprof` is there.
    pub profiling: bool,
    /// `--min-request-timeout`: watches that name no time live between this and twice this.
    pub min_request_timeout: Duration,
    /// `--shutdown-delay-duration`: how long a server that is about to stop goes on serving while `/readyz` fails.
    pub shutdown_delay: Duration,
    /// `--shutdown-watch-termination-grace-period`: how long watches go on when no more connections are accepted.
    pub watch_grace: Duration,
}

impl Default for ServingConfig {
    fn default() -> Self {
        ServingConfig {
            min_tls: MinTls::default(),
            cipher_suites: Vec::new(),
            hsts: Vec::new(),
            cors: Vec::new(),
            goaway_chance: 0.0,
            http2_streams: 0,
            profiling: false,
            min_request_timeout: Duration::from_secs(1800),
            shutdown_delay: Duration::ZERO,
            watch_grace: Duration::ZERO,
        }
    }
}

/// Why a flag cannot be honoured.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ServingError {
    #[error("Cipher suite {0} not supported or doesn't exist")]
    CipherSuite(String),
    #[error("--cors-allowed-origins has an invalid regular expression {pattern:?}: {source}")]
    Cors { pattern: String, source: regex::Error },
    #[error("--strict-transport-security-directives invalid, allowed values: max-age=expireTime, includeSubDomains, preload: {0}")]
    Hsts(String),
    #[error("--goaway-chance can not be less than 0 or greater than 0.02")]
    Goaway,
}

/// A configuration that was checked.
pub(crate) struct Serving {
    hsts: Option<HeaderValue>,
    cors: Vec<Regex>,
    pub config: ServingConfig,
}

impl Serving {
    pub fn new(config: ServingConfig) -> Result<Self, ServingError> {
        if !(0.0..=0.02).contains(&config.goaway_chance) {
            return Err(ServingError::Goaway);
        }
        let pattern = |pattern: &String| Regex::new(pattern).map_err(|source| ServingError::Cors { pattern: pattern.clone(), source });
        let cors = config.cors.iter().map(pattern).collect::<Result<_, _>>()?;
        Ok(Serving { hsts: hsts(&config.hsts)?, cors, config })
    }

    /// Adds `Strict-Transport-Security`.
    pub fn secure(&self, headers: &mut HeaderMap) {
        if let Some(value) = &self.hsts {
            headers.insert(STRICT_TRANSPORT_SECURITY, value.clone());
        }
    }

    fn origin<'h>(&self, request: &'h HeaderMap) -> Option<&'h HeaderValue> {
        if self.cors.is_empty() {
            return None;
        }
        let origin = request.get(ORIGIN)?;
        let text = origin.to_str().ok()?;
        self.cors.iter().any(|pattern| pattern.is_match(text)).then_some(origin)
    }

    /// The answer to a browser that asks whether it may ask.
    pub fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<Response<Body>> {
        if self.cors.is_empty() || *method != Method::OPTIONS || self.origin(request).is_none() {
            return None;
        }
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NO_CONTENT;
        Some(response)
    }

    /// Lets a browser show the answer to a page of an allowed origin.
    pub fn share(&self, request: &HeaderMap, headers: &mut HeaderMap) {
        let Some(origin) = self.origin(request) else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Date"));
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }

    /// Whether a connection should be asked to come anew after this request.
    pub fn says_goodbye(&self) -> bool {
        self.config.goaway_chance > 0.0 && rand::random::<f64>() < self.config.goaway_chance
    }
}

fn hsts(directives: &[String]) -> Result<Option<HeaderValue>, ServingError> {
    if directives.is_empty() {
        return Ok(None);
    }
    let known =
        |d: &str| matches!(d, "includeSubDomains" | "preload") || d.strip_prefix("max-age=").is_some_and(|age| age.parse::<u64>().is_ok());
    match directives.iter().find(|d| !known(d)) {
        Some(wrong) => Err(ServingError::Hsts(wrong.clone())),
        None => HeaderValue::from_str(&directives.join("; ")).map(Some).map_err(|e| ServingError::Hsts(e.to_string())),
    }
}

impl ServingConfig {
    /// Versions of TLS that are spoken.
    pub fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        static ALL: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
        match self.min_tls {
            MinTls::Tls12 => &ALL,
            MinTls::Tls13 => &ALL[..1],
        }
    }

    /// The provider with the suites that are wanted; those of TLS 1.3 cannot be chosen, as in Go.
    pub fn provider(&self) -> Result<CryptoProvider, ServingError> {
        let mut provider = rustls::crypto::ring::default_provider();
        if self.cipher_suites.is_empty() {
            return Ok(provider);
        }
        let name = |suite: &rustls::SupportedCipherSuite| suite.suite().as_str().unwrap_or_default();
        // Go knows two of the suites by a shorter name too.
        let is = |wanted: &str, name: &str| {
            wanted == name || name.strip_suffix("_SHA256").is_some_and(|short| short.ends_with("POLY1305") && wanted == short)
        };
        if let Some(unknown) = self.cipher_suites.iter().find(|wanted| !provider.cipher_suites.iter().any(|s| is(wanted, name(s)))) {
            return Err(ServingError::CipherSuite(unknown.clone()));
        }
        provider.cipher_suites.retain(|s| s.tls13().is_some() || self.cipher_suites.iter().any(|wanted| is(wanted, name(s))));
        Ok(provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_of_tls_1_2_can_be_chosen_by_gos_names() {
        let with =
            |names: &[&str]| ServingConfig { cipher_suites: names.iter().map(|n| (*n).to_owned()).collect(), ..ServingConfig::default() };
        let chosen = with(&["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305"]).provider().expect("known");
        assert_eq!(chosen.cipher_suites.iter().filter(|s| s.tls13().is_none()).count(), 2);
        assert!(chosen.cipher_suites.iter().any(|s| s.tls13().is_some()));
        assert!(with(&["TLS_RSA_WITH_RC4_128_SHA"]).provider().is_err());
    }

    #[test]
    fn only_pages_of_allowed_origins_may_see_answers() {
        let config = ServingConfig { cors: vec![r"^https://([a-z]+\.)?example\.com$".to_owned()], ..ServingConfig::default() };
        let serving = Serving::new(config).expect("a pattern");
        let from = |origin: &'static str| HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))]);
        let mut headers = HeaderMap::new();
        serving.share(&from("https://evil.com"), &mut headers);
        assert!(headers.is_empty() && serving.preflight(&Method::OPTIONS, &from("https://evil.com")).is_none());
        serving.share(&from("https://www.example.com"), &mut headers);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://www.example.com");
        assert!(serving.preflight(&Method::OPTIONS, &from("https://example.com")).is_some());
        assert!(serving.preflight(&Method::GET, &from("https://example.com")).is_none());
    }

    #[test]
    fn flags_that_make_no_sense_are_refused() {
        let refused = |change: fn(&mut ServingConfig)| {
            let mut config = ServingConfig::default();
            change(&mut config);
            Serving::new(config).is_err()
        };
        assert!(refused(|c| c.goaway_chance = 0.5));
        assert!(refused(|c| c.cors = vec!["(".to_owned()]));
        assert!(refused(|c| c.hsts = vec!["max-age=long".to_owned()]));
        assert!(!refused(|c| c.hsts = vec!["max-age=31536000".to_owned(), "includeSubDomains".to_owned()]));
    }
}
