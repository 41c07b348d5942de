//! HorizontalPodAutoscalers: as many replicas as the metrics ask for, within bounds and not too fast.
//!
//! Reads autoscalers, pods, and metrics through the metrics APIs; writes the scale of the target and the autoscaler's status.
//! Owns what it recommended and did in the last hour. Looks at each autoscaler every 15 seconds.
//! Source: `pkg/controller/podautoscaler`.

mod behave;
mod calculate;
mod sources;

use crate::Context;
use crate::discovery::{self, ApiResource};
use behave::{History, allow};
use calculate::{Goal, Proposal, Tolerance};
use ferrokube_api::labels::Selector;
use ferrokube_api::quantity::Quantity;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, ListOptions, Named, ObjectKey, Optional, Target};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// `--horizontal-pod-autoscaler-sync-period`.
const PERIOD: Duration = Duration::from_secs(15);
/// `--horizontal-pod-autoscaler-tolerance`.
const TOLERANCE: f64 = 0.1;

struct Autoscalers {
    context: Context,
    autoscalers: Cache<HorizontalPodAutoscaler>,
    history: Mutex<HashMap<ObjectKey, History>>,
    /// Selectors of the targets of autoscalers: two must not size the same pods.
    selectors: Mutex<HashMap<ObjectKey, Selector>>,
    /// Resources by group and kind, learned when first needed.
    resources: Mutex<HashMap<(String, String), ApiResource>>,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue("horizontalpodautoscaler");
    let autoscalers: Cache<HorizontalPodAutoscaler> = context.caches.of();
    let add = queue.clone();
    autoscalers.on_change(move |d| {
        // Its own status is no reason to look again before it is time.
        let spec = |o: &ferrokube_client::Object| o.decode::<Value>().map(|v| v["spec"].clone()).unwrap_or_default();
        if d.old.is_none() || d.new.is_none() || d.old.map(|o| spec(o)) != d.new.map(|o| spec(o)) {
            add.add(d.key().clone());
        }
    });
    autoscalers.synced().await;
    let all = Autoscalers { context, autoscalers, history: Mutex::default(), selectors: Mutex::default(), resources: Mutex::default() };
    controller::run::<_, Error, _, _>("horizontalpodautoscaler", queue, 5, |key| all.reconcile(key)).await;
}

/// Autoscalers whose targets select some of the pods, when there are several.
fn sharing(selectors: &HashMap<ObjectKey, Selector>, key: &ObjectKey, pods: &[Pod]) -> Vec<String> {
    let selects = |s: &Selector| pods.iter().any(|p| s.matches_with(|l| p.metadata.labels.as_ref()?.get(l).map(String::as_str)));
    let all = selectors.iter().filter(|(k, s)| k.namespace == key.namespace && selects(s)).map(|(k, _)| k.to_string());
    let mut all: Vec<String> = all.collect();
    all.sort();
    if all.len() > 1 { all } else { Vec::new() }
}

/// The target's scale as far as it matters here.
struct Scale {
    target: Target,
    object: Value,
    replicas: i32,
    selector: String,
}

/// Why something could not be found out: reason of event and condition, and message.
struct Failure {
    reason: &'static str,
    message: String,
}

fn failure(reason: &'static str) -> impl Fn(String) -> Failure {
    move |message| Failure { reason, message }
}

/// What all metrics together ask for.
struct Asked {
    replicas: i32,
    metric: String,
    statuses: Vec<Value>,
    /// Some metrics could not be had, but those that could suffice.
    partial: Option<String>,
}

impl Autoscalers {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(mut hpa) = self.autoscalers.read(&key.namespace, &key.name)? else {
            self.history.lock().remove(&key);
            self.selectors.lock().remove(&key);
            return Ok(Next::Wait);
        };
        let before = hpa.status.clone();
        self.scale(&key, &mut hpa).await;
        if hpa.status != before {
            self.context.client.update_status(&hpa).await.optional()?;
        }
        Ok(Next::After(PERIOD))
    }

    fn warn(&self, hpa: &HorizontalPodAutoscaler, reason: &str, message: &str) {
        self.context.recorder.about(hpa, EventType::Warning, reason, message);
    }

    async fn scale(&self, key: &ObjectKey, hpa: &mut HorizontalPodAutoscaler) {
        let now = Timestamp::now();
        let scale = match self.read_scale(hpa).await {
            Ok(scale) => scale,
            Err(e) => {
                self.warn(hpa, "FailedGetScale", &e);
                let message = format!("the HPA controller was unable to get the target's current scale: {e}");
                return condition(hpa, "AbleToScale", false, "FailedGetScale", &message, now);
            }
        };
        condition(hpa, "AbleToScale", true, "SucceededGetScale", "the HPA controller was able to get the target's current scale", now);
        let current = scale.replicas;
        let bounds = (hpa.spec.min_replicas.unwrap_or(1), hpa.spec.max_replicas);
        let (wanted, why): (i32, String);
        let mut statuses = None;
        if current == 0 && bounds.0 != 0 {
            condition(
                hpa,
                "ScalingActive",
                false,
                "ScalingDisabled",
                "scaling is disabled since the replica count of the target is zero",
                now,
            );
            return tell(hpa, current, 0, None, false, now);
        } else if current > bounds.1 {
            (wanted, why) = (bounds.1, "Current number of replicas above Spec.MaxReplicas".into());
        } else if current < bounds.0 {
            (wanted, why) = (bounds.0, "Current number of replicas below Spec.MinReplicas".into());
        } else {
            match self.ask(hpa, &scale, now).await {
                Err(e) => {
                    self.warn(hpa, "FailedComputeMetricsReplicas", &e);
                    return tell(hpa, current, hpa.status.as_ref().map_or(0, |s| s.desired_replicas), None, false, now);
                }
                Ok(asked) => {
                    if let Some(partial) = &asked.partial {
                        self.warn(hpa, "FailedComputeMetricsReplicas", partial);
                    }
                    why =
                        if asked.replicas > current { format!("{} above target", asked.metric) } else { "All metrics below target".into() };
                    statuses = Some(asked.statuses);
                    let allowed = {
                        let mut all = self.history.lock();
                        // A controller that has just started does not shrink on the first thing it sees.
                        let first = || History { recommended: vec![(now, current)], ..History::default() };
                        allow(
                            hpa.spec.behavior.as_ref(),
                            all.entry(key.clone()).or_insert_with(first),
                            current,
                            asked.replicas,
                            bounds,
                            now,
                        )
                    };
                    condition(hpa, "AbleToScale", true, allowed.able.0, allowed.able.1, now);
                    condition(hpa, "ScalingLimited", allowed.limited, allowed.limit.0, allowed.limit.1, now);
                    wanted = allowed.replicas;
                }
            }
        }
        if wanted != current {
            if let Err(e) = self.write_scale(&scale, wanted).await {
                self.warn(hpa, "FailedRescale", &format!("New size: {wanted}; reason: {why}; error: {e}"));
                let message = format!("the HPA controller was unable to update the target scale: {e}");
                condition(hpa, "AbleToScale", false, "FailedUpdateScale", &message, now);
                return tell(hpa, current, hpa.status.as_ref().map_or(0, |s| s.desired_replicas), statuses, false, now);
            }
            let message = format!("the HPA controller was able to update the target scale to {wanted}");
            condition(hpa, "AbleToScale", true, "SucceededRescale", &message, now);
            self.context.recorder.about(hpa, EventType::Normal, "SuccessfulRescale", format!("New size: {wanted}; reason: {why}"));
            self.history.lock().entry(key.clone()).or_default().scaled(current, wanted, now);
        }
        tell(hpa, current, wanted, statuses, wanted != current, now);
    }

    /// The resource of a kind.
    async fn resource(&self, api_version: &str, kind: &str) -> Result<ApiResource, String> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group).to_owned();
        let key = (group, kind.to_owned());
        if let Some(known) = self.resources.lock().get(&key) {
            return Ok(known.clone());
        }
        let (all, _) = discovery::all(&self.context.client).await.map_err(|e| e.to_string())?;
        let mut known = self.resources.lock();
        known.extend(all.into_iter().map(|r| ((r.group.clone(), r.kind.clone()), r)));
        known.get(&key).cloned().ok_or_else(|| format!("no matches for kind {kind:?} in group {:?}", key.0))
    }

    async fn read_scale(&self, hpa: &HorizontalPodAutoscaler) -> Result<Scale, String> {
        let reference = &hpa.spec.scale_target_ref;
        let resource = self.resource(reference.api_version.as_deref().unwrap_or_default(), &reference.kind).await?;
        let target = Target { namespace: hpa.namespace().into(), name: reference.name.clone(), ..resource.target() }.sub("scale");
        let object = self.context.client.request(Method::GET, &target, "", None).await.map_err(|e| e.to_string())?;
        Ok(Scale {
            replicas: object["spec"]["replicas"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
            selector: object["status"]["selector"].as_str().unwrap_or_default().to_owned(),
            target,
            object,
        })
    }

    async fn write_scale(&self, scale: &Scale, replicas: i32) -> Result<(), Error> {
        let mut object = scale.object.clone();
        object["spec"]["replicas"] = replicas.into();
        self.context.client.request(Method::PUT, &scale.target, "", Some(&object)).await.map(drop)
    }

    /// What all metrics ask for: the largest. Without some of them nothing is shrunk.
    async fn ask(&self, hpa: &mut HorizontalPodAutoscaler, scale: &Scale, now: Timestamp) -> Result<Asked, String> {
        if scale.selector.is_empty() {
            self.warn(hpa, "SelectorRequired", "selector is required");
            condition(hpa, "ScalingActive", false, "InvalidSelector", "the HPA target's scale is missing a selector", now);
            return Err("selector is required".into());
        }
        let options = ListOptions { labels: scale.selector.clone(), ..ListOptions::default() };
        let pods: Vec<Pod> = self.context.client.list(hpa.namespace(), &options).await.map_err(|e| e.to_string())?;
        let others = self.others(hpa, scale, &pods);
        if !others.is_empty() {
            let message = format!("pods by selector {} are controlled by multiple HPAs: [{}]", scale.selector, others.join(" "));
            self.warn(hpa, "AmbiguousSelector", &message);
            condition(hpa, "ScalingActive", false, "AmbiguousSelector", &message, now);
            return Err(message);
        }
        let specs = json!(hpa.spec.metrics).as_array().cloned().unwrap_or_default();
        let mut asked = Asked { replicas: 0, metric: String::new(), statuses: Vec::new(), partial: None };
        let (mut first, mut failed) = (None, 0);
        for spec in &specs {
            match self.metric(hpa, scale, &pods, spec, now).await {
                Ok((proposal, name, status)) => {
                    if asked.metric.is_empty() || proposal.replicas > asked.replicas {
                        (asked.replicas, asked.metric) = (proposal.replicas, name);
                    }
                    asked.statuses.push(status);
                }
                Err(failure) => {
                    self.warn(hpa, failure.reason, &failure.message);
                    failed += 1;
                    first.get_or_insert(failure);
                }
            }
        }
        if let Some(first) = first {
            let message = format!("invalid metrics ({failed} invalid out of {}), first error is: {}", specs.len(), first.message);
            if failed >= specs.len() || asked.replicas < scale.replicas {
                let shown = format!("the HPA was unable to compute the replica count: {}", first.message);
                condition(hpa, "ScalingActive", false, first.reason, &shown, now);
                return Err(message);
            }
            asked.partial = Some(message);
        }
        let message = format!("the HPA was able to successfully calculate a replica count from {}", asked.metric);
        condition(hpa, "ScalingActive", true, "ValidMetricFound", &message, now);
        Ok(asked)
    }

    /// All autoscalers of the pods, when this is not the only one.
    fn others(&self, hpa: &HorizontalPodAutoscaler, scale: &Scale, pods: &[Pod]) -> Vec<String> {
        let Ok(selector) = Selector::parse(&scale.selector) else { return Vec::new() };
        let key = ObjectKey::new(hpa.namespace(), hpa.name());
        let mut selectors = self.selectors.lock();
        selectors.insert(key.clone(), selector);
        sharing(&selectors, &key, pods)
    }

    /// What one metric asks for, its name in messages, and its status.
    async fn metric(
        &self,
        hpa: &HorizontalPodAutoscaler,
        scale: &Scale,
        pods: &[Pod],
        spec: &Value,
        now: Timestamp,
    ) -> Result<(Proposal, String, Value), Failure> {
        let (client, namespace) = (&self.context.client, hpa.namespace());
        let (current, tolerance) = (scale.replicas, tolerance(hpa));
        let kind = spec["type"].as_str().unwrap_or_default();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let metric = |source: &Value| (text(&source["metric"]["name"]), selector(&source["metric"]["selector"]));
        let quantity = |v: &Value| Quantity::from_json(v).ok().map(|q| q.milli_value());
        match kind {
            "Resource" | "ContainerResource" => {
                let (field, reason) = match kind {
                    "Resource" => ("resource", "FailedGetResourceMetric"),
                    _ => ("containerResource", "FailedGetContainerResourceMetric"),
                };
                let source = &spec[field];
                let (name, container) = (text(&source["name"]), source["container"].as_str());
                let percent = source["target"]["averageUtilization"].as_i64().and_then(|n| i32::try_from(n).ok());
                let what = if percent.is_some() { "utilization" } else { "usage" };
                let fail = |e: String| Failure { reason, message: format!("failed to get {name} {what}: {e}") };
                let samples = sources::resource(client, namespace, &scale.selector, &name, container).await.map_err(fail)?;
                let requests;
                let goal = match (percent, quantity(&source["target"]["averageValue"])) {
                    (Some(percent), _) => {
                        requests = self::requests(pods, &name, container).map_err(fail)?;
                        Goal::Utilization(percent, &requests)
                    }
                    (None, Some(average)) => Goal::Average(average),
                    (None, None) => {
                        return Err(fail(
                            "invalid resource metric source: neither an average utilization nor an average value was set".into(),
                        ));
                    }
                };
                let proposal = calculate::of_pods(current, pods, samples, &goal, name == "cpu", tolerance, now).map_err(fail)?;
                let kind_of = container.map_or("resource", |_| "container resource");
                let shown = if percent.is_some() {
                    format!("{name} {kind_of} utilization (percentage of request)")
                } else {
                    format!("{name} {kind_of}")
                };
                let mut status = json!({"name": name, "current": {"averageValue": milli(proposal.average)}});
                if let Some(utilization) = proposal.utilization {
                    status["current"]["averageUtilization"] = utilization.into();
                }
                if let Some(container) = container {
                    status["container"] = container.into();
                }
                Ok((proposal, shown, json!({"type": kind, field: status})))
            }
            "Pods" => {
                let source = &spec["pods"];
                let (name, labels) = metric(source);
                let fail = |e: String| failure("FailedGetPodsMetric")(format!("failed to get pods metric value: {e}"));
                let samples = sources::pods(client, namespace, &scale.selector, &name, &labels).await.map_err(fail)?;
                let target = quantity(&source["target"]["averageValue"]).unwrap_or(0);
                let proposal = calculate::of_pods(current, pods, samples, &Goal::Average(target), false, tolerance, now).map_err(fail)?;
                let status =
                    json!({"type": kind, "pods": {"metric": source["metric"], "current": {"averageValue": milli(proposal.average)}}});
                Ok((proposal, format!("pods metric {name}"), status))
            }
            "Object" => {
                let source = &spec["object"];
                let (name, labels) = metric(source);
                let object = &source["describedObject"];
                let fail = |e: String| failure("FailedGetObjectMetric")(format!("failed to get object metric value: {e}"));
                let resource = self.resource(&text(&object["apiVersion"]), &text(&object["kind"])).await.map_err(fail)?;
                let qualified = resource.qualified();
                let place = qualified.trim_end_matches('.');
                let value = sources::object(client, namespace, place, &text(&object["name"]), &name, &labels).await.map_err(fail)?;
                let (proposal, shown) = compare(current, pods, value, &source["target"], tolerance);
                let status = json!({"type": kind, "object": {"metric": source["metric"], "describedObject": object, "current": shown}});
                Ok((proposal, format!("{} metric {name}", text(&object["kind"])), status))
            }
            "External" => {
                let source = &spec["external"];
                let (name, labels) = metric(source);
                let fail = |e: String| failure("FailedGetExternalMetric")(format!("failed to get {name} external metric value: {e}"));
                let value = sources::external(client, namespace, &name, &labels).await.map_err(fail)?;
                let (proposal, shown) = compare(current, pods, value, &source["target"], tolerance);
                let status = json!({"type": kind, "external": {"metric": source["metric"], "current": shown}});
                Ok((proposal, format!("external metric {name}({labels})"), status))
            }
            other => Err(failure("InvalidMetricSourceType")(format!("unknown metric source type {other:?}"))),
        }
    }
}

/// One value against a target for all pods, or for each.
fn compare(current: i32, pods: &[Pod], value: i64, target: &Value, tolerance: Tolerance) -> (Proposal, Value) {
    let quantity = |field: &str| Quantity::from_json(&target[field]).ok().map(|q| q.milli_value());
    match quantity("averageValue") {
        Some(average) => {
            let proposal = calculate::of_share(current, value, average, tolerance);
            let shown = json!({"averageValue": milli(proposal.average)});
            (proposal, shown)
        }
        None => {
            let ready = i32::try_from(pods.iter().filter(|p| crate::pods::is_ready(p)).count()).unwrap_or(i32::MAX);
            (calculate::of_value(current, ready, value, quantity("value").unwrap_or(0), tolerance), json!({"value": milli(value)}))
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

fn tolerance(hpa: &HorizontalPodAutoscaler) -> Tolerance {
    let behavior = hpa.spec.behavior.as_ref();
    let of = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
        rules.and_then(|r| r.tolerance.as_ref()).and_then(|t| Quantity::parse(&t.0).ok()).map_or(TOLERANCE, |q| q.as_f64())
    };
    Tolerance { up: of(behavior.and_then(|b| b.scale_up.as_ref())), down: of(behavior.and_then(|b| b.scale_down.as_ref())) }
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

fn condition(hpa: &mut HorizontalPodAutoscaler, kind: &str, is: bool, reason: &str, message: &str, now: Timestamp) {
    let conditions = hpa.status.get_or_insert_default().conditions.get_or_insert_default();
    let status = if is { "True" } else { "False" };
    let fresh = |since| HorizontalPodAutoscalerCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: since,
    };
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(old) => *old = fresh(if old.status == status { old.last_transition_time.clone() } else { Some(Time(now)) }),
        None => conditions.push(fresh(Some(Time(now)))),
    }
}

fn tell(hpa: &mut HorizontalPodAutoscaler, current: i32, desired: i32, metrics: Option<Vec<Value>>, scaled: bool, now: Timestamp) {
    let generation = hpa.metadata.generation;
    let status = hpa.status.get_or_insert_default();
    status.current_replicas = Some(current);
    status.desired_replicas = desired;
    status.observed_generation = generation;
    if let Some(metrics) = metrics {
        status.current_metrics = serde_json::from_value(Value::Array(metrics)).ok();
    }
    if scaled {
        status.last_scale_time = Some(Time(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_autoscalers_of_the_same_pods_are_noticed() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"labels": {"app": "web", "tier": "front"}}})).unwrap();
        let selectors = |list: &[(&str, &str, &str)]| -> HashMap<ObjectKey, Selector> {
            list.iter().map(|(ns, name, text)| (ObjectKey::new(ns, name), Selector::parse(text).unwrap())).collect()
        };
        let key = ObjectKey::new("a", "one");
        let pods = [pod];
        assert!(sharing(&selectors(&[("a", "one", "app=web"), ("a", "two", "app=db"), ("b", "three", "app=web")]), &key, &pods).is_empty());
        assert_eq!(sharing(&selectors(&[("a", "one", "app=web"), ("a", "two", "tier in (front)")]), &key, &pods), ["a/one", "a/two"]);
    }
}
