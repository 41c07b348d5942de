//! Storage version migration: every object of a resource is written again, so that it is stored in the version, and encrypted with the
//! key, of now.
//!
//! Reads StorageVersionMigrations, discovery and the metadata of what is migrated; writes the status of migrations, applies nothing to
//! each object, and tells a CustomResourceDefinition which versions are still stored. That is told before the migration is said to have
//! succeeded: whoever waited for it may drop a version at once. It must never take a version off the list while an object may stand in
//! it. Runs only with the feature StorageVersionMigrator. Source: `pkg/controller/storageversionmigrator`.

mod definition;
mod objects;
mod plan;

use crate::Context;
use crate::discovery::{self, ApiResource};
use definition::Said;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Client, Error, Optional, Selection, Target};
use http::Method;
use jiff::Timestamp;
use objects::Stopped;
use parking_lot::Mutex;
use plan::{Migrated, Outcome, Step};
use serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;

const NAME: &str = "storage-version-migrator-controller";
const GROUP: &str = "storagemigration.k8s.io";
const VERSION: &str = "v1beta1";
const RESOURCE: &str = "storageversionmigrations";

/// Resources migrated at once.
const WORKERS: usize = 5;
/// Looking again for what discovery does not tell yet.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<Migrated> = context.queue(NAME);
    let selection = Selection { group: GROUP.into(), version: VERSION.into(), resource: RESOURCE.into(), ..Selection::default() };
    let migrations = context.caches.dynamic(selection);
    let add = queue.clone();
    migrations.on_change(move |delta| {
        if let Ok(migration) = delta.latest().decode::<Value>() {
            add.add(Migrated::of(&migration));
        }
    });
    migrations.synced().await;
    let migrator = Migrator { client: context.client.clone(), migrations, places: Mutex::default() };
    controller::run::<_, Error, _, _>(NAME, queue, WORKERS, |migrated: Migrated| migrator.reconcile(migrated)).await;
}

struct Migrator {
    client: Client,
    migrations: Cache<()>,
    /// Where in the list of a resource its migration, named by its UID, was interrupted.
    places: Mutex<HashMap<Migrated, (String, String)>>,
}

impl Migrator {
    async fn reconcile(&self, migrated: Migrated) -> Result<Next, Error> {
        let all = self.migrations.objects();
        let own = all.iter().filter_map(|o| o.decode::<Value>().ok()).filter(|m| Migrated::of(m) == migrated);
        let own: Vec<Value> = own.collect();
        match plan::next(&own) {
            None => Ok(Next::Wait),
            Some(Step::Begin(migration)) => self.begin(&migrated, migration).await,
            Some(Step::Work(migration)) => self.work(&migrated, migration).await,
            Some(Step::End(migration, outcome)) => self.end(&migrated, migration, outcome).await,
        }
    }

    /// Writes a status; the news of it brings the next step. A conflict is an error: what was planned on is not so any more.
    async fn write(&self, migration: &Value) -> Result<Next, Error> {
        let name = migration["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let target = Target { group: GROUP.into(), version: VERSION.into(), resource: RESOURCE.into(), name, ..Target::default() };
        self.client.request(Method::PUT, &target.sub("status"), "", Some(migration)).await.optional().map(|_| Next::Wait)
    }

    async fn begin(&self, migrated: &Migrated, migration: &Value) -> Result<Next, Error> {
        let name = migration["metadata"]["name"].as_str().unwrap_or_default();
        definition::tell(&self.client, migrated, Said::Runs(name)).await?;
        self.write(&plan::begun(migration, Timestamp::now())).await
    }

    async fn end(&self, migrated: &Migrated, migration: &Value, outcome: Outcome) -> Result<Next, Error> {
        let said = if outcome == Outcome::Succeeded { Said::Succeeded } else { Said::Failed };
        definition::tell(&self.client, migrated, said).await?;
        self.write(&plan::ended(migration, &outcome, Timestamp::now())).await
    }

    async fn work(&self, migrated: &Migrated, migration: &Value) -> Result<Next, Error> {
        let resource = match self.resource(migrated, migration).await? {
            Found::Now(resource) => resource,
            Found::Later => return Ok(Next::After(AGAIN)),
            Found::Never(why) => return self.end(migrated, migration, Outcome::Failed(why.to_owned())).await,
        };
        let until = migration["status"]["resourceVersion"].as_str().unwrap_or_default();
        let stopped = if until.is_empty() {
            match objects::newest(&self.client, &resource).await {
                Ok(version) => return self.write(&plan::up_to(migration, &version)).await,
                Err(stopped) => stopped,
            }
        } else {
            let uid = migration["metadata"]["uid"].as_str().unwrap_or_default();
            let mut place = self.places.lock().remove(migrated).filter(|(of, _)| of == uid).map(|(_, more)| more).unwrap_or_default();
            match objects::rewrite(&self.client, &resource, until, &mut place).await {
                Ok(()) => return self.end(migrated, migration, Outcome::Succeeded).await,
                Err(stopped) => {
                    self.places.lock().insert(migrated.clone(), (uid.to_owned(), place));
                    stopped
                }
            }
        };
        match stopped {
            Stopped::Again(error) => Err(error),
            Stopped::Failed(why) => {
                let why = format!("migration encountered unhandled error: {why}");
                self.end(migrated, migration, Outcome::Failed(why)).await
            }
        }
    }

    /// The resource as it is served, once it is stored as its definition says.
    async fn resource(&self, migrated: &Migrated, migration: &Value) -> Result<Found, Error> {
        let Some((resource, hash)) = discovery::find(&self.client, &migrated.group, &migrated.resource).await? else {
            let waits = plan::waits(migration, Timestamp::now());
            return Ok(if waits { Found::Later } else { Found::Never("resource does not exist in discovery") });
        };
        if !["list", "update", "patch"].into_iter().all(|verb| resource.can(verb)) {
            return Ok(Found::Never("resource is not migratable: it must have the verbs list, update and patch"));
        }
        let definition = definition::of(&self.client, migrated).await?;
        if definition.is_some_and(|d| !definition::is_in_effect(&d, &resource.kind, &hash)) {
            return Ok(Found::Later);
        }
        Ok(Found::Now(resource))
    }
}

/// Whether a resource can be migrated.
enum Found {
    Now(ApiResource),
    Later,
    Never(&'static str),
}
