//! `ferrokube image`: images on this node, without a registry.
//!
//! While the node runs, its runtime is asked over CRI where CRI can; an import goes straight into the image store, which
//! several processes may use at once.

use crate::layout::Layout;
use anyhow::{Context, Result};
use clap::Subcommand;
use ferrokube_runtime::image::{Config, ImageStore};
use std::path::PathBuf;

/// What to do with images.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Import an OCI or docker archive (tar, tar.gz) or an OCI layout directory
    Import {
        /// The archives
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// List images
    #[command(visible_alias = "list")]
    Ls,
    /// Remove images
    Rm {
        /// Names, digests or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// Runs an image command on the store of this machine's node.
pub async fn run(data_dir: Option<PathBuf>, command: Command) -> Result<()> {
    let layout = Layout::new(data_dir, nix::unistd::geteuid().is_root());
    let root = layout.runtime().join("images");
    let opened = tokio::task::spawn_blocking(move || ImageStore::open(&root, Config::default())).await?;
    let store = opened.context("cannot open the image store")?;
    match command {
        Command::Import { archives } => import(&store, archives),
        Command::Ls => list(&store),
        Command::Rm { images } => remove(&store, images),
    }
}

fn import(store: &ImageStore, archives: Vec<PathBuf>) -> Result<()> {
    for archive in archives {
        let images = store.import_archive(&archive, None).with_context(|| format!("cannot import {}", archive.display()))?;
        for image in images {
            let name = image.repo_tags.first().or(image.repo_digests.first()).unwrap_or(&image.id);
            println!("{name}");
        }
    }
    Ok(())
}

fn list(store: &ImageStore) -> Result<()> {
    println!("{:<60} {:<20} {:>10}", "IMAGE", "ID", "SIZE");
    for image in store.list() {
        let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
        let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
        for name in names {
            println!("{name:<60} {:<20} {:>7.1} MB", &id[..id.len().min(12)], image.size as f64 / 1e6);
        }
    }
    Ok(())
}

fn remove(store: &ImageStore, images: Vec<String>) -> Result<()> {
    for image in images {
        store.remove(&image).with_context(|| format!("cannot remove {image}"))?;
        println!("{image}");
    }
    // `remove` frees the space in the background, which would end with this process.
    store.collect_garbage().context("cannot free the space of removed images")
}
