//! NodeDeclaredFeatureValidator: a pod that has its node is not changed in a way that the node's kubelet cannot follow
//! (`status.declaredFeatures`). Source: `plugin/pkg/admission/nodedeclaredfeatures`.

use super::{Context, Operation, Outcome};
use ferrokube_api::Status;
use serde_json::Value;

/// A feature, and whether an update of a pod's spec (new, old) needs it.
type Feature = (&'static str, fn(&Value, &Value) -> bool);

/// Those that updates can need, in the order in which they are told. What else kubelets declare matters to the scheduler only.
const FEATURES: [Feature; 2] = [
    ("InPlacePodLevelResourcesVerticalScaling", |new, old| new["resources"] != old["resources"]),
    ("InPlacePodVerticalScalingInitContainers", |new, old| {
        let resources = |spec: &Value| -> Vec<Value> {
            let once = |c: &&Value| c["restartPolicy"] != "Always";
            spec["initContainers"].as_array().into_iter().flatten().filter(once).map(|c| c["resources"].clone()).collect()
        };
        resources(new) != resources(old)
    }),
];

/// The plugin.
pub(super) fn validate(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let updates = c.operation == Operation::Update && c.is("", "pods", &["resize"]);
    let (Some(pod), Some(old)) = (object.filter(|_| updates), c.old) else { return Ok(()) };
    let Some(name) = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty()) else { return Ok(()) };
    let needed: Vec<&str> = FEATURES.iter().filter(|(_, needs)| needs(&pod["spec"], &old["spec"])).map(|(feature, _)| *feature).collect();
    if needed.is_empty() {
        return Ok(());
    }
    let node = c.objects.get("", "nodes", "", name).and_then(|node| node.decode::<Value>().ok());
    let node = node.ok_or_else(|| c.forbidden(object, format!("node {name:?} not found")))?;
    let declared = |feature: &&str| node["status"]["declaredFeatures"].as_array().into_iter().flatten().any(|f| f == feature);
    let missing: Vec<&str> = needed.into_iter().filter(|feature| !declared(feature)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(c.forbidden(object, format!("pod update requires features {} which are not available on node {name:?}", missing.join(", "))))
}
