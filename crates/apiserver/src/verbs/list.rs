//! get and list: from memory, without decoding; from the store only where history in memory does not reach.

use super::Answer;
use super::continuation::Position;
use super::options::{Freshness, ListOptions, revision};
use crate::cache::{KindCache, Range, Snapshot};
use crate::crd::selected;
use crate::output::list::Many;
use crate::output::present;
use crate::pipeline::Request;
use ferrokube_api::status::{Details, Reason};
use ferrokube_api::{Object, Status};
use ferrokube_store::{Error as StoreError, prefix_end};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// How long a request waits for a revision that is not there yet.
const PATIENCE: Duration = Duration::from_secs(3);
/// Which objects of a page are shown.
type Wanted<'w> = dyn Fn(&Object) -> bool + Send + Sync + 'w;

/// Objects read from the store at once when a page comes from there.
const STORE_PAGE: usize = 500;

const EXPIRED_PAGE: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// A store that cannot serve, as clients are told. The cause is logged.
pub fn store_failure(error: &StoreError) -> Status {
    tracing::error!(%error, "the store failed a request");
    match error {
        StoreError::NoSpace { .. } => Status::internal("no space left on device: the store is full"),
        StoreError::TooLarge(_) => Status::failure(413, Reason::RequestEntityTooLarge, "Request entity is too large"),
        StoreError::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        StoreError::Unavailable(_) => Status::failure(503, Reason::ServiceUnavailable, "the store is unavailable"),
        other => Status::internal(other),
    }
}

/// 504 for a revision that did not come in time.
fn too_large(wanted: u64, current: u64) -> Status {
    let text = format!("Too large resource version: {wanted}, current: {current}");
    let mut status = Status::failure(504, Reason::Timeout, format!("Timeout: {text}"));
    let cause =
        ferrokube_api::Cause { kind: "ResourceVersionTooLarge".into(), message: "Too large resource version".into(), field: String::new() };
    status.details = Some(Details { causes: vec![cause], retry_after_seconds: 1, ..Details::default() });
    status
}

impl Request<'_> {
    /// Waits until the caches are as fresh as asked; gives the revision they have reached.
    pub async fn fresh(&self, freshness: Freshness) -> Result<u64, Status> {
        let caches = &self.server.caches;
        match freshness {
            Freshness::Latest => caches.consistent().await.map_err(|e| store_failure(&e)),
            Freshness::Any => Ok(caches.applied()),
            Freshness::NotOlderThan(wanted) | Freshness::Exact(wanted) => {
                // A quiet store does not move: ask it whether the revision exists before waiting for it.
                if caches.applied() < wanted {
                    caches.consistent().await.map_err(|e| store_failure(&e))?;
                }
                caches.reach_within(wanted, PATIENCE).await.map_err(|current| too_large(wanted, current))
            }
        }
    }

    /// The cache of the row's objects.
    pub fn cache(&self) -> Result<Arc<KindCache>, Status> {
        self.server.caches.of(&self.entry.kind).ok_or_else(Status::method_not_allowed)
    }

    /// The stored object of the request's name.
    pub async fn current(&self, freshness: Freshness) -> Result<Arc<Object>, Status> {
        self.fresh(freshness).await?;
        let found = self.cache()?.get(self.namespace(), &self.info.name);
        found.ok_or_else(|| self.not_found())
    }

    /// 404 for the request's name.
    pub fn not_found(&self) -> Status {
        Status::not_found(&self.info.group, &self.info.resource, &self.info.name)
    }

    /// GET of one object.
    pub async fn get(&self) -> Result<Answer, Status> {
        let freshness = match self.query.get("resourceVersion") {
            "" => Freshness::Latest,
            "0" => Freshness::Any,
            text => Freshness::NotOlderThan(revision(text, false)?),
        };
        let stored = self.server.converted_one(&self.entry, self.current(freshness).await?).await?;
        Ok(Answer::One(200, present::object(&self.entry, &stored)?))
    }

    /// GET of a collection.
    pub async fn list(&self) -> Result<Answer, Status> {
        let options = ListOptions::parse(&self.query, &self.entry, &self.info)?;
        let cache = self.cache()?;
        let name = if self.info.name.is_empty() { None } else { Some(self.info.name.as_str()) };
        let selection = &options.selection;
        let wanted = |o: &Object| name.is_none_or(|name| *o.key.name == *name) && selection.matches(o);
        let at = options.position.as_ref();
        let range = Range {
            namespace: self.namespace(),
            after: at.map(|p| (p.namespace.as_str(), p.name.as_str())),
            limit: options.cached_limit(),
        };
        let exact = match (at, options.freshness) {
            (Some(Position { revision, .. }), _) => *revision,
            (None, Freshness::Exact(revision)) => Some(revision),
            _ => None,
        };
        let mut snapshot = match exact {
            Some(revision) => {
                self.fresh(Freshness::Exact(revision)).await?;
                let remembered = (!self.server.caches.has_forgotten(revision)).then(|| cache.snapshot_at(range, revision, wanted).ok());
                match remembered.flatten() {
                    Some(snapshot) => snapshot,
                    None => match self.from_store(&cache, range, revision, &wanted).await {
                        Err(StoreError::Compacted { .. }) if at.is_some() => return Ok(self.expired_page(at)),
                        other => other.map_err(|e| store_failure(&e))?,
                    },
                }
            }
            None => {
                let applied = self.fresh(options.freshness).await?;
                cache.snapshot(range, applied, wanted)
            }
        };
        snapshot.objects = self.server.converted(&self.entry, snapshot.objects).await?;
        self.narrow(&mut snapshot, &options);
        let page = page_of(&snapshot, &options);
        Ok(Answer::Many(Many { objects: snapshot.objects, ..page }))
    }

    /// Leaves of converted objects those that fields of this version select, and of these a page.
    pub fn narrow(&self, snapshot: &mut Snapshot, options: &ListOptions) {
        let shown = &options.selection.shown;
        if shown.is_everything() {
            return;
        }
        snapshot.objects.retain(|o| selected(&self.entry, shown, o));
        if options.limit > 0 && snapshot.objects.len() > options.limit {
            snapshot.objects.truncate(options.limit);
            snapshot.more = true;
        }
    }

    /// A page as of a revision that history in memory does not cover.
    async fn from_store(&self, cache: &KindCache, range: Range<'_>, revision: u64, wanted: &Wanted<'_>) -> Result<Snapshot, StoreError> {
        let prefix = match range.namespace {
            "" => format!("/registry/{}/", cache.prefix()),
            namespace => format!("/registry/{}/{namespace}/", cache.prefix()),
        };
        let end = prefix_end(prefix.as_bytes());
        let mut start = match range.after {
            Some((namespace, name)) => {
                let key = cache.row().storage_key(namespace, name).unwrap_or_default();
                format!("{key}\0").into_bytes()
            }
            None => prefix.into_bytes(),
        };
        let mut found = Vec::new();
        loop {
            let page = self.server.store.range(start.into(), end.clone(), Some(revision), STORE_PAGE).await?;
            let last = page.items.last().map(|kv| kv.key.clone());
            let (items, count) = (page.items.len() as u64, page.count);
            for (at, kv) in page.items.into_iter().enumerate() {
                let Ok(object) = cache.read(&kv.value, kv.mod_revision, None) else { continue };
                if !wanted(&object) {
                    continue;
                }
                found.push(Arc::new(object));
                if range.limit > 0 && found.len() == range.limit {
                    let remaining = (count - at as u64 - 1) as usize;
                    return Ok(Snapshot { objects: found, revision, more: remaining > 0, remaining });
                }
            }
            match last {
                Some(last) if page.more && count > items => start = [&last[..], b"\0"].concat(),
                _ => return Ok(Snapshot { objects: found, revision, more: false, remaining: 0 }),
            }
        }
    }

    /// 410 with a token that goes on without consistency.
    fn expired_page(&self, at: Option<&Position>) -> Answer {
        let status = Status::expired(EXPIRED_PAGE);
        let mut value: Value = serde_json::from_slice(&status.to_json()).unwrap_or_default();
        if let Some(position) = at {
            let token = Position { revision: None, ..position.clone() }.encode();
            value["metadata"]["continue"] = Value::from(token);
        }
        Answer::Value(410, value)
    }
}

/// What a page says besides its objects: where the next one begins, and how much is left.
pub fn page_of(snapshot: &Snapshot, options: &ListOptions) -> Many {
    let last = snapshot.objects.last().filter(|_| snapshot.more);
    let position =
        last.map(|o| Position { revision: Some(snapshot.revision), namespace: o.key.namespace.to_string(), name: o.key.name.to_string() });
    let counted = options.selection.is_everything() && options.limit > 0;
    Many {
        token: position.map(|p| p.encode()).unwrap_or_default(),
        remaining: counted.then_some(snapshot.remaining),
        revision: snapshot.revision,
        objects: Vec::new(),
    }
}
