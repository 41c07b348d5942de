//! What the image tests share: a store in a temporary folder, and a mount namespace of the test's own.
#![allow(dead_code, reason = "every test file uses a part of it")]

use ferrokube_runtime::image::{Config, ImageStore};
use std::path::Path;
use tempfile::TempDir;

/// A store that goes with the test.
pub struct TestStore {
    pub store: ImageStore,
    pub dir: TempDir,
}

impl TestStore {
    pub fn new() -> Self {
        Self::with(Config::default())
    }

    pub fn with(config: Config) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = ImageStore::open(dir.path(), config.clone()).expect("an empty store opens");
        Self { store, dir }
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Names of unpacked layers.
    pub fn layers(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.root().join("layers"))
            .expect("the store has layers")
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .filter(|name| name != "empty")
            .collect();
        names.sort();
        names
    }
}

/// Whether overlay mounts can be made; if so, this thread (and those it starts) get mounts of their own.
pub fn private_mounts(test: &str) -> bool {
    if !ferrokube_testkit::tools::is_root(test) {
        return false;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root may unshare mounts");
    let flags = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).expect("root may change propagation");
    true
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The error with all of its causes, as a user sees it.
pub fn text<T>(result: Result<T, ferrokube_runtime::image::Error>) -> String {
    match result {
        Ok(_) => panic!("should have failed"),
        Err(error) => error.to_string(),
    }
}
