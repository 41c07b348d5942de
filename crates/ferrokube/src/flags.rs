//! How values of flags are read, in Go's syntax.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

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
