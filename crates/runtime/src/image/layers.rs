//! Unpacked layers: one overlayfs lower directory for each diff id, shared by every image that has the layer.
//!
//! A layer directory appears under its name only when it is complete, checked and on disk; nothing writes into it
//! afterwards, except [`Layers::settle`] once, before any image with it is announced.

use super::disk::{Lease, Paths, Usage, sync_parent, write_durably};
use super::error::{Error, IoContext as _, Result};
use super::reference::Digest;
use super::unpack::{self, Needs};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// Characters of the digest in a directory name. Mount options are limited to one page, and 96 bits tell layers
/// apart; the record in the directory holds the whole digest.
const NAME_LENGTH: usize = 24;

/// Name of the layer without content: overlayfs wants a lower directory even for an empty image.
pub const EMPTY: &str = "empty";

/// What is known of an unpacked layer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LayerRecord {
    /// Digest of the uncompressed tar stream.
    pub diff_id: Digest,
    /// Disk space it takes.
    pub usage: Usage,
    /// Nothing below it shows.
    #[serde(default)]
    pub opaque: bool,
    /// Unfinished business with the layers below.
    #[serde(default)]
    pub needs: Needs,
}

/// All unpacked layers.
#[derive(Clone, Debug)]
pub struct Layers {
    paths: Paths,
}

/// The directory name of a layer.
pub fn name(diff_id: &Digest) -> &str {
    &diff_id.hex()[..NAME_LENGTH]
}

impl Layers {
    /// In these folders.
    pub fn new(paths: Paths) -> Result<Self> {
        let empty = paths.layers().join(EMPTY).join("fs");
        fs::create_dir_all(&empty).doing(|| format!("create {}", empty.display()))?;
        Ok(Self { paths })
    }

    fn dir(&self, diff_id: &Digest) -> PathBuf {
        self.paths.layers().join(name(diff_id))
    }

    /// The lower directory.
    pub fn lower(&self, diff_id: &Digest) -> PathBuf {
        self.dir(diff_id).join("fs")
    }

    /// The record of a layer that is there.
    pub fn get(&self, diff_id: &Digest) -> Result<LayerRecord> {
        let path = self.dir(diff_id).join("layer.json");
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::NotFound(format!("layer {diff_id}"))),
            other => other.doing(|| format!("read {}", path.display()))?,
        };
        let record: LayerRecord = super::spec::decode(&bytes, "layer record")?;
        if record.diff_id != *diff_id {
            return Err(Error::Invalid(format!("layer {diff_id} collides with layer {}", record.diff_id)));
        }
        Ok(record)
    }

    /// Unpacks a (compressed) layer, unless it is there. The caller's lease protects it from collection.
    pub fn unpack(&self, lease: &Lease, diff_id: &Digest, layer: impl BufRead + Send) -> Result<()> {
        if self.get(diff_id).is_ok() {
            return Ok(());
        }
        let temporary = self.paths.layers().join(format!("tmp-{}-{}", lease.id(), name(diff_id)));
        let result = self.unpack_into(&temporary, diff_id, layer);
        if result.is_err() {
            let _ = self.paths.discard(&temporary);
            self.paths.empty_trash();
        }
        result.map_err(|e| e.context(format!("failed to extract layer {diff_id}")))
    }

    fn unpack_into(&self, temporary: &Path, diff_id: &Digest, layer: impl BufRead + Send) -> Result<()> {
        let lower = temporary.join("fs");
        if temporary.exists() {
            self.paths.discard(temporary)?;
        }
        fs::create_dir_all(&lower).doing(|| format!("create {}", lower.display()))?;
        let unpacked = unpack::unpack(layer, &lower, diff_id)?;
        let usage = Usage { bytes: unpacked.bytes, inodes: unpacked.inodes };
        let record = LayerRecord { diff_id: diff_id.clone(), usage, opaque: unpacked.opaque, needs: unpacked.needs };
        let bytes = serde_json::to_vec(&record).map_err(|e| Error::Invalid(e.to_string()))?;
        let path = temporary.join("layer.json");
        fs::write(&path, bytes).doing(|| format!("write {}", path.display()))?;
        // One sync for all files of the layer: a half-empty layer after a power cut would be used for ever.
        let folder = File::open(temporary).doing(|| format!("open {}", temporary.display()))?;
        rustix::fs::syncfs(&folder).doing(|| "write layer to disk".into())?;
        let target = self.dir(diff_id);
        match fs::rename(temporary, &target) {
            Ok(()) => sync_parent(&target).doing(|| "write layer to disk".into()),
            Err(_) if self.get(diff_id).is_ok() => self.paths.discard(temporary), // Another process was faster.
            Err(error) => Err(Error::io(format!("rename {}", target.display()), error)),
        }
    }

    /// Gives the layers of an image (bottom first) what they need from each other. The first image with a layer decides.
    pub fn settle(&self, diff_ids: &[Digest]) -> Result<()> {
        for (index, diff_id) in diff_ids.iter().enumerate() {
            let mut record = self.get(diff_id)?;
            if record.needs == Needs::default() {
                continue;
            }
            let below: Vec<_> = diff_ids[..index].iter().rev().map(|below| self.lower(below)).collect();
            unpack::settle(&self.lower(diff_id), &below, &record.needs)
                .map_err(|e| e.context(format!("failed to extract layer {diff_id}")))?;
            record.needs = Needs::default();
            let bytes = serde_json::to_vec(&record).map_err(|e| Error::Invalid(e.to_string()))?;
            write_durably(&self.dir(diff_id).join("layer.json"), &bytes)?;
        }
        Ok(())
    }

    /// Directory names for a mount, top first, as relative paths from [`Paths::layers`].
    pub fn lowerdirs(&self, diff_ids: &[Digest]) -> Result<Vec<String>> {
        let mut lowers: Vec<String> = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids.iter().rev() {
            let lower = format!("{}/fs", name(diff_id));
            if !lowers.contains(&lower) {
                lowers.push(lower); // Overlayfs refuses a directory that shows up twice; the topmost one wins anyway.
            }
            if self.get(diff_id)?.opaque {
                break;
            }
        }
        if lowers.is_empty() {
            lowers.push(format!("{EMPTY}/fs"));
        }
        Ok(lowers)
    }

    /// What all layers together take.
    pub fn usage(&self) -> Usage {
        let mut total = Usage::default();
        for entry in fs::read_dir(self.paths.layers()).into_iter().flatten().flatten() {
            let record = fs::read(entry.path().join("layer.json")).ok();
            if let Some(record) = record.and_then(|bytes| serde_json::from_slice::<LayerRecord>(&bytes).ok()) {
                total += record.usage;
            }
        }
        total
    }

    /// Puts out of use every layer, and every unfinished one, that `keep` does not want.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<()> {
        for entry in fs::read_dir(self.paths.layers()).doing(|| "list layers".into())?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != EMPTY && !keep(&name) {
                self.paths.discard(&entry.path())?;
            }
        }
        Ok(())
    }
}
