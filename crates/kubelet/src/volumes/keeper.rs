//! The task that keeps the files of one pod's volumes true.

use super::files::Sources;
use super::{VolumeError, atomic, fs_group};
use k8s_openapi::api::core::v1::{Pod, Volume};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// After a failed update the old files stay and it is tried again.
pub const RETRY: Duration = Duration::from_secs(10);

/// Handle of the task; dropping it ends the task, not the files.
pub struct Keeper {
    pod: watch::Sender<Arc<Pod>>,
    task: AbortHandle,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    /// Writes everything once, then goes on in the background.
    pub async fn start(mut sources: Sources, volumes: Vec<(Volume, PathBuf)>) -> Result<Self, VolumeError> {
        write_all(&mut sources, &volumes).await?;
        let (pod, changed) = watch::channel(sources.pod.clone());
        let task = tokio::spawn(keep(sources, volumes, changed)).abort_handle();
        Ok(Keeper { pod, task })
    }

    /// The pod has new metadata.
    pub fn pod_changed(&self, pod: Arc<Pod>) {
        self.pod.send_replace(pod);
    }
}

async fn keep(mut sources: Sources, volumes: Vec<(Volume, PathBuf)>, mut pods: watch::Receiver<Arc<Pod>>) {
    let mut retry = None;
    loop {
        let wake = [sources.refresh_at(), retry.take()].into_iter().flatten().min();
        let timer = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let changed = sources.changed.clone();
        tokio::select! {
            () = changed.notified() => {}
            fresh = pods.changed() => match fresh {
                Ok(()) => sources.pod = pods.borrow_and_update().clone(),
                Err(_) => return,
            },
            () = timer => {}
        }
        if let Err(e) = write_all(&mut sources, &volumes).await {
            tracing::warn!("volume not updated: {e}");
            retry = Some(tokio::time::Instant::now() + RETRY);
        }
    }
}

async fn write_all(sources: &mut Sources, volumes: &[(Volume, PathBuf)]) -> Result<(), VolumeError> {
    for (volume, path) in volumes {
        let wrong = |detail: String| VolumeError { volume: volume.name.clone(), detail };
        let payload = sources.payload(volume).await.map_err(wrong)?;
        atomic::write(path, &payload, fs_group(&sources.pod)).map_err(|e| wrong(e.to_string()))?;
    }
    Ok(())
}
