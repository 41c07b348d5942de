//! Generic ephemeral volumes: a claim of its own for each, owned by the pod.
//!
//! Reads pods and claims; creates claims named `<pod>-<volume>` as the volume's template says. A claim of that name that
//! was not made for the pod is never touched: the pod waits. Source: `pkg/controller/volume/ephemeral`.

use crate::Context;
use crate::pod_claims::{ephemeral_name, is_for_pod};
use crate::pods::{controller_reference, is_deleting};
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::metrics::{Desc, Kind};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Named, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::time::Duration;

/// `--concurrent-ephemeralvolume-syncs`.
const WORKERS: usize = 5;
/// How soon a name that somebody else has is looked at again.
const AGAIN: Duration = Duration::from_secs(30);

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let pods: Cache<Pod> = context.caches.of();
    let claims: Cache<PersistentVolumeClaim> = context.caches.of();
    let queue: Queue<ObjectKey> = context.queue("ephemeral_volume");
    let add = queue.clone();
    pods.on_change(move |d| {
        if d.new.is_some_and(|o| o.mentions(b"\"ephemeral\"") && !is_deleting(o)) {
            add.add(d.key().clone());
        }
    });
    let add = queue.clone();
    claims.on_change(move |d| {
        let owner = d.latest().controller().filter(|o| d.new.is_none() && o.kind == "Pod");
        owner.iter().for_each(|o| add.add(ObjectKey::new(&d.key().namespace, &o.name)));
    });
    tokio::join!(pods.synced(), claims.synced());
    let reconcile = |key: ObjectKey| {
        let (context, pods, claims) = (&context, &pods, &claims);
        async move {
            let Some(pod) = pods.get(&key.namespace, &key.name) else { return Ok(Next::Wait) };
            for need in plan(&pod, |name| claims.get(&key.namespace, name)) {
                match need {
                    Need::Claim(volume, claim) => create(context, &pod, &volume, &claim).await?,
                    Need::Name(volume, claim) => {
                        let namespace = &key.namespace;
                        let why = format!("PVC {namespace}/{claim} was not created for pod {key} (pod is not owner)");
                        tell(context, &pod, &volume, &why);
                        return Ok(Next::After(AGAIN));
                    }
                }
            }
            Ok(Next::Wait)
        }
    };
    controller::run::<_, Error, _, _>("ephemeral-volume", queue, WORKERS, reconcile).await;
}

/// What an ephemeral volume needs.
#[derive(Debug, PartialEq)]
enum Need {
    /// This claim.
    Claim(String, Box<PersistentVolumeClaim>),
    /// The name of its claim, which somebody else's has.
    Name(String, String),
}

/// What a pod's ephemeral volumes need, in their order.
fn plan(pod: &Pod, existing: impl Fn(&str) -> Option<PersistentVolumeClaim>) -> Vec<Need> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let need = |volume: &Volume| {
        let claim = wanted(pod, volume)?;
        match existing(claim.name()) {
            None => Some(Need::Claim(volume.name.clone(), Box::new(claim))),
            Some(found) if is_for_pod(&found, pod) => None,
            Some(found) => Some(Need::Name(volume.name.clone(), found.name().to_owned())),
        }
    };
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(need).collect()
}

/// People hear why a pod's volume is not there.
fn tell(context: &Context, pod: &Pod, volume: &str, why: &str) {
    context.recorder.about(pod, EventType::Warning, "FailedBinding", format!("ephemeral volume {volume}: {why}"));
}

fn wanted(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.clone()?;
    let meta = template.metadata.unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(ephemeral_name(pod.name(), &volume.name)),
            namespace: Some(pod.namespace().to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec),
        status: None,
    })
}

static CREATED: Desc = Desc {
    name: "ephemeral_volume_controller_create_total",
    help: "[ALPHA] Number of PersistenVolumeClaims creation requests",
    kind: Kind::Counter,
    labels: &[],
};
static FAILED: Desc = Desc {
    name: "ephemeral_volume_controller_create_failures_total",
    help: "[ALPHA] Number of PersistenVolumeClaims creation requests",
    kind: Kind::Counter,
    labels: &[],
};

async fn create(context: &Context, pod: &Pod, volume: &str, claim: &PersistentVolumeClaim) -> Result<(), Error> {
    context.metrics.count(&CREATED, &[]);
    let made = context.client.create(claim).await.inspect_err(|_| context.metrics.count(&FAILED, &[]));
    match made {
        Err(e) if e.is_namespace_terminating() => Ok(()),
        // The cache does not show it yet. Once it does, whose it is decides what is to be said.
        Err(e) if e.is_already_exists() => Err(e),
        Err(e) => {
            tell(context, pod, volume, &format!("create PVC {}: {e}", claim.name()));
            Err(e)
        }
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_ephemeral_volume_gets_a_claim_owned_by_the_pod_and_strangers_are_left_alone() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}});
        let mut pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [],
            "volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}, {"name": "e", "emptyDir": {}}]}}))
            .unwrap();
        let needs = plan(&pod, |_| None);
        let [Need::Claim(volume, made)] = needs.as_slice() else { panic!("{needs:?}") };
        assert_eq!((volume.as_str(), made.name()), ("v", "p-v"));
        assert!(is_for_pod(made, &pod) && made.metadata.labels.is_some());
        assert_eq!(plan(&pod, |_| Some((**made).clone())), []);
        let mut stranger = (**made).clone();
        stranger.metadata.owner_references = None;
        assert_eq!(plan(&pod, |_| Some(stranger.clone())), [Need::Name("v".into(), "p-v".into())]);
        pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert_eq!(plan(&pod, |_| None), []);
    }
}
