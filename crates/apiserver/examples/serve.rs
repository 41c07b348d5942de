//! The API server by itself, for trying it out: `cargo run -p ferrokube-apiserver --example serve -- <folder> [port]`.
//! Keeps its store and keys in the folder and writes `<folder>/kubeconfig` for the cluster's administrator.

#[path = "../tests/common/pki.rs"]
mod pki;

/// As the binary has it, so that what is measured here holds there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use ferrokube_apiserver::ApiServer;
use std::sync::Arc;
use std::time::Instant;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let started = Instant::now();
    let mut arguments = std::env::args().skip(1);
    let folder = std::path::PathBuf::from(arguments.next().unwrap_or_else(|| "/tmp/ferrokube-apiserver".to_owned()));
    let port: u16 = arguments.next().and_then(|p| p.parse().ok()).unwrap_or(0);
    std::fs::create_dir_all(&folder)?;
    let store = ferrokube_store::embedded::Embedded::open(&folder.join("store"), ferrokube_store::embedded::Options::default())?;
    let pki = pki::Pki::make()?;
    let mut config = pki.config(Arc::new(store));
    config.listen = Some(([127, 0, 0, 1], port).into());
    let keys = started.elapsed();
    let running = ApiServer::start(config).await?;
    let address = running.address.expect("it listens");
    std::fs::write(folder.join("kubeconfig"), pki.kubeconfig(&address.to_string()))?;
    println!("https://{address} ready after {:?} (keys {keys:?})", started.elapsed());
    tokio::signal::ctrl_c().await?;
    running.stop().await;
    Ok(())
}
