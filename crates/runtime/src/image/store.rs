//! The image store: what the rest of the runtime sees of images.
//!
//! One folder holds everything; opening it is cheap and several processes may have it open. An image is listed
//! only when every layer of it is unpacked and on disk. Content that no image, mount or running pull uses is
//! deleted when an image is removed and when the store is opened.

use super::archive::{Archive, Start, blob_name};
use super::catalog::{Catalog, Image, ImageRecord, Snapshot};
use super::content::Content;
use super::disk::{Lease, Paths, StoreLock, Usage, usage_of};
use super::error::{Error, Result};
use super::layers::{self, Layers};
use super::mounts::{Mounts, Sort};
use super::platform::{self, Platform};
use super::reference::{Digest, Reference};
use super::registry::Registry;
use super::spec::{ConfigDocument, Descriptor, Document, Manifest, decode};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

/// How the store behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Registry host to base URLs (`https://...`, `http://...`, optionally with `user:password@`) that are asked
    /// before the registry itself; `*` stands for every host without an entry of its own.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Never ask a registry itself that has mirrors: an offline cluster, or a test.
    pub mirror_only: bool,
    /// Layers that one pull downloads at the same time.
    pub max_concurrent_downloads: usize,
    /// How long a download may stand still before it counts as broken.
    pub progress_timeout: Duration,
    /// The platform whose images are taken.
    pub platform: Platform,
    /// References (as people write them) whose images the kubelet must never garbage-collect.
    pub pinned: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            mirror_only: false,
            max_concurrent_downloads: 3,
            progress_timeout: Duration::from_secs(60),
            platform: Platform::host(),
            pinned: Vec::new(),
        }
    }
}

impl Config {
    /// Adds a mirror given as `HOST=URL`, the form of a command-line flag.
    pub fn add_mirror(&mut self, text: &str) -> Result<()> {
        let invalid = || Error::Invalid(format!("invalid registry mirror {text:?}: must be HOST=http[s]://HOST[:PORT][/PATH]"));
        let (host, url) = text.split_once('=').ok_or_else(invalid)?;
        if host.is_empty() || !(url.starts_with("http://") || url.starts_with("https://")) {
            return Err(invalid());
        }
        self.mirrors.entry(host.to_owned()).or_default().push(url.trim_end_matches('/').to_owned());
        Ok(())
    }
}

/// Use of the file system the images are on.
#[derive(Clone, Debug)]
pub struct FsInfo {
    /// The store's folder.
    pub mountpoint: PathBuf,
    /// Layers, manifests and downloads.
    pub images: Usage,
    /// Writable layers of containers.
    pub containers: Usage,
    /// When this was found out.
    pub at: SystemTime,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct ImageStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) config: Config,
    pub(super) paths: Paths,
    pub(super) content: Content,
    pub(super) layers: Layers,
    catalog: Catalog,
    mounts: Mounts,
    registry: OnceLock<Registry>,
    /// Pulls of the same layer wait for each other here; the next one finds the layer, or takes over the download.
    pub(super) downloads: parking_lot::Mutex<HashMap<Digest, std::sync::Weak<tokio::sync::Mutex<()>>>>,
    fs_info: parking_lot::Mutex<Option<(Instant, FsInfo)>>,
}

impl std::fmt::Debug for ImageStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageStore").field("root", &self.inner.paths.root()).finish_non_exhaustive()
    }
}

/// How old the numbers of [`ImageStore::fs_info`] may be: finding them out walks every writable layer.
const FS_INFO_AGE: Duration = Duration::from_secs(10);

/// Partial downloads that nobody came back for are kept this long.
const PARTIAL_AGE: Duration = Duration::from_secs(24 * 3600);

impl ImageStore {
    /// Opens (or makes) the store in a folder. Leftovers of crashes are deleted in the background.
    pub fn open(root: &Path, config: Config) -> Result<Self> {
        let paths = Paths::create(root)?;
        let content = Content::new(paths.clone());
        let layers = Layers::new(paths.clone())?;
        let catalog = Catalog::open(paths.clone(), content.clone())?;
        let mounts = Mounts::new(paths.clone(), layers.clone());
        let inner = Inner {
            config,
            paths,
            content,
            layers,
            catalog,
            mounts,
            registry: OnceLock::new(),
            downloads: parking_lot::Mutex::default(),
            fs_info: parking_lot::Mutex::default(),
        };
        let store = Self { inner: Arc::new(inner) };
        store.collect_in_background();
        Ok(store)
    }

    /// The registry client, made when the first pull needs it: it reads the machine's trusted certificates.
    pub(super) fn registry(&self) -> Result<&Registry> {
        if let Some(registry) = self.inner.registry.get() {
            return Ok(registry);
        }
        let registry = Registry::new(&self.inner.config)?;
        Ok(self.inner.registry.get_or_init(|| registry))
    }

    fn snapshot(&self) -> Result<Arc<Snapshot>> {
        self.inner.catalog.snapshot()
    }

    /// Every image, in order of id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        match self.snapshot() {
            Ok(snapshot) => snapshot.images.values().cloned().collect(),
            Err(error) => {
                tracing::error!(%error, "cannot list images");
                Vec::new()
            }
        }
    }

    /// The image with this id, unambiguous beginning of an id, or reference.
    pub fn resolve(&self, ref_or_id: &str) -> Option<Arc<Image>> {
        self.snapshot().inspect_err(|error| tracing::error!(%error, "cannot look images up")).ok()?.resolve(ref_or_id)
    }

    /// Removes an image with all its names, and deletes in the background what nothing else uses. Running containers
    /// keep their files. An image that is not there is not an error.
    pub fn remove(&self, ref_or_id: &str) -> Result<()> {
        let Some(image) = self.snapshot()?.resolve(ref_or_id) else { return Ok(()) };
        let id = Digest::parse(&image.id)?;
        {
            let lock = StoreLock::take(&self.inner.paths)?;
            self.inner.catalog.update(&lock, |metadata| {
                metadata.images.remove(&id);
                metadata.references.retain(|_, target| *target != id);
            })?;
        }
        self.collect_in_background();
        Ok(())
    }

    /// Marks an image as one that the kubelet must not garbage-collect, or as an ordinary one again.
    pub fn set_pinned(&self, ref_or_id: &str, pinned: bool) -> Result<()> {
        let image = self.snapshot()?.resolve(ref_or_id).ok_or_else(|| Error::NotFound(format!("image {ref_or_id:?}")))?;
        let id = Digest::parse(&image.id)?;
        let lock = StoreLock::take(&self.inner.paths)?;
        self.inner.catalog.update(&lock, |metadata| {
            if let Some(record) = metadata.images.get_mut(&id) {
                record.pinned = pinned;
            }
        })?;
        Ok(())
    }

    /// Mounts a container's root file system and says where. Again after a restart of the machine, or twice: the same
    /// answer. Takes well under a millisecond of disk and kernel work, so it may be called from async code.
    pub fn prepare_rootfs(&self, image: &Image, container_id: &str) -> Result<PathBuf> {
        self.inner.mounts.prepare(Sort::Rootfs, container_id, &image.id, &image.layers)
    }

    /// Unmounts a container's root file system and deletes what it wrote. Nothing there is not an error.
    pub fn remove_rootfs(&self, container_id: &str) -> Result<()> {
        self.inner.mounts.remove(Sort::Rootfs, container_id)
    }

    /// Container ids with a root file system, for finding leftovers.
    pub fn rootfs_ids(&self) -> Vec<String> {
        self.inner.mounts.rootfs_ids()
    }

    /// Mounts a read-only view of an image, for an image volume, and says where.
    pub fn prepare_image_volume(&self, image: &Image, volume_id: &str) -> Result<PathBuf> {
        self.inner.mounts.prepare(Sort::Volume, volume_id, &image.id, &image.layers)
    }

    /// Takes a view made by [`ImageStore::prepare_image_volume`] away. Nothing there is not an error.
    pub fn remove_image_volume(&self, volume_id: &str) -> Result<()> {
        self.inner.mounts.remove(Sort::Volume, volume_id)
    }

    /// What a container has written to its root file system. Walks it: call it from a blocking thread.
    pub fn writable_layer_usage(&self, container_id: &str) -> Result<Usage> {
        self.inner.mounts.writable_usage(container_id)
    }

    /// Disk use, at most ten seconds old. May walk the writable layers: call it from a blocking thread.
    pub fn fs_info(&self) -> FsInfo {
        if let Some((at, info)) = &*self.inner.fs_info.lock()
            && at.elapsed() < FS_INFO_AGE
        {
            return info.clone();
        }
        let mut images = self.inner.layers.usage();
        images += usage_of(&self.inner.paths.root().join("content"));
        let mut containers = Usage::default();
        for id in self.inner.mounts.rootfs_ids() {
            containers += self.inner.mounts.writable_usage(&id).unwrap_or_default();
        }
        let info = FsInfo { mountpoint: self.inner.paths.root().to_owned(), images, containers, at: SystemTime::now() };
        *self.inner.fs_info.lock() = Some((Instant::now(), info.clone()));
        info
    }

    /// Imports every image of an OCI layout (folder or tar) or `docker save` archive, compressed or not. `name` is for
    /// archives that do not name their image. Blocks while it unpacks.
    pub fn import_archive(&self, path: &Path, name: Option<&str>) -> Result<Vec<Arc<Image>>> {
        let name = name.map(Reference::parse).transpose()?;
        let lease = Lease::take(&self.inner.paths)?;
        let scratch = self.inner.paths.ingest().join(format!("import-{}", lease.id()));
        let run = || {
            let archive = Archive::open(path, &scratch)?;
            let found = archive.images(name.as_ref())?;
            if found.is_empty() {
                return Err(Error::Invalid("the archive holds no image".into()));
            }
            found.into_iter().map(|found| self.import(&lease, &archive, &found.names, &found.start)).collect()
        };
        run().map_err(|e: Error| e.context(format!("failed to import {}", path.display())))
    }

    fn import(&self, lease: &Lease, archive: &Archive, names: &[Reference], start: &Start) -> Result<Arc<Image>> {
        let mut documents = Vec::new();
        let mut references: Vec<String> = names.iter().map(ToString::to_string).collect();
        let (config, files, size) = match start {
            Start::Oci(descriptor) => {
                references.extend(names.iter().map(|name| name.with_digest(descriptor.digest.clone()).to_string()));
                let manifest = self.manifest_of(archive, descriptor, &mut documents)?;
                let files: Vec<_> = manifest.layers.iter().map(|layer| blob_name(&layer.digest)).collect();
                let config = archive.document(&blob_name(&manifest.config.digest))?;
                super::content::verify(&manifest.config.digest, &config)?;
                (config, files, download_size(&manifest))
            }
            Start::Docker { config, layers } => (archive.document(config)?, layers.clone(), 0),
        };
        let id = Digest::of(&config);
        let document: ConfigDocument = decode(&config, "image config")?;
        documents.push((id.clone(), config));
        let parts = Parts::new(document, files)?;
        lease.protect(documents.iter().map(|(digest, _)| digest.clone()).chain(parts.diff_ids()))?;
        parts.for_each_parallel(|diff_id, file| {
            if self.inner.layers.get(diff_id).is_ok() {
                return Ok(());
            }
            self.inner.layers.unpack(lease, diff_id, archive.open_file(file)?)
        })?;
        let size = if size > 0 { size } else { self.unpacked_size(&parts)? };
        self.commit(NewImage { id, documents, layers: parts.diff_ids().collect(), size, references })
    }

    /// Follows a descriptor of an archive to the manifest for this platform.
    fn manifest_of(&self, archive: &Archive, descriptor: &Descriptor, documents: &mut Vec<(Digest, Vec<u8>)>) -> Result<Manifest> {
        let mut descriptor = descriptor.clone();
        for _ in 0..4 {
            let bytes = archive.document(&blob_name(&descriptor.digest))?;
            super::content::verify(&descriptor.digest, &bytes)?;
            let media_type = Some(descriptor.media_type.as_str()).filter(|media_type| !media_type.is_empty());
            let document = Document::decode(media_type, &bytes)?;
            documents.push((descriptor.digest.clone(), bytes));
            match document {
                Document::Manifest(manifest) => return Ok(manifest),
                Document::Index(index) => descriptor = platform::select(&index, &self.inner.config.platform)?.clone(),
            }
        }
        Err(Error::Invalid("image indexes are nested too deeply".into()))
    }

    fn unpacked_size(&self, parts: &Parts<String>) -> Result<u64> {
        parts.layers.iter().map(|(diff_id, _)| self.inner.layers.get(diff_id).map(|record| record.usage.bytes)).sum()
    }

    /// Announces an image whose layers are all there.
    pub(super) fn commit(&self, new: NewImage) -> Result<Arc<Image>> {
        let lock = StoreLock::take(&self.inner.paths)?;
        for (digest, bytes) in &new.documents {
            self.inner.content.put(digest, bytes)?;
        }
        self.inner.layers.settle(&new.layers)?;
        let pinned = self.inner.config.pinned.iter().filter_map(|name| Reference::parse(name).ok());
        let pinned = pinned.map(|name| name.to_string()).any(|name| new.references.contains(&name));
        let snapshot = self.inner.catalog.update(&lock, |metadata| {
            let before = metadata.images.get(&new.id);
            let mut documents: Vec<_> = new.documents.iter().map(|(digest, _)| digest.clone()).collect();
            documents.extend(before.into_iter().flat_map(|record| record.documents.iter().cloned()));
            documents.sort();
            documents.dedup();
            let pinned = pinned || before.is_some_and(|record| record.pinned);
            metadata.images.insert(new.id.clone(), ImageRecord { documents, layers: new.layers.clone(), size: new.size, pinned });
            metadata.references.extend(new.references.iter().map(|name| (name.clone(), new.id.clone())));
        })?;
        snapshot.images.get(&new.id).cloned().ok_or_else(|| Error::NotFound(format!("image {}", new.id)))
    }

    fn collect_in_background(&self) {
        let store = self.clone();
        let run = move || {
            if let Err(error) = store.collect_garbage() {
                tracing::warn!(%error, "collecting unused image content failed");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("image-gc".into()).spawn(run) {
            tracing::warn!(%error, "cannot start a thread for collecting unused image content");
        }
    }

    /// Deletes content that no image, mount or running pull uses.
    pub fn collect_garbage(&self) -> Result<()> {
        let paths = &self.inner.paths;
        {
            let lock = StoreLock::take(paths)?;
            let (mut used, leases) = Lease::live(paths, &lock)?;
            let snapshot = self.snapshot()?;
            for (id, record) in &snapshot.metadata.images {
                used.insert(id.clone());
                used.extend(record.documents.iter().chain(&record.layers).cloned());
            }
            used.extend(self.inner.mounts.layers_in_use());
            let hex: std::collections::HashSet<&str> = used.iter().map(Digest::hex).collect();
            let names: std::collections::HashSet<&str> = used.iter().map(layers::name).collect();
            let leased =
                |name: &str| name.strip_prefix("tmp-").and_then(|rest| rest.split('-').next()).is_some_and(|id| leases.contains(id));
            self.inner.layers.retain(|name| names.contains(name) || leased(name))?;
            self.inner.content.retain(|name| hex.contains(name))?;
            self.discard_unfinished_files();
            self.discard_stale_downloads(&hex, &leases);
        }
        paths.empty_trash();
        Ok(())
    }

    /// Files whose writer died; every writer holds the lock that the caller has.
    fn discard_unfinished_files(&self) {
        for entry in std::fs::read_dir(self.inner.paths.root()).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains(".tmp-") {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn discard_stale_downloads(&self, used: &std::collections::HashSet<&str>, leases: &std::collections::BTreeSet<String>) {
        for entry in std::fs::read_dir(self.inner.paths.ingest()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let age = entry.metadata().and_then(|found| found.modified()).ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
            let wanted = match name.strip_prefix("import-") {
                Some(lease) => leases.contains(lease),
                None => used.contains(name.as_str()) || age < PARTIAL_AGE,
            };
            if !wanted {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// An image about to be announced.
pub(super) struct NewImage {
    pub(super) id: Digest,
    pub(super) documents: Vec<(Digest, Vec<u8>)>,
    pub(super) layers: Vec<Digest>,
    pub(super) size: u64,
    pub(super) references: Vec<String>,
}

/// Bytes to download of an image.
pub(super) fn download_size(manifest: &Manifest) -> u64 {
    manifest.layers.iter().map(|layer| layer.size).sum::<u64>() + manifest.config.size
}

/// The layers of an image: diff ids with where each comes from, bottom first.
pub(super) struct Parts<T> {
    pub(super) layers: Vec<(Digest, T)>,
}

impl<T: Sync> Parts<T> {
    /// Pairs the config's diff ids with the manifest's layers.
    pub(super) fn new(config: ConfigDocument, sources: Vec<T>) -> Result<Self> {
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != sources.len() {
            let (ids, layers) = (diff_ids.len(), sources.len());
            return Err(Error::Invalid(format!("mismatched image rootfs and manifest layers: {ids} diff ids, {layers} layers")));
        }
        Ok(Self { layers: diff_ids.into_iter().zip(sources).collect() })
    }

    pub(super) fn diff_ids(&self) -> impl Iterator<Item = Digest> {
        self.layers.iter().map(|(diff_id, _)| diff_id.clone())
    }

    /// Runs `work` for every layer on as many threads as there are CPUs; the first error wins. A layer that the image has several
    /// times is one: two threads would be in each other's way.
    fn for_each_parallel(&self, work: impl Fn(&Digest, &T) -> Result<()> + Sync) -> Result<()> {
        let mut seen = std::collections::HashSet::new();
        let layers: Vec<&(Digest, T)> = self.layers.iter().filter(|(diff_id, _)| seen.insert(diff_id)).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(layers.len());
        let next = AtomicUsize::new(0);
        let run = || -> Result<()> {
            while let Some((diff_id, source)) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                work(diff_id, source).inspect_err(|_| next.store(layers.len(), Ordering::Relaxed))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
            let panicked = |_| Err(Error::Invalid("a layer made the unpacker panic".into()));
            threads.into_iter().map(|thread| thread.join()).try_for_each(|result| result.unwrap_or_else(panicked))
        })
    }
}
