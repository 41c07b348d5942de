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
use ferrokube_api::{Object, Status};
use serde_json::Value;
use std::collections::BTreeMap;
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
            if let Some((meta, spec)) = template(group, resource, object)
                && !exempt(c, &spec["runtimeClassName"], outcome)
            {
                report(c, meta, spec, None, outcome);
            }
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

fn policies(c: &Context<'_>) -> Policies {
    let defaults = &c.settings.pod_security.defaults;
    match c.objects.get("", "namespaces", "", c.namespace) {
        Some(namespace) => Policies::of(defaults, |key| n_label(&namespace, key)),
        None => *defaults,
    }
}

fn n_label(namespace: &Object, key: &str) -> Option<String> {
    namespace.label(key).map(str::to_owned)
}

/// Whether the configuration exempts the request, with the note that it was.
fn exempt(c: &Context<'_>, runtime_class: &Value, outcome: &mut Outcome) -> bool {
    let why = c.settings.pod_security.exempts(c.namespace, &c.user.name, runtime_class.as_str());
    outcome.annotations.extend(why.map(|what| (format!("{PREFIX}exempt"), what.to_owned())));
    why.is_some()
}

fn pod(c: &Context<'_>, pod: &Value, outcome: &mut Outcome) -> Result<(), Status> {
    if exempt(c, &pod["spec"]["runtimeClassName"], outcome) {
        return Ok(());
    }
    let policies = policies(c);
    let nothing_asked = [policies.enforce, policies.audit, policies.warn].iter().all(|p| p.level == Level::Privileged);
    let unchanged = || c.operation == Operation::Update && c.review.old.is_some_and(|old| same_for_policy(pod, old));
    if nothing_asked || unchanged() {
        return Ok(());
    }
    let enforce = policies.enforce;
    outcome.annotations.push((format!("{PREFIX}enforce-policy"), enforce.to_string()));
    let violations = checks::violations(&pod["metadata"], &pod["spec"], enforce);
    let refused = (!violations.is_empty()).then_some(enforce);
    report(c, &pod["metadata"], &pod["spec"], refused, outcome);
    if violations.is_empty() {
        return Ok(());
    }
    Err(c.forbidden(Some(pod), format!("violates PodSecurity \"{enforce}\": {}", told(&violations))))
}

/// Audit annotations and warnings. What refuses the pod anyway is not warned about.
fn report(c: &Context<'_>, meta: &Value, spec: &Value, refused: Option<Policy>, outcome: &mut Outcome) {
    let policies = policies(c);
    let text = |policy: Policy| {
        let violations = checks::violations(meta, spec, policy);
        (!violations.is_empty()).then(|| format!("would violate PodSecurity \"{policy}\": {}", told(&violations)))
    };
    if let Some(text) = text(policies.audit) {
        outcome.annotations.push((format!("{PREFIX}audit-violations"), text));
    }
    if refused != Some(policies.warn)
        && let Some(text) = text(policies.warn)
    {
        outcome.warnings.push(text);
    }
}

fn told(violations: &[checks::Violation]) -> String {
    violations.iter().map(|v| format!("{} ({})", v.reason, v.detail)).collect::<Vec<_>>().join(", ")
}

/// Whether an update leaves alone everything that the checks look at: images, tolerations, labels and deadlines may change.
fn same_for_policy(new: &Value, old: &Value) -> bool {
    let relevant = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        for field in [
            "activeDeadlineSeconds",
            "tolerations",
            "nodeName",
            "nodeSelector",
            "affinity",
            "schedulingGates",
            "terminationGracePeriodSeconds",
        ] {
            spec.as_object_mut().map(|s| s.remove(field));
        }
        for kind in ["containers", "initContainers", "ephemeralContainers"] {
            for container in spec[kind].as_array_mut().into_iter().flatten() {
                container.as_object_mut().map(|c| c.remove("image"));
                container.as_object_mut().map(|c| c.remove("resources"));
            }
        }
        let annotations: BTreeMap<String, Value> = pod["metadata"]["annotations"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(k, _)| k.contains("apparmor.security") || k.contains("seccomp.security"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        (spec, annotations)
    };
    relevant(new) == relevant(old)
}

/// Labels must be levels and versions; a level that gets stricter is measured against the pods that are there.
fn namespace(c: &Context<'_>, namespace: &Value, outcome: &mut Outcome) -> Result<(), Status> {
    let label = |o: &Value, key: &str| o["metadata"]["labels"][key].as_str().map(str::to_owned);
    let errors = policy::check_labels(|key| label(namespace, key));
    let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
    let settings = &c.settings.pod_security;
    let old = c.review.old.map(|old| Policies::of(&settings.defaults, |key| label(old, key)).enforce);
    let new = Policies::of(&settings.defaults, |key| label(namespace, key)).enforce;
    let unchanged_errors = c.review.old.is_some_and(|old| policy::LABELS.iter().all(|l| label(old, l) == label(namespace, l)));
    if !errors.is_empty() && !unchanged_errors {
        return Err(Status::invalid("", "Namespace", name, errors.into_causes()));
    }
    match old {
        Some(old) if new.stricter_than(old) && settings.exempts(name, "", None).is_none() => {
            outcome.warnings.extend(existing(c, name, new));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Warnings about the pods of a namespace that a new level would refuse, the same violations told once.
fn existing(c: &Context<'_>, namespace: &str, policy: Policy) -> Vec<String> {
    let pods: Vec<Arc<Object>> = c.objects.list("", "pods", namespace);
    let mut by_violation: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in pods.iter().take(MAX_PODS) {
        let Ok(value) = pod.decode::<Value>() else { continue };
        let class = value["spec"]["runtimeClassName"].as_str();
        if c.settings.pod_security.exempts("", "", class).is_some() {
            continue;
        }
        let violations = checks::violations(&value["metadata"], &value["spec"], policy);
        if !violations.is_empty() {
            let reasons = violations.iter().map(|v| v.reason.clone()).collect::<Vec<_>>().join(", ");
            by_violation.entry(reasons).or_default().push(pod.key.name.to_string());
        }
    }
    if by_violation.is_empty() {
        return Vec::new();
    }
    let mut lines: Vec<String> = by_violation
        .into_iter()
        .map(|(reasons, pods)| match pods.as_slice() {
            [one] => format!("{one}: {reasons}"),
            [first, _] => format!("{first} (and 1 other pod): {reasons}"),
            many => format!("{} (and {} other pods): {reasons}", many[0], many.len() - 1),
        })
        .collect();
    lines.sort();
    lines.insert(0, format!("existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{policy}\""));
    lines
}

/// All containers of a pod spec, in the order the checks name them.
fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    list(spec, "initContainers").chain(list(spec, "containers")).chain(list(spec, "ephemeralContainers"))
}

#[cfg(test)]
mod tests;
