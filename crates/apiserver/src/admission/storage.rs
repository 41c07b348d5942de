//! Plugins for volumes: DefaultStorageClass, StorageObjectInUseProtection, PersistentVolumeClaimResize.

use super::{Context, Operation, Outcome, array_mut, list, newest_default};
use ferrokube_api::Status;
use ferrokube_api::quantity::Quantity;
use serde_json::{Value, json};

/// DefaultStorageClass: a claim that names no class gets the default one.
pub(super) fn default_class(c: &Context<'_>, claim: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    const BETA: &str = "volume.beta.kubernetes.io/storage-class";
    let named = !claim["spec"]["storageClassName"].is_null() || claim["metadata"]["annotations"].get(BETA).is_some();
    if !c.creates("", "persistentvolumeclaims") || named {
        return Ok(());
    }
    const DEFAULT: &[&str] = &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    if let Some(class) = newest_default(c, "storage.k8s.io", "storageclasses", DEFAULT) {
        claim["spec"]["storageClassName"] = json!(class);
    }
    Ok(())
}

/// StorageObjectInUseProtection: what is in use outlives its deletion until it is not.
pub(super) fn protect(c: &Context<'_>, object: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    let finalizer = match (c.group, c.resource) {
        ("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
        ("", "persistentvolumes") => "kubernetes.io/pv-protection",
        ("storage.k8s.io", "volumeattributesclasses") => "kubernetes.io/vac-protection",
        _ => return Ok(()),
    };
    if c.operation == Operation::Create && c.subresource.is_empty() && !list(&object["metadata"], "finalizers").any(|f| f == finalizer) {
        array_mut(&mut object["metadata"], "finalizers").push(json!(finalizer));
    }
    Ok(())
}

/// PersistentVolumeClaimResize: only bound claims of classes that allow it grow.
pub(super) fn resize(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let updates = c.is("", "persistentvolumeclaims", &[]) && c.operation == Operation::Update;
    let (Some(claim), Some(old)) = (object.filter(|_| updates), c.old) else { return Ok(()) };
    let size = |claim: &Value| Quantity::from_json(&claim["spec"]["resources"]["requests"]["storage"]).unwrap_or_default();
    if size(claim) <= size(old) {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err(c.forbidden(object, "Only bound persistent volume claims can be expanded"));
    }
    let class = claim["spec"]["storageClassName"].as_str().filter(|n| !n.is_empty());
    let class = class.and_then(|n| c.objects.get("storage.k8s.io", "storageclasses", "", n)).and_then(|o| o.decode::<Value>().ok());
    if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    Err(c.forbidden(
        object,
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    ))
}
