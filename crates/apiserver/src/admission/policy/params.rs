//! Parameters of a binding: the objects that `params` stands for, one evaluation for each.

use super::super::Context;
use super::Binding;
use super::compile::Policy;
use crate::objects::Objects;
use ferrokube_api::labels::Selector;
use serde_json::Value;

/// Group, plural and whether namespaced, of a kind. Built-in kinds are asked first, then the CRDs.
pub(super) fn resource_of(objects: &dyn Objects, group: &str, kind: &str) -> Option<(String, bool)> {
    let built_in = ferrokube_api::kinds::builtin().iter().find(|k| k.group == group && k.kind == kind);
    if let Some(row) = built_in {
        return Some((row.resource.to_string(), row.namespaced()));
    }
    let definitions = objects.list("apiextensions.k8s.io", "customresourcedefinitions", "").into_iter();
    let own = definitions.filter(|o| o.key.name.strip_suffix(group).is_some_and(|p| p.ends_with('.')));
    let found = own.filter_map(|o| o.decode::<Value>().ok()).find(|d| d["spec"]["names"]["kind"] == kind)?;
    Some((found["spec"]["names"]["plural"].as_str()?.to_owned(), found["spec"]["scope"] == "Namespaced"))
}

/// The parameters with which a policy is evaluated for a binding: none of them when nothing is to be evaluated, `null` when the policy
/// takes parameters and the binding gives none, `None` for a policy without parameters.
///
/// # Errors
/// Why the binding cannot be followed, in Kubernetes' words.
pub(super) fn find(c: &Context<'_>, policy: &Policy, binding: &Binding) -> Result<Vec<Option<Value>>, String> {
    let kind = &policy.spec["paramKind"];
    if kind.is_null() {
        return Ok(vec![None]);
    }
    let reference = &binding.spec["paramRef"];
    if reference.is_null() {
        return Ok(vec![Some(Value::Null)]);
    }
    let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(kind, "apiVersion"), text(kind, "kind"));
    let group = version.split_once('/').map_or("", |(g, _)| g);
    let (resource, namespaced) = resource_of(c.objects, group, &kind)
        .ok_or_else(|| format!("failed to find resource referenced by paramKind: '{version}, Kind={kind}'"))?;
    let namespace = match (namespaced, text(reference, "namespace")) {
        (true, own) if own.is_empty() && c.namespace.is_empty() => {
            return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
        }
        (true, own) if own.is_empty() => c.namespace.to_owned(),
        (false, own) if !own.is_empty() => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
        (_, own) => own,
    };
    let name = text(reference, "name");
    let found: Vec<Option<Value>> = if name.is_empty() {
        let selector = Selector::from_label_selector(Some(&reference["selector"])).map_err(|e| e.to_string())?;
        let all = c.objects.list(group, &resource, &namespace).into_iter().filter(|o| selector.matches(o));
        all.filter_map(|o| o.decode().ok()).map(Some).collect()
    } else {
        c.objects.get(group, &resource, &namespace, &name).and_then(|o| o.decode().ok()).map(Some).into_iter().collect()
    };
    if found.is_empty() && reference["parameterNotFoundAction"] != "Allow" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    Ok(found)
}
