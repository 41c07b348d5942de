//! Namespace deletion: a terminating namespace loses its content, then its finalizer.
//!
//! Reads namespaces and, of a terminating one, every namespaced resource that can be listed and deleted; deletes those
//! and finalizes the namespace. Source: `pkg/controller/namespace/deletion`.

use crate::Context;
use crate::discovery::{self, ApiResource};
use ferrokube_client::controller::{self, Next};
use ferrokube_client::{Cache, Client, Error, Optional, Target};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
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
        if let Err(e) = empty(client, resource, name, &mut remaining).await {
            remaining.failures.push(format!("{}: {e}", resource.qualified()));
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
async fn empty(client: &Client, resource: &ApiResource, namespace: &str, remaining: &mut Remaining) -> Result<(), Error> {
    let target = Target { namespace: namespace.into(), ..resource.target() };
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
    for item in &left {
        for finalizer in item["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            *remaining.finalizers.entry(finalizer.to_owned()).or_default() += 1;
        }
        if resource.resource == "pods"
            && let Ok(pod) = serde_json::from_value::<Pod>(item.clone())
        {
            remaining.grace = remaining.grace.max(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        }
    }
    if !left.is_empty() {
        remaining.objects.insert(resource.qualified(), left.len());
    }
    Ok(())
}

async fn list(client: &Client, target: &Target) -> Result<Vec<Value>, Error> {
    let list = client.request(Method::GET, target, "", None).await.optional()?;
    Ok(list.and_then(|l| l["items"].as_array().cloned()).unwrap_or_default())
}

fn conditions(remaining: &Remaining) -> Vec<(&'static str, bool, &'static str, &'static str, String)> {
    let counted = |map: &BTreeMap<String, usize>, word: &str| {
        let parts: Vec<String> =
            map.iter().map(|(k, n)| format!("{k} {word}{n} {}", if word.is_empty() { "" } else { "resource instances" })).collect();
        parts.join(", ")
    };
    let content = format!("Some resources are remaining: {}", counted(&remaining.objects, "has "));
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
            remaining.failures.join(", "),
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
    let list = status.conditions.get_or_insert_default();
    for (kind, bad, reason_bad, reason_good, message) in conditions(remaining) {
        let good = match kind {
            "NamespaceDeletionDiscoveryFailure" => "All resources successfully discovered",
            "NamespaceDeletionGroupVersionParsingFailure" => "All legacy kube types successfully parsed",
            "NamespaceDeletionContentFailure" => "All content successfully deleted, may be waiting on finalization",
            "NamespaceContentRemaining" => "All content successfully removed",
            _ => "All content-preserving finalizers finished",
        };
        let fresh = NamespaceCondition {
            type_: kind.into(),
            status: if bad { "True" } else { "False" }.into(),
            reason: Some(if bad { reason_bad } else { reason_good }.into()),
            message: Some(if bad { message } else { good.to_owned() }),
            last_transition_time: Some(Time(Timestamp::now())),
        };
        match list.iter_mut().find(|c| c.type_ == kind) {
            Some(known) if known.status == fresh.status && known.message == fresh.message => {}
            Some(known) => *known = fresh,
            None => list.push(fresh),
        }
    }
    if status == before {
        return Ok(());
    }
    let changed = Namespace { status: Some(status), ..namespace.clone() };
    match client.update_status(&changed).await {
        Err(e) if e.is_conflict() || e.is_not_found() => Ok(()),
        other => other.map(drop),
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
