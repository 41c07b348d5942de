//! DefaultIngressClass: an Ingress that names no class gets the default one.

use super::{Context, Outcome, newest_default};
use ferrokube_api::Status;
use serde_json::{Value, json};

pub(super) fn mutate(c: &Context<'_>, ingress: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    let named =
        !ingress["spec"]["ingressClassName"].is_null() || ingress["metadata"]["annotations"].get("kubernetes.io/ingress.class").is_some();
    if !c.creates("networking.k8s.io", "ingresses") || named {
        return Ok(());
    }
    if let Some(class) = newest_default(c, "networking.k8s.io", "ingressclasses", &["ingressclass.kubernetes.io/is-default-class"]) {
        ingress["spec"]["ingressClassName"] = json!(class);
    }
    Ok(())
}
