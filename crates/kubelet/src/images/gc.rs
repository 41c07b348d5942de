//! Removing images that no container uses when the disk fills up: from 85 % down to 80 %, least recently used first.
//!
//! Source: `pkg/kubelet/images/image_gc_manager.go`.

use crate::node::{Shared, eviction};
use ferrokube_client::events::EventType;
use ferrokube_cri::v1 as cri;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const PERIOD: Duration = Duration::from_secs(300);
/// imageMinimumGCAge.
const MIN_AGE: Duration = Duration::from_secs(120);
const HIGH_PERCENT: u64 = 85;
const LOW_PERCENT: u64 = 80;

/// What is known of an image beyond what the runtime tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    first_seen: Instant,
    last_used: Option<Instant>,
}

/// Ages and uses of the images of this node.
#[derive(Debug, Default)]
pub struct Records(BTreeMap<String, Record>);

impl Records {
    /// Takes note of what there is and what is used now.
    pub fn note(&mut self, images: &[cri::Image], used: &BTreeSet<String>, now: Instant) {
        self.0.retain(|id, _| images.iter().any(|i| i.id == *id));
        for image in images {
            let record = self.0.entry(image.id.clone()).or_insert(Record { first_seen: now, last_used: None });
            if used.contains(&image.id) {
                record.last_used = Some(now);
            }
        }
    }

    /// Images to remove, in this order, until `wanted` bytes are freed.
    pub fn victims(&self, images: &[cri::Image], used: &BTreeSet<String>, wanted: u64, now: Instant) -> Vec<String> {
        let old = |id: &str| self.0.get(id).is_some_and(|r| now.duration_since(r.first_seen) >= MIN_AGE);
        let mut free: Vec<&cri::Image> = images.iter().filter(|i| !i.pinned && !used.contains(&i.id) && old(&i.id)).collect();
        free.sort_by_key(|i| self.0.get(&i.id).map(|r| (r.last_used, r.first_seen)));
        let mut freed = 0;
        let mut chosen = Vec::new();
        for image in free {
            if freed >= wanted {
                break;
            }
            freed += image.size;
            chosen.push(image.id.clone());
        }
        chosen
    }
}

/// Bytes to free so that usage falls to the low threshold; 0 while it is below the high one.
pub fn excess(size: u64, available: u64) -> u64 {
    let used = size.saturating_sub(available);
    if size == 0 || used * 100 / size < HIGH_PERCENT { 0 } else { used.saturating_sub(size / 100 * LOW_PERCENT) }
}

/// Looks every five minutes, for ever.
pub async fn keep(node: Arc<Shared>) {
    let mut records = Records::default();
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        ticks.tick().await;
        let Ok((images, used)) = inventory(&node).await else { continue };
        records.note(&images, &used, Instant::now());
        let Some(directory) = eviction::image_directory(&node).await else { continue };
        let disk = eviction::filesystem(&directory);
        let wanted = excess(disk.size, disk.available);
        if wanted == 0 {
            continue;
        }
        let victims = records.victims(&images, &used, wanted, Instant::now());
        let freed: u64 = images.iter().filter(|i| victims.contains(&i.id)).map(|i| i.size).sum();
        remove(&node, victims).await;
        if freed < wanted {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
            );
            node.recorder.event(node.reference(), EventType::Warning, "FreeDiskSpaceFailed", message);
        }
    }
}

/// Removes every image that nothing uses, whatever its age: the disk is running full.
pub async fn free_all(node: &Shared) {
    let Ok((images, used)) = inventory(node).await else { return };
    remove(node, images.into_iter().filter(|i| !i.pinned && !used.contains(&i.id)).map(|i| i.id).collect()).await;
}

/// All images, and the ids of those that a container (running or not) was made from.
async fn inventory(node: &Shared) -> Result<(Vec<cri::Image>, BTreeSet<String>), tonic::Status> {
    let images = node.cri.images.clone().list_images(cri::ListImagesRequest::default()).await?.into_inner().images;
    let containers = node.cri.runtime.clone().list_containers(cri::ListContainersRequest::default()).await?.into_inner().containers;
    let named: BTreeSet<String> =
        containers.into_iter().flat_map(|c| [Some(c.image_ref), Some(c.image_id), c.image.map(|i| i.image)]).flatten().collect();
    let uses = |i: &cri::Image| named.contains(&i.id) || i.repo_digests.iter().chain(&i.repo_tags).any(|n| named.contains(n));
    let used = images.iter().filter(|i| uses(i)).map(|i| i.id.clone()).collect();
    Ok((images, used))
}

async fn remove(node: &Shared, ids: Vec<String>) {
    for image in ids {
        let spec = cri::ImageSpec { image: image.clone(), ..cri::ImageSpec::default() };
        match node.cri.images.clone().remove_image(cri::RemoveImageRequest { image: Some(spec) }).await {
            Ok(_) => tracing::info!(image, "image removed to make room"),
            Err(e) => tracing::warn!(image, "image not removed: {}", e.message()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, size: u64) -> cri::Image {
        cri::Image { id: id.into(), size, ..cri::Image::default() }
    }

    #[test]
    fn nothing_is_freed_below_the_high_threshold_and_down_to_the_low_one_above_it() {
        for (available, expected) in [(500, 0), (160, 0), (150, 50), (50, 150)] {
            assert_eq!(excess(1000, available), expected, "{available} of 1000 available");
        }
        assert_eq!(excess(0, 0), 0);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_what_is_used_or_young_stays() {
        let mut records = Records::default();
        let start = Instant::now();
        let old = vec![image("used", 10), image("once", 10), image("never", 10), cri::Image { pinned: true, ..image("pinned", 10) }];
        records.note(&old, &BTreeSet::from(["once".to_owned()]), start);
        let now = start + MIN_AGE;
        let images: Vec<_> = old.into_iter().chain([image("young", 10)]).collect();
        let used = BTreeSet::from(["used".to_owned()]);
        records.note(&images, &used, now);
        assert_eq!(records.victims(&images, &used, 1, now), ["never"]);
        assert_eq!(records.victims(&images, &used, 100, now), ["never", "once"]);
    }
}
