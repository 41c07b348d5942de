//! Who may name the parameters of a policy: nobody has the server read for them what they cannot read themselves.
//!
//! Source: `pkg/registry/admissionregistration/*/authz.go`. Members of system:masters may name anything.

use super::params::resource_of;
use crate::attributes::{Attributes, UserInfo};
use crate::authz::{Authorizer, privileged};
use crate::objects::Objects;
use ferrokube_api::field::{Errors, Path};
use serde_json::Value;

/// Checks a well-formed policy or binding. What the stored one named already is not asked again.
pub(in super::super) async fn check(
    authorizer: &Authorizer,
    objects: &dyn Objects,
    user: &UserInfo,
    resource: &str,
    object: &Value,
    old: Option<&Value>,
    errors: &mut Errors,
) {
    let (spec, was) = (&object["spec"], old.map(|o| &o["spec"]));
    let same = |fields: &[&str]| was.is_some_and(|was| fields.iter().all(|f| was[*f] == spec[*f]));
    let (field, policies) = match resource {
        "validatingadmissionpolicies" | "mutatingadmissionpolicies" => ("paramKind", ""),
        "validatingadmissionpolicybindings" => ("paramRef", "validatingadmissionpolicies"),
        "mutatingadmissionpolicybindings" => ("paramRef", "mutatingadmissionpolicies"),
        _ => return,
    };
    if spec[field].is_null() || same(if policies.is_empty() { &["paramKind"] } else { &["paramRef", "policyName"] }) || privileged(user) {
        return;
    }
    let ask = if policies.is_empty() { of_policy(objects, user, &spec[field]) } else { of_binding(objects, user, policies, spec) };
    if !authorizer.decide(&ask.attributes).await.allowed() {
        errors.forbidden(&Path::new("spec").child(field), &ask.refusal);
    }
}

/// What must be allowed, and what is said when it is not.
struct Ask {
    attributes: Attributes,
    refusal: String,
}

/// Group, version and plural of a kind; `*` for what is not known.
struct Target {
    group: String,
    version: String,
    resource: String,
    readable: bool,
    resolved: bool,
}

fn target(objects: &dyn Objects, kind: &Value) -> Target {
    let any = || "*".to_owned();
    let version = text(kind, "apiVersion");
    let (group, version) = match version.split('/').collect::<Vec<_>>().as_slice() {
        [version] => (String::new(), (*version).to_owned()),
        [group, version] => ((*group).to_owned(), (*version).to_owned()),
        _ => return Target { group: any(), version: any(), resource: any(), readable: false, resolved: false },
    };
    let found = resource_of(objects, &group, text(kind, "kind"));
    let resolved = found.is_some();
    Target { group, version, resource: found.map_or_else(any, |(resource, _)| resource), readable: true, resolved }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A policy may come to read all objects of its kind.
fn of_policy(objects: &dyn Objects, user: &UserInfo, kind: &Value) -> Ask {
    let target = target(objects, kind);
    let refusal = format!(
        "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
        shown(user),
        text(kind, "kind"),
        text(kind, "apiVersion")
    );
    Ask { attributes: attributes(user, "get", target, "*", "*"), refusal }
}

/// A binding reads the objects that it names, or lists those that it selects.
fn of_binding(objects: &dyn Objects, user: &UserInfo, policies: &str, spec: &Value) -> Ask {
    let (name, reference) = (text(spec, "policyName"), &spec["paramRef"]);
    let verb = if text(reference, "name").is_empty() { "list" } else { "get" };
    let policy = objects.get(super::GROUP, policies, "", name).and_then(|o| o.decode::<Value>().ok());
    let kind = policy.as_ref().map_or(&Value::Null, |p| &p["spec"]["paramKind"]);
    let everything = || Target { group: "*".into(), version: "*".into(), resource: "*".into(), readable: true, resolved: true };
    let target = if kind.is_null() { everything() } else { target(objects, kind) };
    let who = shown(user);
    let vague = |what: &str| {
        format!(
            "unable to {what} to determine minimum required permissions and user {who} does not have \"{verb}\" permission for all groups, versions and resources"
        )
    };
    let named = format!("paramKind &{{{} {}}}", text(kind, "apiVersion"), text(kind, "kind"));
    let refusal = match &policy {
        None => vague(&format!("get policy {name}")),
        Some(_) if !target.readable => vague(&format!("parse {named}")),
        Some(_) if !target.resolved => vague(&format!("resolve {named}")),
        Some(_) => format!("user {who} does not have \"{verb}\" permission on the object referenced by paramRef"),
    };
    Ask { attributes: attributes(user, verb, target, text(reference, "namespace"), text(reference, "name")), refusal }
}

fn attributes(user: &UserInfo, verb: &str, target: Target, namespace: &str, name: &str) -> Attributes {
    Attributes {
        user: user.clone(),
        verb: verb.into(),
        group: target.group,
        version: target.version,
        resource: target.resource,
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    }
}

/// A user as Go prints it: name, UID, groups, extra.
fn shown(user: &UserInfo) -> String {
    let extra: Vec<String> = user.extra.iter().map(|(key, values)| format!("{key}:[{}]", values.join(" "))).collect();
    format!("&{{{} {} [{}] map[{}]}}", user.name, user.uid, user.groups.join(" "), extra.join(" "))
}
