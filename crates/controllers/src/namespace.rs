//! Namespace deletion: a terminating namespace loses its content, then its finalizer.
//!
//! Reads namespaces and, of a terminating one, every namespaced resource that can be listed and deleted; deletes those
//! and finalizes the namespace. Source: `pkg/controller/namespace/deletion`.

use crate::Context;
use crate::discovery::{self, ApiResource};
use ferrokube_client::controller::{self, Next};
use ferrokube_client::{Cache, Client, Error, Named, Optional, Target};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The finalizer this controller honours.
const KUBERNETES: &str = "kubernetes";
/// Looking again while content goes by itself (finalizers, graceful pods).
const AGAIN: Duration = Duration::from_secs(5);

/// Whether a namespace takes new content.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none() && namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let namespaces: Cache<Namespace> = context.caches.of();
    let queue = context.queue("namespace");
    let add = queue.clone();
    namespaces.on_change(move |d| add.add(d.key().name.to_string()));
    namespaces.synced().await;
    let reconcile = |name: String| {
        let (client, namespaces) = (&context.client, &namespaces);
        async move {
            match namespaces.get("", &name) {
                Some(namespace) if namespace.metadata.deletion_timestamp.is_some() => end(client, &name).await,
                _ => Ok(Next::Wait),
            }
        }
    };
    controller::run::<_, Error, _, _>("namespace", queue, 5, reconcile).await;
}

/// What is left of a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct Remaining {
    /// Objects by `resource.group`.
    objects: BTreeMap<String, usize>,
    /// Objects that wait for a finalizer, by its name.
    finalizers: BTreeMap<String, usize>,
    /// Longest grace that a pod still has, in seconds.
    grace: i64,
    /// What could not be listed or deleted.
    failures: Vec<String>,
    /// What could not be discovered.
    undiscovered: Vec<String>,
}

async fn end(client: &Client, name: &str) -> Result<Next, Error> {
    // The cache may lag behind a finalize of our own.
    let Some(namespace) = client.get::<Namespace>("", name).await.optional()? else { return Ok(Next::Wait) };
    let ours = namespace.spec.as_ref().and_then(|s| s.finalizers.as_ref()).is_some_and(|f| f.iter().any(|f| f == KUBERNETES));
    if !ours {
        return Ok(Next::Wait);
    }
    let mut remaining = Remaining::default();
    let (resources, undiscovered) = discovery::namespaced(client).await?;
    remaining.undiscovered = undiscovered.iter().map(ToString::to_string).collect();
    // Pods go first: what protects or serves them stays until the last one is gone.
    let is_pods = |r: &ApiResource| r.group.is_empty() && r.resource == "pods";
    let (pods, others): (Vec<_>, Vec<_>) = resources.iter().partition(|r| is_pods(r));
    for resource in pods.into_iter().chain(others) {
        if let Err(e) = empty(client, resource, &namespace, &mut remaining).await {
            remaining.failures.push(e.to_string());
        }
        if is_pods(resource) && !(remaining.objects.is_empty() && remaining.failures.is_empty()) {
            break;
        }
    }
    report(client, &namespace, &remaining).await?;
    if remaining.objects.is_empty() && remaining.failures.is_empty() && remaining.undiscovered.is_empty() {
        finalize(client, namespace).await?;
        return Ok(Next::Wait);
    }
    let again = if remaining.grace > 0 {
        Duration::from_secs(u64::try_from(remaining.grace / 2 + 1).unwrap_or(1))
    } else {
        Duration::from_millis(100)
    };
    Ok(Next::After(again.min(AGAIN)))
}

/// Deletes all objects of a resource and notes which are still there.
async fn empty(client: &Client, resource: &ApiResource, namespace: &Namespace, remaining: &mut Remaining) -> Result<(), Error> {
    let target = Target { namespace: namespace.name().into(), ..resource.target() };
    if list(client, &target).await?.is_empty() {
        return Ok(());
    }
    if resource.verbs.iter().any(|v| v == "deletecollection") {
        let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
        client.request(Method::DELETE, &target, "", Some(&body)).await?;
    } else {
        for item in list(client, &target).await? {
            let one = Target { name: item["metadata"]["name"].as_str().unwrap_or_default().into(), ..target.clone() };
            client.delete_target(&one, &Default::default()).await.optional()?;
        }
    }
    let left = list(client, &target).await?;
    let deleted = namespace.metadata.deletion_timestamp.as_ref().map_or(0, |at| Timestamp::now().as_second() - at.0.as_second());
    remaining.note(resource, namespace.name(), deleted, &left);
    Ok(())
}

impl Remaining {
    /// These are left of a resource so many seconds after the namespace was deleted.
    fn note(&mut self, resource: &ApiResource, namespace: &str, deleted: i64, left: &[Value]) {
        if left.is_empty() {
            return;
        }
        let finalizers =
            |item: &Value| -> Vec<String> { serde_json::from_value(item["metadata"]["finalizers"].clone()).unwrap_or_default() };
        for finalizer in left.iter().flat_map(finalizers) {
            *self.finalizers.entry(finalizer).or_default() += 1;
        }
        let running = left.iter().filter(|p| !matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed")));
        let grace = running.filter_map(|pod| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).max().unwrap_or(0);
        let grace = if resource.group.is_empty() && resource.resource == "pods" && deleted < grace { grace } else { 0 };
        self.grace = self.grace.max(grace);
        if grace == 0 && left.iter().all(|item| finalizers(item).is_empty()) {
            let (group, version, name) = (&resource.group, &resource.version, &resource.resource);
            self.failures
                .push(format!("unexpected items still remain in namespace: {namespace} for gvr: {group}/{version}, Resource={name}"));
        }
        self.objects.insert(resource.qualified(), left.len());
    }
}

async fn list(client: &Client, target: &Target) -> Result<Vec<Value>, Error> {
    let list = client.request(Method::GET, target, "", None).await.optional()?;
    Ok(list.and_then(|l| l["items"].as_array().cloned()).unwrap_or_default())
}

fn sorted(failures: &[String]) -> String {
    let mut failures = failures.to_vec();
    failures.sort();
    failures.join(", ")
}

fn conditions(remaining: &Remaining) -> Vec<(&'static str, bool, &'static str, &'static str, String)> {
    let objects: Vec<String> = remaining.objects.iter().map(|(k, n)| format!("{k} has {n} resource instances")).collect();
    let content = format!("Some resources are remaining: {}", objects.join(", "));
    let finalizers: Vec<String> = remaining.finalizers.iter().map(|(k, n)| format!("{k} in {n} resource instances")).collect();
    vec![
        (
            "NamespaceDeletionDiscoveryFailure",
            !remaining.undiscovered.is_empty(),
            "DiscoveryFailed",
            "ResourcesDiscovered",
            format!(
                "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                remaining.undiscovered.len(),
                remaining.undiscovered.join(", ")
            ),
        ),
        // Names of groups and versions come apart already when they are read.
        ("NamespaceDeletionGroupVersionParsingFailure", false, "GroupVersionParsingFailed", "ParsedGroupVersions", String::new()),
        (
            "NamespaceDeletionContentFailure",
            !remaining.failures.is_empty(),
            "ContentDeletionFailed",
            "ContentDeleted",
            format!("Failed to delete all resource types, {} remaining: {}", remaining.failures.len(), sorted(&remaining.failures)),
        ),
        ("NamespaceContentRemaining", !remaining.objects.is_empty(), "SomeResourcesRemain", "ContentRemoved", content),
        (
            "NamespaceFinalizersRemaining",
            !remaining.finalizers.is_empty(),
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            format!("Some content in the namespace has finalizers remaining: {}", finalizers.join(", ")),
        ),
    ]
}

async fn report(client: &Client, namespace: &Namespace, remaining: &Remaining) -> Result<(), Error> {
    let mut status = namespace.status.clone().unwrap_or_default();
    let before = status.clone();
    describe(status.conditions.get_or_insert_default(), remaining, Timestamp::now());
    if status == before {
        return Ok(());
    }
    let changed = Namespace { status: Some(status), ..namespace.clone() };
    match client.update_status(&changed).await {
        Err(e) if e.is_conflict() || e.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

fn describe(list: &mut Vec<NamespaceCondition>, remaining: &Remaining, now: Timestamp) {
    for (kind, bad, reason_bad, reason_good, message) in conditions(remaining) {
        let good = match kind {
            "NamespaceDeletionDiscoveryFailure" => "All resources successfully discovered",
            "NamespaceDeletionGroupVersionParsingFailure" => "All legacy kube types successfully parsed",
            "NamespaceDeletionContentFailure" => "All content successfully deleted, may be waiting on finalization",
            "NamespaceContentRemaining" => "All content successfully removed",
            _ => "All content-preserving finalizers finished",
        };
        let value = if bad { "True" } else { "False" };
        let known = list.iter().position(|c| c.type_ == kind);
        let since = known.map(|at| &list[at]).filter(|c| c.status == value).and_then(|c| c.last_transition_time.clone());
        let fresh = NamespaceCondition {
            type_: kind.into(),
            status: value.into(),
            reason: Some(if bad { reason_bad } else { reason_good }.into()),
            message: Some(if bad { message } else { good.to_owned() }),
            last_transition_time: since.or(Some(Time(now))),
        };
        match known {
            Some(at) => list[at] = fresh,
            None => list.push(fresh),
        }
    }
}

async fn finalize(client: &Client, namespace: Namespace) -> Result<(), Error> {
    let name = namespace.metadata.name.clone().unwrap_or_default();
    // The status report may have raised the version; nobody else touches a terminating namespace's finalizers of ours.
    let Some(mut fresh) = client.get::<Namespace>("", &name).await.optional()? else { return Ok(()) };
    if let Some(spec) = &mut fresh.spec {
        spec.finalizers.iter_mut().for_each(|f| f.retain(|f| f != KUBERNETES));
    }
    let body = serde_json::to_value(&fresh).map_err(|source| Error::Decode { what: "Namespace", source })?;
    let target = Target::of::<Namespace>("", &name).sub("finalize");
    client.request(Method::PUT, &target, "", Some(&body)).await.optional().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(group: &str, name: &str) -> ApiResource {
        ApiResource {
            group: group.into(),
            version: "v1".into(),
            resource: name.into(),
            kind: String::new(),
            namespaced: true,
            verbs: Vec::new(),
        }
    }

    fn told(list: &[NamespaceCondition], kind: &str) -> (String, String, String) {
        let c = list.iter().find(|c| c.type_ == kind).unwrap();
        (c.status.clone(), c.reason.clone().unwrap(), c.message.clone().unwrap())
    }

    #[test]
    fn what_is_left_of_a_namespace_is_told_in_its_conditions() {
        let (now, later): (Timestamp, Timestamp) = ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-01T00:01:00Z".parse().unwrap());
        let pod = json!({"spec": {"terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}});
        let held = json!({"metadata": {"finalizers": ["a/b"]}});
        let mut remaining = Remaining::default();
        remaining.note(&of("", "pods"), "x", 10, std::slice::from_ref(&pod));
        remaining.note(&of("g.io", "widgets"), "x", 10, &[held.clone(), held]);
        assert_eq!((remaining.grace, remaining.failures.len()), (30, 0));
        let mut list = Vec::new();
        describe(&mut list, &remaining, now);
        let content = "Some resources are remaining: pods. has 1 resource instances, widgets.g.io has 2 resource instances";
        assert_eq!(told(&list, "NamespaceContentRemaining"), ("True".into(), "SomeResourcesRemain".into(), content.into()));
        let finalizers = "Some content in the namespace has finalizers remaining: a/b in 2 resource instances";
        assert_eq!(told(&list, "NamespaceFinalizersRemaining"), ("True".into(), "SomeFinalizersRemain".into(), finalizers.into()));
        assert_eq!(told(&list, "NamespaceDeletionContentFailure").0, "False");
        // Its time is over, and nothing says what keeps the pod.
        let mut remaining = Remaining::default();
        remaining.note(&of("", "pods"), "x", 31, &[pod]);
        describe(&mut list, &remaining, later);
        let failure =
            "Failed to delete all resource types, 1 remaining: unexpected items still remain in namespace: x for gvr: /v1, Resource=pods";
        assert_eq!(told(&list, "NamespaceDeletionContentFailure"), ("True".into(), "ContentDeletionFailed".into(), failure.into()));
        let since = |kind: &str| list.iter().find(|c| c.type_ == kind).unwrap().last_transition_time.as_ref().unwrap().0;
        assert_eq!((since("NamespaceContentRemaining"), since("NamespaceDeletionContentFailure")), (now, later));
    }
}
