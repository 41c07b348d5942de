//! Rotation of container logs: a log that has grown too large is renamed, its writer told to begin a new one, old ones
//! are compressed and the oldest removed. The name without a suffix is always the one being written.
//!
//! Source: `pkg/kubelet/logs/container_log_manager.go`.

use crate::node::Shared;
use ferrokube_cri::v1 as cri;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use std::fs::File;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// containerLogMonitorInterval.
const PERIOD: Duration = Duration::from_secs(10);

/// Looks after the logs of all running containers, for ever.
pub async fn keep(node: Arc<Shared>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(e) = all(&node).await {
            tracing::warn!("container logs not looked at: {e}");
        }
    }
}

async fn all(node: &Shared) -> std::result::Result<(), tonic::Status> {
    let state = cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning.into() };
    let filter = cri::ContainerFilter { state: Some(state), ..cri::ContainerFilter::default() };
    let listed = node.cri.runtime.clone().list_containers(cri::ListContainersRequest { filter: Some(filter) }).await?.into_inner();
    for container in listed.containers {
        let request = cri::ContainerStatusRequest { container_id: container.id.clone(), verbose: false };
        // A container that went in between needs nothing.
        let Ok(answer) = node.cri.runtime.clone().container_status(request).await else { continue };
        let Some(status) = answer.into_inner().status.filter(|s| !s.log_path.is_empty()) else { continue };
        let path = PathBuf::from(&status.log_path);
        let large = std::fs::metadata(&path).is_ok_and(|m| m.len() >= node.config.log_max_size);
        if large && let Err(e) = rotate(node, &container.id, path).await {
            tracing::warn!(container = container.id, "log not rotated: {e}");
        }
    }
    Ok(())
}

async fn rotate(node: &Shared, id: &str, path: PathBuf) -> Result<()> {
    let keep = usize::try_from(node.config.log_max_files).unwrap_or(usize::MAX);
    let renamed = path.clone();
    let moved = tokio::task::spawn_blocking(move || {
        tidy(&renamed, keep)?;
        set_aside(&renamed, Timestamp::now())
    });
    let aside = moved.await.map_err(Error::other)??;
    let request = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
    if let Err(e) = node.cri.runtime.clone().reopen_container_log(request).await {
        // The writer still has the file: it keeps its name, or the next lines would be in a file that nobody looks for.
        std::fs::rename(&aside, &path)?;
        return Err(Error::other(e.message().to_owned()));
    }
    Ok(())
}

/// Renames the log to `<log>.<time>`.
fn set_aside(path: &Path, now: Timestamp) -> Result<PathBuf> {
    let aside = with_suffix(path, &now.strftime(".%Y%m%d-%H%M%S").to_string());
    std::fs::rename(path, &aside)?;
    Ok(aside)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Compresses the rotated files and removes the oldest, so that with the next one and the live log there are at most `keep`.
fn tidy(path: &Path, keep: usize) -> Result<()> {
    let mut old = rotated(path)?;
    for leftover in old.iter().filter(|p| p.extension().is_some_and(|e| e == "tmp")) {
        std::fs::remove_file(leftover)?;
    }
    old.retain(|p| p.extension().is_none_or(|e| e != "tmp"));
    let excess = old.len().saturating_sub(keep.saturating_sub(2));
    for file in old.drain(..excess) {
        std::fs::remove_file(file)?;
    }
    old.iter().filter(|p| p.extension().is_none_or(|e| e != "gz")).try_for_each(|p| compress(p))
}

/// The rotated files of a log, oldest first (their names sort by time).
pub fn rotated(path: &Path) -> Result<Vec<PathBuf>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else { return Ok(Vec::new()) };
    let ours = |file: &str| file.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    let entries = std::fs::read_dir(parent)?.flatten();
    let mut found: Vec<PathBuf> = entries.filter(|e| e.file_name().to_str().is_some_and(ours)).map(|e| e.path()).collect();
    found.sort();
    Ok(found)
}

/// Replaces a file by its compressed form; a crash in between leaves a `.tmp` that the next round removes.
fn compress(path: &Path) -> Result<()> {
    let staging = with_suffix(path, ".tmp");
    let mut source = File::open(path)?;
    let target = File::create(&staging)?;
    // Whoever may not read the log may not read its compressed form.
    target.set_permissions(source.metadata()?.permissions())?;
    let mut out = GzEncoder::new(target, Compression::default());
    std::io::copy(&mut source, &mut out)?;
    out.finish()?.sync_all()?;
    std::fs::rename(&staging, with_suffix(path, ".gz"))?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn rotation_keeps_so_many_files_compresses_the_old_ones_and_loses_no_line() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("0.log");
        for round in 0..7 {
            std::fs::write(&log, format!("round {round}\n")).unwrap();
            tidy(&log, 5).unwrap();
            set_aside(&log, Timestamp::from_second(1_000_000 + round).unwrap()).unwrap();
        }
        std::fs::write(&log, "live\n").unwrap();
        let old = rotated(&log).unwrap();
        assert_eq!(old.len(), 4, "four rotated ones and the live log: {old:?}");
        let (newest, compressed) = old.split_last().unwrap();
        assert_eq!(std::fs::read_to_string(newest).unwrap(), "round 6\n");
        for (file, round) in compressed.iter().zip(3..) {
            let mut text = String::new();
            flate2::read::GzDecoder::new(File::open(file).unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, format!("round {round}\n"));
        }
    }

    #[test]
    fn what_a_crash_left_half_compressed_is_removed_and_done_again() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("0.log");
        std::fs::write(directory.path().join("0.log.20260101-000000"), "old\n").unwrap();
        std::fs::write(directory.path().join("0.log.20260101-000000.tmp"), "half").unwrap();
        tidy(&log, 5).unwrap();
        let names: Vec<_> = rotated(&log).unwrap().iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(names, ["0.log.20260101-000000.gz"]);
    }
}
