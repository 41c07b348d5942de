//! Resource quotas: what a namespace uses, for people and tools to read. Admission counts for itself.
//!
//! Reads quotas and what they count; writes the status of quotas. Source: `pkg/controller/resourcequota`.

use crate::Context;
use crate::discovery;
use ferrokube_api::quota::{self, Amounts};
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Named, ObjectKey, Optional, Selection};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// How long a kind that is counted for the first time may take to be listed before the quota is put off.
const LISTED: Duration = Duration::from_secs(5);
/// Looking again at a quota that was put off.
const UNLISTED: Duration = Duration::from_secs(10);

/// What is counted, by group and plural; a kind is only watched once a quota names it.
type Counted = Mutex<HashMap<(String, String), Cache<()>>>;

struct Quotas {
    context: Context,
    quotas: Cache<ResourceQuota>,
    counted: Counted,
    queue: Queue<ObjectKey>,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue("resource_quota_controller_resource_changes");
    let quotas: Cache<ResourceQuota> = context.caches.of();
    let add = queue.clone();
    quotas.on_change(move |d| add.add(d.key().clone()));
    quotas.synced().await;
    let all = Quotas { context, quotas, counted: Counted::default(), queue: queue.clone() };
    let reconcile = |key: ObjectKey| all.reconcile(key);
    controller::run::<_, Error, _, _>("resourcequota", queue, 5, reconcile).await;
}

impl Quotas {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(quota) = self.quotas.read(&key.namespace, &key.name)? else { return Ok(Next::Wait) };
        let spec = quota.spec.clone().unwrap_or_default();
        let scopes = serde_json::to_value(&spec).unwrap_or_default();
        let hard = spec.hard.clone().unwrap_or_default();
        let now = Timestamp::now();
        let mut used = Amounts::new();
        let kinds: BTreeSet<(String, String)> = hard.keys().map(|name| quota::counted_by(name)).collect();
        for (group, resource) in kinds {
            let Some(cache) = self.cache(&group, &resource).await? else { continue };
            // Its server may be away, and other quotas have other kinds.
            if tokio::time::timeout(LISTED, cache.synced()).await.is_err() {
                return Ok(Next::After(UNLISTED));
            }
            for object in cache.objects_in(&key.namespace) {
                let Ok(value) = object.decode::<Value>() else { continue };
                if quota::covers(&scopes, &group, &resource, &value) {
                    quota::add(&mut used, &quota::usage(&group, &resource, &value, now));
                }
            }
        }
        let shown: BTreeMap<String, Text> =
            hard.keys().map(|name| (name.clone(), Text(used.get(name).copied().unwrap_or_default().to_string()))).collect();
        let status = ResourceQuotaStatus { hard: Some(hard), used: Some(shown) };
        if quota.status.as_ref() != Some(&status) {
            tracing::debug!(quota = quota.name(), "usage changed");
            let changed = ResourceQuota { status: Some(status), ..quota };
            self.context.client.update_status(&changed).await.optional()?;
        }
        Ok(Next::After(self.context.config.settings.quotas.0))
    }

    /// The cache of a kind; `None` while it is not served.
    async fn cache(&self, group: &str, resource: &str) -> Result<Option<Cache<()>>, Error> {
        let key = (group.to_owned(), resource.to_owned());
        let known = self.counted.lock().get(&key).cloned();
        if let Some(cache) = known {
            return Ok(Some(cache));
        }
        let version = if group.is_empty() {
            "v1".to_owned()
        } else {
            let (all, _) = discovery::all(&self.context.client).await?;
            let Some(found) = all.into_iter().find(|r| r.group == group && r.resource == resource) else { return Ok(None) };
            found.version
        };
        let cache =
            self.context.caches.dynamic(Selection { group: group.into(), version, resource: resource.into(), ..Selection::default() });
        let (add, quotas) = (self.queue.clone(), self.quotas.clone());
        cache.on_change(move |d| {
            let here = quotas.objects_in(&d.key().namespace);
            here.iter().for_each(|q| add.add(q.key.clone()));
        });
        self.counted.lock().insert(key, cache.clone());
        Ok(Some(cache))
    }
}
