//! kubectl, a minor older and a minor newer than the server: the same day's work with both.

mod access;
mod aggregated;
mod discovery;
mod objects;
mod refusals;
mod workloads;

use crate::hollow;
use crate::plane::{PATIENCE, Plane, scenario};
use anyhow::{Result, bail, ensure};
use ferrokube_testkit::tools::clients;
use ferrokube_testkit::wait_for;
use std::path::PathBuf;

/// kubectl with the administrator's kubeconfig.
pub struct Kubectl<'p> {
    plane: &'p Plane,
    program: PathBuf,
}

impl<'p> Kubectl<'p> {
    pub fn new(plane: &'p Plane, program: PathBuf) -> Self {
        Self { plane, program }
    }

    /// Runs it with arguments separated by blanks.
    pub async fn run(&self, args: &str) -> Result<String> {
        self.feed(args, "").await
    }

    /// Runs it with these arguments.
    pub async fn args(&self, args: &[&str]) -> Result<String> {
        self.plane.run(&self.program, args, "").await
    }

    /// Runs it with arguments separated by blanks, and this on its standard input.
    pub async fn feed(&self, args: &str, input: &str) -> Result<String> {
        self.plane.run(&self.program, &args.split_whitespace().collect::<Vec<_>>(), input).await
    }

    /// A kubectl that must fail, and what it says then.
    async fn fails(&self, args: &str) -> Result<String> {
        self.fails_with(args, "").await
    }

    async fn fails_with(&self, args: &str, input: &str) -> Result<String> {
        match self.feed(args, input).await {
            Ok(output) => bail!("kubectl {args} should fail and said {output}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Runs it and looks for this in what it prints.
    async fn says(&self, args: &str, expected: &str) -> Result<()> {
        let said = self.run(args).await?;
        ensure!(said.contains(expected), "kubectl {args} should say {expected:?} and said:\n{said}");
        Ok(())
    }

    /// Runs it again and again until it prints this: what controllers do takes its time.
    async fn comes_to_say(&self, args: &str, expected: &str) -> Result<()> {
        wait_for(&format!("kubectl {args} to say {expected:?}"), PATIENCE, async || self.says(args, expected).await).await
    }

    /// Runs it again and again until it fails and says one of these.
    async fn comes_to_fail(&self, args: &str, expected: &[&str]) -> Result<()> {
        wait_for(&format!("kubectl {args} to fail"), PATIENCE, async || {
            let said = self.fails(args).await?;
            ensure!(expected.iter().any(|words| said.contains(words)), "{said}");
            Ok(())
        })
        .await
    }

    /// Runs it and compares all that it prints, apart from blanks at the ends.
    async fn prints(&self, args: &str, expected: &str) -> Result<()> {
        let said = self.run(args).await?;
        ensure!(said.trim() == expected.trim(), "kubectl {args} should print\n{expected}\nand printed\n{said}");
        Ok(())
    }
}

/// What kubectl says of a kind that is no more: the first one when it still has it in mind.
const NO_SUCH_KIND: [&str; 2] = ["the server could not find the requested resource", "doesn't have a resource type"];

/// Lines of a table as words, without the column that tells the age.
fn rows(table: &str) -> Vec<Vec<&str>> {
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let age = lines.first().and_then(|head| head.iter().position(|&name| name == "AGE"));
    let without_age = lines.into_iter().map(move |row| row.into_iter().enumerate().filter(move |(at, _)| Some(*at) != age));
    without_age.map(|row| row.map(|(_, cell)| cell).collect()).collect()
}

async fn a_days_work(name: &str, tool: fn() -> Result<PathBuf>) {
    scenario(name, tool, async |plane, program| {
        let kubectl = Kubectl::new(plane, program);
        discovery::whole(&kubectl).await?;
        objects::whole(&kubectl).await?;
        access::whole(&kubectl).await?;
        let _node = hollow::start(plane).await?;
        workloads::whole(&kubectl).await
    })
    .await;
}

#[tokio::test]
async fn an_older_kubectl_does_a_days_work() {
    a_days_work("an_older_kubectl_does_a_days_work", clients::kubectl_older).await;
}

#[tokio::test]
async fn a_newer_kubectl_does_a_days_work() {
    a_days_work("a_newer_kubectl_does_a_days_work", clients::kubectl_newer).await;
}
