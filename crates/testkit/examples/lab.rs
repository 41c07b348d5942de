//! A command (or a shell) on a node of a lab, for trying things out:
//! `cargo run -p ferrokube-testkit --example lab -- bash -c 'ip addr'`.

use ferrokube_testkit::lab::Lab;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut command: Vec<_> = std::env::args().skip(1).collect();
    if command.is_empty() {
        command.push("bash".to_owned());
    }
    let lab = Lab::new()?;
    let node = lab.node("n1")?;
    eprintln!("node {} at {}, process {}, HOME {}", node.name(), node.address(), node.pid(), node.home().display());
    let status = node.command(command).status().await?;
    drop((node, lab));
    std::process::exit(status.code().unwrap_or(1));
}
