//! What one metric of an autoscaler asks for. Reads metrics only.
//!
//! Source: `computeStatusFor...Metric` in `pkg/controller/podautoscaler/horizontal.go`. The words are those that people search for.

use super::calculate::{self, Goal, Proposal, Scene};
use super::measure::Fault;
use super::sources;
use ferrokube_api::quantity::Quantity;
use ferrokube_client::{Client, Named};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Why something could not be found out.
#[derive(Debug)]
pub(super) struct Failure {
    /// Reason of event and condition.
    pub reason: &'static str,
    /// As the event and the condition say it.
    pub message: String,
    /// As the summary of all metrics says it.
    pub summary: String,
    pub fault: Fault,
}

/// What a metric asks for, its name in messages, and its status.
pub(super) type Answer = Result<(Proposal, String, Value), Failure>;

/// Where metrics are looked for.
pub(super) struct Place<'a> {
    pub client: &'a Client,
    pub namespace: &'a str,
    /// Of the pods of the target, as a query says it.
    pub selector: &'a str,
}

fn internal(reason: &'static str, summary: String) -> impl Fn(String) -> Failure {
    move |message| Failure { reason, summary: format!("{summary}: {message}"), message, fault: Fault::Internal }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn quantity(value: &Value) -> Option<i64> {
    Some(value).filter(|v| !v.is_null()).and_then(|v| Quantity::from_json(v).ok()).map(|q| q.milli_value())
}

/// CPU or memory: of pods, or of one container of each.
pub(super) async fn resource(place: &Place<'_>, scene: &Scene<'_>, source: &Value) -> Answer {
    let (name, container) = (text(&source["name"]), source["container"].as_str());
    let fail = match container {
        None => internal("FailedGetResourceMetric", format!("failed to get {name} resource metric value")),
        Some(c) => internal("FailedGetContainerResourceMetric", format!("failed to get {c} container metric value")),
    };
    let target = &source["target"];
    let percent = target["averageUtilization"].as_i64().and_then(|n| i32::try_from(n).ok());
    let average = quantity(&target["averageValue"]);
    let what = match (average, percent) {
        (Some(_), _) => "usage",
        (None, Some(_)) => "utilization",
        (None, None) => {
            let message = "invalid resource metric source: neither an average utilization nor an average value (or usage) target was set";
            return Err(fail(message.into()));
        }
    };
    let goal = || match (average, percent) {
        (None, Some(percent)) => Ok(Goal::Utilization(percent, requests(scene.pods, name, container)?)),
        (average, _) => Ok(Goal::Average(average.unwrap_or_default())),
    };
    let samples = sources::resource(place.client, place.namespace, place.selector, name, container).await;
    let proposal = samples.and_then(|s| calculate::of_pods(scene, s, name == "cpu", goal));
    let proposal = proposal.map_err(|e| fail(format!("failed to get {name} {what}: {e}")))?;
    let shown = match (what, container) {
        ("usage", _) => format!("{name} resource"),
        (_, None) => format!("{name} resource utilization (percentage of request)"),
        (_, Some(_)) => format!("{name} container resource utilization (percentage of request)"),
    };
    let mut status = json!({"name": name, "current": {"averageValue": milli(proposal.average)}});
    if let Some(utilization) = proposal.utilization {
        status["current"]["averageUtilization"] = utilization.into();
    }
    let status = match container {
        None => json!({"type": "Resource", "resource": status}),
        Some(container) => {
            status["container"] = container.into();
            json!({"type": "ContainerResource", "containerResource": status})
        }
    };
    Ok((proposal, shown, status))
}

/// A metric that each pod has.
pub(super) async fn pods(place: &Place<'_>, scene: &Scene<'_>, source: &Value) -> Answer {
    let name = text(&source["metric"]["name"]);
    let fail = internal("FailedGetPodsMetric", "failed to get pods metric value".into());
    let labels = selector(&source["metric"]["selector"]);
    let samples = sources::pods(place.client, place.namespace, place.selector, name, &labels).await;
    let target = quantity(&source["target"]["averageValue"]).unwrap_or(0);
    let proposal = samples.and_then(|s| calculate::of_pods(scene, s, false, || Ok(Goal::Average(target)))).map_err(fail)?;
    let status = json!({"metric": source["metric"], "current": {"averageValue": milli(proposal.average)}});
    Ok((proposal, format!("pods metric {name}"), json!({"type": "Pods", "pods": status})))
}

/// A metric of one object; `resource` is that of the object as `resource.group`.
pub(super) async fn object(place: &Place<'_>, scene: &Scene<'_>, source: &Value, resource: Result<String, String>) -> Answer {
    let (name, described) = (text(&source["metric"]["name"]), &source["describedObject"]);
    let fail = internal("FailedGetObjectMetric", "failed to get object metric value".into());
    let (kind, object) = (text(&described["kind"]), text(&described["name"]));
    let labels = selector(&source["metric"]["selector"]);
    let value = match resource {
        Ok(resource) => sources::object(place.client, place.namespace, &resource, object, name, &labels).await,
        Err(e) => Err(e),
    };
    // Kind, namespace and name stand where upstream has them.
    let value = value.map_err(|e| format!("unable to get metric {name}: {kind} on {} {object}/{e}", place.namespace));
    let (proposal, shown) = value.and_then(|v| compare(scene, v, &source["target"])).map_err(fail)?;
    let status = json!({"metric": source["metric"], "describedObject": described, "current": shown});
    Ok((proposal, format!("{kind} metric {name}"), json!({"type": "Object", "object": status})))
}

/// A metric of something outside the cluster.
pub(super) async fn external(place: &Place<'_>, scene: &Scene<'_>, source: &Value) -> Answer {
    let (name, labels) = (text(&source["metric"]["name"]), &source["metric"]["selector"]);
    let fail = internal("FailedGetExternalMetric", format!("failed to get {name} external metric value"));
    let shared = source["target"]["averageValue"].is_null();
    let value = sources::external(place.client, place.namespace, name, &selector(labels)).await;
    let value = value.map_err(|e| format!("unable to get external metric {}/{name}/{}: {e}", place.namespace, printed(labels)));
    let compared = value.and_then(|v| compare(scene, v, &source["target"]));
    let (proposal, shown) = compared.map_err(|e| {
        fail(if shared {
            format!("failed to get external metric {name}: {e}")
        } else {
            format!("failed to get {name} external metric: {e}")
        })
    })?;
    let status = json!({"metric": source["metric"], "current": shown});
    Ok((proposal, format!("external metric {name}({})", printed(labels)), json!({"type": "External", "external": status})))
}

/// One value against a target for all pods, or for each.
fn compare(scene: &Scene<'_>, value: i64, target: &Value) -> Result<(Proposal, Value), String> {
    match quantity(&target["averageValue"]) {
        Some(average) => {
            let proposal = calculate::of_share(scene, value, average);
            let shown = json!({"averageValue": milli(proposal.average)});
            Ok((proposal, shown))
        }
        None => {
            let proposal = calculate::of_value(scene, value, quantity(&target["value"]).unwrap_or(0))?;
            Ok((proposal, json!({"value": milli(value)})))
        }
    }
}

/// Thousandths as a quantity.
fn milli(value: i64) -> String {
    if value % 1000 == 0 { (value / 1000).to_string() } else { format!("{value}m") }
}

/// What each pod requests of a resource.
fn requests(pods: &[Pod], name: &str, container: Option<&str>) -> Result<BTreeMap<String, i64>, String> {
    let milli = |text: &str| Quantity::parse(text).map(|q| q.milli_value()).unwrap_or(0);
    let mut all = BTreeMap::new();
    for pod in pods {
        let Some(spec) = &pod.spec else { continue };
        let of_pod = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get(name));
        if let (Some(request), None) = (of_pod, container) {
            all.insert(pod.name().to_owned(), milli(&request.0));
            continue;
        }
        let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let mut sum = 0;
        for c in spec.containers.iter().chain(sidecars).filter(|c| container.is_none_or(|name| c.name == name)) {
            let request = c.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get(name));
            let request = request.ok_or_else(|| format!("missing request for {name} in container {} of Pod {}", c.name, pod.name()))?;
            sum += milli(&request.0);
        }
        all.insert(pod.name().to_owned(), sum);
    }
    Ok(all)
}

/// A label selector as a query says it.
fn selector(selector: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut parts: Vec<String> =
        selector["matchLabels"].as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v))).collect();
    for e in selector["matchExpressions"].as_array().into_iter().flatten() {
        let values: Vec<String> = e["values"].as_array().into_iter().flatten().map(text).collect();
        let (key, values) = (text(&e["key"]), values.join(","));
        parts.push(match text(&e["operator"]).as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key,
        });
    }
    parts.join(",")
}

/// A label selector as Go prints it, which is how events and conditions name external metrics.
fn printed(selector: &Value) -> String {
    if selector.is_null() {
        return "nil".into();
    }
    let labels: BTreeMap<&str, &str> =
        selector["matchLabels"].as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), text(v))).collect();
    let labels: String = labels.iter().map(|(k, v)| format!("{k}: {v},")).collect();
    let expression = |e: &Value| {
        let values: Vec<&str> = e["values"].as_array().into_iter().flatten().map(text).collect();
        format!("{{{} {} [{}]}},", text(&e["key"]), text(&e["operator"]), values.join(" "))
    };
    let expressions: String = selector["matchExpressions"].as_array().into_iter().flatten().map(expression).collect();
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_printed_as_people_know_it_from_events() {
        let selector = json!({"matchLabels": {"queue": "a"}, "matchExpressions": [{"key": "b", "operator": "In", "values": ["x", "y"]}]});
        let printed_it =
            "&LabelSelector{MatchLabels:map[string]string{queue: a,},MatchExpressions:[]LabelSelectorRequirement{{b In [x y]},},}";
        assert_eq!((printed(&selector).as_str(), printed(&Value::Null).as_str()), (printed_it, "nil"));
    }

    #[test]
    fn a_container_without_a_request_has_no_utilization() {
        let pod = |resources: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [
                {"name": "main", "resources": resources}, {"name": "side", "resources": {"requests": {"cpu": "1"}}}]}}))
            .unwrap()
        };
        let requested = |resources: Value, container| requests(&[pod(resources)], "cpu", container);
        assert_eq!(requested(json!({}), None).unwrap_err(), "missing request for cpu in container main of Pod p");
        assert_eq!(requested(json!({}), Some("side")).unwrap()["p"], 1000);
        assert_eq!(requested(json!({"requests": {"cpu": "250m"}}), None).unwrap()["p"], 1250);
    }
}
