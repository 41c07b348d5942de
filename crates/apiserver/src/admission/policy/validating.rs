//! ValidatingAdmissionPolicy: what it says of a request, and what its bindings make of that.

use super::super::constraints::Seen;
use super::super::versions::View;
use super::super::{Context, Outcome, list};
use super::compile::{Compiled, Policy, Validation};
use super::run::{PER_POLICY, Scene, Variables, failure};
use super::{Binding, Set, conditions, params};
use ferrokube_api::status::{Cause, Details};
use ferrokube_api::{Reason, Status};
use ferrokube_cel::{Budget, EvalError, Evaluated, Value as Cel};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longest message and longest annotation, in bytes.
const MAX_MESSAGE: usize = 5 << 10;
const MAX_ANNOTATION: usize = 10 << 10;
const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

/// Something that a policy holds against the request.
#[derive(Debug)]
struct Finding {
    message: String,
    reason: Option<Reason>,
    /// Which validation; for the audit event.
    at: usize,
    /// The policy could not be evaluated, which refuses whatever the actions of the binding are.
    broken: bool,
    /// The policy lets pass what it cannot judge: only counted.
    ignored: bool,
    /// `error_type` of the metrics; nothing for what is not counted.
    kind: Option<&'static str>,
    took: Duration,
}

impl Finding {
    fn of(message: String, at: usize) -> Finding {
        Finding { message, reason: None, at, broken: false, ignored: false, kind: Some("invalid_error"), took: Duration::ZERO }
    }
}

/// What has been gathered over all policies.
#[derive(Default)]
struct Gathered {
    denied: Option<Status>,
    annotations: Vec<(String, String)>,
    failures: Vec<Value>,
}

/// Runs all policies; the first refusal is the answer.
pub(super) async fn run(c: &Context<'_>, set: &Set, object: Option<&Value>, outcome: &mut Outcome) -> Result<(), Status> {
    let mut gathered = Gathered::default();
    // Most policies see the request as it is: that view is made once.
    let own = View { object: object.map(Cow::Borrowed), old: c.review.old.map(Cow::Borrowed) };
    let own_scene = OnceLock::new();
    for (policy, bindings) in &set.policies {
        let Some(seen) = policy.constraints.seen(c, object) else { continue };
        let bindings: Vec<&Binding> = bindings.iter().filter(|b| b.constraints.seen(c, object).is_some()).collect();
        if bindings.is_empty() {
            continue;
        }
        let (view, scene);
        let scene = match &seen {
            Seen::Own => Ok(own_scene.get_or_init(|| Scene::new(c, &Seen::Own, &own))),
            Seen::As(_) => match seen.view(c, object, c.review.old).await {
                Ok(made) => {
                    view = made;
                    scene = Scene::new(c, &seen, &view);
                    Ok(&scene)
                }
                Err(status) => Err(status.message),
            },
        };
        each(c, policy, &bindings, scene.as_ref().map(|s| *s).map_err(String::as_str), object, &mut gathered, outcome).await;
    }
    if !gathered.failures.is_empty() {
        outcome.annotations.push((FAILURE.to_owned(), Value::Array(gathered.failures).to_string()));
    }
    outcome.annotations.extend(gathered.annotations);
    gathered.denied.map_or(Ok(()), Err)
}

/// A policy with each of its bindings. The scene is missing when the objects could not be converted for it.
async fn each(
    c: &Context<'_>,
    policy: &Policy,
    bindings: &[&Binding],
    scene: Result<&Scene<'_>, &str>,
    object: Option<&Value>,
    gathered: &mut Gathered,
    outcome: &mut Outcome,
) {
    for binding in bindings {
        let found = match findings(c, policy, binding, scene, gathered).await {
            Ok(found) => found,
            Err(why) if policy.fails_closed() => {
                vec![Finding { broken: true, kind: None, ..Finding::of(format!("failed to configure binding: {why}"), 0) }]
            }
            Err(_) => Vec::new(),
        };
        act(c, policy, binding, found, object, gathered, outcome);
    }
}

/// What a policy holds against the request, for all parameters of a binding.
async fn findings(
    c: &Context<'_>,
    policy: &Policy,
    binding: &Binding,
    scene: Result<&Scene<'_>, &str>,
    gathered: &mut Gathered,
) -> Result<Vec<Finding>, String> {
    let parameters = params::find(c, policy, binding)?;
    let scene = scene?;
    let mut found = Vec::new();
    for params in &parameters {
        let (more, notes) = loop {
            let judged = judge(policy, scene, params.as_ref());
            if !c.questions.answer().await {
                break judged;
            }
        };
        found.extend(more);
        notes.into_iter().for_each(|(key, text)| annotate(&mut gathered.annotations, key, &text));
    }
    Ok(found)
}

/// What the actions of a binding make of what was found.
fn act(
    c: &Context<'_>,
    policy: &Policy,
    binding: &Binding,
    found: Vec<Finding>,
    object: Option<&Value>,
    gathered: &mut Gathered,
    outcome: &mut Outcome,
) {
    let acts = |action: &str| list(&binding.spec, "validationActions").any(|a| a == action);
    for finding in found {
        let count = |action: &str| {
            if let Some(kind) = finding.kind {
                c.metrics.policy(&policy.name, &binding.name, kind, action, finding.took);
            }
        };
        if finding.ignored {
            count("allow");
            continue;
        }
        let said =
            format!("ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}", policy.name, binding.name, finding.message);
        if finding.broken || acts("Deny") {
            count("deny");
            gathered.denied.get_or_insert_with(|| refusal(c, object, &said, finding.reason));
        }
        if !finding.broken && acts("Warn") {
            count("warn");
            let warning = format!(
                "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                policy.name, binding.name, finding.message
            );
            outcome.warnings.push(warning);
        }
        if !finding.broken && acts("Audit") {
            count("audit");
            gathered.failures.push(json!({
                "message": finding.message, "policy": policy.name, "binding": binding.name,
                "expressionIndex": finding.at, "validationActions": binding.spec["validationActions"],
            }));
        }
    }
}

fn refusal(c: &Context<'_>, object: Option<&Value>, said: &str, reason: Option<Reason>) -> Status {
    let mut status = c.forbidden(object, said);
    let reason = reason.unwrap_or(Reason::Invalid);
    status.code = match reason {
        Reason::Unauthorized => 401,
        Reason::Forbidden => 403,
        Reason::RequestEntityTooLarge => 413,
        _ => 422,
    };
    status.reason = Some(reason);
    let cause = Cause { kind: String::new(), message: said.to_owned(), field: String::new() };
    status.details.get_or_insert_with(Details::default).causes.push(cause);
    status
}

/// Evaluates a policy with one parameter: what it holds against the request, and its annotations.
fn judge(policy: &Policy, scene: &Scene<'_>, params: Option<&Value>) -> (Vec<Finding>, Vec<(String, String)>) {
    let base = scene.values(scene.object(), params);
    let closed = policy.fails_closed();
    let broken = |message: String, at: usize| Finding { ignored: !closed, ..Finding::of(message, at) };
    match conditions::hold(&policy.conditions, &base) {
        Ok(true) => {}
        Ok(false) => return Default::default(),
        Err(why) => return (vec![broken(why, 0)], Vec::new()),
    }
    let budget = Budget::new(PER_POLICY);
    let variables = Variables::new(&policy.variables, base, &budget);
    let values = variables.values();
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    for (at, validation) in policy.validations.iter().enumerate() {
        let start = Instant::now();
        let result = evaluate(&validation.program, &values, &budget);
        let took = start.elapsed();
        match result {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => {
                let message = said(validation, &values, &budget);
                found.push(Finding { reason: reason(&validation.reason), took, ..Finding::of(message, at) });
            }
            Err(e) => {
                let message = format!("expression '{}' resulted in error: {e}", validation.expression);
                found.push(Finding { kind: Some(error_type(&validation.program, &e)), took, ..broken(message, at) });
            }
        }
    }
    for (key, program) in &policy.annotations {
        let key = format!("{}/{key}", policy.name);
        match evaluate(program, &values, &budget) {
            Ok(Cel::String(text)) if !text.trim().is_empty() => notes.push((key, text.trim().to_owned())),
            Ok(_) => {}
            // Refused whatever the actions of the binding are, or left out.
            Err(e) if closed => {
                let message = format!("audit annotation {key:?} resulted in error: {e}");
                found.push(Finding { broken: true, kind: Some(error_type(program, &e)), ..Finding::of(message, 0) });
            }
            Err(_) => {}
        }
    }
    (found, notes)
}

/// Values of one key from several bindings are joined, each once.
fn annotate(annotations: &mut Vec<(String, String)>, key: String, text: &str) {
    let cut = (0..=text.len().min(MAX_ANNOTATION)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    let text = &text[..cut];
    match annotations.iter_mut().find(|(k, _)| *k == key) {
        Some((_, known)) if known.split(", ").any(|part| part == text) => {}
        Some((_, known)) => known.push_str(&format!(", {text}")),
        None => annotations.push((key, text.to_owned())),
    }
}

/// As the metrics name it.
fn error_type(program: &Compiled, error: &EvalError) -> &'static str {
    match program {
        Err(_) => "compile_error",
        Ok(_) if error.exhausted => "out_of_budget",
        Ok(_) => "invalid_error",
    }
}

fn evaluate<'a>(program: &'a Compiled, values: &[Cel<'a>], budget: &Budget) -> Evaluated<'a> {
    match program {
        Ok(program) => program.eval(values, budget),
        Err(why) => Err(failure(why.clone())),
    }
}

/// What the client is told: the message expression when it yields something usable, the message, or the expression.
fn said<'a>(validation: &'a Validation, values: &[Cel<'a>], budget: &Budget) -> String {
    let computed = validation.message_program.as_ref().and_then(|p| evaluate(p, values, budget).ok());
    let computed = computed.and_then(|v| v.as_str().map(|s| s.trim().to_owned()));
    let usable = computed.filter(|s| !s.is_empty() && s.len() <= MAX_MESSAGE && !s.contains('\n'));
    let fixed = || (!validation.message.is_empty()).then(|| validation.message.clone());
    usable.or_else(fixed).unwrap_or_else(|| format!("failed expression: {}", validation.expression))
}

fn reason(name: &str) -> Option<Reason> {
    match name {
        "Unauthorized" => Some(Reason::Unauthorized),
        "Forbidden" => Some(Reason::Forbidden),
        "RequestEntityTooLarge" => Some(Reason::RequestEntityTooLarge),
        _ => None,
    }
}
