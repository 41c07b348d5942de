//! Claims of devices: access to devices that others use only in namespaces whose administrators said so, and expressions that
//! compile and do not cost too much.
//!
//! Source: `pkg/registry/resource` (`AuthorizedForAdmin`), `dynamic-resource-allocation/cel`, `pkg/apis/resource/validation`.

use crate::pipeline::Request;
use crate::registry::Entry;
use ferrokube_api::Status;
use ferrokube_api::field::{Errors, Path};
use ferrokube_cel::{Decl, Env, Type};
use serde_json::Value;
use std::collections::BTreeSet;
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

/// What a token says of the node that it is bound to.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
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

/// What a claim's status says of devices is its drivers' business, and what is allocated for whom that of schedulers: a permission for the
/// status alone allows neither (DRAResourceClaimGranularStatusAuthorization). The permissions stand on subresources that nobody serves.
pub async fn check_status(request: &Request<'_>, new: &Value, old: &Value) -> Result<(), Status> {
    if !request.entry.is("resource.k8s.io", "resourceclaims") || request.info.subresource != "status" {
        return Ok(());
    }
    let (new, old) = (&new["status"], &old["status"]);
    let mut errors = Errors::default();
    let status = Path::new("status");
    for field in ["allocation", "reservedFor"].into_iter().filter(|field| new[*field] != old[*field]) {
        let verb = request.info.verb.as_str();
        if let Err(refused) = permitted(request, verb, "binding", &request.info.name).await {
            errors.forbidden(&status.child(field), &refused.message);
        }
    }
    for driver in changed_drivers(new, old) {
        if let Err(refused) = may_report(request, driver, node_of(&old["allocation"]).or(node_of(&new["allocation"]))).await {
            errors.forbidden(&status.child("devices"), &format!("changing devices of driver {driver:?}: {}", refused.message));
        }
    }
    request.verdict(&request.info.name, errors)
}

async fn permitted(request: &Request<'_>, verb: &str, subresource: &str, name: &str) -> Result<(), Status> {
    let mut attributes = request.info.attributes(&request.user, &request.query);
    (attributes.verb, attributes.subresource, attributes.name) = (verb.to_owned(), subresource.to_owned(), name.to_owned());
    request.server.authorizer.check(&attributes).await
}

/// Whether the user may say something of a driver's devices: on the node that their token is bound to, or on any.
async fn may_report(request: &Request<'_>, driver: &str, node: Option<&str>) -> Result<(), Status> {
    let verb = &request.info.verb;
    let bound = request.user.extra.get(NODE_NAME).and_then(|names| names.first()).map(String::as_str);
    let is_account = request.user.name.starts_with("system:serviceaccount:");
    if is_account
        && bound.is_some()
        && bound == node
        && permitted(request, &format!("associated-node:{verb}"), "driver", driver).await.is_ok()
    {
        return Ok(());
    }
    permitted(request, &format!("arbitrary-node:{verb}"), "driver", driver).await
}

/// The drivers about whose devices something else is said now.
fn changed_drivers<'v>(new: &'v Value, old: &'v Value) -> BTreeSet<&'v str> {
    let of = |status: &'v Value| status["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (new, old) = (of(new), of(old));
    let driver = |device: &'v Value| device["driver"].as_str().unwrap_or_default();
    let said = |list: &'v [Value], name: &'v str| list.iter().filter(move |device| driver(device) == name);
    let all: BTreeSet<&str> = new.iter().chain(old).map(driver).collect();
    all.into_iter().filter(|name| !said(new, name).eq(said(old, name))).collect()
}

/// The node that an allocation is for, when it is for one.
fn node_of(allocation: &Value) -> Option<&str> {
    let [term] = allocation["nodeSelector"]["nodeSelectorTerms"].as_array()?.as_slice() else { return None };
    let mut fields = term["matchFields"].as_array()?.iter().filter(|f| f["key"] == "metadata.name" && f["operator"] == "In");
    match fields.next()?["values"].as_array()?.as_slice() {
        [node] => node.as_str(),
        _ => None,
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
