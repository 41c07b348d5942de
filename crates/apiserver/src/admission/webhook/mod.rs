//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: servers outside that change or refuse a write.
//!
//! Mutating webhooks are called one after the other, validating ones at once. A webhook that cannot be asked refuses
//! the write unless its `failurePolicy` is `Ignore`. Configurations and policies themselves are never intercepted, so that
//! a broken webhook can always be removed. Source: `admission/plugin/webhook`, `admission/v1`.

pub(crate) mod call;
pub(super) mod matching;
mod review;
mod versions;

use super::{Context, Outcome, list};
use ferrokube_api::patch::json_patch;
use ferrokube_api::status::Details;
use ferrokube_api::{Reason, Status};
use futures_util::future::join_all;
use review::Verdict;
use serde::Deserialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use versions::Other;

pub(super) const GROUP: &str = "admissionregistration.k8s.io";

/// A webhook of a configuration that wants to see the request.
struct Hook {
    /// Name of its configuration.
    configuration: String,
    /// Its place among all webhooks of its kind.
    index: usize,
    spec: Value,
    /// The version its rules name, when it is not that of the request.
    seen_as: Option<Other>,
}

impl Hook {
    fn name(&self) -> &str {
        self.spec["name"].as_str().unwrap_or_default()
    }

    fn optional(&self) -> bool {
        self.spec["failurePolicy"] == "Ignore"
    }

    fn again(&self) -> bool {
        self.spec["reinvocationPolicy"] == "IfNeeded"
    }

    /// Whether objects are converted for it: those of subresources with kinds of their own stay as they are.
    fn converts(&self, c: &Context<'_>) -> bool {
        self.seen_as.is_some() && c.kind.0 == c.group
    }

    /// The object as the webhook sees it.
    fn seen<'o>(&self, c: &Context<'_>, object: &'o Value) -> Cow<'o, Value> {
        match &self.seen_as {
            Some(other) if self.converts(c) => Cow::Owned(versions::converted(object, c.resource, &other.group, &other.version)),
            _ => Cow::Borrowed(object),
        }
    }
}

/// Webhooks of all configurations of the kind that want to see the request, in order.
fn wanting(c: &Context<'_>, resource: &str, object: Option<&Value>) -> Result<Vec<Hook>, Status> {
    let mut wanting = Vec::new();
    if c.group == GROUP {
        return Ok(wanting);
    }
    let mut index = 0;
    for stored in c.objects.list(GROUP, resource, "") {
        let Ok(configuration) = stored.decode::<Value>() else { continue };
        for spec in list(&configuration, "webhooks") {
            if let Some(seen) = matching::wants(c, spec, object) {
                let hook = Hook { configuration: stored.key.name.to_string(), index, spec: spec.clone(), seen_as: seen.other() };
                if admits(c, &hook, object)? {
                    wanting.push(hook);
                }
            }
            index += 1;
        }
    }
    Ok(wanting)
}

/// Whether the match conditions of a webhook hold. One that cannot be evaluated refuses the write unless the webhook is optional.
fn admits(c: &Context<'_>, hook: &Hook, object: Option<&Value>) -> Result<bool, Status> {
    match super::policy::admits(c, &hook.spec, object) {
        Ok(holds) => Ok(holds),
        Err(why) if hook.optional() => {
            tracing::warn!(webhook = hook.name(), why, "Failed evaluating match conditions, failing open");
            Ok(false)
        }
        Err(why) => Err(c.forbidden(object, why)),
    }
}

/// The `AdmissionRequest` of a request as it is.
pub(super) fn request(c: &Context<'_>, object: Option<&Value>) -> Value {
    let nobody = Hook { configuration: String::new(), index: 0, spec: Value::Null, seen_as: None };
    review::review(c, &nobody, "", object, c.review.old)["request"].take()
}

/// What the first round of mutating webhooks left to do.
pub(super) struct Round {
    /// Whether one changed the object.
    pub(super) changed: bool,
    /// Those that ask to be called again (`reinvocationPolicy: IfNeeded`), and whether a later one changed the object.
    again: Vec<(Hook, bool)>,
}

/// Calls the mutating webhooks.
pub(super) async fn mutate(c: &Context<'_>, mut object: Option<&mut Value>, outcome: &mut Outcome) -> Result<Round, Status> {
    let hooks = wanting(c, "mutatingwebhookconfigurations", object.as_deref())?;
    let mut last_change = None;
    for (at, hook) in hooks.iter().enumerate() {
        if invoke(c, hook, object.as_deref_mut(), 0, outcome).await? {
            last_change = Some(at);
        }
    }
    let again = hooks.into_iter().enumerate().filter(|(_, h)| h.again()).map(|(at, h)| (h, last_change.is_some_and(|last| at < last)));
    Ok(Round { changed: last_change.is_some(), again: again.collect() })
}

/// Calls once more those that asked for it and have not seen what later webhooks, or plugins after them, made of the object.
pub(super) async fn reinvoke(
    c: &Context<'_>,
    round: Round,
    by_plugins: bool,
    object: &mut Value,
    outcome: &mut Outcome,
) -> Result<(), Status> {
    for (hook, _) in round.again.iter().filter(|(_, outdated)| *outdated || by_plugins) {
        invoke(c, hook, Some(object), 1, outcome).await?;
    }
    Ok(())
}

/// Calls one mutating webhook; whether it changed the object.
async fn invoke(c: &Context<'_>, hook: &Hook, object: Option<&mut Value>, round: u8, outcome: &mut Outcome) -> Result<bool, Status> {
    let place = format!("round_{round}_index_{}", hook.index);
    let Some(verdict) = ask(c, hook, object.as_deref(), true).await? else {
        outcome.annotations.push((format!("failed-open.mutation.webhook.admission.k8s.io/{place}"), hook.name().to_owned()));
        return Ok(false);
    };
    let patch = verdict.patch.clone();
    settle(hook, verdict, outcome)?;
    let note = |mutated: bool| {
        let text = json!({ "configuration": hook.configuration, "webhook": hook.name(), "mutated": mutated }).to_string();
        (format!("mutation.webhook.admission.k8s.io/{place}"), text)
    };
    let Some(patch) = patch else {
        outcome.annotations.push(note(false));
        return Ok(false);
    };
    let Some(object) = object else {
        let why = format!("admission webhook {:?} attempted to modify the object, which is not supported for this operation", hook.name());
        return Err(Status::internal(why));
    };
    let mut changed = hook.seen(c, object).into_owned();
    json_patch(&mut changed, patch).map_err(|status| Status::internal(status.message))?;
    if hook.converts(c) {
        changed = versions::converted(&changed, c.resource, c.group, c.version);
    }
    let differs = changed != *object;
    *object = changed;
    outcome.annotations.push(note(differs));
    Ok(differs)
}

/// Calls the validating webhooks.
pub(super) async fn validate(c: &Context<'_>, object: Option<&Value>, outcome: &mut Outcome) -> Result<(), Status> {
    let hooks = wanting(c, "validatingwebhookconfigurations", object)?;
    let answers = join_all(hooks.iter().map(|hook| ask(c, hook, object, false))).await;
    for (hook, answer) in hooks.iter().zip(answers) {
        match answer? {
            Some(verdict) => settle(hook, verdict, outcome)?,
            None => {
                let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{}", hook.index);
                outcome.annotations.push((key, hook.name().to_owned()));
            }
        }
    }
    Ok(())
}

/// The verdict; `None` when there is none and none is needed.
async fn ask(c: &Context<'_>, hook: &Hook, object: Option<&Value>, mutating: bool) -> Result<Option<Verdict>, Status> {
    let harmless = matches!(hook.spec["sideEffects"].as_str(), Some("None" | "NoneOnDryRun"));
    if c.dry_run && !harmless {
        return Err(Status::bad_request(format!("admission webhook {:?} does not support dry run", hook.name())));
    }
    let uid = uuid::Uuid::new_v4().to_string();
    let (seen, old) = (object.map(|o| hook.seen(c, o)), c.review.old.map(|o| hook.seen(c, o)));
    let review = review::review(c, hook, &uid, seen.as_deref(), old.as_deref());
    let answer = call::post(c.objects, &hook.spec, &review).await.map_err(|why| format!("failed to call webhook: {why}"));
    let read = |body: bytes::Bytes| {
        let verdict = review::verdict(&body, &uid, review::version(&hook.spec), mutating);
        verdict.map_err(|why| format!("received invalid webhook response: {why}"))
    };
    match answer.and_then(read) {
        Ok(verdict) => Ok(Some(verdict)),
        Err(why) => unusable(hook, &why).map(|()| None),
    }
}

/// A webhook that failed: nothing when its policy says so, else a 500.
fn unusable(hook: &Hook, why: &str) -> Result<(), Status> {
    if hook.optional() {
        tracing::warn!(webhook = hook.name(), why, "Failed calling webhook, failing open");
        return Ok(());
    }
    tracing::warn!(webhook = hook.name(), why, "Failed calling webhook, failing closed");
    Err(Status::internal(format_args!("failed calling webhook {:?}: {why}", hook.name())))
}

/// Keeps warnings and annotations, and turns a no into its `Status`.
fn settle(hook: &Hook, verdict: Verdict, outcome: &mut Outcome) -> Result<(), Status> {
    outcome.warnings.extend(verdict.warnings);
    outcome.annotations.extend(verdict.annotations.into_iter().map(|(k, v)| (format!("{}/{k}", hook.name()), v)));
    if verdict.allowed {
        return Ok(());
    }
    let said = verdict.status;
    let denied = format!("admission webhook {:?} denied the request", hook.name());
    let text = |field: &str| said[field].as_str().filter(|s| !s.is_empty());
    let message = match (text("message"), text("reason")) {
        (Some(message), _) => format!("{denied}: {message}"),
        (None, Some(reason)) => format!("{denied}: {reason}"),
        (None, None) => format!("{denied} without explanation"),
    };
    let mut status = Status::deserialize(&said).unwrap_or_else(|_| Status::failure(400, Reason::BadRequest, ""));
    (status.status, status.message) = ("Failure".into(), message);
    if status.code < 400 {
        status.code = 400;
    }
    status.details.get_or_insert_with(Details::default);
    Err(status)
}

#[cfg(test)]
mod tests;
