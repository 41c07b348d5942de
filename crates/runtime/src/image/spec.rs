//! The documents of an image: manifest, index and config, of OCI and of Docker schema 2, as far as a runtime needs them.
//!
//! Everything here comes from outside: unknown fields are ignored, `null` counts as absent, and nothing is trusted
//! before its digest has been checked by the caller.

use super::error::{Error, Result};
use super::platform::Platform;
use super::reference::Digest;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// Media types of indexes (manifest lists).
pub const INDEX_TYPES: [&str; 2] = ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
/// Media types of image manifests.
pub const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

/// A pointer to content: what it is, its digest and its size.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type; empty when the document that points here gave none.
    #[serde(default)]
    pub media_type: String,
    /// What the content hashes to.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Only in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Only in an index.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A manifest of one image.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Manifest {
    /// The image config.
    pub config: Descriptor,
    /// Bottom first.
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
}

/// An index: one image for several platforms, or the content list of an OCI layout.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Index {
    /// One per platform.
    #[serde(default, deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
}

/// Either of the two documents a reference can lead to.
#[derive(Clone, Debug)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

impl Document {
    /// Decodes by media type, else by the fields it has (old OCI documents carry no `mediaType`).
    pub fn decode(media_type: Option<&str>, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe {
            #[serde(default)]
            schema_version: u32,
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
        }
        let probe: Probe = decode(bytes, "manifest")?;
        if probe.schema_version != 2 {
            let version = probe.schema_version;
            return Err(Error::Invalid(format!("unsupported manifest schemaVersion {version}: media type is no longer supported")));
        }
        // A document must not be readable as both, or two tools would run two different images.
        let is_index = match (&probe.manifests, &probe.config) {
            (Some(_), Some(_)) => return Err(Error::Invalid("invalid manifest: has both manifests and config".into())),
            (manifests, _) => manifests.is_some(),
        };
        for named in [media_type, probe.media_type.as_deref()].into_iter().flatten() {
            let contradicts = if is_index { MANIFEST_TYPES.contains(&named) } else { INDEX_TYPES.contains(&named) };
            if contradicts {
                return Err(Error::Invalid(format!("invalid manifest: content does not match media type {named}")));
            }
        }
        Ok(match is_index {
            true => Self::Index(decode(bytes, "image index")?),
            false => Self::Manifest(decode(bytes, "manifest")?),
        })
    }
}

/// The image config document: what a container of this image starts from.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ConfigDocument {
    /// CPU architecture.
    #[serde(default, deserialize_with = "null_default")]
    pub architecture: String,
    /// Operating system.
    #[serde(default, deserialize_with = "null_default")]
    pub os: String,
    /// RFC 3339.
    #[serde(default, deserialize_with = "null_default")]
    pub created: String,
    /// Defaults of a container.
    #[serde(default, deserialize_with = "null_default")]
    pub config: ImageConfig,
    /// The layers.
    #[serde(default, deserialize_with = "null_default")]
    pub rootfs: RootFs,
}

/// Digests of the uncompressed layers.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct RootFs {
    /// Bottom first.
    #[serde(default, deserialize_with = "null_default")]
    pub diff_ids: Vec<Digest>,
}

/// Defaults an image gives its containers (the `config` part of the OCI image config).
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `user[:group]`, by name or number; empty means root.
    #[serde(deserialize_with = "null_default")]
    pub user: String,
    /// `port/protocol` to `{}`.
    #[serde(deserialize_with = "null_default")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// `NAME=value`.
    #[serde(deserialize_with = "null_default")]
    pub env: Vec<String>,
    /// Command prefix.
    #[serde(deserialize_with = "null_default")]
    pub entrypoint: Vec<String>,
    /// Default arguments (or command, without an entrypoint).
    #[serde(deserialize_with = "null_default")]
    pub cmd: Vec<String>,
    /// Paths declared as volumes.
    #[serde(deserialize_with = "null_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Working directory; empty means `/`.
    #[serde(deserialize_with = "null_default")]
    pub working_dir: String,
    /// Labels.
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    /// Name or number of the signal that stops the container; empty means SIGTERM.
    #[serde(deserialize_with = "null_default")]
    pub stop_signal: String,
}

/// Decodes JSON from outside.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::Invalid(format!("failed to decode {what}: {e}")))
}

/// `null` is the same as absent.
fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_in_a_config_count_as_absent() {
        let bytes = br#"{"config":{"Env":null,"Entrypoint":null,"Cmd":["sh"],"ExposedPorts":null,"Labels":null,"Volumes":null},"rootfs":{"diff_ids":null}}"#;
        let config: ConfigDocument = decode(bytes, "config").expect("decodes");
        assert_eq!(config.config.cmd, ["sh"]);
        assert!(config.config.env.is_empty() && config.rootfs.diff_ids.is_empty());
    }

    #[test]
    fn a_document_that_reads_both_ways_is_refused() {
        let both = br#"{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}"#;
        assert!(Document::decode(None, both).is_err());
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(Document::decode(None, index), Ok(Document::Index(_))));
        assert!(Document::decode(Some(MANIFEST_TYPES[0]), index).is_err(), "the media type contradicts the content");
        assert!(Document::decode(None, br#"{"schemaVersion":1}"#).is_err());
    }
}
