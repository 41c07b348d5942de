//! Extenders: webhooks that filter and score nodes, or bind pods (`kube-scheduler/extender/v1`).
//!
//! Bodies have the field names of Go's structs without tags; answers are read whatever the case of their names, as Go does.

use crate::class::Class;
use crate::config;
use crate::config::parse_duration;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// When the configuration names none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Extenders score from 0 to 10, plugins from 0 to 100.
const SCALE: i64 = 10;

/// Room on a node, as an extender sees it: the pods that would go (UID, and the object where the extender wants it), and
/// how many of them go against a disruption budget.
#[derive(Debug)]
pub struct Room<'a> {
    /// Name of the node.
    pub node: &'a str,
    /// Who would go.
    pub victims: Vec<(&'a str, Option<Value>)>,
    /// Against budgets.
    pub violations: usize,
}

/// Nodes that an extender leaves, each with the UIDs of the pods that would go and the number of violated budgets.
pub type Trimmed = HashMap<String, (Vec<String>, usize)>;

/// One extender.
#[derive(Debug)]
pub struct Extender {
    config: config::Extender,
    http: reqwest::Client,
}

/// A node that is asked about: its name, and the object where the extender wants it.
pub type Offer<'a> = (&'a str, Option<&'a Value>);

/// What is left of the nodes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// Names of nodes that will do.
    pub fit: Vec<String>,
    /// Others with reasons, and whether removing pods would not help.
    pub failed: HashMap<String, (String, bool)>,
}

impl Extender {
    /// A client for an extender.
    pub fn new(config: &config::Extender) -> Result<Self, String> {
        // Somebody else may have installed the same provider before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let text = |key: &str| config.tls_config.as_ref().and_then(|t| t[key].as_str());
        let insecure = config.tls_config.as_ref().is_some_and(|t| t["insecure"] == true);
        let timeout = config.http_timeout.as_deref().and_then(parse_duration).filter(|t| !t.is_zero()).unwrap_or(DEFAULT_TIMEOUT);
        let mut builder = reqwest::Client::builder().timeout(timeout).no_proxy().tls_danger_accept_invalid_certs(insecure);
        let read = |path: &str| std::fs::read(path).map_err(|e| format!("{path}: {e}"));
        match text("caFile") {
            Some(path) => {
                let certs = reqwest::Certificate::from_pem_bundle(&read(path)?).map_err(|e| format!("{path}: {e}"))?;
                builder = builder.tls_certs_only(certs);
            }
            // Nobody is trusted who is not named; over plain HTTP nobody needs to be.
            None if !config.url_prefix.starts_with("https") => builder = builder.tls_certs_only([]),
            None => {}
        }
        if let (Some(cert), Some(key)) = (text("certFile"), text("keyFile")) {
            let pem = [read(cert)?, read(key)?].concat();
            builder = builder.identity(reqwest::Identity::from_pem(&pem).map_err(|e| format!("{cert}: {e}"))?);
        }
        let http = builder.build().map_err(|e| format!("extender {}: {e}", config.url_prefix))?;
        Ok(Extender { config: config.clone(), http })
    }

    /// Whether it is asked about pods of a class.
    pub fn is_interested(&self, class: &Class) -> bool {
        let managed = &self.config.managed_resources;
        managed.is_empty() || managed.iter().any(|m| class.requests.scalars.iter().any(|(name, _)| **name == *m.name))
    }

    /// Whether it filters.
    pub fn filters(&self) -> bool {
        !self.config.filter_verb.is_empty()
    }

    /// Whether it scores.
    pub fn prioritizes(&self) -> bool {
        !self.config.prioritize_verb.is_empty()
    }

    /// Whether it binds.
    pub fn binds(&self) -> bool {
        !self.config.bind_verb.is_empty()
    }

    /// Whether it has a say in who must go.
    pub fn preempts(&self) -> bool {
        !self.config.preempt_verb.is_empty()
    }

    /// Where it is.
    pub fn name(&self) -> &str {
        &self.config.url_prefix
    }

    /// Whether pods are placed without it when it does not answer.
    pub fn is_ignorable(&self) -> bool {
        self.config.ignorable
    }

    /// Whether it wants whole nodes and not their names.
    pub fn wants_nodes(&self) -> bool {
        !self.config.node_cache_capable
    }

    async fn post(&self, verb: &str, body: &Value) -> Result<Value, String> {
        let url = format!("{}/{verb}", self.config.url_prefix.trim_end_matches('/'));
        let request = self.http.post(&url).header("content-type", "application/json").body(body.to_string());
        let failed = |e: reqwest::Error| format!("Post {url:?}: {e}");
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("failed {verb} with extender at URL {}, code {}", self.config.url_prefix, status.as_u16()));
        }
        let bytes = answer.bytes().await.map_err(failed)?;
        serde_json::from_slice(&bytes).map_err(|e| format!("{url}: {e}"))
    }

    fn arguments(&self, pod: &Value, nodes: &[Offer<'_>]) -> Value {
        if self.wants_nodes() {
            let items: Vec<&Value> = nodes.iter().filter_map(|(_, node)| *node).collect();
            return json!({"Pod": pod, "Nodes": {"metadata": {}, "items": items}, "NodeNames": null});
        }
        let names: Vec<&str> = nodes.iter().map(|(name, _)| *name).collect();
        json!({"Pod": pod, "Nodes": null, "NodeNames": names})
    }

    /// Which of the nodes will do.
    pub async fn filter(&self, pod: &Value, nodes: &[Offer<'_>]) -> Result<Filtered, String> {
        let answer = self.post(&self.config.filter_verb, &self.arguments(pod, nodes)).await?;
        filtered(&answer)
    }

    /// Scores by node, with the extender's weight, on the scale of plugins.
    pub async fn prioritize(&self, pod: &Value, nodes: &[Offer<'_>]) -> Result<HashMap<String, i64>, String> {
        let answer = self.post(&self.config.prioritize_verb, &self.arguments(pod, nodes)).await?;
        let scores = answer.as_array().into_iter().flatten().filter_map(Value::as_object);
        let score = |entry: &Map<String, Value>| Some((field(entry, "host").as_str()?.to_owned(), field(entry, "score").as_i64()?));
        Ok(scores.filter_map(score).map(|(host, score)| (host, score * self.config.weight * SCALE)).collect())
    }

    /// Which of the places where room can be made it agrees with, and at whose cost.
    pub async fn preempt(&self, pod: &Value, rooms: &[Room<'_>]) -> Result<Trimmed, String> {
        let whole = self.wants_nodes();
        let victim = |(uid, object): &(&str, Option<Value>)| match object {
            Some(object) if whole => object.clone(),
            _ => json!({"UID": uid}),
        };
        let room = |r: &Room<'_>| {
            let pods: Vec<Value> = r.victims.iter().map(victim).collect();
            (r.node.to_owned(), json!({"Pods": pods, "NumPDBViolations": r.violations}))
        };
        let map = Value::Object(rooms.iter().map(room).collect());
        let (victims, names) = if whole { (map, Value::Null) } else { (Value::Null, map) };
        let body = json!({"Pod": pod, "NodeNameToVictims": victims, "NodeNameToMetaVictims": names});
        Ok(trimmed(&self.post(&self.config.preempt_verb, &body).await?))
    }

    /// Binds a pod (namespace, name, UID) to a node.
    pub async fn bind(&self, pod: (&str, &str, &str), node: &str) -> Result<(), String> {
        let body = json!({"PodNamespace": pod.0, "PodName": pod.1, "PodUID": pod.2, "Node": node});
        let answer = self.post(&self.config.bind_verb, &body).await?;
        error_of(&answer)
    }
}

/// A field of an answer, whatever the case of its name.
fn field<'a>(object: &'a Map<String, Value>, name: &str) -> &'a Value {
    object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or(&Value::Null, |(_, value)| value)
}

fn error_of(answer: &Value) -> Result<(), String> {
    match answer.as_object().map(|o| field(o, "error")).and_then(Value::as_str) {
        Some(error) if !error.is_empty() => Err(error.to_owned()),
        _ => Ok(()),
    }
}

fn filtered(answer: &Value) -> Result<Filtered, String> {
    error_of(answer)?;
    let Some(object) = answer.as_object() else { return Err("the extender's answer is not an object".to_owned()) };
    let mut found = Filtered::default();
    if let Some(names) = field(object, "nodenames").as_array() {
        found.fit.extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
    } else if let Some(list) = field(object, "nodes").as_object() {
        let items = field(list, "items").as_array().into_iter().flatten();
        found.fit.extend(items.filter_map(|n| n["metadata"]["name"].as_str()).map(str::to_owned));
    }
    for (name, unresolvable) in [("failednodes", false), ("failedandunresolvablenodes", true)] {
        for (node, reason) in field(object, name).as_object().into_iter().flatten() {
            found.failed.insert(node.clone(), (reason.as_str().unwrap_or_default().to_owned(), unresolvable));
        }
    }
    Ok(found)
}

fn trimmed(answer: &Value) -> Trimmed {
    let nodes = answer.as_object().and_then(|o| field(o, "nodenametometavictims").as_object());
    let room = |(node, victims): (&String, &Value)| {
        let victims = victims.as_object();
        let pods = victims.and_then(|v| field(v, "pods").as_array()).into_iter().flatten().filter_map(Value::as_object);
        let uids = pods.filter_map(|p| field(p, "uid").as_str()).map(str::to_owned).collect();
        let violations = victims.and_then(|v| field(v, "numpdbviolations").as_u64()).unwrap_or(0);
        (node.clone(), (uids, usize::try_from(violations).unwrap_or(usize::MAX)))
    };
    nodes.into_iter().flatten().map(room).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whatever_the_case_of_their_names() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        for answer in [json!({"NodeNames": ["a"], "FailedNodes": {"b": "no"}}), json!({"nodenames": ["a"], "failedNodes": {"b": "no"}})] {
            let found = filtered(&answer).expect("it is an answer");
            assert_eq!((found.fit, found.failed.get("b")), (names(&["a"]), Some(&("no".to_owned(), false))));
        }
        let whole = filtered(&json!({"Nodes": {"items": [{"metadata": {"name": "a"}}]}, "FailedAndUnresolvableNodes": {"b": "never"}}));
        let whole = whole.expect("it is an answer");
        assert_eq!((whole.fit, whole.failed.get("b")), (names(&["a"]), Some(&("never".to_owned(), true))));
        assert_eq!(filtered(&json!({"Error": "no idea"})), Err("no idea".to_owned()));
        assert!(filtered(&json!([])).is_err());
    }
}
