//! `/statusz` and `/flagz`: what runs here and how it was started, as text for people or, when asked for by name, as an object
//! (`config.k8s.io/v1beta1`). Flags stand under the names of kube-apiserver with the values in effect. Secrets are never among
//! them: files are named, not shown.

use super::answer::whole;
use super::config::Config;
use super::health::WARNING;
use super::serving::MinTls;
use crate::ApiServer;
use crate::admission::TOLERATION;
use crate::discovery::version;
use crate::output::Body;
use ferrokube_api::{Reason, Status, time};
use http::Response;
use http::header::{ACCEPT, HeaderMap};
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

const GROUP: &str = "config.k8s.io";
const VERSION: &str = "v1beta1";

/// Flags and their values.
pub type Flags = BTreeMap<&'static str, String>;

fn list(items: &[String]) -> String {
    format!("[{}]", items.join(","))
}

/// As Go writes durations, in whole seconds.
fn duration(duration: Duration) -> String {
    let all = duration.as_secs();
    let (hours, minutes, seconds) = (all / 3600, all / 60 % 60, all % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// What a server was told at its start.
pub fn flags(config: &Config) -> Flags {
    let path = |file: &Option<super::ConfigFile>| file.as_ref().map(|f| f.path.display().to_string()).unwrap_or_default();
    let (serving, tokens, ports) = (&config.serving, &config.tokens, &config.node_ports);
    let tls = if serving.min_tls == MinTls::Tls13 { "VersionTLS13" } else { "VersionTLS12" };
    Flags::from([
        ("advertise-address", config.advertise.to_string()),
        ("api-audiences", list(&tokens.api_audiences)),
        ("authentication-config", path(&config.authn.file)),
        ("authorization-config", path(&config.authz.file)),
        ("authorization-mode", list(&config.authz.modes)),
        ("bind-address", config.listen.map(|l| l.ip().to_string()).unwrap_or_default()),
        ("cors-allowed-origins", list(&serving.cors)),
        ("default-not-ready-toleration-seconds", config.admission.not_ready_seconds.unwrap_or(TOLERATION).to_string()),
        ("default-unreachable-toleration-seconds", config.admission.unreachable_seconds.unwrap_or(TOLERATION).to_string()),
        ("disable-admission-plugins", list(&config.admission.disable)),
        ("enable-admission-plugins", list(&config.admission.enable)),
        ("enable-priority-and-fairness", config.priority_and_fairness.to_string()),
        ("encryption-provider-config", path(&config.encryption)),
        ("etcd-compaction-interval", duration(config.compaction)),
        ("event-ttl", duration(config.event_ttl)),
        ("external-hostname", config.external_host.clone()),
        ("feature-gates", config.features.to_string()),
        ("goaway-chance", serving.goaway_chance.to_string()),
        ("http2-max-streams-per-connection", serving.http2_streams.to_string()),
        ("max-mutating-requests-inflight", config.max_mutating.to_string()),
        ("max-requests-inflight", config.max_reading.to_string()),
        ("min-request-timeout", serving.min_request_timeout.as_secs().to_string()),
        ("profiling", serving.profiling.to_string()),
        ("request-timeout", duration(config.request_timeout)),
        ("runtime-config", config.runtime_config.to_string()),
        ("secure-port", config.listen.map(|l| l.port().to_string()).unwrap_or_default()),
        ("service-account-extend-token-expiration", tokens.extend_expiration.to_string()),
        ("service-account-issuer", list(std::slice::from_ref(&tokens.issuer))),
        ("service-account-jwks-uri", config.jwks_uri.clone()),
        ("service-account-max-token-expiration", duration(Duration::from_secs(tokens.max_expiration_seconds.unsigned_abs()))),
        ("service-cluster-ip-range", config.service_cidrs.join(",")),
        ("service-node-port-range", format!("{}-{}", ports.start(), ports.end())),
        ("shutdown-delay-duration", duration(serving.shutdown_delay)),
        ("shutdown-watch-termination-grace-period", duration(serving.watch_grace)),
        ("strict-transport-security-directives", list(&serving.hsts)),
        ("tls-cipher-suites", list(&serving.cipher_suites)),
        ("tls-min-version", tls.to_owned()),
    ])
}

/// Whether the object is asked for, rather than text. Who takes JSON must say which.
fn structured(headers: &HeaderMap, kind: &str) -> Result<bool, Status> {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim);
    let mut said = false;
    for clause in accepted.filter(|c| !c.is_empty()) {
        said = true;
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        if matches!(media, "*/*" | "text/*" | "text/plain") {
            return Ok(false);
        }
        let parameters: BTreeMap<&str, &str> = parts.filter_map(|p| p.split_once('=')).collect();
        let wanted = [("as", kind), ("g", GROUP), ("v", VERSION)];
        if media == "application/json" && wanted.iter().all(|(key, value)| parameters.get(key) == Some(value)) {
            return Ok(true);
        }
    }
    if said {
        let types = format!("text/plain, application/json;v={VERSION};g={GROUP};as={kind}");
        return Err(Status::failure(406, Reason::NotAcceptable, format!("only the following media types are accepted: {types}")));
    }
    Ok(false)
}

fn text(page: String) -> Response<Body> {
    whole("text/plain; charset=utf-8", page)
}

impl ApiServer {
    /// `/statusz`.
    pub(super) fn statusz(&self, headers: &HeaderMap, paths: &[&str]) -> Result<Response<Body>, Status> {
        if !structured(headers, "Statusz")? {
            return Ok(text(self.health.status_page(version::GIT_VERSION, paths)));
        }
        let up = Timestamp::now().as_second() - self.health.started.as_second();
        let object = json!({"kind": "Statusz", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {"name": "kube-apiserver"},
            "startTime": time::format_time(self.health.started), "uptimeSeconds": up, "binaryVersion": version::GIT_VERSION,
            "emulationVersion": "1.36", "paths": paths});
        Ok(whole("application/json", object.to_string()))
    }

    /// `/flagz`.
    pub(super) fn flagz(&self, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        if structured(headers, "Flagz")? {
            let object = json!({"kind": "Flagz", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {"name": "kube-apiserver"}, "flags": self.flags});
            return Ok(whole("application/json", object.to_string()));
        }
        let mut page = format!("\nkube-apiserver flagz\n{WARNING}\n\n");
        for (name, value) in &self.flags {
            let _ = writeln!(page, "{name}={value}");
        }
        Ok(text(page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_had_by_its_full_name_only() {
        let asked = |accept: &str| {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(ACCEPT, accept.parse().expect("a header"));
            }
            structured(&headers, "Flagz").map_err(|s| s.code)
        };
        assert_eq!(asked(""), Ok(false));
        assert_eq!(asked("text/html, */*;q=0.8"), Ok(false));
        assert_eq!(asked("application/json;v=v1beta1;g=config.k8s.io;as=Flagz"), Ok(true));
        assert_eq!(asked("application/json"), Err(406));
        assert_eq!(asked("application/json;v=v1;g=config.k8s.io;as=Flagz"), Err(406));
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let shown = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!([shown(0), shown(30), shown(60), shown(3601)], ["0s", "30s", "1m0s", "1h0m1s"]);
    }
}
