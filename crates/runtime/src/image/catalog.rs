//! Which images there are and what they are called: one small JSON file, replaced as a whole.
//!
//! The file is the truth; what is in memory is a reading of it that is renewed when the file has changed, so that
//! several processes see the same images. Never says an image is there before its content is on disk.

use super::content::Content;
use super::disk::{Paths, StoreLock, write_durably};
use super::error::{Error, IoContext as _, Result};
use super::reference::{Digest, Reference};
use super::spec::{ConfigDocument, ImageConfig, decode};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

/// Layout version of the file.
const FORMAT: u32 = 1;

/// The content of the file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Metadata {
    format: u32,
    /// By image id.
    #[serde(default)]
    pub images: BTreeMap<Digest, ImageRecord>,
    /// Full reference to image id.
    #[serde(default)]
    pub references: BTreeMap<String, Digest>,
}

/// What the file says of an image.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ImageRecord {
    /// Index, manifest and config, as far as kept.
    pub documents: Vec<Digest>,
    /// Diff ids, bottom first.
    pub layers: Vec<Digest>,
    /// Bytes to download: config and compressed layers.
    pub size: u64,
    /// Never garbage-collected by the kubelet.
    #[serde(default)]
    pub pinned: bool,
}

/// An image as the rest of the runtime sees it.
#[derive(Clone, Debug)]
pub struct Image {
    /// `sha256:...` of the image config.
    pub id: String,
    /// Full references by tag.
    pub repo_tags: Vec<String>,
    /// Full references by digest.
    pub repo_digests: Vec<String>,
    /// Bytes to download: config and compressed layers.
    pub size: u64,
    /// What containers of the image start from.
    pub config: ImageConfig,
    /// GOARCH the image is made for.
    pub architecture: String,
    /// Diff ids, bottom first.
    pub layers: Vec<Digest>,
    /// Must not be garbage-collected by the kubelet.
    pub pinned: bool,
}

/// One consistent reading of the file.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// As in the file.
    pub metadata: Metadata,
    /// By id.
    pub images: BTreeMap<Digest, Arc<Image>>,
}

impl Snapshot {
    /// By id, by the beginning of an id (at least 3 characters, unambiguous), or by reference.
    pub fn resolve(&self, text: &str) -> Option<Arc<Image>> {
        if let Ok(id) = Digest::parse(text) {
            return self.images.get(&id).cloned();
        }
        if let Ok(reference) = Reference::parse(text)
            && let Some(id) = self.metadata.references.get(&reference.to_string())
        {
            return self.images.get(id).cloned();
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        if prefix.len() < 3 || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut matches = self.images.iter().filter(|(id, _)| id.hex().starts_with(prefix));
        match (matches.next(), matches.next()) {
            (Some((_, image)), None) => Some(image.clone()),
            _ => None,
        }
    }
}

/// Identity of a file's content: it is replaced, never rewritten.
type Stamp = Option<(u64, i64, i64, u64)>;

/// The catalog.
pub struct Catalog {
    paths: Paths,
    content: Content,
    loaded: Mutex<(Stamp, Arc<Snapshot>)>,
}

impl Catalog {
    /// Reads the file of a store; an absent one is an empty store.
    pub fn open(paths: Paths, content: Content) -> Result<Self> {
        let catalog = Self { paths, content, loaded: Mutex::new((None, Arc::default())) };
        catalog.snapshot()?;
        Ok(catalog)
    }

    fn path(&self) -> std::path::PathBuf {
        self.paths.root().join("metadata.json")
    }

    fn stamp(&self) -> Stamp {
        let found = fs::metadata(self.path()).ok()?;
        Some((found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
    }

    /// What the store holds now.
    pub fn snapshot(&self) -> Result<Arc<Snapshot>> {
        let stamp = self.stamp();
        let mut loaded = self.loaded.lock();
        if loaded.0 != stamp {
            *loaded = (stamp, Arc::new(self.read(&loaded.1)?));
        }
        Ok(loaded.1.clone())
    }

    fn read(&self, before: &Snapshot) -> Result<Snapshot> {
        let path = self.path();
        let metadata = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Metadata { format: FORMAT, ..Metadata::default() },
            other => {
                let bytes = other.doing(|| format!("read {}", path.display()))?;
                decode::<Metadata>(&bytes, &format!("{} (the image store is damaged)", path.display()))?
            }
        };
        if metadata.format != FORMAT {
            return Err(Error::Invalid(format!("{}: unknown format {}", path.display(), metadata.format)));
        }
        Ok(self.build(metadata, before))
    }

    fn build(&self, metadata: Metadata, before: &Snapshot) -> Snapshot {
        let mut images = BTreeMap::new();
        for (id, record) in &metadata.images {
            match self.image(id, record, &metadata, before) {
                Ok(image) => drop(images.insert(id.clone(), Arc::new(image))),
                Err(error) => tracing::warn!(image = %id, %error, "image is damaged and will not be listed"),
            }
        }
        Snapshot { metadata, images }
    }

    fn image(&self, id: &Digest, record: &ImageRecord, metadata: &Metadata, before: &Snapshot) -> Result<Image> {
        let (config, architecture) = match before.images.get(id) {
            Some(image) => (image.config.clone(), image.architecture.clone()),
            None => {
                let document: ConfigDocument = decode(&self.content.get(id)?, "image config")?;
                (document.config, document.architecture)
            }
        };
        let references = metadata.references.iter().filter(|(_, target)| *target == id).map(|(name, _)| name.clone());
        let (repo_digests, repo_tags) = references.partition(|name| name.contains('@'));
        let (layers, size, pinned) = (record.layers.clone(), record.size, record.pinned);
        Ok(Image { id: id.to_string(), repo_tags, repo_digests, size, config, architecture, layers, pinned })
    }

    /// Changes the file durably.
    pub fn update(&self, _lock: &StoreLock, change: impl FnOnce(&mut Metadata)) -> Result<Arc<Snapshot>> {
        let before = self.snapshot()?;
        let mut metadata = before.metadata.clone();
        metadata.format = FORMAT;
        change(&mut metadata);
        let bytes = serde_json::to_vec(&metadata).map_err(|e| Error::Invalid(e.to_string()))?;
        write_durably(&self.path(), &bytes)?;
        let after = Arc::new(self.build(metadata, &before));
        *self.loaded.lock() = (self.stamp(), after.clone());
        Ok(after)
    }
}
