//! Encryption at rest: with a configuration of one's own, or with one that is made here.

use super::RELOAD;
use anyhow::{Context, Result};
use clap::Args;
use ferrokube_apiserver::{Config, ConfigFile, encryption};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The configuration that is made here, in the directory of the certificates.
const OWN: &str = "encryption.yaml";

#[derive(Args, Clone, Debug)]
pub(super) struct EncryptionFlags {
    /// Encrypt Secrets in the store with a key of this cluster; from then on they stay encrypted
    #[arg(long, conflicts_with = "encryption_provider_config")]
    encrypt_secrets: bool,
    /// File with the configuration of encryption at rest
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
    /// Follow changes of that file
    #[arg(long)]
    encryption_provider_config_automatic_reload: bool,
}

impl EncryptionFlags {
    pub fn apply(&self, config: &mut Config, pki: &Path) -> Result<()> {
        if let Some(path) = self.encryption_provider_config.clone() {
            config.encryption = Some(ConfigFile { path, reload: self.encryption_provider_config_automatic_reload.then_some(RELOAD) });
            return Ok(());
        }
        let own = pki.join(OWN);
        if self.encrypt_secrets {
            make(&own).with_context(|| format!("writing {}", own.display()))?;
        }
        // A cluster that was encrypted once cannot be read without its key, whatever flags say now.
        if own.exists() {
            config.encryption = Some(ConfigFile { path: own, reload: Some(RELOAD) });
            config.encryption_rewrite = true;
        }
        Ok(())
    }
}

/// Makes the file unless it is there. Its key is on the disk before anything is encrypted with it.
fn make(path: &Path) -> std::io::Result<()> {
    let beside = path.with_extension("yaml.new");
    if path.exists() {
        return Ok(());
    }
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(encryption::fresh_configuration().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("ferrokube-encryption-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(OWN);
        make(&path).expect("made");
        let first = std::fs::read(&path).expect("readable");
        make(&path).expect("there already");
        assert_eq!(std::fs::read(&path).expect("readable"), first);
        assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        std::fs::remove_dir_all(&folder).expect("ours");
    }
}
