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
/// As the errors about a budget name it.
const BUDGET: &str = "poddisruptionbudget";
/// `status.disruptedPods` is not allowed to grow beyond this.
const MAX_DISRUPTED: usize = 2000;
/// How often an eviction that met a change of the pod is tried again.
const TRIES: usize = 20;

/// 429: the budget does not allow it now.
fn too_many(message: &str, seconds: u32) -> Status {
    let mut status = Status::failure(429, Reason::TooManyRequests, "Cannot evict pod as it would violate the pod's disruption budget.");
    let cause = Cause { kind: "DisruptionBudget".into(), message: message.to_owned(), field: String::new() };
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

/// What the budgets say of an eviction.
enum Leave {
    /// It was taken from a budget, or there is none.
    Given,
    /// None was needed, as long as the pod stays as it was looked at.
    AsSeen,
}

impl Request<'_> {
    /// POST of an Eviction.
    pub async fn evict(&self) -> Result<Answer, Status> {
        let mut options = WriteOptions::parse(&self.query, &self.headers, "CreateOptions", false)?;
        let mut eviction = self.decode_other(GROUP, "v1", "Eviction", "io.k8s.api.policy.v1.Eviction", &options).await?;
        let name = self.info.name.clone();
        if !prepare::text(&eviction, "name").is_empty() && prepare::text(&eviction, "name") != name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let delete: DeleteOptions = match eviction.get("deleteOptions") {
            Some(Value::Null) | None => DeleteOptions::default(),
            Some(options) => serde_json::from_value(options.clone()).map_err(|e| Status::bad_request(e.to_string()))?,
        };
        // Either way to ask for a dry run is one.
        options.dry_run |= delete.is_dry();
        let act = Act { operation: Operation::Create, name: &name, old: None, options: &options.value, dry_run: options.dry_run };
        self.mutate(act, (GROUP, "Eviction"), &mut eviction).await?;
        self.admit(act, (GROUP, "Eviction"), Some(&eviction)).await?;
        let mut leave = None;
        for _ in 0..TRIES {
            match self.evict_once(&name, &delete, &options, &mut leave).await {
                // The pod changed after it was looked at, not what the client said it must be.
                Err(status) if status.is(Reason::Conflict) && !delete.names_version() => {}
                other => return other,
            }
        }
        Err(Status::stale("", "pods", &name))
    }

    async fn evict_once(
        &self,
        name: &str,
        delete: &DeleteOptions,
        options: &WriteOptions,
        leave: &mut Option<Leave>,
    ) -> Result<Answer, Status> {
        let pods = self.aimed_at("", "v1", "pods", name, "eviction")?;
        let pod = pods.current(Freshness::Latest).await?;
        let value: Value = pod.decode().map_err(Status::internal)?;
        if !matches!(leave, Some(Leave::Given)) {
            let now = if is_exempt(&value) { Leave::AsSeen } else { self.ask_budget(&pod, &value, options).await? };
            *leave = Some(now);
        }
        let mut revision = pod.revision;
        if !options.dry_run {
            revision = self.mark_target(name, &value, revision).await?;
            let running = value["metadata"].get("deletionTimestamp").is_none();
            let bound = matches!(leave, Some(Leave::AsSeen)) && running && !delete.names_version();
            let delete = if bound || delete.names_version() { delete.at_revision(revision) } else { delete.clone() };
            pods.delete_one(name, &delete).await?;
        }
        Ok(Answer::Value(201, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})))
    }

    /// Writes down why the pod goes, for whoever counts failures; the revision of the pod afterwards.
    async fn mark_target(&self, name: &str, pod: &Value, revision: u64) -> Result<u64, Status> {
        if pod["metadata"].get("deletionTimestamp").is_some() {
            return Ok(revision);
        }
        let options = WriteOptions::internal("kube-apiserver");
        let make = |old: &Value| {
            if prepare::text(old, "resourceVersion") != revision.to_string() {
                return Err(Status::stale("", "pods", name));
            }
            Ok(targeted(old, self.now))
        };
        let view = self.aimed_at("", "v1", "pods", name, "status")?;
        let stored = view.transact(&Change { view: View::Status, options: &options, make: &make, applied: false }).await?;
        Ok(stored.revision)
    }

    async fn ask_budget(&self, pod: &Arc<Object>, value: &Value, options: &WriteOptions) -> Result<Leave, Status> {
        let Some(cache) = self.server.caches.get(GROUP, "poddisruptionbudgets") else { return Ok(Leave::Given) };
        let selects = |budget: &Arc<Object>| {
            let decoded: Value = budget.decode().ok()?;
            let selector = Selector::from_label_selector(decoded["spec"].get("selector")).ok()?;
            selector.matches(pod).then_some((budget.clone(), decoded))
        };
        let budgets: Vec<_> = cache.list(&pod.key.namespace).iter().filter_map(selects).collect();
        let [(budget, decoded)] = budgets.as_slice() else {
            const MANY: &str = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return if budgets.is_empty() { Ok(Leave::Given) } else { Err(Status::failure(500, Reason::InternalError, MANY)) };
        };
        if !is_ready(value) && unhealthy_may_go(decoded) {
            return Ok(Leave::AsSeen);
        }
        let name = budget.key.name.to_string();
        let view = self.aimed_at(GROUP, "v1", "poddisruptionbudgets", &name, "status")?;
        let make = |old: &Value| take_one(old, &pod.key.name, self.now);
        view.transact(&Change { view: View::Status, options, make: &make, applied: false }).await?;
        Ok(Leave::Given)
    }
}

/// The pod with the condition `DisruptionTarget`.
fn targeted(old: &Value, now: jiff::Timestamp) -> Value {
    let mut pod = old.clone();
    let mut condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
        "lastProbeTime": null, "lastTransitionTime": time::format_time(now),
    });
    if let Some(generation) = pod["metadata"].get("generation").filter(|g| !g.is_null()) {
        condition["observedGeneration"] = generation.clone();
    }
    set_condition(&mut pod, condition);
    pod
}

fn set_condition(object: &mut Value, condition: Value) {
    let status = &mut object["status"];
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    if let Some(conditions) = status["conditions"].as_array_mut() {
        match conditions.iter_mut().find(|c| c["type"] == condition["type"]) {
            Some(known) if known["status"] == condition["status"] && known["reason"] == condition["reason"] => {}
            Some(known) => *known = condition,
            None => conditions.push(condition),
        }
    }
}

fn unhealthy_may_go(budget: &Value) -> bool {
    let number = |key: &str| budget["status"][key].as_i64().unwrap_or(0);
    match budget["spec"]["unhealthyPodEvictionPolicy"].as_str() {
        Some("AlwaysAllow") => true,
        _ => number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0,
    }
}

/// Why a budget has nothing to give.
fn why_not(budget: &Value) -> String {
    let name = prepare::text(budget, "name");
    let (want, have) = (budget["status"]["desiredHealthy"].as_i64().unwrap_or(0), budget["status"]["currentHealthy"].as_i64().unwrap_or(0));
    let conditions = budget["status"]["conditions"].as_array().into_iter().flatten();
    let told = conditions.filter(|c| c["type"] == "DisruptionAllowed" && c["status"] == "False").find_map(|c| {
        let message = c["message"].as_str().filter(|m| !m.is_empty())?;
        Some((c["reason"].as_str().unwrap_or_default(), message))
    });
    let not_now = format!("The disruption budget {name} does not allow evicting pods currently");
    match told {
        // Its numbers are of another time.
        Some(("SyncFailed", message)) => format!("{not_now} because it failed sync: {message}"),
        _ if have <= want => format!("The disruption budget {name} needs {want} healthy pods and has {have} currently"),
        Some((reason, message)) => format!("{not_now} ({reason}): {message}"),
        None => not_now,
    }
}

/// The budget with one disruption less to give.
fn take_one(old: &Value, pod: &str, now: jiff::Timestamp) -> Result<Value, Status> {
    let name = prepare::text(old, "name");
    let number = |key: &str| old["status"][key].as_i64().unwrap_or(0);
    let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
    if number("observedGeneration") < generation {
        return Err(too_many(&format!("The disruption budget {name} is still being processed by the server."), 10));
    }
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return Err(Status::forbidden(GROUP, BUDGET, name, "pdb disruptions allowed is negative"));
    }
    let mut new = old.clone();
    let disrupted = new["status"]["disruptedPods"].as_object().map_or(0, serde_json::Map::len);
    if disrupted > MAX_DISRUPTED {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden(GROUP, BUDGET, name, why));
    }
    if allowed == 0 {
        return Err(too_many(&why_not(old), 0));
    }
    new["status"]["disruptionsAllowed"] = json!(allowed - 1);
    if allowed == 1 {
        let condition = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": generation, "lastTransitionTime": time::format_time(now),
        });
        set_condition(&mut new, condition);
    }
    if !new["status"]["disruptedPods"].is_object() {
        new["status"]["disruptedPods"] = json!({});
    }
    new["status"]["disruptedPods"][pod] = json!(time::format_time(now));
    Ok(new)
}
