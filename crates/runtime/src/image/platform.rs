//! Which image of an index this machine runs. Pure.

use super::error::{Error, Result};
use super::spec::{Descriptor, Index};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Operating system and CPU, in Go's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// GOARCH.
    pub architecture: String,
    /// `v7`, `v8`...; empty means the architecture's default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    /// How well an image for `other` runs here: 0 is best, `None` is not at all.
    fn rank(&self, other: &Self) -> Option<u32> {
        if other.os != self.os {
            return None;
        }
        match (self.architecture.as_str(), other.architecture.as_str()) {
            ("amd64", "amd64") => amd64_rank(&other.variant),
            ("amd64", "386") => Some(100),
            ("arm64", "arm64") if matches!(other.variant.as_str(), "" | "v8") => Some(0),
            ("arm64", "arm") => arm_rank(8, &other.variant).map(|rank| 100 + rank),
            ("arm", "arm") => arm_rank(arm_version(&self.variant)?, &other.variant),
            (ours, theirs) => (ours == theirs).then_some(0),
        }
    }
}

/// Micro-architecture levels above the baseline may not run here; nobody publishes them without a baseline image.
fn amd64_rank(variant: &str) -> Option<u32> {
    matches!(variant, "" | "v1").then_some(0)
}

fn arm_version(variant: &str) -> Option<u32> {
    match variant {
        "" => Some(7),
        variant => variant.strip_prefix('v')?.parse().ok(),
    }
}

/// 32-bit ARM runs its own version and older ones, the newest first.
fn arm_rank(host: u32, variant: &str) -> Option<u32> {
    host.checked_sub(arm_version(variant)?)
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// The manifest of `index` that suits `platform` best; the first of equals. An entry without a platform suits
/// only when nothing states one, which is how single-image layouts are written.
pub fn select<'a>(index: &'a Index, platform: &Platform) -> Result<&'a Descriptor> {
    let ranked = index.manifests.iter().filter_map(|m| Some((platform.rank(m.platform.as_ref()?)?, m)));
    if let Some((_, best)) = ranked.min_by_key(|(rank, _)| *rank) {
        return Ok(best);
    }
    if index.manifests.iter().all(|m| m.platform.is_none())
        && let Some(first) = index.manifests.first()
    {
        return Ok(first);
    }
    let available: Vec<_> = index.manifests.iter().filter_map(|m| m.platform.as_ref()).map(ToString::to_string).collect();
    Err(Error::NoPlatform { platform: platform.to_string(), available: available.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::reference::Digest;

    fn index(platforms: &[(&str, &str, &str)]) -> Index {
        let manifests = platforms.iter().enumerate().map(|(i, (os, architecture, variant))| Descriptor {
            media_type: String::new(),
            digest: Digest::of(&[i as u8]),
            size: i as u64,
            platform: Some(Platform { os: (*os).into(), architecture: (*architecture).into(), variant: (*variant).into() }),
            annotations: Default::default(),
        });
        Index { manifests: manifests.collect() }
    }

    #[test]
    fn the_best_runnable_platform_wins() {
        let host =
            |architecture: &str, variant: &str| Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.into() };
        let table = [
            (host("amd64", ""), index(&[("linux", "arm64", "v8"), ("linux", "amd64", "")]), Some(1)),
            (host("amd64", ""), index(&[("linux", "386", ""), ("linux", "amd64", "")]), Some(1)),
            (host("amd64", ""), index(&[("linux", "386", ""), ("windows", "amd64", "")]), Some(0)),
            (host("amd64", ""), index(&[("linux", "amd64", "v3")]), None),
            (host("amd64", ""), index(&[("unknown", "unknown", ""), ("linux", "arm64", "")]), None),
            (host("arm64", "v8"), index(&[("linux", "arm", "v6"), ("linux", "arm", "v7"), ("linux", "arm64", "")]), Some(2)),
            (host("arm", "v7"), index(&[("linux", "arm", "v5"), ("linux", "arm", "v7"), ("linux", "arm", "v8")]), Some(1)),
            (host("riscv64", ""), index(&[("linux", "riscv64", "")]), Some(0)),
        ];
        for (platform, index, expected) in table {
            assert_eq!(select(&index, &platform).ok().map(|m| m.size), expected, "{platform}");
        }
    }
}
