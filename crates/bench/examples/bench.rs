//! The bench tool by itself, as `ferrokube bench` is: `cargo run --release -p ferrokube-bench --example bench -- api --kubeconfig FILE`.

use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: ferrokube_bench::Args,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    ferrokube_bench::run(Cli::parse().args).await
}
