//! The authorizer library: a builder of questions, and their answers.

use super::{Def, ONE, Price, Site, f};
use crate::authorizer::{Authz, Check};
use crate::value::{EvalError, Evaluated, Value};
use std::rc::Rc;

pub(super) const TABLE: &[Def] = &[
    f("path", "authorizer.(string) -> path_check", ONE, path),
    f("check", "path_check.(string) -> decision", Price::Authorize, check),
    f("group", "authorizer.(string) -> group_check", ONE, group),
    f("serviceAccount", "authorizer.(string, string) -> authorizer", ONE, service_account),
    f("resource", "group_check.(string) -> resource_check", ONE, resource),
    f("subresource", "resource_check.(string) -> resource_check", ONE, |_, a| refine(a, |c, v| c.subresource = v)),
    f("namespace", "resource_check.(string) -> resource_check", ONE, |_, a| refine(a, |c, v| c.namespace = v)),
    f("name", "resource_check.(string) -> resource_check", ONE, |_, a| refine(a, |c, v| c.name = v)),
    f("fieldSelector", "resource_check.(string) -> resource_check", ONE, |_, a| refine(a, |c, v| c.field_selector = Some(v))),
    f("labelSelector", "resource_check.(string) -> resource_check", ONE, |_, a| refine(a, |c, v| c.label_selector = Some(v))),
    f("check", "resource_check.(string) -> decision", Price::Authorize, check),
    f("errored", "decision.() -> bool", ONE, errored),
    f("error", "decision.() -> string", ONE, error),
    f("allowed", "decision.() -> bool", ONE, allowed),
    f("reason", "decision.() -> string", ONE, reason),
];

fn made<'a>(authz: Authz<'a>) -> Evaluated<'a> {
    Ok(Value::Authz(Rc::new(authz)))
}

/// The target and the text beside it.
fn on<'v, 'a>(args: &'v [Value<'a>]) -> Result<(&'v Authz<'a>, &'v str), EvalError> {
    match args {
        [Value::Authz(target), Value::String(text)] => Ok((target, text)),
        _ => Err(EvalError::overload()),
    }
}

fn path<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (Authz::Authorizer(who, check), path) = on(args)? else { return Err(EvalError::overload()) };
    if path.is_empty() {
        return Err(EvalError::new("path must not be empty"));
    }
    made(Authz::Path(*who, Check { path: Some(path.to_owned()), ..check.clone() }))
}

fn group<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (Authz::Authorizer(who, check), group) = on(args)? else { return Err(EvalError::overload()) };
    made(Authz::Group(*who, Check { group: group.to_owned(), ..check.clone() }))
}

fn service_account<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::Authz(target), Value::String(namespace), Value::String(name)] = args else { return Err(EvalError::overload()) };
    let Authz::Authorizer(who, check) = &**target else { return Err(EvalError::overload()) };
    if !ferrokube_api::names::dns1123_subdomain(name).is_empty() {
        return Err(EvalError::new("Invalid service account name"));
    }
    if !ferrokube_api::names::dns1123_label(namespace).is_empty() {
        return Err(EvalError::new("Invalid service account namespace"));
    }
    let service_account = Some((namespace.to_string(), name.to_string()));
    made(Authz::Authorizer(*who, Check { service_account, ..check.clone() }))
}

fn resource<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (Authz::Group(who, check), resource) = on(args)? else { return Err(EvalError::overload()) };
    if resource.is_empty() {
        return Err(EvalError::new("resource must not be empty"));
    }
    made(Authz::Resource(*who, Check { resource: resource.to_owned(), ..check.clone() }))
}

fn refine<'a>(args: &[Value<'a>], set: impl FnOnce(&mut Check, String)) -> Evaluated<'a> {
    let (Authz::Resource(who, check), text) = on(args)? else { return Err(EvalError::overload()) };
    let mut check = check.clone();
    set(&mut check, text.to_owned());
    made(Authz::Resource(*who, check))
}

fn check<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let (Authz::Path(who, check) | Authz::Resource(who, check), verb) = on(args)? else { return Err(EvalError::overload()) };
    let decision = who.authorize(&Check { verb: verb.to_owned(), ..check.clone() });
    made(Authz::Decision(Rc::new(decision)))
}

fn decided<'a>(args: &[Value<'a>], take: impl FnOnce(&crate::authorizer::Decision) -> Value<'a>) -> Evaluated<'a> {
    match args {
        [Value::Authz(a)] => match &**a {
            Authz::Decision(d) => Ok(take(d)),
            _ => Err(EvalError::overload()),
        },
        _ => Err(EvalError::overload()),
    }
}

fn errored<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    decided(args, |d| Value::Bool(d.error.is_some()))
}

fn error<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    decided(args, |d| Value::text(d.error.clone().unwrap_or_default()))
}

fn allowed<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    decided(args, |d| Value::Bool(d.allowed))
}

fn reason<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    decided(args, |d| Value::text(d.reason.as_str()))
}
