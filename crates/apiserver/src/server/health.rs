//! `/healthz`, `/livez`, `/readyz`: checks by name, all of them or one, as text.

use super::metrics::head;
use crate::ApiServer;
use crate::output::Body;
use crate::request::Query;
use ferrokube_api::Status;
use ferrokube_api::features::API_SERVER_IDENTITY;
use http::{HeaderValue, Response};
use jiff::Timestamp;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What pages for people begin with.
pub const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";
/// How long the store may take to answer.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// What the server itself reports.
#[derive(Debug)]
pub struct Health {
    /// When the server began, for `/statusz`.
    pub started: Timestamp,
    /// Everything that must exist in a cluster has been written.
    pub bootstrapped: AtomicBool,
    /// The server is about to stop: who balances load should look elsewhere.
    pub leaving: AtomicBool,
    /// What each check came to, by name and endpoint.
    results: Mutex<BTreeMap<(&'static str, &'static str), Results>>,
}

/// How often a check succeeded and failed, and what it came to last.
#[derive(Debug, Default)]
struct Results {
    success: u64,
    error: u64,
    healthy: bool,
}

impl Default for Health {
    fn default() -> Self {
        Health { started: Timestamp::now(), bootstrapped: AtomicBool::default(), leaving: AtomicBool::default(), results: Mutex::default() }
    }
}

impl Health {
    /// `/statusz` of this server.
    pub fn status_page(&self, version: &str, paths: &[&str]) -> String {
        status_page("kube-apiserver", self.started, version, paths)
    }

    fn count(&self, name: &'static str, endpoint: &'static str, healthy: bool) {
        let mut results = self.results.lock();
        let results = results.entry((name, endpoint)).or_default();
        results.healthy = healthy;
        *if healthy { &mut results.success } else { &mut results.error } += 1;
    }

    /// The metrics of the checks.
    pub fn write_counts(&self, out: &mut String) {
        let results = self.results.lock();
        head(out, "kubernetes_healthcheck", "gauge", "[STABLE] This metric records the result of a single healthcheck.");
        for ((name, endpoint), results) in results.iter() {
            let _ = writeln!(out, "kubernetes_healthcheck{{name=\"{name}\",type=\"{endpoint}\"}} {}", u8::from(results.healthy));
        }
        let total = "kubernetes_healthchecks_total";
        head(out, total, "counter", "[STABLE] This metric records the results of all healthcheck.");
        for ((name, endpoint), results) in results.iter() {
            for (status, count) in [("error", results.error), ("success", results.success)].into_iter().filter(|(_, count)| *count > 0) {
                let _ = writeln!(out, "{total}{{name=\"{name}\",status=\"{status}\",type=\"{endpoint}\"}} {count}");
            }
        }
    }
}

/// `/statusz` of a component: for people, in no form that can be relied on.
pub fn status_page(component: &str, started: Timestamp, version: &str, paths: &[&str]) -> String {
    let up = Timestamp::now().as_second() - started.as_second();
    let up = format!("{} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60);
    let started = started.strftime("%a %b %e %H:%M:%S UTC %Y");
    let paths = paths.join(" ");
    format!("\n{component} statusz\n{WARNING}\n\nStarted: {started}\nUp: {up}\nBinary version: {version}\n\nUseful Endpoints: {paths}\n")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    Ping,
    Log,
    Store,
    StoreReady,
    /// The caches show what the store holds.
    Informers,
    /// What must exist in a cluster has been written.
    Bootstrap,
    /// The same, where API servers say that they live.
    Identity,
    /// What this server stores has been said, where it is said.
    StorageVersions,
    /// The same, where priority and fairness is on.
    Fairness,
    /// Where it is off: the plain limits, which need nothing.
    InFlight,
    Kms,
    Shutdown,
}

const EVERYWHERE: [bool; 3] = [true, true, true];

/// Name and endpoints (healthz, livez, readyz) of each check, in upstream's order. Hooks that start something there wait here for what
/// that something needs or leaves behind.
const CHECKS: &[(&str, Check, [bool; 3])] = &[
    ("ping", Check::Ping, EVERYWHERE),
    ("log", Check::Log, EVERYWHERE),
    ("etcd", Check::Store, EVERYWHERE),
    ("etcd-readiness", Check::StoreReady, [false, false, true]),
    ("informer-sync", Check::Informers, [false, false, true]),
    ("poststarthook/start-apiserver-admission-initializer", Check::Informers, EVERYWHERE),
    ("poststarthook/generic-apiserver-start-informers", Check::Informers, EVERYWHERE),
    ("poststarthook/priority-and-fairness-config-consumer", Check::Fairness, EVERYWHERE),
    ("poststarthook/priority-and-fairness-filter", Check::Fairness, EVERYWHERE),
    ("poststarthook/max-in-flight-filter", Check::InFlight, EVERYWHERE),
    ("poststarthook/storage-object-count-tracker-hook", Check::Informers, EVERYWHERE),
    ("poststarthook/start-apiextensions-informers", Check::Informers, EVERYWHERE),
    ("poststarthook/start-apiextensions-controllers", Check::Informers, EVERYWHERE),
    ("poststarthook/crd-informer-synced", Check::Informers, EVERYWHERE),
    ("poststarthook/start-system-namespaces-controller", Check::Bootstrap, EVERYWHERE),
    ("poststarthook/start-cluster-authentication-info-controller", Check::Bootstrap, EVERYWHERE),
    ("poststarthook/start-kube-apiserver-identity-lease-controller", Check::Identity, EVERYWHERE),
    ("poststarthook/start-kube-apiserver-identity-lease-garbage-collector", Check::Identity, EVERYWHERE),
    ("poststarthook/start-legacy-token-tracking-controller", Check::Bootstrap, EVERYWHERE),
    ("poststarthook/start-service-ip-repair-controllers", Check::Bootstrap, EVERYWHERE),
    ("poststarthook/start-kubernetes-service-cidr-controller", Check::Bootstrap, EVERYWHERE),
    ("poststarthook/storage-readiness", Check::Informers, EVERYWHERE),
    ("poststarthook/rbac/bootstrap-roles", Check::Bootstrap, EVERYWHERE),
    ("poststarthook/scheduling/bootstrap-system-priority-classes", Check::Bootstrap, EVERYWHERE),
    ("poststarthook/priority-and-fairness-config-producer", Check::Fairness, EVERYWHERE),
    ("poststarthook/bootstrap-controller", Check::Bootstrap, EVERYWHERE),
    ("poststarthook/aggregator-reload-proxy-client-cert", Check::Bootstrap, EVERYWHERE),
    ("poststarthook/start-kube-aggregator-informers", Check::Informers, EVERYWHERE),
    ("poststarthook/apiservice-status-local-available-controller", Check::Bootstrap, EVERYWHERE),
    ("poststarthook/apiservice-status-remote-available-controller", Check::Informers, EVERYWHERE),
    ("poststarthook/apiservice-registration-controller", Check::Bootstrap, EVERYWHERE),
    ("poststarthook/apiservice-wait-for-first-sync", Check::Bootstrap, EVERYWHERE),
    ("poststarthook/apiservice-discovery-controller", Check::Informers, EVERYWHERE),
    ("poststarthook/kube-apiserver-autoregistration", Check::Bootstrap, EVERYWHERE),
    ("autoregister-completion", Check::Bootstrap, EVERYWHERE),
    ("poststarthook/apiservice-openapi-controller", Check::Informers, EVERYWHERE),
    ("poststarthook/apiservice-openapiv3-controller", Check::Informers, EVERYWHERE),
    ("poststarthook/built-in-resources-storage-version-updater", Check::StorageVersions, EVERYWHERE),
    ("kms-providers", Check::Kms, [true, false, true]),
    ("shutdown", Check::Shutdown, [false, false, true]),
];

const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];

impl ApiServer {
    /// Runs a check and counts what it came to.
    async fn check(&self, endpoint: &'static str, name: &'static str, check: Check) -> Result<(), &'static str> {
        let result = self.outcome(check).await;
        self.health.count(name, endpoint, result.is_ok());
        result
    }

    async fn outcome(&self, check: Check) -> Result<(), &'static str> {
        let fine = match check {
            Check::Ping | Check::Log => true,
            Check::Store | Check::StoreReady => {
                let answer = tokio::time::timeout(STORE_PATIENCE, self.store.revision()).await;
                return match answer {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(_)) => Err("etcd failed: the store is unavailable"),
                    Err(_) => Err("etcd failed: timeout"),
                };
            }
            Check::Informers => self.caches.applied() > 0 || self.health.bootstrapped.load(Ordering::Relaxed),
            Check::InFlight => true,
            Check::Bootstrap | Check::Fairness | Check::Identity => self.health.bootstrapped.load(Ordering::Relaxed),
            Check::StorageVersions => self.storage_versions.as_ref().is_none_or(|versions| versions.are_said()),
            Check::Kms => self.sealed.as_ref().is_none_or(|sealed| sealed.unhealthy().is_none()),
            Check::Shutdown => !self.health.leaving.load(Ordering::Relaxed),
        };
        if fine { Ok(()) } else { Err("not finished") }
    }

    /// Runs checks, but for those that the query excludes: whether one failed, and a line for each. Why one failed is told
    /// only at its own path, which not everybody may read.
    async fn checks(&self, endpoint: &'static str, checks: &[(&'static str, Check)], query: &Query) -> (bool, String) {
        let mut excluded: Vec<&str> = query.all("exclude").collect();
        let (mut text, mut failed) = (String::new(), false);
        for (name, check) in checks {
            if excluded.contains(name) {
                excluded.retain(|e| e != name);
                let _ = writeln!(text, "[+]{name} excluded: ok");
                continue;
            }
            match self.check(endpoint, *name, *check).await {
                Ok(()) => _ = writeln!(text, "[+]{name} ok"),
                Err(why) => {
                    failed = true;
                    tracing::warn!(check = name, why, "a health check failed");
                    let _ = writeln!(text, "[-]{name} failed: reason withheld");
                }
            }
        }
        if !excluded.is_empty() {
            let names: Vec<String> = excluded.iter().map(|e| format!("{e:?}")).collect();
            let _ = writeln!(text, "warn: some health checks cannot be excluded: no matches for {}", names.join(","));
        }
        (failed, text)
    }

    /// Whether this server has a check.
    fn exists(&self, check: Check) -> bool {
        match check {
            Check::Kms => self.sealed.as_ref().is_some_and(|s| s.has_kms()),
            Check::Fairness => self.flow.is_some(),
            Check::Identity => self.metrics.features().has(API_SERVER_IDENTITY),
            Check::StorageVersions => self.storage_versions.is_some(),
            Check::InFlight => self.flow.is_none(),
            _ => true,
        }
    }

    /// The paths of single checks.
    pub(super) fn health_paths(&self) -> impl Iterator<Item = String> {
        let here = CHECKS.iter().filter(|(_, check, _)| self.exists(*check));
        here.flat_map(|(name, _, on)| {
            ENDPOINTS.iter().zip(on).filter(|(_, on)| **on).map(move |(endpoint, _)| format!("/{endpoint}/{name}"))
        })
    }

    /// Answers `/<endpoint>` and `/<endpoint>/<check>`; `None` when there is no such path.
    pub(crate) async fn health(&self, path: &str, query: &Query) -> Option<Result<Response<Body>, Status>> {
        let rest = path.trim_start_matches('/').trim_end_matches('/');
        let (endpoint, one) = rest.split_once('/').unwrap_or((rest, ""));
        let column = ENDPOINTS.iter().position(|e| *e == endpoint)?;
        let endpoint = ENDPOINTS[column];
        let asked = |name: &str| one.is_empty() || name == one;
        let known: Vec<_> = CHECKS.iter().filter(|(name, check, on)| on[column] && self.exists(*check) && asked(name)).collect();
        if known.is_empty() {
            return None;
        }
        let (failed, body) = match known.as_slice() {
            [(name, check, _)] if !one.is_empty() => match self.check(endpoint, *name, *check).await {
                Ok(()) => (false, "ok".to_owned()),
                Err(why) => (true, format!("internal server error: {why}\n")),
            },
            _ => {
                let names: Vec<_> = known.iter().map(|(name, check, _)| (*name, *check)).collect();
                let (failed, text) = self.checks(endpoint, &names, query).await;
                match (failed, query.find("verbose")) {
                    (true, _) => (true, format!("{text}{endpoint} check failed\n")),
                    (false, Some(_)) => (false, format!("{text}{endpoint} check passed\n")),
                    (false, None) => (false, "ok".to_owned()),
                }
            }
        };
        let mut response = Response::new(Body::Full(body.into()));
        *response.status_mut() = if failed { http::StatusCode::INTERNAL_SERVER_ERROR } else { http::StatusCode::OK };
        response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        Some(Ok(response))
    }
}
