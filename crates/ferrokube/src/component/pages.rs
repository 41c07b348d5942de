//! What a component's own port shows: `/healthz`, `/livez`, `/readyz`, `/metrics`, `/configz`, `/statusz`, `/flagz`.

use super::Component;
use bytes::Bytes;
use ferrokube_apiserver::server::answer;
use ferrokube_apiserver::server::health::status_page;
use ferrokube_client::Status;
use ferrokube_client::metrics::Metrics;
use http::{Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::Value;

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// Of one component.
pub struct Pages {
    name: &'static str,
    metrics: Metrics,
    configuration: Value,
    flags: Vec<(String, String)>,
    hidden: Vec<String>,
    started: Timestamp,
}

const HEALTH: [&str; 3] = ["/healthz", "/livez", "/readyz"];
const OTHERS: [&str; 4] = ["/configz", "/flagz", "/metrics", "/statusz"];

impl Pages {
    /// `flags` are those of the process, as `/flagz` shows them; `hidden` are names of metrics that `/metrics` does not show.
    pub fn new(component: &Component, flags: Vec<(String, String)>, hidden: Vec<String>) -> Self {
        let (name, metrics, configuration) = (component.name, component.metrics.clone(), component.configuration.clone());
        Pages { name, metrics, configuration, flags, hidden, started: Timestamp::now() }
    }

    /// The page of a path. Whether the caller may see it has been decided before.
    pub fn page(&self, path: &str, query: &str) -> Answer {
        let health = HEALTH.iter().find(|h| path.strip_prefix(**h).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
        if let Some(root) = health {
            return Self::health(path, root, query);
        }
        match path {
            "/metrics" => {
                let mut out = String::new();
                self.metrics.write(&mut out);
                text(StatusCode::OK, without(&self.hidden, out))
            }
            "/configz" => json(StatusCode::OK, self.configuration.to_string()),
            "/statusz" => {
                let paths: Vec<&str> = HEALTH.iter().chain(&OTHERS).copied().collect();
                text(StatusCode::OK, status_page(self.name, self.started, ferrokube_apiserver::VERSION, &paths))
            }
            "/flagz" => text(StatusCode::OK, self.flagz()),
            _ => answer::not_found_page(),
        }
    }

    /// A process that has lost its lease is not here to be asked: what answers is healthy.
    fn health(path: &str, root: &str, query: &str) -> Answer {
        const CHECKS: [&str; 2] = ["ping", "leaderElection"];
        let check = path[root.len()..].trim_matches('/');
        if !check.is_empty() && !CHECKS.contains(&check) {
            return answer::not_found_page();
        }
        let verbose = query.split('&').any(|p| p == "verbose" || p.starts_with("verbose="));
        if !verbose || !check.is_empty() {
            return text(StatusCode::OK, "ok".to_owned());
        }
        let lines: String = CHECKS.iter().map(|c| format!("[+]{c} ok\n")).collect();
        text(StatusCode::OK, format!("{lines}{} check passed\n", &root[1..]))
    }

    fn flagz(&self) -> String {
        let warning = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";
        let flags: String = self.flags.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        format!("\n{} flagz\n{warning}\n\n{flags}", self.name)
    }
}

/// Metrics without those of these names: what comes after the `HELP` of one, up to that of the next.
fn without(hidden: &[String], metrics: String) -> String {
    if hidden.is_empty() {
        return metrics;
    }
    let mut shows = true;
    let mut keep = |line: &&str| {
        if let Some(name) = line.strip_prefix("# HELP ").and_then(|rest| rest.split(' ').next()) {
            shows = !hidden.iter().any(|h| h == name);
        }
        shows
    };
    metrics.split_inclusive('\n').filter(&mut keep).collect()
}

/// Plain text.
pub fn text(status: StatusCode, text: String) -> Answer {
    answer::page(status, answer::PLAIN, text)
}

/// JSON.
pub fn json(status: StatusCode, text: String) -> Answer {
    answer::page(status, "application/json", text)
}

/// A refusal.
pub fn refusal(status: &Status) -> Answer {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(code, String::from_utf8_lossy(&status.to_json()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn shown(path: &str, query: &str) -> (u16, String) {
        let pages = Pages {
            name: "kube-x",
            metrics: Metrics::default(),
            configuration: serde_json::json!({"x": 1}),
            flags: vec![("bind-address".into(), "::".into())],
            hidden: Vec::new(),
            started: Timestamp::now(),
        };
        let answer = pages.page(path, query);
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("it is here").to_bytes();
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    #[test]
    fn a_metric_that_is_disabled_is_not_shown_and_others_are() {
        let all =
            "# HELP a_seconds A.\n# TYPE a_seconds histogram\na_seconds_sum 1\na_seconds_count 1\n# HELP a B.\n# TYPE a counter\na 2\n";
        assert_eq!(without(&["a_seconds".into()], all.into()), "# HELP a B.\n# TYPE a counter\na 2\n");
        assert_eq!(without(&["nothing".into()], all.into()), all);
    }

    #[tokio::test]
    async fn pages_are_those_of_upstream() {
        assert_eq!(shown("/healthz", "").await, (200, "ok".into()));
        assert_eq!(shown("/readyz", "verbose").await, (200, "[+]ping ok\n[+]leaderElection ok\nreadyz check passed\n".into()));
        assert_eq!(shown("/healthz/leaderElection", "").await, (200, "ok".into()));
        assert_eq!(shown("/configz", "").await, (200, "{\"x\":1}".into()));
        assert!(shown("/flagz", "").await.1.ends_with("\n\nbind-address=::\n"));
        assert!(shown("/statusz", "").await.1.starts_with("\nkube-x statusz\n"));
        for nothing in ["/", "/healthzz", "/healthz/nothing"] {
            assert_eq!(shown(nothing, "").await.0, 404, "{nothing}");
        }
    }
}
