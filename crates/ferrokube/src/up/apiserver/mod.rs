//! The flags of the API server that `up` passes on, under kube-apiserver's names and with its defaults.
//!
//! A flag becomes a field of the server's [`Config`] here and nowhere else.

mod access;
mod admission;
mod audit;
mod encryption;
mod serving;

use anyhow::{Context, Result};
use clap::Args;
use ferrokube_apiserver::{Config, ConfigFile};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Flags of the API server.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "API server")]
pub struct ApiserverFlags {
    #[command(flatten)]
    authentication: access::AuthenticationFlags,
    #[command(flatten)]
    authorization: access::AuthorizationFlags,
    #[command(flatten)]
    admission: admission::AdmissionFlags,
    #[command(flatten)]
    audit: audit::AuditFlags,
    #[command(flatten)]
    serving: serving::ServingFlags,
    #[command(flatten)]
    encryption: encryption::EncryptionFlags,
}

/// How often files that may change are looked at.
const RELOAD: Duration = Duration::from_secs(60);

/// Go's duration syntax.
fn duration(text: &str) -> Result<Duration, String> {
    ferrokube_apiserver::request::query::parse_duration(text).ok_or_else(|| format!("{text:?} is no duration such as 30s or 1m30s"))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// The content of a file that may not be given.
fn read_optional(path: Option<&PathBuf>) -> Result<String> {
    path.map_or(Ok(String::new()), |path| read(path))
}

fn followed(path: Option<&PathBuf>) -> Option<ConfigFile> {
    path.map(|path| ConfigFile { path: path.clone(), reload: Some(RELOAD) })
}

impl ApiserverFlags {
    /// Puts what was said into the configuration. `pki` is where the keys of the cluster are.
    pub fn apply(&self, config: &mut Config, pki: &Path) -> Result<()> {
        self.authentication.apply(&mut config.authn)?;
        self.authentication.apply_tokens(&mut config.tokens)?;
        config.authz = self.authorization.config()?;
        config.admission = self.admission.config()?;
        config.audit = self.audit.config()?;
        self.serving.apply(config);
        self.encryption.apply(config, pki)?;
        Ok(())
    }
}
