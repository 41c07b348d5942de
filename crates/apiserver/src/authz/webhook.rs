//! The webhook authorizer: a SubjectAccessReview to another server. Answers are remembered, each kind for its own time.
//!
//! Source: `apiserver/plugin/pkg/authorizer/webhook`.

use super::Decision;
use super::conditions::{Conditions, Matched};
use crate::attributes::Attributes;
use crate::expiring::Expiring;
use crate::outbound::{OutboundError, Remote};
use bytes::Bytes;
use ferrokube_api::labels::{FieldSelector, Operator, Selector};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Questions longer than this are asked each time.
const LONGEST: usize = 10_000;
/// Answers remembered at most.
const MOST: usize = 8192;

/// How a webhook is asked.
pub(super) struct WebhookSpec {
    pub version: String,
    /// Zero: a yes is not remembered.
    pub authorized_ttl: Duration,
    /// Zero: a no is not remembered.
    pub unauthorized_ttl: Duration,
    pub timeout: Duration,
    /// Whether no answer is a no.
    pub deny_on_failure: bool,
    /// Which questions it is asked.
    pub conditions: Conditions,
}

/// The server that is asked.
pub(super) struct Webhook {
    remote: Remote,
    spec: WebhookSpec,
    known: Expiring<String, Decision>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Review {
    status: ReviewStatus,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ReviewStatus {
    allowed: bool,
    denied: bool,
    reason: String,
    evaluation_error: String,
}

fn requirement(key: &str, operator: &str, values: &[Box<str>]) -> Value {
    let mut out = json!({ "key": key, "operator": operator });
    if !values.is_empty() {
        out["values"] = json!(values);
    }
    out
}

/// Selectors as requirements. What cannot be said in them is left out: the question gets wider, never narrower.
pub(super) fn label_requirements(text: &str) -> Vec<Value> {
    let Ok(selector) = Selector::parse(text) else { return Vec::new() };
    let one = |r: &ferrokube_api::labels::Requirement| {
        let operator = match r.operator {
            Operator::In => "In",
            Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            _ => return None,
        };
        Some(requirement(&r.key, operator, &r.values))
    };
    selector.requirements().iter().filter_map(one).collect()
}

pub(super) fn field_requirements(text: &str) -> Vec<Value> {
    let Ok(selector) = FieldSelector::parse(text) else { return Vec::new() };
    let one = |r: &ferrokube_api::labels::FieldRequirement| {
        requirement(&r.field, if r.equal { "In" } else { "NotIn" }, std::slice::from_ref(&r.value))
    };
    selector.requirements.iter().map(one).collect()
}

/// The spec of the question.
fn question(a: &Attributes, version: &str) -> Value {
    let mut spec = Map::new();
    if a.is_resource() {
        let fields = [
            ("namespace", &a.namespace),
            ("verb", &a.verb),
            ("group", &a.group),
            ("version", &a.version),
            ("resource", &a.resource),
            ("subresource", &a.subresource),
            ("name", &a.name),
        ];
        let said = fields.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), Value::from(v.as_str())));
        let mut resource: Map<String, Value> = said.collect();
        for (name, requirements) in
            [("fieldSelector", field_requirements(&a.field_selector)), ("labelSelector", label_requirements(&a.label_selector))]
        {
            if !requirements.is_empty() {
                resource.insert(name.to_owned(), json!({ "requirements": requirements }));
            }
        }
        spec.insert("resourceAttributes".to_owned(), Value::Object(resource));
    } else {
        spec.insert("nonResourceAttributes".to_owned(), json!({ "path": a.path, "verb": a.verb }));
    }
    spec.insert("user".to_owned(), a.user.name.as_str().into());
    if !a.user.groups.is_empty() {
        spec.insert(if version == "v1" { "groups" } else { "group" }.to_owned(), json!(a.user.groups));
    }
    if !a.user.uid.is_empty() {
        spec.insert("uid".to_owned(), a.user.uid.as_str().into());
    }
    if !a.user.extra.is_empty() {
        spec.insert("extra".to_owned(), json!(a.user.extra));
    }
    Value::Object(spec)
}

impl Webhook {
    pub fn new(remote: Remote, spec: WebhookSpec) -> Self {
        Webhook { remote, spec, known: Expiring::new(MOST) }
    }

    /// No answer: as the failure policy says.
    fn failed(&self) -> Decision {
        if self.spec.deny_on_failure { Decision::Deny(String::new()) } else { Decision::NoOpinion(String::new()) }
    }

    pub async fn authorize(&self, a: &Attributes) -> Decision {
        match self.spec.conditions.matches(a) {
            Matched::Yes => {}
            Matched::No => return Decision::NoOpinion(String::new()),
            Matched::Error(error) => {
                tracing::error!(error, webhook = ?self.remote, "match condition of a webhook authorizer failed");
                return self.failed();
            }
        }
        let spec = question(a, &self.spec.version);
        let key = spec.to_string();
        if let Some(decision) = self.known.get(&key) {
            return decision;
        }
        let review = json!({
            "kind": "SubjectAccessReview", "apiVersion": format!("authorization.k8s.io/{}", self.spec.version),
            "metadata": {}, "spec": spec, "status": { "allowed": false },
        });
        match self.ask(review.to_string().into()).await {
            Ok(decision) => {
                self.remember(key, decision.clone());
                decision
            }
            Err(error) => {
                tracing::error!(%error, webhook = ?self.remote, "Failed to make webhook authorizer request");
                self.failed()
            }
        }
    }

    async fn ask(&self, body: Bytes) -> Result<Decision, OutboundError> {
        let answer = self.remote.post_patiently(body, self.spec.timeout).await?;
        let review: Review = serde_json::from_slice(&answer).map_err(|e| OutboundError::Answer(e.to_string()))?;
        let status = review.status;
        if !status.evaluation_error.is_empty() {
            tracing::debug!(error = status.evaluation_error, "webhook authorizer could not evaluate everything");
        }
        match (status.allowed, status.denied) {
            (true, true) => Err(OutboundError::Answer("webhook subject access review returned both allow and deny response".to_owned())),
            (true, false) => Ok(Decision::Allow(status.reason)),
            (false, true) => Ok(Decision::Deny(status.reason)),
            (false, false) => Ok(Decision::NoOpinion(status.reason)),
        }
    }

    fn remember(&self, key: String, decision: Decision) {
        let ttl = if decision.allowed() { self.spec.authorized_ttl } else { self.spec.unauthorized_ttl };
        if key.len() <= LONGEST {
            self.known.remember(key, decision, ttl);
        }
    }
}
