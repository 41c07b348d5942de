//! `ferrokube bench` without the rest of the binary, which takes minutes to compile:
//! `cargo run --release -p ferrokube-bench --example bench -- scheduler --in-memory`.

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
