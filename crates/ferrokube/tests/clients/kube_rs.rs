//! kube-rs: the operator is the package in `kube-rs/`, as its users would write it.

use crate::plane::{PATIENCE, scenario};
use anyhow::{Context as _, Result, ensure};
use ferrokube_testkit::tools::clients;
use std::path::Path;
use std::process::Stdio;

#[tokio::test]
async fn an_operator_with_kube_rs_keeps_what_it_made_in_step() {
    let build = || clients::operator(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/kube-rs"));
    scenario("an_operator_with_kube_rs_keeps_what_it_made_in_step", build, async |plane, operator| {
        let log = plane.home().join("operator.log");
        let out = std::fs::File::create(&log)?;
        let mut command = plane.command(&operator);
        command.env("RUST_BACKTRACE", "1").stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let done = tokio::time::timeout(PATIENCE, command.status()).await;
        let said = std::fs::read_to_string(&log)?;
        let status = done.with_context(|| format!("the operator does not get on:\n{said}"))??;
        ensure!(status.success() && said.contains("the operator is content"), "{status}: {said}");
        Result::Ok(())
    })
    .await;
}
