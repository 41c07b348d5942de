//! Claims of devices: access to devices that others use only in namespaces whose administrators said so, and expressions that
//! compile and do not cost too much.
//!
//! Source: `pkg/registry/resource` (`AuthorizedForAdmin`), `dynamic-resource-allocation/cel`, `pkg/apis/resource/validation`.

use crate::pipeline::Request;
use crate::registry::Entry;
use ferrokube_api::field::{Errors, Path};
use ferrokube_cel::{Decl, Env, Type};
use serde_json::Value;
use std::sync::LazyLock;

/// What one evaluation of a selector may cost (`CELSelectorExpressionMaxCost`).
const MOST_COST: u64 = 1_000_000;
/// Longer expressions have been told already, and are not compiled (bytes).
const LONGEST: usize = 10 << 10;

/// `device`, with as many facts as a slice can give one.
static SELECTORS: LazyLock<Env> = LazyLock::new(|| {
    const FACTS: u64 = 32;
    let by_domain = |value: Decl| Decl::map(Decl::map(value).with_most(FACTS)).with_most(FACTS);
    let device = Decl::object(
        "kubernetes.DRADevice",
        [
            ("driver", Decl::simple(Type::String)),
            ("attributes", by_domain(Decl::simple(Type::Dyn))),
            ("capacity", by_domain(Decl::simple(Type::Opaque("kubernetes.Quantity")))),
            ("allowMultipleAllocations", Decl::simple(Type::Bool)),
        ],
    );
    Env::new().with("device", device)
});

/// The label by which a namespace allows it.
const LABEL: &str = "resource.kubernetes.io/admin-access";

/// Refuses `adminAccess` in a new claim or template where the namespace does not have the label.
pub fn check_admin_access(request: &Request<'_>, new: &Value, errors: &mut Errors) {
    let spec = if request.entry.is("resource.k8s.io", "resourceclaims") {
        &new["spec"]
    } else if request.entry.is("resource.k8s.io", "resourceclaimtemplates") {
        &new["spec"]["spec"]
    } else {
        return;
    };
    let mut requests = spec["devices"]["requests"].as_array().into_iter().flatten();
    let Some(at) = requests.position(|r| r["exactly"]["adminAccess"] == true) else { return };
    let namespace = request.server.caches.get("", "namespaces").and_then(|cache| cache.get("", request.namespace()));
    if namespace.is_none_or(|ns| ns.label(LABEL) != Some("true")) {
        let path = Path::new("spec.devices.requests").index(at).child("adminAccess");
        errors.forbidden(&path, &format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace"));
    }
}

/// Refuses selectors that do not compile. Those that stood there before are accepted, as they have been.
pub fn check_selectors(entry: &Entry, new: &Value, old: Option<&Value>, errors: &mut Errors) {
    if entry.kind.group != "resource.k8s.io" {
        return;
    }
    let spec = Path::new("spec");
    match &*entry.kind.resource {
        // The specs of claims and templates never change.
        "resourceclaims" if old.is_none() => claim(&new["spec"], &spec, errors),
        "resourceclaimtemplates" if old.is_none() => claim(&new["spec"]["spec"], &spec.child("spec"), errors),
        "deviceclasses" if old.is_none_or(|old| old["spec"]["selectors"] != new["spec"]["selectors"]) => {
            selectors(&new["spec"], &spec, errors);
        }
        _ => {}
    }
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = (usize, &'v Value)> {
    value[key].as_array().into_iter().flatten().enumerate()
}

fn claim(spec: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("devices").child("requests");
    for (i, request) in list(&spec["devices"], "requests") {
        let at = path.index(i);
        selectors(&request["exactly"], &at.child("exactly"), errors);
        for (j, one) in list(request, "firstAvailable") {
            selectors(one, &at.child("firstAvailable").index(j), errors);
        }
    }
}

fn selectors(value: &Value, path: &Path, errors: &mut Errors) {
    for (i, selector) in list(value, "selectors") {
        let expression = &selector["cel"]["expression"];
        let Some(source) = expression.as_str().filter(|s| !s.is_empty() && s.len() <= LONGEST) else { continue };
        let at = path.child("selectors").index(i).child("cel").child("expression");
        match SELECTORS.compile(source) {
            Err(issues) => errors.invalid(&at, expression, &format!("compilation failed: {issues}")),
            Ok(program) if !matches!(program.result(), Type::Bool | Type::Dyn) => {
                let why = format!("must evaluate to bool or the unknown type, not {}", program.result());
                errors.invalid(&at, expression, &why);
            }
            Ok(program) if program.max_cost() > MOST_COST => errors.forbidden(&at, "too complex, exceeds cost limit"),
            Ok(_) => {}
        }
    }
}
