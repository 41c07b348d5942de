//! `ferrokube store`: backups of what the cluster knows. Works beside a running server and without one.

use crate::layout::Layout;
use crate::up::preflight;
use crate::up::store::EtcdOptions;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use ferrokube_store::backup::{self, BUMP, Reader, Verified};
use ferrokube_store::embedded;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Which store is meant.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// The cluster's data directory, as given to `up`
    #[arg(long, value_name = "DIR", env = "FERROKUBE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    etcd: EtcdOptions,
}

/// What to do with a store.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Write everything that is stored into a file: a backup, or with --etcd-servers a snapshot of etcd
    Backup {
        /// The store
        #[command(flatten)]
        place: Place,
        /// The file; it must not exist
        file: PathBuf,
    },
    /// Make a store from a backup: in the data directory, or with --etcd-servers in an empty etcd
    Restore {
        /// The store
        #[command(flatten)]
        place: Place,
        /// How far the new store's revisions are above the backup's
        #[arg(long, value_name = "N", default_value_t = BUMP)]
        bump_revision: u64,
        /// The backup
        file: PathBuf,
    },
    /// Read a backup or a snapshot to its end and check its checksum
    Verify {
        /// The file
        file: PathBuf,
    },
}

/// Runs a store command.
pub async fn run(command: Command) -> Result<()> {
    match command {
        Command::Backup { place, file } => back_up(&place, &file).await,
        Command::Restore { place, bump_revision, file } => restore(&place, &file, bump_revision).await,
        Command::Verify { file } => tokio::task::spawn_blocking(move || verify(&file).map(|spoken| println!("{spoken}"))).await?,
    }
}

impl Place {
    fn layout(&self) -> Layout {
        Layout::new(self.data_dir.clone(), nix::unistd::geteuid().is_root())
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// The file appears under its name only when it is whole, and only its owner may read it: there are secrets in it.
async fn back_up(place: &Place, path: &Path) -> Result<()> {
    if path.exists() {
        bail!("{} exists already", path.display());
    }
    let mut name = path.file_name().context("the file has no name")?.to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
    let file = file.with_context(|| format!("cannot write {}", part.display()))?;
    let written = if place.etcd.is_given() {
        let etcd = place.etcd.connect().await?;
        let mut to = tokio::io::BufWriter::new(tokio::fs::File::from_std(file.try_clone()?));
        etcd.snapshot(&mut to).await.map(drop).context("etcd gave no snapshot")
    } else {
        let (directory, to) = (place.layout().store(), file.try_clone()?);
        let write = move || embedded::backup(&directory, BufWriter::with_capacity(1 << 20, to)).map(drop);
        tokio::task::spawn_blocking(write).await?.context("the store cannot be backed up")
    };
    let (checked, target) = (part.clone(), path.to_owned());
    let finish = move || -> Result<String> {
        written?;
        file.sync_all()?;
        let spoken = verify(&checked)?;
        std::fs::rename(&checked, &target)?;
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(spoken)
    };
    match tokio::task::spawn_blocking(finish).await? {
        Ok(spoken) => println!("{}: {spoken}", path.display()),
        Err(error) => {
            let _ = std::fs::remove_file(&part); // Half a backup is none.
            return Err(error);
        }
    }
    Ok(())
}

async fn restore(place: &Place, path: &Path, bump: u64) -> Result<()> {
    let from = path.to_owned();
    // Its checksum stands at the end: it is read once before anything is made from it.
    tokio::task::spawn_blocking(move || verify(&from)).await??;
    let reader = Reader::new(BufReader::with_capacity(1 << 20, open(path)?))?;
    let summary = if place.etcd.is_given() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let etcd = place.etcd.connect().await?;
        backup::restore_into(&etcd, reader, now).await.context("the backup cannot be restored into etcd")?
    } else {
        let layout = place.layout();
        let _instance = preflight::take(&layout)?;
        let directory = layout.store();
        tokio::task::spawn_blocking(move || embedded::restore(&directory, reader, bump)).await?.context("the backup cannot be restored")?
    };
    println!("restored {} keys of revision {}", summary.entries, summary.revision);
    std::io::stdout().flush()?;
    Ok(())
}

fn verify(path: &Path) -> Result<String> {
    let verified = backup::verify(&mut open(path)?).with_context(|| format!("{} is not sound", path.display()))?;
    Ok(match verified {
        Verified::Backup(summary) => {
            let taken = i64::try_from(summary.taken).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
            let taken = taken.map_or_else(String::new, |t| format!(", taken {}", t.strftime("%Y-%m-%dT%H:%M:%SZ")));
            format!("a sound backup of {} keys at revision {}{taken}", summary.entries, summary.revision)
        }
        Verified::EtcdSnapshot(bytes) => format!("a sound snapshot of etcd, {bytes} bytes"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use clap::Parser;
    use ferrokube_store::embedded::{Embedded, Options};
    use ferrokube_store::{Expect, Store};

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    async fn command(words: &[&str]) -> Result<()> {
        run(Line::try_parse_from(std::iter::once(&"store").chain(words))?.command).await
    }

    #[tokio::test]
    async fn a_backup_of_an_open_store_becomes_a_store_in_another_data_directory() {
        let folder = tempfile::tempdir().expect("a directory");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let store = Embedded::open(&folder.path().join("old/store"), Options::default()).expect("opens");
        let key = Bytes::from_static(b"/registry/things/a");
        let put = store.put(key.clone(), Bytes::from_static(b"x"), Expect::Any, None).await.expect("written").revision;
        command(&["backup", "--data-dir", &at("old"), &at("file")]).await.expect("a backup beside the running engine");
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(folder.path().join("file")).expect("the file").mode() & 0o777, 0o600);
        let again = command(&["backup", "--data-dir", &at("old"), &at("file")]).await.expect_err("never over a file").to_string();
        assert!(again.contains("exists already"), "{again}");
        command(&["verify", &at("file")]).await.expect("sound");
        command(&["restore", "--data-dir", &at("new"), "--bump-revision", "100", &at("file")]).await.expect("restores");
        let restored = Embedded::open(&folder.path().join("new/store"), Options::default()).expect("opens");
        assert_eq!(restored.get(key).await.expect("reads").map(|kv| kv.mod_revision), Some(put));
        assert_eq!(restored.revision().await.expect("revision"), put + 100);
        let over = format!("{:#}", command(&["restore", "--data-dir", &at("new"), &at("file")]).await.expect_err("never over a store"));
        assert!(over.contains("holds a store already"), "{over}");
        std::fs::write(folder.path().join("other"), b"not a backup, but long enough to have a header").expect("a file");
        assert!(command(&["restore", "--data-dir", &at("third"), &at("other")]).await.is_err());
        assert!(!folder.path().join("third").exists(), "nothing is made from what is not sound");
    }
}
