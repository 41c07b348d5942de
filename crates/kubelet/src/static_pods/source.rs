//! The directory of static pods, followed: by inotify, and every 20 seconds where that says nothing.

use super::{full_name, manifest};
use crate::inotify::{Of, Watch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// fileCheckFrequency.
const CHECK: Duration = Duration::from_secs(20);

/// The pods that the files ask for.
pub type Pods = Vec<Arc<Pod>>;

/// What stands in the directory now, by file; files that are no pods are told once for each content and left out.
pub struct Directory {
    path: PathBuf,
    node: String,
    /// Content and pod of each file, so that a file is read as a pod once.
    known: BTreeMap<PathBuf, (Vec<u8>, Option<Arc<Pod>>)>,
}

impl Directory {
    /// Nothing has been read yet.
    pub fn new(path: PathBuf, node: String) -> Self {
        Directory { path, node, known: BTreeMap::new() }
    }

    /// Reads the directory. Of files that ask for the same pod the first one counts.
    pub fn read(&mut self) -> Pods {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        let hidden = |p: &Path| p.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        let files: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| !hidden(p) && p.is_file()).collect();
        let mut before = std::mem::take(&mut self.known);
        for file in files {
            match std::fs::read(&file) {
                Ok(text) => {
                    let same = before.remove(&file).filter(|(known, _)| *known == text);
                    let entry = same.unwrap_or_else(|| (text.clone(), self.pod(&file, &text)));
                    self.known.insert(file, entry);
                }
                Err(e) => tracing::warn!(file = %file.display(), "static pod: {e}"),
            }
        }
        let mut names = HashSet::new();
        self.known.values().filter_map(|(_, pod)| pod.clone()).filter(|pod| names.insert(full_name(pod))).collect()
    }

    fn pod(&self, file: &Path, text: &[u8]) -> Option<Arc<Pod>> {
        let read = manifest::read(text, file, &self.node, Timestamp::now());
        read.inspect_err(|e| tracing::error!(file = %file.display(), "static pod: {e}")).ok().map(Arc::new)
    }
}

/// Follows the directory for ever, from what was read of it last.
pub async fn follow(mut directory: Directory, pods: watch::Sender<Pods>) {
    loop {
        // Watched before it is read: what changes in between is found the next time.
        let of = Of::IN_CLOSE_WRITE | Of::IN_MOVED_TO | Of::IN_MOVED_FROM | Of::IN_DELETE | Of::IN_DELETE_SELF;
        let watch = Watch::new(&[(&directory.path, of)]);
        loop {
            let read = directory.read();
            pods.send_if_modified(|known| {
                let changed = *known != read;
                *known = read;
                changed
            });
            let looked = match &watch {
                Ok(watch) => tokio::time::timeout(CHECK, watch.changed()).await,
                // A directory that is not there may come.
                Err(_) => {
                    tokio::time::sleep(CHECK).await;
                    break;
                }
            };
            // After a quiet time it is watched anew, in case it is another directory by now.
            if !matches!(looked, Ok(Ok(()))) {
                break;
            }
        }
        if pods.is_closed() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, image: &str) -> String {
        format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  containers:\n  - name: c\n    image: {image}\n")
    }

    fn names(pods: &Pods) -> Vec<String> {
        pods.iter().map(|p| full_name(p).1).collect()
    }

    #[tokio::test]
    async fn the_directory_is_followed_and_bad_files_hide_no_good_ones() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            // As editors and kubeadm do it: whole or not at all.
            std::fs::write(root.path().join(".new"), text).unwrap();
            std::fs::rename(root.path().join(".new"), root.path().join(name)).unwrap();
        };
        write("a.yaml", &manifest("a", "one"));
        write("bad.yaml", "what is this");
        write(".hidden.yaml", &manifest("hidden", "one"));
        let mut directory = Directory::new(root.path().to_owned(), "n".into());
        let first = directory.read();
        assert_eq!(names(&first), ["a-n"]);
        let (sender, mut pods) = watch::channel(first.clone());
        let task = tokio::spawn(follow(directory, sender));
        write("b.json", &manifest("b", "one"));
        pods.wait_for(|pods| names(pods) == ["a-n", "b-n"]).await.unwrap();
        write("a.yaml", &manifest("a", "two"));
        let uid = first[0].metadata.uid.clone();
        pods.wait_for(|pods| pods.len() == 2 && pods[0].metadata.uid != uid).await.unwrap();
        std::fs::remove_file(root.path().join("a.yaml")).unwrap();
        pods.wait_for(|pods| names(pods) == ["b-n"]).await.unwrap();
        write("c.yaml", &manifest("b", "two"));
        write("bad.yaml", &manifest("good", "one"));
        pods.wait_for(|pods| names(pods) == ["b-n", "good-n"]).await.unwrap();
        task.abort();
    }
}
