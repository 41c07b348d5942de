//! EventRateLimit: events are refused that come faster than a server, a namespace, a user or a source may send them.
//!
//! Source: `plugin/pkg/admission/eventratelimit`.

use super::{Context, Operation, Outcome};
use ferrokube_api::{Reason, Status};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::time::Instant;

/// Buckets kept per limit, unless the configuration says otherwise.
const CACHE_SIZE: usize = 4096;

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

/// One limit with what was used of it.
#[derive(Debug)]
pub(super) struct Limit {
    by: By,
    /// Events per second.
    rate: f64,
    /// Events at once.
    burst: f64,
    size: usize,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// Reads the `limits` of a configuration.
pub(super) fn limits(value: &Value) -> Result<Vec<Limit>, String> {
    let all = value["limits"].as_array().filter(|l| !l.is_empty()).ok_or("limits: Required value: must not be empty")?;
    all.iter().map(Limit::read).collect()
}

impl Limit {
    fn read(value: &Value) -> Result<Limit, String> {
        let by = match value["type"].as_str().unwrap_or_default() {
            "Server" => By::Server,
            "Namespace" => By::Namespace,
            "User" => By::User,
            "SourceAndObject" => By::SourceAndObject,
            other => return Err(format!("limits.type: Unsupported value: {other:?}")),
        };
        let positive = |key: &str| value[key].as_u64().filter(|n| *n > 0).ok_or(format!("limits.{key}: Invalid value: must be positive"));
        let size = value["cacheSize"].as_u64().filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok()).unwrap_or(CACHE_SIZE);
        Ok(Limit { by, rate: positive("qps")? as f64, burst: positive("burst")? as f64, size, buckets: Mutex::default() })
    }

    fn key(&self, c: &Context<'_>, event: &Value) -> String {
        match self.by {
            By::Server => String::new(),
            By::Namespace => c.namespace.to_owned(),
            By::User => c.user.name.clone(),
            By::SourceAndObject => {
                let core = event["regarding"].is_null();
                let object = if core { &event["involvedObject"] } else { &event["regarding"] };
                let source = if core {
                    [&event["source"]["component"], &event["source"]["host"]]
                } else {
                    [&event["reportingController"], &event["reportingInstance"]]
                };
                let parts = source.into_iter();
                let parts = parts.chain(["kind", "namespace", "name", "uid", "apiVersion"].map(|key| &object[key]));
                parts.map(|v| v.as_str().unwrap_or_default()).collect()
            }
        }
    }

    /// Takes a token.
    fn accept(&self, key: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock();
        if buckets.len() >= self.size && !buckets.contains_key(key) {
            let oldest = buckets.iter().min_by_key(|(_, b)| b.at).map(|(k, _)| k.clone());
            oldest.map(|k| buckets.remove(&k));
        }
        let bucket = buckets.entry(key.to_owned()).or_insert(Bucket { tokens: self.burst, at: now });
        bucket.tokens = (bucket.tokens + self.rate * now.duration_since(bucket.at).as_secs_f64()).min(self.burst);
        bucket.at = now;
        let enough = bucket.tokens >= 1.0;
        if enough {
            bucket.tokens -= 1.0;
        }
        enough
    }

    fn name(&self) -> &'static str {
        match self.by {
            By::Server => "Server",
            By::Namespace => "Namespace",
            By::User => "User",
            By::SourceAndObject => "SourceAndObject",
        }
    }
}

pub(super) fn validate(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let sends = c.resource == "events" && matches!(c.operation, Operation::Create | Operation::Update) && !c.dry_run;
    let Some(event) = object.filter(|_| sends) else { return Ok(()) };
    let now = Instant::now();
    let mut exceeded = Vec::new();
    for limit in &c.settings.event_limits {
        let key = limit.key(c, event);
        if !limit.accept(&key, now) {
            exceeded.push(format!("limit reached on type {} for key {key}", limit.name()));
        }
    }
    let message = match exceeded.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    Err(Status::failure(429, Reason::TooManyRequests, format!("Too many requests: {message}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let all = limits(&json!({"limits": [{"type": "User", "qps": 2, "burst": 3}]})).expect("limits");
        let start = Instant::now();
        let taken = |after: u64| all[0].accept("jane", start + Duration::from_millis(after));
        assert_eq!([taken(0), taken(0), taken(0), taken(0), taken(500), taken(600)], [true, true, true, false, true, false]);
        assert!(all[0].accept("joe", start));
        assert!(limits(&json!({"limits": [{"type": "Moon", "qps": 1, "burst": 1}]})).is_err());
        assert!(limits(&json!({})).is_err());
    }
}
