//! How values of flags are read, in Go's syntax.

use anyhow::{Context, Result};
use clap::ValueEnum;
use ferrokube_apiserver::{MinTls, NamedCertificate, Tls};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// The oldest TLS that is spoken.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TlsVersion {
    /// TLS 1.2
    #[value(name = "VersionTLS12")]
    Tls12,
    /// TLS 1.3
    #[value(name = "VersionTLS13")]
    Tls13,
}

impl From<TlsVersion> for MinTls {
    fn from(version: TlsVersion) -> Self {
        match version {
            TlsVersion::Tls12 => MinTls::Tls12,
            TlsVersion::Tls13 => MinTls::Tls13,
        }
    }
}

/// Go's duration syntax.
pub fn duration(text: &str) -> Result<Duration, String> {
    ferrokube_apiserver::request::query::parse_duration(text).ok_or_else(|| format!("{text:?} is no duration such as 30s or 1m30s"))
}

/// Certificate and key for names that clients ask for (`--tls-sni-cert-key`): `CERT,KEY[:NAME,...]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPair {
    certificate: PathBuf,
    key: PathBuf,
    names: Vec<String>,
}

impl FromStr for NamedPair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (files, names) = text.split_once(':').unwrap_or((text, ""));
        let files: Vec<&str> = files.split(',').map(str::trim).collect();
        let [certificate, key] = files[..] else { return Err("expected comma separated certificate and key file paths".into()) };
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        Ok(NamedPair { certificate: certificate.into(), key: key.into(), names: names.collect() })
    }
}

impl NamedPair {
    /// Reads the files of all of them.
    pub fn read_all(pairs: &[NamedPair]) -> Result<Vec<NamedCertificate>> {
        let read = |pair: &NamedPair| {
            let tls = Tls { certificate: read(&pair.certificate)?, key: read(&pair.key)? };
            Ok(NamedCertificate { tls, names: pair.names.clone() })
        };
        pairs.iter().map(read).collect()
    }
}

/// The content of a file.
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// The content of a file that may not be given.
pub fn read_optional(path: Option<&PathBuf>) -> Result<String> {
    path.map_or(Ok(String::new()), |path| read(path))
}
