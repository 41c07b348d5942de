//! A pull: resolve, fetch the documents, download and unpack what is missing, announce.
//!
//! Safe to cancel at any point and to repeat: a partial download is continued, a layer that is there is not fetched
//! again, and the image appears only when all of it is on disk. Two pulls of one layer at a time become one.

use super::catalog::Image;
use super::disk::{Lease, lock_file};
use super::error::{Error, IoContext as _, Result, pull_failed};
use super::platform;
use super::reference::{Digest, Reference};
use super::registry::Credentials;
use super::spec::{ConfigDocument, Descriptor, Document, Manifest, decode};
use super::store::{ImageStore, NewImage, Parts, download_size};
use futures_util::future::BoxFuture;
use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use sha2::Digest as _;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::Arc;
use std::time::Duration;

/// Attempts to go on with a download that stopped, without a single new byte, before giving up.
const ATTEMPTS: u32 = 5;

/// Everything one pull needs to know.
struct Pull<'a> {
    store: &'a ImageStore,
    reference: &'a Reference,
    credentials: Option<&'a Credentials>,
    lease: Arc<Lease>,
}

impl ImageStore {
    /// Pulls an image and returns it when it is ready for use. May be dropped at any time; a later pull continues.
    pub async fn pull(&self, reference: &str, credentials: Option<&Credentials>) -> Result<Arc<Image>> {
        let reference = Reference::parse(reference)?;
        let started = std::time::Instant::now();
        let store = self.clone();
        let lease = blocking(move || Lease::take(&store.inner.paths)).await?;
        let pull = Pull { store: self, reference: &reference, credentials, lease: Arc::new(lease) };
        let image = pull.run().await.map_err(|e| pull_failed(&reference, e))?;
        let elapsed_ms = started.elapsed().as_millis() as u64;
        tracing::info!(%reference, image = image.id, size = image.size, elapsed_ms, "pulled image");
        Ok(image)
    }

    /// Whoever holds the lock of a layer downloads and unpacks it; the others wait and find it there.
    fn download_lock(&self, diff_id: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut downloads = self.inner.downloads.lock();
        downloads.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = downloads.get(diff_id).and_then(std::sync::Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        downloads.insert(diff_id.clone(), Arc::downgrade(&lock));
        lock
    }
}

impl Pull<'_> {
    async fn run(&self) -> Result<Arc<Image>> {
        let mut documents = Vec::new();
        let (target, manifest) = self.manifest(&mut documents).await?;
        let id = manifest.config.digest.clone();
        let config = self.stored_or(&id, self.store.registry()?.small_blob(self.reference, &id, self.credentials)).await?;
        let document: ConfigDocument = decode(&config, "image config")?;
        documents.push((id.clone(), config));
        let size = download_size(&manifest);
        let parts = Parts::new(document, manifest.layers)?;
        let wanted: Vec<Digest> = documents.iter().map(|(digest, _)| digest.clone()).chain(parts.diff_ids()).collect();
        let lease = self.lease.clone();
        blocking(move || lease.protect(wanted)).await?;
        let layers: Vec<Digest> = parts.diff_ids().collect();
        let mut downloads: Vec<BoxFuture<'_, Result<()>>> = Vec::with_capacity(parts.layers.len());
        for (diff_id, layer) in &parts.layers {
            downloads.push(Box::pin(self.layer(diff_id, layer)));
        }
        let concurrency = self.store.inner.config.max_concurrent_downloads.max(1);
        futures_util::stream::iter(downloads).buffer_unordered(concurrency).try_collect::<()>().await?;
        let mut references = vec![self.reference.with_digest(target).to_string()];
        references.extend(self.reference.tag().map(|_| self.reference.to_string()));
        let (store, lease) = (self.store.clone(), self.lease.clone());
        blocking(move || {
            let image = store.commit(NewImage { id, documents, layers, size, references });
            drop(lease); // Held until the catalog protects the content.
            image
        })
        .await
    }

    /// Follows the reference to the manifest for this platform; says which digest it stands for.
    async fn manifest(&self, documents: &mut Vec<(Digest, Vec<u8>)>) -> Result<(Digest, Manifest)> {
        let registry = self.store.registry()?;
        let resolved = registry.resolve(self.reference, self.credentials).await?;
        let (target, mut digest, mut media_type) = (resolved.digest.clone(), resolved.digest, resolved.media_type);
        let mut bytes = resolved.bytes;
        for _ in 0..4 {
            let document = match bytes.take() {
                Some(bytes) => bytes,
                None => self.stored_or(&digest, registry.manifest(self.reference, &digest, self.credentials)).await?,
            };
            let stated = media_type.take().filter(|media_type| media_type.contains("json") && media_type.contains("vnd."));
            let stated = stated.as_deref().map(|media_type| media_type.split(';').next().unwrap_or_default().trim());
            let decoded = Document::decode(stated, &document)?;
            documents.push((digest.clone(), document));
            match decoded {
                Document::Manifest(manifest) => return Ok((target, manifest)),
                Document::Index(index) => digest = platform::select(&index, &self.store.inner.config.platform)?.digest.clone(),
            }
        }
        Err(Error::Invalid("image indexes are nested too deeply".into()))
    }

    /// A document from the store, or else from the registry.
    async fn stored_or(&self, digest: &Digest, fetch: impl Future<Output = Result<Vec<u8>>>) -> Result<Vec<u8>> {
        match self.store.inner.content.get(digest) {
            Ok(bytes) => Ok(bytes),
            Err(_) => fetch.await,
        }
    }

    /// Makes sure that a layer is there.
    async fn layer(&self, diff_id: &Digest, layer: &Descriptor) -> Result<()> {
        let lock = self.store.download_lock(diff_id);
        let _turn = lock.lock().await;
        if self.store.inner.layers.get(diff_id).is_ok() {
            return Ok(());
        }
        let file = self.download(layer).await.map_err(|e| e.context(format!("failed to copy {}", layer.digest)))?;
        let (store, lease, diff_id, digest) = (self.store.clone(), self.lease.clone(), diff_id.clone(), layer.digest.clone());
        blocking(move || {
            store.inner.layers.unpack(&lease, &diff_id, BufReader::with_capacity(128 * 1024, file))?;
            let _ = std::fs::remove_file(store.inner.paths.ingest().join(digest.hex()));
            Ok(())
        })
        .await
    }

    /// Downloads a layer into its file, going on where an earlier attempt stopped, and checks it.
    async fn download(&self, layer: &Descriptor) -> Result<File> {
        let path = self.store.inner.paths.ingest().join(layer.digest.hex());
        let limit = layer.size;
        let mut partial = blocking(move || Partial::open(&path, limit)).await?;
        let resumed = partial.length > 0;
        self.complete(&mut partial, layer).await?;
        let mut actual = partial.digest();
        if actual != layer.digest && resumed {
            // What was there from before may be damaged (a power cut); the registry gets a fair chance.
            partial.restart()?;
            self.complete(&mut partial, layer).await?;
            actual = partial.digest();
        }
        if actual != layer.digest {
            partial.restart()?;
            return Err(Error::DigestMismatch { expected: layer.digest.clone(), actual });
        }
        partial.file.seek(SeekFrom::Start(0)).doing(|| "read downloaded layer".into())?;
        Ok(partial.file)
    }

    async fn complete(&self, partial: &mut Partial, layer: &Descriptor) -> Result<()> {
        let mut failures = 0;
        while partial.length < layer.size {
            let before = partial.length;
            let Err(error) = self.receive(partial, layer).await else { continue };
            failures = if partial.length > before { 1 } else { failures + 1 };
            if failures >= ATTEMPTS || !error.is_transient() {
                return Err(error);
            }
            tracing::info!(layer = %layer.digest, at = partial.length, size = layer.size, %error, "download interrupted, going on");
            tokio::time::sleep(Duration::from_millis(100 << failures)).await; // Backoff towards the registry.
        }
        Ok(())
    }

    /// One request for the rest of the layer.
    async fn receive(&self, partial: &mut Partial, layer: &Descriptor) -> Result<()> {
        let registry = self.store.registry()?;
        let mut blob = registry.blob(self.reference, &layer.digest, partial.length, self.credentials).await?;
        if blob.offset != partial.length {
            partial.restart()?; // The registry does not do ranges.
            if blob.offset != 0 {
                return Err(Error::Invalid(format!("registry answered with bytes from {} on", blob.offset)));
            }
        }
        while let Some(chunk) = blob.chunk().await? {
            partial.append(&chunk)?;
            if partial.length > layer.size {
                let actual = partial.length;
                partial.restart()?;
                return Err(Error::SizeMismatch { digest: layer.digest.clone(), expected: layer.size, actual });
            }
        }
        if partial.length < layer.size {
            let why = format!("unexpected EOF after {} of {} bytes", partial.length, layer.size);
            return Err(Error::Unreachable { method: "GET", url: layer.digest.to_string(), why });
        }
        Ok(())
    }
}

/// A layer file that grows, with the hash of what it holds. Locked against other processes.
struct Partial {
    file: File,
    hash: sha2::Sha256,
    length: u64,
}

impl Partial {
    fn open(path: &std::path::Path, limit: u64) -> Result<Self> {
        let failed = || format!("open {}", path.display());
        let mut file = File::options().create(true).truncate(false).read(true).write(true).open(path).doing(failed)?;
        lock_file(&file).doing(failed)?;
        if file.metadata().doing(failed)?.len() > limit {
            file.set_len(0).doing(failed)?;
        }
        let (mut hash, mut length, mut buffer) = (sha2::Sha256::new(), 0, vec![0; 128 * 1024]);
        loop {
            let read = file.read(&mut buffer).doing(failed)?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            length += read as u64;
        }
        Ok(Self { file, hash, length })
    }

    /// Into the page cache: short enough to do in line.
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).doing(|| "write layer".into())?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        let reset = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        reset.doing(|| "write layer".into())?;
        (self.hash, self.length) = (sha2::Sha256::new(), 0);
        Ok(())
    }

    fn digest(&self) -> Digest {
        Digest::from_hash(&self.hash.clone().finalize())
    }
}

/// Runs disk work off the async threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Invalid(format!("image work was interrupted: {error}"))),
    }
}
