//! The webhooks of all configurations, read and compiled once, and who of them wants to see a request.

use super::super::constraints::{Constraints, Seen};
use super::super::policy::{Condition, conditions, holds};
use super::super::{Context, list};
use super::GROUP;
use super::call::Client;
use crate::objects::Objects;
use ferrokube_api::Status;
use serde_json::Value;
use std::sync::Arc;

/// A webhook of a configuration.
pub(super) struct Hook {
    /// Name of its configuration.
    pub configuration: String,
    /// Its place among all webhooks of its kind.
    pub index: usize,
    pub name: String,
    /// A failure is no refusal.
    pub optional: bool,
    /// It may be asked about requests that change nothing.
    pub harmless: bool,
    /// It wants to see what others made of the object after it.
    pub again: bool,
    /// The version of its reviews.
    pub review: &'static str,
    pub client: Arc<Client>,
    constraints: Constraints,
    conditions: Vec<Condition>,
}

/// The first version of reviews that the webhook knows and so do we.
fn review_version(hook: &Value) -> &'static str {
    let known = list(hook, "admissionReviewVersions").filter_map(Value::as_str).find(|v| matches!(*v, "v1" | "v1beta1"));
    if known == Some("v1beta1") { "v1beta1" } else { "v1" }
}

impl Hook {
    fn new(configuration: &str, index: usize, hook: &Value, client: Arc<Client>) -> Hook {
        Hook {
            configuration: configuration.to_owned(),
            index,
            name: hook["name"].as_str().unwrap_or_default().to_owned(),
            optional: hook["failurePolicy"] == "Ignore",
            harmless: matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            again: hook["reinvocationPolicy"] == "IfNeeded",
            review: review_version(hook),
            client,
            constraints: Constraints::of_webhook(hook),
            conditions: conditions(hook, false),
        }
    }

    /// How it wants to see the request, if at all. Conditions that cannot be evaluated refuse the write unless the webhook is
    /// optional.
    pub async fn wants(&self, c: &Context<'_>, object: Option<&Value>) -> Result<Option<Seen>, Status> {
        let Some(seen) = self.constraints.seen(c, object) else { return Ok(None) };
        if self.conditions.is_empty() {
            return Ok(Some(seen));
        }
        match Box::pin(self.admits(c, &seen, object)).await? {
            Ok(true) => Ok(Some(seen)),
            Ok(false) => Ok(None),
            Err(why) if self.optional => {
                tracing::warn!(webhook = self.name, why, "Failed evaluating match conditions, failing open");
                Ok(None)
            }
            Err(why) => Err(c.forbidden(object, why)),
        }
    }

    /// Whether its conditions hold of the request as it sees it.
    async fn admits(&self, c: &Context<'_>, seen: &Seen, object: Option<&Value>) -> Result<Result<bool, String>, Status> {
        let view = seen.view(c, object, c.review.old).await?;
        Ok(holds(c, seen, &self.conditions, &view).await)
    }
}

/// The webhooks of one kind of configuration, in their order.
#[derive(Default)]
pub(super) struct Set {
    pub hooks: Vec<Hook>,
    /// What reaches them, with the connections that are open: kept when configurations change and servers do not.
    clients: Vec<(Value, Arc<Client>)>,
}

impl Set {
    /// Reads the configurations again.
    pub fn read(objects: &dyn Objects, resource: &str, before: Option<&Set>) -> Set {
        let mut set = Set::default();
        for stored in objects.list(GROUP, resource, "") {
            let Ok(configuration) = stored.decode::<Value>() else { continue };
            for hook in list(&configuration, "webhooks") {
                let client = set.client(hook, before);
                set.hooks.push(Hook::new(&stored.key.name, set.hooks.len(), hook, client));
            }
        }
        set
    }

    fn client(&mut self, hook: &Value, before: Option<&Set>) -> Arc<Client> {
        let (config, timeout) = (&hook["clientConfig"], hook["timeoutSeconds"].as_u64());
        let key = serde_json::json!([config, timeout]);
        let mut known = self.clients.iter().chain(before.into_iter().flat_map(|set| &set.clients));
        let found = known.find(|(own, _)| *own == key).map(|(_, client)| client.clone());
        let client = found.unwrap_or_else(|| Arc::new(Client::new(config, timeout)));
        if !self.clients.iter().any(|(own, _)| *own == key) {
            self.clients.push((key, client.clone()));
        }
        client
    }
}
