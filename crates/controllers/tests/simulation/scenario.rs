//! How a run goes: a user asks for things, changes them while everything goes wrong that can, then nothing goes wrong any more,
//! and what was asked for comes to be and stays.

use crate::faults::is_traced;
use crate::machine;
use crate::world::World;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;
use tokio::time::Instant;

/// Changes and mishaps of one run.
const STEPS: usize = 14;
/// Longest back-off of a queue, twice, after the farthest that the wall clock can have been set back: after this everything
/// has been tried again.
const PATIENCE: Duration = Duration::from_secs(2400 + STEPS as u64 * LEAP.unsigned_abs());
/// Farthest that the wall clock is set forth or back at a time.
const LEAP: i64 = 1800;
/// What was not seen for five minutes, all mishaps together, counts as never to be seen (`ExpectationsTimeout`).
pub const UNSEEN: Duration = Duration::from_secs(300);

/// What is asked for, and what must come of it.
pub trait Scenario: Sized {
    /// The controllers under test.
    const CONTROLLERS: &'static [&'static str];

    /// Asks for it.
    async fn install(world: &World) -> Self;

    /// One change by a user.
    async fn change(&mut self, world: &World, dice: &mut StdRng);

    /// What the user does at last, when nothing goes wrong any more.
    async fn rest(&mut self, _: &World) {}

    /// Everything that is not as it was asked for.
    async fn problems(&self, world: &World) -> Vec<String>;

    /// Everything that has been at any time and must not.
    fn violations(&self, world: &World) -> Vec<String>;
}

/// One run; says what was asked in it.
pub async fn run<S: Scenario>(seed: u64) -> String {
    machine::begin();
    let mut dice = StdRng::seed_from_u64(seed ^ 0x5eed);
    let world = World::start(seed, S::CONTROLLERS).await;
    let mut scenario = S::install(&world).await;
    for _ in 0..STEPS {
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..20_000))).await;
        if dice.random_range(0..5) < 3 {
            scenario.change(&world, &mut dice).await;
        } else {
            mishap(&world, &mut dice).await;
        }
    }
    world.faults.heal();
    scenario.rest(&world).await;
    let healed = Instant::now();
    let mut wait = Duration::from_secs(1);
    loop {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(600));
        let found = scenario.problems(&world).await;
        if found.is_empty() {
            break;
        }
        if healed.elapsed() > PATIENCE {
            fail(&world, seed, "not mended", &found);
        }
    }
    // Nothing moves any more.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let found = scenario.problems(&world).await;
    if !found.is_empty() {
        fail(&world, seed, "broke again", &found);
    }
    let found = scenario.violations(&world);
    if !found.is_empty() {
        fail(&world, seed, "must never be", &found);
    }
    let trace = world.faults.trace();
    world.stop().await;
    trace
}

fn fail(world: &World, seed: u64, what: &str, found: &[String]) -> ! {
    if is_traced() {
        world.server.history().iter().for_each(|c| println!("{c}"));
    }
    panic!("seed {seed}: {what}:\n{}", found.join("\n"));
}

/// What no user asks for.
async fn mishap(world: &World, dice: &mut StdRng) {
    match dice.random_range(0..9) {
        0 => {
            world.faults.set_away(true);
            tokio::time::sleep(Duration::from_secs(60)).await;
            world.faults.set_away(false);
        }
        1 => tokio::time::advance(Duration::from_secs(dice.random_range(30..120))).await,
        2 => machine::leap(dice.random_range(-LEAP..=LEAP)),
        3 | 4 => world.server.restart(Duration::from_millis(dice.random_range(0..30_000))).await,
        5 => world.faults.hand_over.notify_one(),
        6 => world.faults.silence(Duration::from_secs(dice.random_range(20..90))),
        7 => world.faults.hang(Duration::from_secs(dice.random_range(20..120)), dice.random_range(0..2) == 0),
        _ => world.faults.crash.notify_one(),
    }
}
