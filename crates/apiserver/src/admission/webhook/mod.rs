//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: servers outside that change or refuse a write.
//!
//! Mutating webhooks are called one after the other, validating ones at once. A webhook that cannot be asked refuses
//! the write unless its `failurePolicy` is `Ignore`. Configurations and policies themselves are never intercepted, so that
//! a broken webhook can always be removed. Source: `admission/plugin/webhook`, `admission/v1`.

pub(crate) mod call;
mod review;
mod set;

pub(super) use review::request;

use super::constraints::Seen;
use super::kept::Kept;
use super::{Context, Outcome};
use crate::objects::Objects;
use ferrokube_api::patch::json_patch_explained;
use ferrokube_api::{Status, decode};
use futures_util::future::join_all;
use review::{Draft, Drafts, Verdict};
use serde::Deserialize;
use serde_json::{Value, json};
use set::{Hook, Set};
use std::sync::Arc;
use std::time::Instant;

pub(crate) const GROUP: &str = "admissionregistration.k8s.io";

/// What stands in the caches, ready to be asked.
#[derive(Default)]
pub(super) struct Webhooks {
    mutating: Kept<Set>,
    validating: Kept<Set>,
}

impl Webhooks {
    fn set(&self, c: &Context<'_>, mutating: bool) -> Arc<Set> {
        let (kept, resource) = match mutating {
            true => (&self.mutating, "mutatingwebhookconfigurations"),
            false => (&self.validating, "validatingwebhookconfigurations"),
        };
        let objects: &dyn Objects = c.objects;
        kept.current(objects, GROUP, &[resource], |before| Set::read(objects, resource, before))
    }

    /// Calls the mutating webhooks.
    pub(super) async fn mutate(&self, c: &Context<'_>, mut object: Option<&mut Value>, outcome: &mut Outcome) -> Result<Round, Status> {
        let set = self.set(c, true);
        let (mut asked, mut last_change, mut drafts) = (Vec::new(), None, Drafts::default());
        for (at, hook) in set.hooks.iter().enumerate().filter(|_| c.group != GROUP) {
            let Some(seen) = hook.wants(c, object.as_deref()).await? else { continue };
            if Box::pin(invoke(c, hook, &seen, object.as_deref_mut(), &mut drafts, 0, outcome)).await? {
                drafts.outdate();
                last_change = Some(at);
            }
            asked.push(at);
        }
        let again = asked.into_iter().filter(|at| set.hooks[*at].again).map(|at| (at, last_change.is_some_and(|last| at < last)));
        let again = again.collect();
        Ok(Round { changed: last_change.is_some(), again, set })
    }

    /// Calls the validating webhooks.
    pub(super) async fn validate(&self, c: &Context<'_>, object: Option<&Value>, outcome: &mut Outcome) -> Result<(), Status> {
        let set = self.set(c, false);
        let (mut wanting, mut drafts) = (Vec::new(), Drafts::default());
        for hook in set.hooks.iter().filter(|_| c.group != GROUP) {
            if let Some(seen) = hook.wants(c, object).await? {
                wanting.push((hook, drafts.draft(c, hook.review, &seen, object).await?));
            }
        }
        let answers = join_all(wanting.iter().map(|(hook, draft)| ask(c, hook, draft, false))).await;
        for ((hook, _), answer) in wanting.iter().zip(answers) {
            match answer? {
                Some(verdict) => settle(hook, verdict, outcome)?,
                None => {
                    let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{}", hook.index);
                    outcome.annotations.push((key, hook.name.clone()));
                }
            }
        }
        Ok(())
    }
}

/// What the first round of mutating webhooks left to do.
pub(super) struct Round {
    /// Whether one changed the object.
    pub(super) changed: bool,
    /// Those that ask to be called again (`reinvocationPolicy: IfNeeded`), and whether a later one changed the object.
    again: Vec<(usize, bool)>,
    set: Arc<Set>,
}

/// Calls once more those that asked for it and have not seen what later webhooks, or plugins after them, made of the object.
pub(super) async fn reinvoke(
    c: &Context<'_>,
    round: Round,
    by_plugins: bool,
    object: &mut Value,
    outcome: &mut Outcome,
) -> Result<(), Status> {
    let mut drafts = Drafts::default();
    for (at, _) in round.again.iter().filter(|(_, outdated)| *outdated || by_plugins) {
        let hook = &round.set.hooks[*at];
        if let Some(seen) = hook.wants(c, Some(object)).await?
            && Box::pin(invoke(c, hook, &seen, Some(object), &mut drafts, 1, outcome)).await?
        {
            drafts.outdate();
        }
    }
    Ok(())
}

/// Calls one mutating webhook; whether it changed the object.
async fn invoke(
    c: &Context<'_>,
    hook: &Hook,
    seen: &Seen,
    object: Option<&mut Value>,
    drafts: &mut Drafts,
    round: u8,
    outcome: &mut Outcome,
) -> Result<bool, Status> {
    let place = format!("round_{round}_index_{}", hook.index);
    let draft = drafts.draft(c, hook.review, seen, object.as_deref()).await?;
    let Some(mut verdict) = ask(c, hook, &draft, true).await? else {
        outcome.annotations.push((format!("failed-open.mutation.webhook.admission.k8s.io/{place}"), hook.name.clone()));
        return Ok(false);
    };
    let patch = verdict.patch.take();
    settle(hook, verdict, outcome)?;
    let note = |mutated: bool| {
        let text = json!({ "configuration": hook.configuration, "webhook": hook.name, "mutated": mutated }).to_string();
        (format!("mutation.webhook.admission.k8s.io/{place}"), text)
    };
    let Some(patch) = patch else {
        outcome.annotations.push(note(false));
        return Ok(false);
    };
    let Some(object) = object else {
        let why = format!("admission webhook {:?} attempted to modify the object, which is not supported for this operation", hook.name);
        return Err(Status::internal(why));
    };
    let mut changed = seen.view(c, Some(object), None).await?.object.map(std::borrow::Cow::into_owned).unwrap_or_default();
    json_patch_explained(&mut changed, &patch).map_err(Status::internal)?;
    let changed = typed(c, seen.back(c, changed).await?)?;
    let differs = changed != *object;
    *object = changed;
    outcome.annotations.push(note(differs));
    Ok(differs)
}

/// What a webhook made of an object, read by its type: what could not have come from a client does not come from a webhook.
fn typed(c: &Context<'_>, object: Value) -> Result<Value, Status> {
    match c.schema {
        Some(schema) => decode::again(object, schema).map_err(Status::internal),
        None => Ok(object),
    }
}

/// The verdict; `None` when there is none and none is needed.
async fn ask(c: &Context<'_>, hook: &Hook, draft: &Draft, mutating: bool) -> Result<Option<Verdict>, Status> {
    if c.dry_run && !hook.harmless {
        return Err(Status::bad_request(format!("admission webhook {:?} does not support dry run", hook.name)));
    }
    let uid = uuid::Uuid::new_v4().to_string();
    let start = Instant::now();
    let failed = |why: String| format!("failed to call webhook: {why}");
    let read = |body: bytes::Bytes| {
        let verdict = review::verdict(review::read(&body).map_err(failed)?, &uid, hook.review, mutating);
        verdict.map_err(|why| format!("received invalid webhook response: {why}"))
    };
    let answer = hook.client.post(c.objects, draft.under(&uid).into()).await.map_err(failed).and_then(read);
    let (rejected, code) = match &answer {
        Ok(verdict) if verdict.allowed => (false, 200),
        Ok(verdict) => (true, refusal_code(&verdict.status)),
        Err(_) => (!hook.optional, 0),
    };
    c.metrics.webhook(&hook.name, c.operation.as_str(), mutating, start, rejected, code.min(600));
    match &answer {
        Ok(_) if !rejected => {}
        Ok(_) => c.metrics.rejected(&hook.name, c.operation.as_str(), mutating, "no_error", code.min(600)),
        Err(_) if hook.optional => c.metrics.failed_open(&hook.name, mutating),
        Err(_) => c.metrics.rejected(&hook.name, c.operation.as_str(), mutating, "calling_webhook_error", 0),
    }
    match answer {
        Ok(verdict) => Ok(Some(verdict)),
        Err(why) => unusable(hook, &why).map(|()| None),
    }
}

/// The code of a refusal: what the webhook said, if that is one.
fn refusal_code(status: &Value) -> u16 {
    status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 400).unwrap_or(400)
}

/// A webhook that failed: nothing when its policy says so, else a 500.
fn unusable(hook: &Hook, why: &str) -> Result<(), Status> {
    if hook.optional {
        tracing::warn!(webhook = hook.name, why, "Failed calling webhook, failing open");
        return Ok(());
    }
    tracing::warn!(webhook = hook.name, why, "Failed calling webhook, failing closed");
    Err(Status::internal(format_args!("failed calling webhook {:?}: {why}", hook.name)))
}

/// Keeps warnings and annotations, and turns a no into its `Status`.
fn settle(hook: &Hook, verdict: Verdict, outcome: &mut Outcome) -> Result<(), Status> {
    outcome.warnings.extend(verdict.warnings);
    outcome.annotations.extend(verdict.annotations.into_iter().map(|(k, v)| (format!("{}/{k}", hook.name), v)));
    if verdict.allowed {
        return Ok(());
    }
    let said = verdict.status;
    let denied = format!("admission webhook {:?} denied the request", hook.name);
    let text = |field: &str| said[field].as_str().filter(|s| !s.is_empty());
    let message = match (text("message"), text("reason")) {
        (Some(message), _) => format!("{denied}: {message}"),
        (None, Some(reason)) => format!("{denied}: {reason}"),
        (None, None) => format!("{denied} without explanation"),
    };
    let mut status = Status::deserialize(&said).unwrap_or_else(|_| Status { code: 400, ..Status::untyped("") });
    (status.status, status.message) = ("Failure".into(), message);
    status.code = status.code.max(400);
    Err(status)
}

#[cfg(test)]
mod tests;
