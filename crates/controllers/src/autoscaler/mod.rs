//! HorizontalPodAutoscalers: as many replicas as the metrics ask for, within bounds and not too fast.
//!
//! Reads autoscalers, pods, and metrics through the metrics APIs; writes the scale of the target and the autoscaler's status.
//! Owns what it recommended and did in the last hour. Looks at each autoscaler every 15 seconds.
//! Source: `pkg/controller/podautoscaler`.

mod behave;
mod calculate;
mod measure;
mod metric;
mod sources;

use crate::Context;
use crate::discovery::{self, ApiResource};
use crate::settings::Autoscaling;
use behave::{History, allow};
use calculate::{Scene, Tolerance};
use ferrokube_api::labels::Selector;
use ferrokube_api::quantity::Quantity;
use ferrokube_client::cache::decoded;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Named, ObjectKey, Optional, Target};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use measure::Fault;
use metric::{Failure, Place};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::Instant;

struct Autoscalers {
    context: Context,
    autoscalers: Cache<HorizontalPodAutoscaler>,
    pods: Cache<Pod>,
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
    let pods: Cache<Pod> = context.caches.of();
    tokio::join!(autoscalers.synced(), pods.synced());
    let running = Arc::new(());
    measure::measure(&context.metrics, &autoscalers, &running);
    let all =
        Autoscalers { context, autoscalers, pods, history: Mutex::default(), selectors: Mutex::default(), resources: Mutex::default() };
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
    /// `spec.replicas` and `status.replicas`.
    replicas: i32,
    present: i32,
    selector: String,
}

/// What all metrics together ask for.
struct Asked {
    replicas: i32,
    metric: String,
    /// Some metrics could not be had, but those that could suffice.
    partial: Option<Fault>,
}

/// A size that is to be had, and why; `None`: the size is as it should be.
type Goal = Option<(i32, String)>;

impl Autoscalers {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(mut hpa) = self.autoscalers.read(&key.namespace, &key.name)? else {
            self.history.lock().remove(&key);
            self.selectors.lock().remove(&key);
            return Ok(Next::Wait);
        };
        let (before, started) = (hpa.status.clone(), Instant::now());
        let (sizes, fault) = self.scale(&key, &mut hpa).await;
        measure::reconciled(&self.context.metrics, sizes, fault, started.elapsed());
        if hpa.status != before {
            self.context.client.update_status(&hpa).await.optional()?;
        }
        Ok(Next::After(self.settings().period))
    }

    fn settings(&self) -> &Autoscaling {
        &self.context.config.settings.autoscaling
    }

    fn warn(&self, hpa: &HorizontalPodAutoscaler, reason: &str, message: &str) {
        self.context.recorder.about(hpa, EventType::Warning, reason, message);
    }

    /// Gives the target its size; the size before and after, and what went wrong first.
    async fn scale(&self, key: &ObjectKey, hpa: &mut HorizontalPodAutoscaler) -> ((i32, i32), Option<Fault>) {
        let now = Timestamp::now();
        let scale = match self.read_scale(hpa).await {
            Ok(scale) => scale,
            Err((e, fault)) => {
                self.warn(hpa, "FailedGetScale", &e);
                let message = format!("the HPA controller was unable to get the target's current scale: {e}");
                condition(hpa, "AbleToScale", false, "FailedGetScale", &message, now);
                return ((0, 0), Some(fault));
            }
        };
        condition(hpa, "AbleToScale", true, "SucceededGetScale", "the HPA controller was able to get the target's current scale", now);
        let current = scale.replicas;
        // A controller that has just started does not shrink on the first thing it sees.
        let first = || History { recommended: vec![(Instant::now(), current)], ..History::default() };
        self.history.lock().entry(key.clone()).or_insert_with(first);
        let mut statuses = Vec::new();
        let before = hpa.status.as_ref().map_or(0, |s| s.desired_replicas);
        let (goal, partial) = match self.goal(key, hpa, &scale, &mut statuses, now).await {
            Ok(found) => found,
            Err((message, fault)) => {
                tell(hpa, current, before, statuses, false, now);
                self.warn(hpa, "FailedComputeMetricsReplicas", &message);
                return ((current, current), Some(fault));
            }
        };
        let Some((wanted, why)) = goal else {
            tell(hpa, current, current, statuses, false, now);
            return ((current, current), partial);
        };
        if let Err(e) = self.write_scale(&scale, wanted).await {
            self.warn(hpa, "FailedRescale", &format!("New size: {wanted}; reason: {why}; error: {e}"));
            let message = format!("the HPA controller was unable to update the target scale: {e}");
            condition(hpa, "AbleToScale", false, "FailedUpdateScale", &message, now);
            tell(hpa, current, before, statuses, false, now);
            return ((current, current), partial.or(Some(Fault::Internal)));
        }
        let message = format!("the HPA controller was able to update the target scale to {wanted}");
        condition(hpa, "AbleToScale", true, "SucceededRescale", &message, now);
        self.context.recorder.about(hpa, EventType::Normal, "SuccessfulRescale", format!("New size: {wanted}; reason: {why}"));
        self.history.lock().entry(key.clone()).or_default().scaled(current, wanted, Instant::now());
        tell(hpa, current, wanted, statuses, true, now);
        ((current, wanted), partial)
    }

    /// The size that the bounds or the metrics ask for.
    async fn goal(
        &self,
        key: &ObjectKey,
        hpa: &mut HorizontalPodAutoscaler,
        scale: &Scale,
        statuses: &mut Vec<Value>,
        now: Timestamp,
    ) -> Result<(Goal, Option<Fault>), (String, Fault)> {
        let current = scale.replicas;
        let (least, most) = (hpa.spec.min_replicas.unwrap_or(1), hpa.spec.max_replicas);
        if current == 0 && least != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            condition(hpa, "ScalingActive", false, "ScalingDisabled", message, now);
            return Ok((None, None));
        } else if current > most {
            return Ok((Some((most, "Current number of replicas above Spec.MaxReplicas".into())), None));
        } else if current < least {
            return Ok((Some((least, "Current number of replicas below Spec.MinReplicas".into())), None));
        }
        let asked = self.ask(hpa, scale, statuses, now).await?;
        let why = match asked.replicas.cmp(&current) {
            std::cmp::Ordering::Greater => format!("{} above target", asked.metric),
            std::cmp::Ordering::Less => "All metrics below target".to_owned(),
            std::cmp::Ordering::Equal => String::new(),
        };
        let window = self.settings().downscale_window.as_secs();
        let allowed = {
            let mut all = self.history.lock();
            let history = all.entry(key.clone()).or_default();
            allow(hpa.spec.behavior.as_ref(), history, current, asked.replicas, (least, most), window, Instant::now())
        };
        condition(hpa, "AbleToScale", true, allowed.able.0, allowed.able.1, now);
        condition(hpa, "ScalingLimited", allowed.limited, allowed.limit.0, allowed.limit.1, now);
        Ok(((allowed.replicas != current).then_some((allowed.replicas, why)), asked.partial))
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

    async fn read_scale(&self, hpa: &HorizontalPodAutoscaler) -> Result<Scale, (String, Fault)> {
        let reference = &hpa.spec.scale_target_ref;
        let found = self.resource(reference.api_version.as_deref().unwrap_or_default(), &reference.kind).await;
        let resource = found.map_err(|e| (e, Fault::Spec))?;
        let target = Target { namespace: hpa.namespace().into(), name: reference.name.clone(), ..resource.target() }.sub("scale");
        let object = self.context.client.request(Method::GET, &target, "", None).await.map_err(|e| (e.to_string(), Fault::Internal))?;
        let number = |part: &str| object[part]["replicas"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
        Ok(Scale {
            replicas: number("spec"),
            present: number("status"),
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
    async fn ask(
        &self,
        hpa: &mut HorizontalPodAutoscaler,
        scale: &Scale,
        statuses: &mut Vec<Value>,
        now: Timestamp,
    ) -> Result<Asked, (String, Fault)> {
        let pods = self.selected(hpa, scale, now)?;
        let (tolerance, settings) = (tolerance(hpa, self.settings().tolerance), self.settings());
        let scene = Scene { current: scale.replicas, present: scale.present, pods: &pods, tolerance, settings, now };
        let specs = json!(hpa.spec.metrics).as_array().cloned().unwrap_or_default();
        let mut asked = Asked { replicas: 0, metric: String::new(), partial: None };
        let (mut first, mut failed) = (None, 0);
        for spec in &specs {
            let started = Instant::now();
            let (size, fault) = match self.metric(hpa, scale, &scene, spec).await {
                Ok((proposal, name, status)) => {
                    statuses.push(status);
                    let size = proposal.replicas;
                    if asked.replicas == 0 || size > asked.replicas {
                        (asked.replicas, asked.metric) = (size, name);
                    }
                    (size, None)
                }
                Err(failure) => {
                    // Its place stays empty, so that the others stand beside their specifications.
                    statuses.push(json!({"type": ""}));
                    self.warn(hpa, failure.reason, &failure.message);
                    failed += 1;
                    let fault = failure.fault;
                    first.get_or_insert(failure);
                    (scale.replicas, Some(fault))
                }
            };
            measure::computed(
                &self.context.metrics,
                spec["type"].as_str().unwrap_or_default(),
                (scale.replicas, size),
                fault,
                started.elapsed(),
            );
        }
        if let Some(first) = first {
            if failed >= specs.len() || asked.replicas < scale.replicas {
                let shown = format!("the HPA was unable to compute the replica count: {}", first.message);
                condition(hpa, "ScalingActive", false, first.reason, &shown, now);
                let message = format!("invalid metrics ({failed} invalid out of {}), first error is: {}", specs.len(), first.summary);
                return Err((message, first.fault));
            }
            asked.partial = Some(first.fault);
        }
        let message = format!("the HPA was able to successfully calculate a replica count from {}", asked.metric);
        condition(hpa, "ScalingActive", true, "ValidMetricFound", &message, now);
        Ok(asked)
    }

    /// The pods of the target, unless it does not say which they are or another autoscaler has them too.
    fn selected(&self, hpa: &mut HorizontalPodAutoscaler, scale: &Scale, now: Timestamp) -> Result<Vec<Pod>, (String, Fault)> {
        if scale.selector.is_empty() {
            self.warn(hpa, "SelectorRequired", "selector is required");
            condition(hpa, "ScalingActive", false, "InvalidSelector", "the HPA target's scale is missing a selector", now);
            return Err(("selector is required".into(), Fault::Spec));
        }
        let selector = match Selector::parse(&scale.selector) {
            Ok(selector) => selector,
            Err(e) => {
                let message = format!("couldn't convert selector into a corresponding internal selector object: {e}");
                self.warn(hpa, "InvalidSelector", &message);
                condition(hpa, "ScalingActive", false, "InvalidSelector", &message, now);
                return Err((message, Fault::Spec));
            }
        };
        let own = self.pods.objects_in(hpa.namespace());
        let pods: Vec<Pod> = own.iter().filter(|o| selector.matches(o)).filter_map(|o| decoded(o)).collect();
        let key = ObjectKey::new(hpa.namespace(), hpa.name());
        let others = {
            let mut selectors = self.selectors.lock();
            selectors.insert(key.clone(), selector);
            sharing(&selectors, &key, &pods)
        };
        if others.is_empty() {
            return Ok(pods);
        }
        let message = format!("pods by selector {} are controlled by multiple HPAs: [{}]", scale.selector, others.join(" "));
        self.warn(hpa, "AmbiguousSelector", &message);
        condition(hpa, "ScalingActive", false, "AmbiguousSelector", &message, now);
        Err((message, Fault::Spec))
    }

    async fn metric(&self, hpa: &HorizontalPodAutoscaler, scale: &Scale, scene: &Scene<'_>, spec: &Value) -> metric::Answer {
        let place = Place { client: &self.context.client, namespace: hpa.namespace(), selector: &scale.selector };
        match spec["type"].as_str().unwrap_or_default() {
            "Resource" => metric::resource(&place, scene, &spec["resource"]).await,
            "ContainerResource" => metric::resource(&place, scene, &spec["containerResource"]).await,
            "Pods" => metric::pods(&place, scene, &spec["pods"]).await,
            "Object" => {
                let described = &spec["object"]["describedObject"];
                let text = |field: &str| described[field].as_str().unwrap_or_default();
                let resource = self.resource(text("apiVersion"), text("kind")).await;
                let name = resource.map(|r| r.qualified().trim_end_matches('.').to_owned());
                metric::object(&place, scene, &spec["object"], name).await
            }
            "External" => metric::external(&place, scene, &spec["external"]).await,
            other => {
                let message = format!("unknown metric source type {other:?}");
                Err(Failure { reason: "InvalidMetricSourceType", summary: message.clone(), message, fault: Fault::Spec })
            }
        }
    }
}

fn tolerance(hpa: &HorizontalPodAutoscaler, usual: f64) -> Tolerance {
    let behavior = hpa.spec.behavior.as_ref();
    let of = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
        rules.and_then(|r| r.tolerance.as_ref()).and_then(|t| Quantity::parse(&t.0).ok()).map_or(usual, |q| q.as_f64())
    };
    Tolerance { up: of(behavior.and_then(|b| b.scale_up.as_ref())), down: of(behavior.and_then(|b| b.scale_down.as_ref())) }
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

fn tell(hpa: &mut HorizontalPodAutoscaler, current: i32, desired: i32, metrics: Vec<Value>, scaled: bool, now: Timestamp) {
    let generation = hpa.metadata.generation;
    let status = hpa.status.get_or_insert_default();
    status.current_replicas = Some(current);
    status.desired_replicas = desired;
    status.observed_generation = generation;
    status.current_metrics = Some(metrics).filter(|m| !m.is_empty()).and_then(|m| serde_json::from_value(Value::Array(m)).ok());
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
