//! Where the cluster's objects are kept: in the data directory, or in an etcd.

use anyhow::{Context, Result};
use clap::Args;
use ferrokube_store::Store;
use ferrokube_store::embedded::{Embedded, Options as EmbeddedOptions};
use ferrokube_store::etcd::{Etcd, Options as EtcdClientOptions, Tls};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The flags of kube-apiserver that lead to an etcd.
#[derive(Args, Clone, Debug, Default)]
pub struct EtcdOptions {
    /// URLs of etcd members to keep the cluster in; without it, the data directory keeps it
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// CA of the etcd members' certificates
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for etcd
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What keys begin with in etcd
    #[arg(long, value_name = "PREFIX", default_value = "/registry")]
    pub etcd_prefix: String,
}

impl EtcdOptions {
    /// Whether an etcd is meant at all.
    pub fn is_given(&self) -> bool {
        !self.etcd_servers.is_empty()
    }

    /// Connects to it.
    pub async fn connect(&self) -> Result<Etcd> {
        let options = EtcdClientOptions {
            tls: Tls { ca_file: self.etcd_cafile.clone(), cert_file: self.etcd_certfile.clone(), key_file: self.etcd_keyfile.clone() },
            prefix: self.etcd_prefix.clone(),
            ..EtcdClientOptions::new(self.etcd_servers.clone())
        };
        Etcd::connect(options).await.context("etcd cannot be reached")
    }

    /// Opens the store that these flags and the data directory mean.
    pub async fn open(&self, directory: &Path) -> Result<Arc<dyn Store>> {
        if self.is_given() {
            return Ok(Arc::new(self.connect().await?));
        }
        let opened = directory.to_path_buf();
        let store = tokio::task::spawn_blocking(move || Embedded::open(&opened, EmbeddedOptions::default())).await;
        let store = store.context("opening the store")?;
        Ok(Arc::new(store.with_context(|| format!("the store in {} cannot be opened", directory.display()))?))
    }

    /// Where that is, in words.
    pub fn spoken(&self) -> String {
        if self.is_given() { format!("etcd at {}", self.etcd_servers.join(", ")) } else { String::new() }
    }
}
