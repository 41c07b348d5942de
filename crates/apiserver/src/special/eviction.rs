//! POST to `pods/<name>/eviction`: a delete that pod disruption budgets may refuse. Source: `pkg/registry/core/pod/storage/eviction.go`.

use crate::admission::Operation;
use crate::pipeline::Request;
use crate::verbs::Answer;
use crate::verbs::delete::DeleteOptions;
use crate::verbs::options::Freshness;
use crate::verbs::update::Change;
use crate::write::admit::Act;
use crate::write::{View, WriteOptions, prepare};
use ferrokube_api::labels::Selector;
use ferrokube_api::status::{Details, Reason};
use ferrokube_api::{Cause, Object, Status, time};
use serde_json::{Value, json};
use std::sync::Arc;

const GROUP: &str = "policy";
/// `status.disruptedPods` is not allowed to grow beyond this.
const MAX_DISRUPTED: usize = 2000;

/// 429: the budget does not allow it now.
fn too_many(budget: &str, message: &str, seconds: u32) -> Status {
    let mut status = Status::failure(429, Reason::TooManyRequests, "Cannot evict pod as it would violate the pod's disruption budget.");
    let cause = Cause { kind: "DisruptionBudget".into(), message: message.to_owned(), field: String::new() };
    let _ = budget;
    status.details = Some(Details { causes: vec![cause], retry_after_seconds: seconds, ..Details::default() });
    status
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Whether the pod may go without asking a budget: it does not run (any more).
fn is_exempt(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || pod["metadata"].get("deletionTimestamp").is_some()
}

impl Request<'_> {
    /// POST of an Eviction.
    pub async fn evict(&self) -> Result<Answer, Status> {
        let options = WriteOptions::parse(&self.query, &self.headers, "CreateOptions", false)?;
        let mut eviction = self.decode_other(GROUP, "v1", "Eviction", "io.k8s.api.policy.v1.Eviction", &options).await?;
        let name = self.info.name.clone();
        if !prepare::text(&eviction, "name").is_empty() && prepare::text(&eviction, "name") != name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let act = Act { operation: Operation::Create, name: &name, old: None, options: &options.value, dry_run: options.dry_run };
        self.mutate(act, (GROUP, "Eviction"), &mut eviction).await?;
        self.admit(act, (GROUP, "Eviction"), Some(&eviction)).await?;
        let pods = self.aimed_at("", "v1", "pods", &name, "eviction")?;
        let pod = pods.current(Freshness::Latest).await?;
        let value: Value = pod.decode().map_err(Status::internal)?;
        let delete: DeleteOptions = match eviction.get("deleteOptions") {
            Some(Value::Null) | None => DeleteOptions::default(),
            Some(options) => serde_json::from_value(options.clone()).map_err(|e| Status::bad_request(e.to_string()))?,
        };
        if !is_exempt(&value) {
            self.ask_budget(&pod, &value, &options).await?;
        }
        if !options.dry_run {
            pods.delete_one(&name, &delete).await?;
        }
        Ok(Answer::Value(201, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})))
    }

    async fn ask_budget(&self, pod: &Arc<Object>, value: &Value, options: &WriteOptions) -> Result<(), Status> {
        let Some(cache) = self.server.caches.get(GROUP, "poddisruptionbudgets") else { return Ok(()) };
        let selects = |budget: &Arc<Object>| {
            let decoded: Value = budget.decode().ok()?;
            let selector = Selector::from_label_selector(decoded["spec"].get("selector")).ok()?;
            selector.matches(pod).then_some((budget.clone(), decoded))
        };
        let budgets: Vec<_> = cache.list(&pod.key.namespace).iter().filter_map(selects).collect();
        let [(budget, decoded)] = budgets.as_slice() else {
            return match budgets.len() {
                0 => Ok(()),
                _ => Err(Status::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                )),
            };
        };
        if !is_ready(value) && unhealthy_may_go(decoded) {
            return Ok(());
        }
        let name = budget.key.name.to_string();
        let view = self.aimed_at(GROUP, "v1", "poddisruptionbudgets", &name, "status")?;
        let make = |old: &Value| take_one(old, &pod.key.name, self.now);
        view.transact(&Change { view: View::Status, options, make: &make, applied: false }).await?;
        Ok(())
    }
}

fn unhealthy_may_go(budget: &Value) -> bool {
    let number = |key: &str| budget["status"][key].as_i64().unwrap_or(0);
    match budget["spec"]["unhealthyPodEvictionPolicy"].as_str() {
        Some("AlwaysAllow") => true,
        _ => number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0,
    }
}

/// The budget with one disruption less to give.
fn take_one(old: &Value, pod: &str, now: jiff::Timestamp) -> Result<Value, Status> {
    let name = prepare::text(old, "name");
    let number = |key: &str| old["status"][key].as_i64().unwrap_or(0);
    if number("observedGeneration") < old["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(too_many(name, &format!("The disruption budget {name} is still being processed by the server."), 10));
    }
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return Err(Status::forbidden(GROUP, "poddisruptionbudgets", name, "pdb disruptions allowed is negative"));
    }
    let mut new = old.clone();
    let disrupted = new["status"]["disruptedPods"].as_object().map_or(0, serde_json::Map::len);
    if disrupted > MAX_DISRUPTED {
        return Err(Status::forbidden(
            GROUP,
            "poddisruptionbudgets",
            name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        let (want, have) = (number("desiredHealthy"), number("currentHealthy"));
        return Err(too_many(name, &format!("The disruption budget {name} needs {want} healthy pods and has {have} currently"), 0));
    }
    new["status"]["disruptionsAllowed"] = json!(allowed - 1);
    if !new["status"]["disruptedPods"].is_object() {
        new["status"]["disruptedPods"] = json!({});
    }
    new["status"]["disruptedPods"][pod] = json!(time::format_time(now));
    Ok(new)
}
