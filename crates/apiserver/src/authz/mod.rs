//! Authorization: who may do what. The privileged group first, then the configured authorizers in their order: Node and
//! RBAC unless something else is said. The first that has an opinion decides.
//!
//! All but webhooks are pure reads from the caches: nothing waits, writes or talks to anyone. A denial says why in the
//! words of the Go authorizer, because people and kubectl search for them.

mod abac;
mod conditions;
mod config;
pub mod escalation;
mod index;
mod node;
pub mod reviews;
pub mod rules;
mod webhook;

pub use config::{AuthzConfig, AuthzConfigError, AuthzWebhookConfig};
pub(crate) use node::PodReferences;
pub use node::identity as node_identity;

use crate::attributes::{Attributes, UserInfo};
use crate::objects::Objects;
use crate::server::metrics::head;
use arc_swap::ArcSwap;
use config::{Chain, Step};
use ferrokube_api::{Reason, Status};
use rules::Rule;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Members may do everything, whatever the roles say.
pub const PRIVILEGED_GROUP: &str = "system:masters";

/// What an authorizer says. What nobody allows is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and why (for the audit log).
    Allow(String),
    /// Nobody said yes; the reasons, which may be empty.
    NoOpinion(String),
    /// No, whatever those after it would say.
    Deny(String),
}

impl Decision {
    /// Whether it is a yes.
    pub fn allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }

    /// The 403 that a client gets when it is no.
    pub fn into_result(self, attributes: &Attributes) -> Result<(), Status> {
        match self {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) | Decision::Deny(reason) => Err(forbidden(attributes, &reason)),
        }
    }

    /// Why.
    pub fn reason(&self) -> &str {
        match self {
            Decision::Allow(reason) | Decision::NoOpinion(reason) | Decision::Deny(reason) => reason,
        }
    }
}

/// The authorizer of the server.
pub struct Authorizer {
    objects: Arc<dyn Objects>,
    roles: index::Roles,
    chain: ArcSwap<Chain>,
    /// Decisions about requests: allowed, denied, without opinion.
    decisions: [AtomicU64; 3],
}

impl Authorizer {
    /// Node and RBAC over the given caches.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        let chain = Chain { steps: vec![Step::Node, Step::Rbac], asks_others: false };
        Authorizer { objects, roles: index::Roles::default(), chain: ArcSwap::from_pointee(chain), decisions: Default::default() }
    }

    /// As configured.
    pub fn with(objects: Arc<dyn Objects>, config: &AuthzConfig) -> Result<Self, AuthzConfigError> {
        let authorizer = Self::new(objects);
        authorizer.reload(config)?;
        Ok(authorizer)
    }

    /// Reads the configuration again; what cannot be used leaves everything as it is.
    pub fn reload(&self, config: &AuthzConfig) -> Result<(), AuthzConfigError> {
        self.chain.store(Arc::new(Chain::new(config)?));
        Ok(())
    }

    /// What an authorizer of this process says; `None` for those that are elsewhere.
    fn local(&self, step: &Step, a: &Attributes) -> Option<Decision> {
        Some(match step {
            Step::AlwaysAllow => Decision::Allow(String::new()),
            Step::AlwaysDeny => Decision::NoOpinion("Everything is forbidden.".to_owned()),
            Step::Node => match node::authorize(&*self.objects, a) {
                Some(Ok(())) => Decision::Allow(String::new()),
                other => Decision::NoOpinion(other.and_then(Result::err).unwrap_or_default()),
            },
            Step::Rbac => self.roles.current(&*self.objects).authorize(a),
            Step::Abac(policies) => policies.authorize(a),
            Step::Webhook(_) => return None,
        })
    }

    /// Decides by what this process knows. Webhooks are left out: for questions that cannot wait.
    pub fn authorize(&self, attributes: &Attributes) -> Decision {
        if privileged(&attributes.user) {
            return Decision::Allow(String::new());
        }
        let mut reasons = Vec::new();
        for step in &self.chain.load().steps {
            match self.local(step, attributes) {
                None => {}
                Some(Decision::NoOpinion(reason)) => reasons.push(reason),
                Some(decision) => return decision,
            }
        }
        undecided(reasons)
    }

    /// The decision, when nobody outside this process has to be asked.
    pub(crate) fn at_once(&self, attributes: &Attributes) -> Option<Decision> {
        (!self.chain.load().asks_others || privileged(&attributes.user)).then(|| self.authorize(attributes))
    }

    /// Decides.
    pub async fn decide(&self, attributes: &Attributes) -> Decision {
        let chain = self.chain.load();
        if !chain.asks_others || privileged(&attributes.user) {
            return self.authorize(attributes);
        }
        let chain = arc_swap::Guard::into_inner(chain);
        let mut reasons = Vec::new();
        for step in &chain.steps {
            let decision = match step {
                Step::Webhook(webhook) => Box::pin(webhook.authorize(attributes)).await,
                // Of all steps only a webhook has no answer here.
                step => self.local(step, attributes).unwrap_or(Decision::NoOpinion(String::new())),
            };
            match decision {
                Decision::NoOpinion(reason) => reasons.push(reason),
                decision => return decision,
            }
        }
        undecided(reasons)
    }

    /// Decides about a request, and counts it.
    pub async fn decide_request(&self, attributes: &Attributes) -> Decision {
        let decision = self.decide(attributes).await;
        let at = match decision {
            Decision::Allow(_) => 0,
            Decision::Deny(_) => 1,
            Decision::NoOpinion(_) => 2,
        };
        self.decisions[at].fetch_add(1, Ordering::Relaxed);
        decision
    }

    /// `authorization_attempts_total`.
    pub(crate) fn metrics(&self, out: &mut String) {
        let help = "[ALPHA] Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.";
        head(out, "authorization_attempts_total", "counter", help);
        for (result, count) in ["allowed", "denied", "no-opinion"].into_iter().zip(&self.decisions) {
            let _ = writeln!(out, "authorization_attempts_total{{result=\"{result}\"}} {}", count.load(Ordering::Relaxed));
        }
    }

    /// Decides, with the 403 that a client gets when it is no.
    pub async fn check(&self, attributes: &Attributes) -> Result<(), Status> {
        self.decide(attributes).await.into_result(attributes)
    }

    /// What the rules of a user do not tell: authorizers that have no rules, by their sentence about it; and whether
    /// everything is allowed to everybody.
    pub(crate) fn beyond_rules(&self, user: &UserInfo) -> (Vec<&'static str>, bool) {
        let chain = self.chain.load();
        let sentence = |step: &Step| match step {
            Step::Node if node::identity(&user.name, &user.groups).is_some() => {
                Some("node authorizer does not support user rule resolution")
            }
            Step::Webhook(_) => Some("webhook authorizer does not support user rule resolution"),
            Step::Abac(_) => Some("ABAC authorizer does not support user rule resolution"),
            _ => None,
        };
        let all = chain.steps.iter().any(|s| matches!(s, Step::AlwaysAllow));
        (chain.steps.iter().filter_map(sentence).collect(), all)
    }

    /// All rules that apply to a user in a namespace (empty: cluster-wide ones only), and the roles that could not be found.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Arc<[Rule]>>, Vec<String>) {
        if !self.chain.load().steps.iter().any(|s| matches!(s, Step::Rbac)) {
            return (Vec::new(), Vec::new());
        }
        self.roles.current(&*self.objects).rules_for(user, namespace)
    }

    /// Rules of a Role (`namespace` set) or ClusterRole, aggregated ones included; `None` when it does not exist.
    pub fn rules_of(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        self.roles.current(&*self.objects).rules_of(kind, namespace, name)
    }
}

/// Nobody said yes.
fn undecided(reasons: Vec<String>) -> Decision {
    Decision::NoOpinion(reasons.into_iter().filter(|r| !r.is_empty()).collect::<Vec<_>>().join("\n"))
}

/// Whether the user is in the privileged group.
pub fn privileged(user: &UserInfo) -> bool {
    user.groups.iter().any(|g| g == PRIVILEGED_GROUP)
}

/// What was not allowed, as the Go server says it.
fn sentence(a: &Attributes) -> String {
    let (user, verb) = (&a.user.name, &a.verb);
    if !a.is_resource() {
        return format!("User {user:?} cannot {verb} path {:?}", a.path);
    }
    let resource = if a.subresource.is_empty() { a.resource.clone() } else { format!("{}/{}", a.resource, a.subresource) };
    let place = if a.namespace.is_empty() { "at the cluster scope".to_owned() } else { format!("in the namespace {:?}", a.namespace) };
    format!("User {user:?} cannot {verb} resource {resource:?} in API group {:?} {place}", a.group)
}

/// The 403 for a refused request.
pub fn forbidden(attributes: &Attributes, reason: &str) -> Status {
    let mut why = sentence(attributes);
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    if attributes.is_resource() {
        return Status::forbidden(&attributes.group, &attributes.resource, &attributes.name, &why);
    }
    let mut status = Status::failure(403, Reason::Forbidden, format!("forbidden: {why}"));
    status.details = Some(ferrokube_api::status::Details::default());
    status
}

#[cfg(test)]
mod tests;
