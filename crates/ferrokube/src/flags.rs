//! How values of flags are read, in Go's syntax.

use anyhow::{Context, Result};
use clap::ValueEnum;
use ferrokube_apiserver::MinTls;
use std::path::{Path, PathBuf};
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

/// The content of a file.
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// The content of a file that may not be given.
pub fn read_optional(path: Option<&PathBuf>) -> Result<String> {
    path.map_or(Ok(String::new()), |path| read(path))
}
