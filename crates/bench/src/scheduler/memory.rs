//! The whole scheduler over objects in memory: its queue, its events, its writes, and no server.

use super::play::{Ground, Play};
use super::script::Workload;
use super::world::{self, World};
use super::{Args, rows};
use crate::process::Meter;
use anyhow::Context;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Measures.
pub(super) async fn run(args: &Args, workloads: &[Workload]) -> anyhow::Result<()> {
    let table = rows::table("workload (whole scheduler, in memory)");
    for workload in workloads {
        let (sender, seen) = mpsc::unbounded_channel();
        let world = Arc::new(World::new(sender));
        // The scheduler is in this process, and so is the rest of the play: its cost is that of both.
        let meter = Meter::new(vec![std::process::id()])?;
        let limits = (args.concurrency, Duration::from_secs(args.timeout));
        let play = Play::new(Ground::World(world.clone()), workload, limits, seen, meter, &|_| ());
        let outcome = tokio::select! {
            outcome = play.play() => outcome,
            ended = world::schedule(world, workload.configuration) => ended.and_then(|()| anyhow::bail!("the scheduler has ended")),
        };
        rows::row(&table, workload, &outcome.with_context(|| workload.name)?);
    }
    Ok(())
}
