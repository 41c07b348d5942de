//! Paths that are no resources: health, version, discovery, OpenAPI, metrics, keys of service-account tokens.

use super::answer::{PLAIN, whole};
use super::metrics::head;
use super::profile;
use crate::ApiServer;
use crate::discovery::{self, version};
use crate::output::Body;
use crate::request::{Query, RequestInfo};
use crate::route;
use ferrokube_api::Status;
use http::header::{CACHE_CONTROL, HeaderValue};
use http::request::Parts;
use http::{Method, Response};
use serde_json::json;
use std::fmt::Write;
use std::sync::Arc;

/// The paths that `/` lists.
const INDEX: &[&str] = &[
    "/.well-known/openid-configuration",
    "/api",
    "/api/v1",
    "/apis",
    "/flagz",
    "/healthz",
    "/livez",
    "/metrics",
    "/metrics/slis",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/statusz",
    "/version",
];

/// The text format of Prometheus.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How many metrics there are of each level of stability, these three among them. None is hidden or can be taken away.
fn about_metrics(out: &mut String) {
    for (name, help) in [
        ("registered_metrics_total", "The count of registered metrics broken by stability level and deprecation version."),
        ("hidden_metrics_total", "The count of hidden metrics."),
        ("disabled_metrics_total", "The count of disabled metrics."),
    ] {
        head(out, name, "counter", &format!("[BETA] {help}"));
    }
    for level in ["ALPHA", "BETA", "STABLE"] {
        let mark = format!(" [{level}] ");
        let count = out.lines().filter(|line| line.starts_with("# HELP ") && line.contains(&mark)).count();
        let _ = writeln!(out, "registered_metrics_total{{deprecated_version=\"\",stability_level=\"{level}\"}} {count}");
    }
    let _ = writeln!(out, "hidden_metrics_total 0\ndisabled_metrics_total 0");
}

/// Paths that stand in go-restful's routing table upstream: each takes GET and nothing else. The handlers of others do not look at the
/// method.
fn takes_only_get(path: &str) -> bool {
    let listed = ["/api", "/version", "/.well-known/openid-configuration", "/openid/v1/jwks"];
    listed.iter().any(|known| path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        || path.starts_with("/apis/")
}

/// What says how to check tokens may be kept for an hour by those who check many.
fn kept(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

impl ApiServer {
    /// Answers a path.
    pub(crate) async fn path(self: &Arc<Self>, parts: &Parts, info: &RequestInfo, query: &Query) -> Result<Response<Body>, Status> {
        let path = info.path.as_str();
        if let Some(answer) = self.health(path, query).await {
            return answer;
        }
        if parts.method != Method::GET && takes_only_get(path) {
            return Err(Status::method_not_allowed());
        }
        match path.trim_end_matches('/') {
            "" => Ok(whole("application/json", format!("{:#}", json!({"paths": self.index()})))),
            "/version" => {
                route::acceptable(&parts.headers, &[&["application/json"]])?;
                Ok(whole("application/json", version::document()))
            }
            "/metrics" => Ok(whole(METRICS, self.metrics_text().await)),
            "/metrics/slis" => {
                let mut out = String::new();
                self.health.write_counts(&mut out);
                Ok(whole(METRICS, out))
            }
            "/statusz" => self.statusz(&parts.headers, INDEX),
            "/flagz" => self.flagz(&parts.headers),
            "/.well-known/openid-configuration" => {
                let own = || format!("https://{}/openid/v1/jwks", self.external_host());
                let uri = Some(self.jwks_uri.clone()).filter(|uri| !uri.is_empty()).unwrap_or_else(own);
                Ok(kept(whole("application/json", self.authenticator.tokens().openid_configuration(&uri))))
            }
            "/openid/v1/jwks" => Ok(kept(whole("application/jwk-set+json", self.authenticator.tokens().jwks()))),
            _ if self.serving.config.profiling && profile::is_ours(path) => Ok(profile::page(path, query.get("seconds")).await),
            other => match other.strip_prefix("/debug/api_priority_and_fairness/").and_then(|name| self.flow.as_ref()?.dump(name)) {
                Some(dump) => Ok(whole(PLAIN, dump)),
                None => discovery::answer(self, other, parts, query),
            },
        }
    }

    fn index(&self) -> Vec<String> {
        let table = self.registry.table();
        let groups = table.entries().iter().filter(|e| !e.kind.group.is_empty());
        let groups = groups.flat_map(|e| [format!("/apis/{}", e.kind.group), format!("/apis/{}/{}", e.kind.group, e.kind.version)]);
        let mut all: Vec<String> = INDEX.iter().map(|p| (*p).to_owned()).chain(groups).chain(self.health_paths()).collect();
        all.sort();
        all.dedup();
        all
    }

    async fn metrics_text(&self) -> String {
        let mut out = String::new();
        self.metrics.write(&mut out);
        if let Some(flow) = &self.flow {
            flow.metrics(&mut out);
        }
        self.authenticator.metrics(&mut out);
        self.authorizer.metrics(&mut out);
        self.admission.write_metrics(&mut out);
        self.aggregator.metrics(&*self.caches, &mut out);
        for (reloads, (what, stability)) in
            self.reloads.iter().zip([("authentication", "BETA"), ("authorization", "BETA"), ("encryption", "ALPHA")])
        {
            reloads.write(what, stability, &mut out);
        }
        if let Some(audit) = &self.audit {
            audit.metrics(&mut out);
        }
        let (reading, mutating) = self.limits.current();
        head(
            &mut out,
            "apiserver_current_inflight_requests",
            "gauge",
            "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
        );
        let _ = writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"mutating\"}} {mutating}");
        let _ = writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"readOnly\"}} {reading}");
        let help = "[STABLE] [DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.";
        head(&mut out, "apiserver_storage_objects", "gauge", help);
        let qualified = |group: &str, resource: &str| if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        for cache in self.caches.all() {
            let row = cache.row();
            let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{}\"}} {}", qualified(&row.group, &row.resource), cache.size().0);
        }
        let name = "apiserver_resource_objects";
        let help =
            "[ALPHA] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.";
        head(&mut out, name, "gauge", help);
        for cache in self.caches.all() {
            let row = cache.row();
            let _ = writeln!(out, "{name}{{group=\"{}\",resource=\"{}\"}} {}", row.group, row.resource, cache.size().0);
        }
        let name = "apiserver_storage_events_received_total";
        head(&mut out, name, "counter", "[BETA] Number of etcd events received split by kind.");
        for cache in self.caches.all() {
            let row = cache.row();
            let _ = writeln!(out, "{name}{{group=\"{}\",resource=\"{}\"}} {}", row.group, row.resource, cache.received());
        }
        if let Ok(size) = self.store.size_on_disk().await {
            head(
                &mut out,
                "apiserver_storage_size_bytes",
                "gauge",
                "[STABLE] Size of the storage database file physically allocated in bytes.",
            );
            let _ = writeln!(out, "apiserver_storage_size_bytes{{storage_cluster_id=\"etcd-0\"}} {size}");
        }
        head(
            &mut out,
            "kubernetes_build_info",
            "gauge",
            "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
        );
        let _ = writeln!(out, "kubernetes_build_info{{{}}} 1", version::labels());
        about_metrics(&mut out);
        out
    }

    fn external_host(&self) -> String {
        self.external.get().cloned().unwrap_or_default()
    }
}
