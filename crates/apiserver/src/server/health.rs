//! `/healthz`, `/livez`, `/readyz`: checks by name, all of them or one, as text.

use crate::ApiServer;
use crate::output::Body;
use crate::request::Query;
use ferrokube_api::Status;
use http::{HeaderValue, Response};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the store may take to answer.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// What the server itself reports.
#[derive(Debug, Default)]
pub struct Health {
    /// Everything that must exist in a cluster has been written.
    pub bootstrapped: AtomicBool,
    /// The server is about to stop: who balances load should look elsewhere.
    pub leaving: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    Ping,
    Log,
    Store,
    StoreReady,
    Informers,
    Bootstrap,
    Roles,
    PriorityClasses,
    Kms,
    Shutdown,
}

/// Name and endpoints (healthz, livez, readyz) of each check.
const CHECKS: &[(&str, Check, [bool; 3])] = &[
    ("ping", Check::Ping, [true, true, true]),
    ("log", Check::Log, [true, true, true]),
    ("etcd", Check::Store, [true, true, true]),
    ("etcd-readiness", Check::StoreReady, [false, false, true]),
    ("informer-sync", Check::Informers, [false, false, true]),
    ("poststarthook/start-system-namespaces-controller", Check::Bootstrap, [true, true, true]),
    ("poststarthook/rbac/bootstrap-roles", Check::Roles, [true, true, true]),
    ("poststarthook/scheduling/bootstrap-system-priority-classes", Check::PriorityClasses, [true, true, true]),
    ("kms-providers", Check::Kms, [true, false, true]),
    ("shutdown", Check::Shutdown, [false, false, true]),
];

impl ApiServer {
    async fn check(&self, check: Check) -> Result<(), &'static str> {
        let fine = match check {
            Check::Ping | Check::Log => true,
            Check::Store | Check::StoreReady => {
                let answer = tokio::time::timeout(STORE_PATIENCE, self.store.revision()).await;
                return match answer {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(_)) => Err("etcd failed: reason withheld"),
                    Err(_) => Err("etcd failed: timeout"),
                };
            }
            Check::Informers => self.caches.applied() > 0 || self.health.bootstrapped.load(Ordering::Relaxed),
            Check::Bootstrap | Check::Roles | Check::PriorityClasses => self.health.bootstrapped.load(Ordering::Relaxed),
            Check::Kms => self.sealed.as_ref().is_none_or(|sealed| sealed.unhealthy().is_none()),
            Check::Shutdown => !self.health.leaving.load(Ordering::Relaxed),
        };
        if fine { Ok(()) } else { Err("reason withheld") }
    }

    /// Answers `/<endpoint>` and `/<endpoint>/<check>`; `None` when there is no such path.
    pub(crate) async fn health(&self, path: &str, query: &Query) -> Option<Result<Response<Body>, Status>> {
        let rest = path.trim_start_matches('/').trim_end_matches('/');
        let (endpoint, one) = rest.split_once('/').unwrap_or((rest, ""));
        let column = ["healthz", "livez", "readyz"].iter().position(|e| *e == endpoint)?;
        let exists = |check: Check| check != Check::Kms || self.sealed.as_ref().is_some_and(|s| s.has_kms());
        let known: Vec<_> =
            CHECKS.iter().filter(|(name, check, on)| on[column] && exists(*check) && (one.is_empty() || *name == one)).collect();
        if known.is_empty() {
            return None;
        }
        let excluded: Vec<&str> = query.all("exclude").collect();
        let (mut text, mut failed) = (String::new(), false);
        for (name, check, _) in known {
            if excluded.contains(name) {
                let _ = writeln!(text, "[+]{name} excluded: ok");
                continue;
            }
            match self.check(*check).await {
                Ok(()) => _ = writeln!(text, "[+]{name} ok"),
                Err(why) => {
                    failed = true;
                    let _ = writeln!(text, "[-]{name} failed: {why}");
                }
            }
        }
        let verdict = if failed { "failed" } else { "passed" };
        let body = match (failed, query.find("verbose").is_some() && one.is_empty()) {
            (false, false) => "ok".to_owned(),
            _ => format!("{text}{endpoint} check {verdict}\n"),
        };
        let mut response = Response::new(Body::Full(body.into()));
        *response.status_mut() = if failed { http::StatusCode::INTERNAL_SERVER_ERROR } else { http::StatusCode::OK };
        response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        Some(Ok(response))
    }
}
