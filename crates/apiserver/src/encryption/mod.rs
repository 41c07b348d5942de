//! Encryption at rest: a store before the store. What is above it, the watch cache included, sees plaintext; what is
//! below it, the disk included, sees `k8s:enc:...` values, byte for byte as kube-apiserver writes them.
//!
//! Which resources are encrypted, and how, says an EncryptionConfiguration; it may be replaced while the server runs.
//! Without one this module is not in the way at all.

mod config;
mod kms;
mod local;
mod rules;

pub use rules::Rules;

use crate::registry::Registry;
use crate::server::reload::{ConfigFile, Followed};
use arc_swap::ArcSwap;
use base64::Engine;
use bytes::Bytes;
use ferrokube_store::{Batch, Committed, Error, Event, Expect, KeyValue, Page, Result, Revision, Store, prefix_end};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What every encrypted value starts with.
pub const PREFIX: &[u8] = b"k8s:enc:";

/// All objects are below this, and events below that.
const ROOT: &[u8] = b"/registry/";
const EVENTS: &[u8] = b"/registry/events/";
/// Values that are looked at together.
const PAGE: usize = 500;

/// A configuration for Secrets with a new random key. What stands in the clear stays readable.
pub fn fresh_configuration() -> String {
    let key = base64::engine::general_purpose::STANDARD.encode(local::random(32));
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - secretbox:\n      keys:\n      - name: key1\n        secret: {key}\n  - identity: {{}}\n"
    )
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum EncryptionError {
    #[error("reading {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("encryption configuration: {0}")]
    Config(String),
    #[error("KMS provider {name}: {why}")]
    Kms { name: String, why: String },
}

/// Why a value cannot be encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error("no matching prefix found")]
    NoProvider,
    #[error("no matching key was found for the provided {0} transformer")]
    NoKey(&'static str),
    #[error("the stored data was shorter than the required size")]
    Short,
    #[error("the value does not belong here or was changed")]
    Forged,
    #[error("identity transformer tried to read encrypted data")]
    Encrypted,
    #[error("{0}")]
    Kms(String),
}

/// A store whose values are sealed on the way down and opened on the way up.
pub struct Sealed {
    inner: Arc<dyn Store>,
    rules: Arc<ArcSwap<Rules>>,
}

fn failed(key: &[u8], why: &SealError) -> Error {
    Error::Unavailable(format!("unable to transform key {:?}: {why}", String::from_utf8_lossy(key)))
}

impl Sealed {
    /// Puts the rules of a configuration before a store.
    pub async fn open(source: &ConfigFile, inner: Arc<dyn Store>, registry: &Registry) -> std::result::Result<Arc<Self>, EncryptionError> {
        let rules = Rules::load(&source.path, registry).await?;
        Ok(Arc::new(Sealed { inner, rules: Arc::new(ArcSwap::from_pointee(rules)) }))
    }

    /// Follows the file: a configuration that can be used replaces the one before; one that cannot leaves it as it is.
    pub async fn follow(self: Arc<Self>, source: ConfigFile, mut file: Followed, server: std::sync::Weak<crate::ApiServer>) {
        let Some(interval) = source.reload else { return };
        loop {
            tokio::time::sleep(interval).await;
            let Some(server) = server.upgrade() else { return };
            if !file.changed() {
                continue;
            }
            match Rules::load(&source.path, &server.registry).await {
                Ok(rules) => {
                    self.rules.store(Arc::new(rules));
                    server.reloads[2].count(true);
                    tracing::info!(path = %source.path.display(), "encryption configuration replaced");
                }
                Err(error) => {
                    server.reloads[2].count(false);
                    tracing::error!(%error, "the new encryption configuration is not used");
                }
            }
        }
    }

    /// Whether what stands at a key was not written as the configuration of now would write it. Such a value is written
    /// again by an update that changes nothing: that is how keys are rotated.
    pub async fn is_stale(&self, key: Bytes) -> Result<bool> {
        let rules = self.rules.load_full();
        if !rules.covers(&key) {
            return Ok(false);
        }
        let stored = self.inner.get(key).await?;
        Ok(stored.is_some_and(|kv| rules.is_stale(&kv.key, &kv.value)))
    }

    /// Writes again whatever was not written as the configuration of now would write it; how many values that were. What
    /// somebody else changes meanwhile is written anew by that change. Events are left alone: they go by themselves.
    pub async fn rewrite(&self) -> Result<usize> {
        let rules = self.rules.load_full();
        let (mut start, end) = (Bytes::from_static(ROOT), prefix_end(ROOT));
        let mut written = 0;
        loop {
            let page = self.inner.range(start, end.clone(), None, PAGE).await?;
            for kv in page.items.iter().filter(|kv| !kv.key.starts_with(EVENTS) && rules.is_stale(&kv.key, &kv.value)) {
                let opened = rules.open(&kv.key, &kv.value).await.map_err(|why| failed(&kv.key, &why))?;
                let plain = opened.unwrap_or_else(|| kv.value.clone());
                match self.put(kv.key.clone(), plain, Expect::Revision(kv.mod_revision), None).await {
                    Ok(_) => written += 1,
                    Err(Error::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            match page.items.last() {
                Some(last) if page.more => start = [&last.key[..], b"\0"].concat().into(),
                _ => return Ok(written),
            }
        }
    }

    /// Whether a KMS plug-in is needed.
    pub fn has_kms(&self) -> bool {
        self.rules.load().has_kms()
    }

    /// The first KMS provider that is not well, for health checks.
    pub fn unhealthy(&self) -> Option<String> {
        self.rules.load().unhealthy()
    }
}

/// Opens a value in place.
async fn open(rules: &Rules, kv: &mut KeyValue) -> Result<()> {
    let opened = rules.open(&kv.key, &kv.value).await.map_err(|why| failed(&kv.key, &why))?;
    if let Some(plain) = opened {
        kv.value = plain;
    }
    Ok(())
}

async fn open_page(rules: &Rules, mut page: Page) -> Result<Page> {
    for kv in &mut page.items {
        open(rules, kv).await?;
    }
    Ok(page)
}

async fn open_batch(rules: &Rules, mut batch: Batch) -> Result<Batch> {
    for event in &mut batch.events {
        if let Event::Put(kv) = event {
            open(rules, kv).await?;
        }
    }
    Ok(batch)
}

impl Store for Sealed {
    fn put(&self, key: Bytes, value: Bytes, expect: Expect, ttl: Option<Duration>) -> BoxFuture<'_, Result<Committed>> {
        match self.rules.load().seal(&key, value) {
            Ok(sealed) => self.inner.put(key, sealed, expect, ttl),
            Err(why) => Box::pin(std::future::ready(Err(failed(&key, &why)))),
        }
    }

    fn delete(&self, key: Bytes, expect: Expect) -> BoxFuture<'_, Result<Committed>> {
        self.inner.delete(key, expect)
    }

    fn get(&self, key: Bytes) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        Box::pin(async move {
            let mut found = self.inner.get(key).await?;
            if let Some(kv) = &mut found {
                open(&self.rules.load_full(), kv).await?;
            }
            Ok(found)
        })
    }

    fn range(&self, start: Bytes, end: Bytes, at: Option<Revision>, limit: usize) -> BoxFuture<'_, Result<Page>> {
        Box::pin(async move {
            let page = self.inner.range(start, end, at, limit).await?;
            open_page(&self.rules.load_full(), page).await
        })
    }

    fn scan(&self, start: Bytes, end: Bytes, at: Option<Revision>) -> BoxFuture<'_, Result<BoxStream<'static, Result<Page>>>> {
        Box::pin(async move {
            let pages = self.inner.scan(start, end, at).await?;
            let rules = self.rules.load_full();
            let opened = pages.then(move |page| {
                let rules = rules.clone();
                async move { open_page(&rules, page?).await }
            });
            Ok(opened.boxed())
        })
    }

    fn watch(&self, start: Bytes, end: Bytes, after: Revision) -> BoxFuture<'_, Result<BoxStream<'static, Result<Batch>>>> {
        Box::pin(async move {
            let changes = self.inner.watch(start, end, after).await?;
            // The stream outlives a borrow of this store; it sees each configuration that comes.
            let rules = self.rules.clone();
            let opened = changes.then(move |batch| {
                let rules = rules.load_full();
                async move { open_batch(&rules, batch?).await }
            });
            Ok(opened.boxed())
        })
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        self.inner.revision()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>> {
        self.inner.compact(revision)
    }

    fn request_progress(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.request_progress()
    }

    fn size_on_disk(&self) -> BoxFuture<'_, Result<u64>> {
        self.inner.size_on_disk()
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealed")
    }
}
