//! Plugins that are off unless `--enable-admission-plugins` names them and that need no configuration: AlwaysDeny,
//! AlwaysPullImages, DenyServiceExternalIPs, ExtendedResourceToleration, LimitPodHardAntiAffinityTopology, NamespaceExists,
//! OwnerReferencesPermissionEnforcement.

use super::{Context, Operation, Outcome, array_mut, list};
use crate::attributes::Attributes;
use ferrokube_api::field::{Errors, Path};
use ferrokube_api::{Status, kinds};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// AlwaysDeny.
pub(super) fn deny(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    Err(c.forbidden(object, "admission control is denying all modifications"))
}

/// AlwaysAdmit.
pub(super) fn admit(_: &Context<'_>, _: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    Ok(())
}

fn writes_pod(c: &Context<'_>) -> bool {
    c.is("", "pods", &[]) && matches!(c.operation, Operation::Create | Operation::Update)
}

fn images(pod: &Value) -> BTreeSet<&str> {
    let containers = CONTAINERS.iter().flat_map(|kind| list(&pod["spec"], kind)).filter_map(|c| c["image"].as_str());
    containers.chain(list(&pod["spec"], "volumes").filter_map(|v| v["image"]["reference"].as_str())).collect()
}

/// Whether an update brings no image that was not there.
fn without_new_images(c: &Context<'_>, pod: &Value) -> bool {
    c.operation == Operation::Update && c.review.old.is_some_and(|old| images(pod).is_subset(&images(old)))
}

/// AlwaysPullImages: only who may pull an image uses it, also where it lies on the node already.
pub(super) fn pull_always(c: &Context<'_>, pod: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    if !writes_pod(c) || without_new_images(c, pod) {
        return Ok(());
    }
    for kind in CONTAINERS {
        for container in pod["spec"].get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
            container["imagePullPolicy"] = json!("Always");
        }
    }
    for volume in pod["spec"].get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        if volume["image"]["reference"].as_str().is_some_and(|r| !r.is_empty()) {
            volume["image"]["pullPolicy"] = json!("Always");
        }
    }
    Ok(())
}

/// AlwaysPullImages: nothing after it said otherwise.
pub(super) fn pulls_always(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let Some(pod) = object.filter(|pod| writes_pod(c) && !without_new_images(c, pod)) else { return Ok(()) };
    let mut errors = Errors::default();
    for kind in CONTAINERS {
        let path = Path::new("spec").child(kind);
        for (i, container) in list(&pod["spec"], kind).enumerate().filter(|(_, c)| c["imagePullPolicy"] != "Always") {
            let path = path.index(i).child("imagePullPolicy");
            errors.not_supported(&path, &container["imagePullPolicy"], &["Always"]);
        }
    }
    match errors.into_causes().first() {
        Some(cause) => Err(c.forbidden(object, format!("{}: {}", cause.field, cause.message))),
        None => Ok(()),
    }
}

/// DenyServiceExternalIPs: nobody draws the traffic of addresses that are not his.
pub(super) fn external_addresses(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let Some(service) = object.filter(|_| c.is("", "services", &[])) else { return Ok(()) };
    let of = |o: &Value| list(&o["spec"], "externalIPs").filter_map(Value::as_str).map(str::to_owned).collect::<BTreeSet<_>>();
    let had = c.review.old.map(of).unwrap_or_default();
    if of(service).is_subset(&had) {
        return Ok(());
    }
    Err(c.forbidden(object, "Use of external IPs is denied by admission control"))
}

/// ExtendedResourceToleration: pods that ask for a device may go to the nodes set aside for it.
pub(super) fn tolerate_devices(c: &Context<'_>, pod: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    if !writes_pod(c) {
        return Ok(());
    }
    let is_extended = |name: &str| kinds::is_extended_resource(name);
    let containers = CONTAINERS[..2].iter().flat_map(|kind| list(&pod["spec"], kind));
    let requests = containers.flat_map(|c| c["resources"]["requests"].as_object().into_iter().flatten());
    let names: BTreeSet<String> = requests.map(|(name, _)| name.clone()).filter(|name| is_extended(name)).collect();
    for name in names {
        let toleration = json!({"key": name, "operator": "Exists", "effect": "NoSchedule"});
        let same = |t: &Value| ["key", "operator", "effect"].iter().all(|field| t[*field] == toleration[*field]);
        if !list(&pod["spec"], "tolerations").any(same) {
            array_mut(&mut pod["spec"], "tolerations").push(toleration);
        }
    }
    Ok(())
}

/// LimitPodHardAntiAffinityTopology: nobody keeps others off more than a node.
pub(super) fn anti_affinity(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    const NODE: &str = "kubernetes.io/hostname";
    let Some(pod) = object.filter(|_| writes_pod(c)) else { return Ok(()) };
    let terms = list(&pod["spec"]["affinity"]["podAntiAffinity"], "requiredDuringSchedulingIgnoredDuringExecution");
    for term in terms {
        let key = term["topologyKey"].as_str().unwrap_or_default();
        if key != NODE {
            let why = format!("affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {NODE} is allowed");
            return Err(c.forbidden(object, why));
        }
    }
    Ok(())
}

/// NamespaceExists: NamespaceLifecycle, for deletes too.
pub(super) fn namespace_exists(c: &Context<'_>, _: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let exempt = c.namespace.is_empty() || (c.group.is_empty() && c.resource == "namespaces");
    if exempt || c.objects.get("", "namespaces", "", c.namespace).is_some() {
        return Ok(());
    }
    Err(Status::not_found("", "namespaces", c.namespace))
}

/// OwnerReferencesPermissionEnforcement: who may not delete an object gives it no owner that would take it along, and who may
/// not hold up an owner's deletion makes nothing that does.
pub(super) fn owners(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let writes = matches!(c.operation, Operation::Create | Operation::Update);
    let own_door = c.group.is_empty() && c.resource == "pods" && c.subresource == "status";
    let Some(object) = object.filter(|_| writes && !own_door) else { return Ok(()) };
    let refs = |o: &Value| list(&o["metadata"], "ownerReferences").cloned().collect::<Vec<_>>();
    let (new, old) = (refs(object), c.review.old.map(refs).unwrap_or_default());
    if new == old {
        return Ok(());
    }
    let base = Attributes { user: c.user.clone(), group: c.group.into(), version: c.version.into(), ..Attributes::default() };
    // Who creates may give what he creates the owners he likes: he could create it without.
    if c.operation == Operation::Update {
        let delete = Attributes {
            verb: "delete".into(),
            resource: c.resource.into(),
            namespace: c.namespace.into(),
            name: c.name.into(),
            ..base.clone()
        };
        let decision = c.questions.authorize(&delete);
        if !decision.allowed() {
            let why = format!("cannot set an ownerRef on a resource you can't delete: {}, <nil>", decision.reason());
            return Err(c.forbidden(Some(object), why));
        }
    }
    let blocks = |r: &&Value| r["blockOwnerDeletion"] == true;
    let blocked: Vec<&Value> = old.iter().filter(blocks).collect();
    for reference in new.iter().filter(blocks).filter(|r| !blocked.iter().any(|o| o["uid"] == r["uid"])) {
        let Some(owner) = owner_attributes(c, &base, reference) else {
            let why = format!(
                "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {} Kind {}",
                reference["apiVersion"].as_str().unwrap_or_default(),
                reference["kind"].as_str().unwrap_or_default()
            );
            return Err(c.forbidden(Some(object), why));
        };
        let decision = c.questions.authorize(&owner);
        if !decision.allowed() {
            let why = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on";
            return Err(c.forbidden(Some(object), format!("{why}: {}, <nil>", decision.reason())));
        }
    }
    Ok(())
}

/// Updating the finalizers of an owner; `None` when nobody serves its kind.
fn owner_attributes(c: &Context<'_>, base: &Attributes, reference: &Value) -> Option<Attributes> {
    let text = |key: &str| reference[key].as_str().unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    let (resource, namespaced) = match kinds::lookup_kind(group, version, text("kind")) {
        Some(row) => (row.resource.to_string(), row.namespaced()),
        None => {
            let crds = c.objects.list("apiextensions.k8s.io", "customresourcedefinitions", "").into_iter();
            let mut specs = crds.filter_map(|o| o.decode::<Value>().ok()).map(|mut o| o["spec"].take());
            let spec = specs.find(|s| s["group"] == group && s["names"]["kind"] == text("kind"))?;
            (spec["names"]["plural"].as_str()?.to_owned(), spec["scope"] == "Namespaced")
        }
    };
    Some(Attributes {
        verb: "update".into(),
        group: group.to_owned(),
        version: version.to_owned(),
        resource,
        subresource: "finalizers".into(),
        namespace: if namespaced { c.namespace.to_owned() } else { String::new() },
        name: text("name").to_owned(),
        ..base.clone()
    })
}
