//! Image references: what people write, and the one full form everything else uses.
//!
//! `busybox` means `<default registry>/library/busybox:latest`. The rule lives here alone, so that a pull, a
//! look-up and a removal of the same words always mean the same image. Pure; never touches network or disk.

use super::error::Error;
use std::fmt;

/// Registry of a reference that names none. The only registry host name in the project.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// Where the default registry serves its API: `registry-1.` in front of its name.
pub fn default_registry_api_host() -> String {
    format!("registry-1.{DEFAULT_REGISTRY}")
}

/// A normalised image reference: host, repository path, and a tag or a digest (a digest wins over a tag).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A content digest. Only `sha256` is accepted: it is what registries serve.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// Parses `sha256:<64 lower-case hex>`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| Error::InvalidDigest { digest: text.to_owned(), why: why.to_owned() };
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| invalid("invalid checksum digest format"))?;
        if algorithm != "sha256" {
            return Err(invalid("unsupported digest algorithm"));
        }
        if hex.len() != 64 {
            return Err(invalid("invalid checksum digest length"));
        }
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid("invalid checksum digest format"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self::from_hash(&sha2::Sha256::digest(bytes))
    }

    /// From the 32 bytes of a SHA-256 state.
    pub(super) fn from_hash(hash: &[u8]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in hash {
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// `sha256:<hex>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hexadecimal part.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl Reference {
    /// Parses and normalises a reference the way the container world does: default registry, `library/`,
    /// `latest` when there is neither tag nor digest, and no tag when there is a digest.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |why: &'static str| Error::InvalidReference { reference: text.to_owned(), why };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest).map_err(|_| invalid("invalid reference format"))?)),
            None => (text, None),
        };
        let (host, rest) = split_host(rest);
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if tag.is_none() && host.is_none() && digest.is_none() && is_hex64(path) {
            return Err(invalid("invalid repository name, cannot specify 64-byte hexadecimal strings"));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid("invalid reference format: repository name must be lowercase"));
        }
        if !path.split('/').all(is_path_component) {
            return Err(invalid("invalid reference format"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) || host.is_some_and(|host| !is_host(host)) {
            return Err(invalid("invalid reference format"));
        }
        let host = match host {
            Some(host) if host != DEFAULT_REGISTRY && host.strip_prefix("index.") != Some(DEFAULT_REGISTRY) => host,
            _ => DEFAULT_REGISTRY,
        };
        let path = match host == DEFAULT_REGISTRY && !path.contains('/') {
            true => format!("library/{path}"),
            false => path.to_owned(),
        };
        if host.len() + 1 + path.len() > 255 {
            return Err(invalid("repository name must not be more than 255 characters"));
        }
        let tag = match digest {
            Some(_) => None,
            None => Some(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self { host: host.to_owned(), path, tag, digest })
    }

    /// Registry host, with the port when there is one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Repository path within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Host and path, without tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The tag, when the reference has no digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest the reference is pinned to.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What stands in a manifest URL: the digest, else the tag.
    pub fn target(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }

    /// The same repository, pinned to a digest.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { host: self.host.clone(), path: self.path.clone(), tag: None, digest: Some(digest) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "@{digest}"),
            (None, Some(tag)) => write!(f, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

/// Splits a leading registry host off: the first component is one when it has a dot, a port or capitals, or is `localhost`.
fn split_host(text: &str) -> (Option<&str>, &str) {
    match text.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) => {
            (Some(first), rest)
        }
        _ => (None, text),
    }
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Lower-case alphanumerics joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    match text.as_bytes() {
        [first, rest @ ..] => word(*first) && rest.len() <= 127 && rest.iter().all(|b| word(*b) || matches!(b, b'.' | b'-')),
        [] => false,
    }
}

/// A DNS name, an IPv4 address or a bracketed IPv6 address, with an optional port.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                match port {
                    "" => return true,
                    port => ("x", port.strip_prefix(':').or(Some(""))),
                }
            }
            None => return false,
        },
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_normalise_to_their_full_form() {
        let digest = format!("sha256:{HEX}");
        let table = [
            ("busybox", format!("{DEFAULT_REGISTRY}/library/busybox:latest")),
            ("busybox:1.36", format!("{DEFAULT_REGISTRY}/library/busybox:1.36")),
            ("user/app", format!("{DEFAULT_REGISTRY}/user/app:latest")),
            (&format!("index.{DEFAULT_REGISTRY}/busybox"), format!("{DEFAULT_REGISTRY}/library/busybox:latest")),
            (&format!("{DEFAULT_REGISTRY}/a/b/c"), format!("{DEFAULT_REGISTRY}/a/b/c:latest")),
            ("localhost/app:v1", "localhost/app:v1".to_owned()),
            ("localhost:5000/app", "localhost:5000/app:latest".to_owned()),
            ("127.0.0.1:5000/a/b:v1.0-rc_1", "127.0.0.1:5000/a/b:v1.0-rc_1".to_owned()),
            ("[::1]:5000/app", "[::1]:5000/app:latest".to_owned()),
            ("[::1]/app", "[::1]/app:latest".to_owned()),
            ("reg.example/a__b/c--d.e_f", "reg.example/a__b/c--d.e_f:latest".to_owned()),
            (&format!("busybox@{digest}"), format!("{DEFAULT_REGISTRY}/library/busybox@{digest}")),
            (&format!("busybox:1.36@{digest}"), format!("{DEFAULT_REGISTRY}/library/busybox@{digest}")),
            ("UPPER/app", "UPPER/app:latest".to_owned()),
        ];
        for (text, full) in table {
            let reference = Reference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(Reference::parse(&full).expect("full form parses").to_string(), full, "parsing is idempotent");
        }
    }

    #[test]
    fn malformed_references_are_refused() {
        let long = "a".repeat(250);
        for text in [
            "",
            ":tag",
            "a b",
            "Busybox",
            "busybox:",
            "busybox:-x",
            "a//b",
            "/a",
            "a/",
            "a___b",
            "a..b",
            "-a",
            "a@sha256:abc",
            "a@md5:d41d8cd98f00b204e9800998ecf8427e",
            "localhost:port/app",
            "host-.example/app",
            "[::1/app",
            "[zz]:5/app",
            "../escape",
            HEX,
            &long,
        ] {
            assert!(Reference::parse(text).is_err(), "{text} should be refused");
        }
    }
}
