//! PodSecurity: the Pod Security Standards, as labels of a namespace ask for them.
//!
//! Pods that violate the enforced level are refused; violations of the other two levels become audit annotations and
//! warnings, also for the templates of workloads. Source: `pod-security-admission/admission`.

mod checks;
mod policy;
mod settings;

pub(super) use settings::PodSecuritySettings;

use policy::{Level, Policies, Policy};

use super::{Context, Operation, Outcome, list};
use ferrokube_api::field::Errors;
use ferrokube_api::{Object, Status};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Subresources that do not change what a pod may do.
const IGNORED: &[&str] = &["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];
/// Existing pods that a change of the namespace's labels is measured against.
const MAX_PODS: usize = 3000;

pub(super) fn validate(c: &Context<'_>, object: Option<&Value>, outcome: &mut Outcome) -> Result<(), Status> {
    let Some(object) = object.filter(|_| matches!(c.operation, Operation::Create | Operation::Update)) else { return Ok(()) };
    match (c.group, c.resource, c.subresource) {
        ("", "namespaces", "") => namespace(c, object, outcome),
        ("", "pods", subresource) if !IGNORED.contains(&subresource) => pod(c, object, outcome),
        (group, resource, "") => {
            workload(c, template(group, resource, object), outcome);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Metadata and spec of the pods that a workload makes.
fn template<'a>(group: &str, resource: &str, object: &'a Value) -> Option<(&'a Value, &'a Value)> {
    let template = match (group, resource) {
        ("apps", "deployments" | "replicasets" | "daemonsets" | "statefulsets") | ("", "replicationcontrollers") | ("batch", "jobs") => {
            &object["spec"]["template"]
        }
        ("batch", "cronjobs") => &object["spec"]["jobTemplate"]["spec"]["template"],
        ("", "podtemplates") => &object["template"],
        _ => return None,
    };
    template["spec"].is_object().then_some((&template["metadata"], &template["spec"]))
}

/// What the namespace asks for, and what of its labels cannot be read.
fn policies(c: &Context<'_>) -> (Policies, Errors) {
    let defaults = &c.settings.pod_security.defaults;
    let Some(namespace) = c.objects.get("", "namespaces", "", c.namespace) else { return (*defaults, Errors::default()) };
    let label = |key: &str| namespace.label(key).map(str::to_owned);
    (Policies::of(defaults, label), policy::check_labels(label))
}

/// Whether the configuration exempts who asks, or where; noted when it does.
fn exempt(c: &Context<'_>, outcome: &mut Outcome) -> bool {
    note(c.settings.pod_security.exempts(c.namespace, &c.user.name, None), outcome)
}

/// Whether the configuration exempts what the pod runs in.
fn exempt_class(c: &Context<'_>, spec: &Value, outcome: &mut Outcome) -> bool {
    note(c.settings.pod_security.exempts("", "", spec["runtimeClassName"].as_str()), outcome)
}

fn note(why: Option<&'static str>, outcome: &mut Outcome) -> bool {
    outcome.annotations.extend(why.map(|what| (format!("{PREFIX}exempt"), what.to_owned())));
    why.is_some()
}

/// The pods that a workload will make are warned about, never refused.
fn workload(c: &Context<'_>, template: Option<(&Value, &Value)>, outcome: &mut Outcome) {
    let Some((meta, spec)) = template.filter(|_| !exempt(c, outcome)) else { return };
    let (policies, errors) = policies(c);
    let nothing_asked = [policies.audit, policies.warn].iter().all(|p| p.level == Level::Privileged);
    if (nothing_asked && errors.is_empty()) || exempt_class(c, spec, outcome) {
        return;
    }
    unread(&errors, outcome);
    audit(policies.audit, meta, spec, outcome);
    outcome.warnings.extend(would_violate(policies.warn, meta, spec));
}

fn pod(c: &Context<'_>, pod: &Value, outcome: &mut Outcome) -> Result<(), Status> {
    if exempt(c, outcome) {
        return Ok(());
    }
    let (policies, errors) = policies(c);
    if errors.is_empty() && [policies.enforce, policies.audit, policies.warn].iter().all(|p| p.level == Level::Privileged) {
        outcome.annotations.push((format!("{PREFIX}enforce-policy"), "privileged:latest".to_owned()));
        return Ok(());
    }
    let unchanged = c.operation == Operation::Update && c.review.old.is_some_and(|old| !is_significant(pod, old));
    let (meta, spec) = (&pod["metadata"], &pod["spec"]);
    if unchanged || exempt_class(c, spec, outcome) {
        return Ok(());
    }
    unread(&errors, outcome);
    let enforce = policies.enforce;
    outcome.annotations.push((format!("{PREFIX}enforce-policy"), enforce.to_string()));
    let violations = checks::violations(meta, spec, enforce);
    audit(policies.audit, meta, spec, outcome);
    if violations.is_empty() {
        outcome.warnings.extend(would_violate(policies.warn, meta, spec));
        return Ok(());
    }
    // What is refused is not warned about.
    Err(c.forbidden(Some(pod), format!("violates PodSecurity \"{enforce}\": {}", told(&violations))))
}

fn unread(errors: &Errors, outcome: &mut Outcome) {
    let lines: Vec<String> = errors.causes().iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
    let why = match lines.as_slice() {
        [] => return,
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    outcome.annotations.push((format!("{PREFIX}error"), format!("Failed to parse policy: {why}")));
}

fn audit(policy: Policy, meta: &Value, spec: &Value, outcome: &mut Outcome) {
    let text = would_violate(policy, meta, spec);
    outcome.annotations.extend(text.map(|text| (format!("{PREFIX}audit-violations"), text)));
}

fn would_violate(policy: Policy, meta: &Value, spec: &Value) -> Option<String> {
    let violations = checks::violations(meta, spec, policy);
    (!violations.is_empty()).then(|| format!("would violate PodSecurity \"{policy}\": {}", told(&violations)))
}

fn told(violations: &[checks::Violation]) -> String {
    violations.iter().map(|v| format!("{} ({})", v.reason, v.detail)).collect::<Vec<_>>().join(", ")
}

/// Whether an update is one that pods are looked at again for: another image, another profile in an annotation, another container.
fn is_significant(new: &Value, old: &Value) -> bool {
    let annotation = |pod: &Value, key: &str| pod["metadata"]["annotations"][key].clone();
    let differs = |key: &str| annotation(new, key) != annotation(old, key);
    let changed = |a: &Value, b: &Value| {
        let name = a["name"].as_str().unwrap_or_default();
        a["image"] != b["image"] || differs(&format!("{}{name}", checks::SECCOMP_CONTAINER))
    };
    let fixed = |kind: &str| {
        let (now, was): (Vec<&Value>, Vec<&Value>) = (list(&new["spec"], kind).collect(), list(&old["spec"], kind).collect());
        now.len() != was.len() || now.iter().zip(was).any(|(a, b)| changed(a, b))
    };
    let added = |container: &Value| {
        let before = list(&old["spec"], "ephemeralContainers").find(|c| c["name"] == container["name"]);
        before.is_none_or(|before| changed(container, before))
    };
    differs(checks::SECCOMP_POD) || fixed("containers") || fixed("initContainers") || list(&new["spec"], "ephemeralContainers").any(added)
}

/// Labels must be levels and versions; a level that gets stricter is measured against the pods that are there.
fn namespace(c: &Context<'_>, namespace: &Value, outcome: &mut Outcome) -> Result<(), Status> {
    let label = |o: &Value, key: &str| o["metadata"]["labels"][key].as_str().map(str::to_owned);
    let errors = policy::check_labels(|key| label(namespace, key));
    let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
    let settings = &c.settings.pod_security;
    // What was wrong before may stay so.
    let known = c.review.old.is_some_and(|old| policy::check_labels(|key| label(old, key)).causes() == errors.causes());
    if !errors.is_empty() && !known {
        return Err(Status::invalid("", "Namespace", name, errors.into_causes()));
    }
    let enforced = |o: &Value| Policies::of(&settings.defaults, |key| label(o, key)).enforce;
    let new = enforced(namespace);
    let stricter = c.review.old.is_some_and(|old| new.stricter_than(enforced(old)));
    if stricter && !note(settings.exempts(name, "", None), outcome) {
        outcome.warnings.extend(existing(c, name, new));
    }
    Ok(())
}

/// Pods in the order in which they are measured: of those that one controller made the first before all others.
fn measured(pods: Vec<Arc<Object>>) -> impl Iterator<Item = (Arc<Object>, Value)> {
    let mut controllers = HashSet::new();
    let decoded = pods.into_iter().filter_map(|o| o.decode::<Value>().ok().map(|value| (o, value)));
    let (first, more): (Vec<_>, Vec<_>) = decoded.partition(|(_, pod)| {
        let controller = list(&pod["metadata"], "ownerReferences").find(|o| o["controller"] == true);
        controller.and_then(|o| o["uid"].as_str()).is_none_or(|uid| controllers.insert(uid.to_owned()))
    });
    first.into_iter().chain(more)
}

/// Warnings about the pods of a namespace that a new level would refuse, the same violations told once.
fn existing(c: &Context<'_>, namespace: &str, policy: Policy) -> Vec<String> {
    let (mut total, mut by_violation) = (0, BTreeMap::<String, BTreeSet<String>>::new());
    for (object, pod) in measured(c.objects.list("", "pods", namespace)) {
        if c.settings.pod_security.exempts("", "", pod["spec"]["runtimeClassName"].as_str()).is_some() {
            continue;
        }
        total += 1;
        if total > MAX_PODS {
            continue;
        }
        let violations = checks::violations(&pod["metadata"], &pod["spec"], policy);
        if !violations.is_empty() {
            let reasons = violations.iter().map(|v| v.reason.clone()).collect::<Vec<_>>().join(", ");
            by_violation.entry(reasons).or_default().insert(object.key.name.to_string());
        }
    }
    let mut warnings = Vec::new();
    if total > MAX_PODS {
        warnings.push(format!("new PodSecurity enforce level only checked against the first {MAX_PODS} of {total} existing pods"));
    }
    if !by_violation.is_empty() {
        warnings.push(format!("existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{policy}\""));
    }
    let mut lines: Vec<String> = by_violation.into_iter().map(|(reasons, pods)| counted(&pods, &reasons)).collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}

/// `a (and 2 other pods): reasons`.
fn counted(pods: &BTreeSet<String>, reasons: &str) -> String {
    let first = pods.first().map_or("", String::as_str);
    match pods.len() {
        0 | 1 => format!("{first}: {reasons}"),
        2 => format!("{first} (and 1 other pod): {reasons}"),
        n => format!("{first} (and {} other pods): {reasons}", n - 1),
    }
}

/// All containers of a pod spec, in the order the checks name them.
fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    list(spec, "initContainers").chain(list(spec, "containers")).chain(list(spec, "ephemeralContainers"))
}

#[cfg(test)]
mod tests;
