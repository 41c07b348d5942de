//! Seats between levels: every ten seconds each level gets what it lately needed, within what it must keep and may
//! borrow; when that is too much or too little for all, everyone's wish is scaled by the same factor.
//!
//! Source: KEP-1040 "Dispatching and borrowing", `apf_controller.go updateBorrowing`, `conc_alloc.go`.

use super::FlowControl;
use super::level::Level;
use std::sync::Arc;
use std::time::Duration;

/// Between adjustments.
const PERIOD: Duration = Duration::from_secs(10);
/// Samples per period.
const SAMPLES: u32 = 10;
/// How slowly a demand that is gone is forgotten (half of it in five minutes).
const DECAY: f64 = 0.977;

/// What a level needed lately, in seats.
#[derive(Debug, Default)]
pub(super) struct Demand {
    sum: f64,
    squares: f64,
    samples: u32,
    smooth: f64,
}

impl Demand {
    pub fn sample(&mut self, seats: u32) {
        self.sum += f64::from(seats);
        self.squares += f64::from(seats) * f64::from(seats);
        self.samples += 1;
    }

    /// The demand to provide for: quick to rise, slow to fall.
    fn settle(&mut self) -> f64 {
        let n = f64::from(self.samples.max(1));
        let average = self.sum / n;
        let deviation = (self.squares / n - average * average).max(0.0).sqrt();
        let envelope = average + deviation;
        self.smooth = envelope.max(DECAY * self.smooth + (1.0 - DECAY) * envelope);
        (self.sum, self.squares, self.samples) = (0.0, 0.0, 0);
        self.smooth
    }
}

/// What a level must get, wants, and may get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Claim {
    pub low: f64,
    pub wish: f64,
    pub high: f64,
}

/// Shares `total` seats out: everyone gets `factor * wish` between low and high, with the one factor that uses them all.
pub(super) fn share(total: f64, claims: &[Claim]) -> Vec<f64> {
    let given = |factor: f64| -> Vec<f64> { claims.iter().map(|c| (c.wish * factor).clamp(c.low, c.high.max(c.low))).collect() };
    let sum = |factor: f64| given(factor).iter().sum::<f64>();
    let (mut low, mut high) = (0.0, 1.0);
    while sum(high) < total && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if sum(middle) < total { low = middle } else { high = middle }
    }
    given(high)
}

fn sample(control: &FlowControl) {
    for level in control.plan.load().levels.values() {
        level.demand.lock().sample(level.demand_now());
    }
}

/// Sets the limits of all levels anew.
pub(super) fn adjust(control: &FlowControl) {
    let plan = control.plan.load_full();
    let mut exempt = 0.0;
    let mut levels: Vec<(&Arc<Level>, Claim)> = Vec::new();
    for level in plan.levels.values() {
        let (shape, high, smooth) = (level.shape(), level.take_high(), level.demand.lock().settle());
        if shape.exempt {
            // Exempt requests are not limited; the others share what they leave.
            exempt += f64::from(shape.min).max(smooth);
            continue;
        }
        let low = f64::from(shape.min.max(shape.nominal.min(high)));
        levels.push((level, Claim { low, wish: smooth.max(low).max(1.0), high: f64::from(shape.max) }));
    }
    let claims: Vec<Claim> = levels.iter().map(|(_, c)| *c).collect();
    let needed: f64 = claims.iter().map(|c| c.low).sum();
    let total = (f64::from(control.seats) - exempt).max(needed);
    for ((level, _), seats) in levels.iter().zip(share(total, &claims)) {
        // A level that may have none is closed; every other can go on.
        let seats = (seats.round() as u32).max(u32::from(level.shape().max > 0));
        if seats != level.limit() {
            level.set_limit(seats);
        }
    }
}

pub(super) async fn run(control: &FlowControl) {
    let mut tick = tokio::time::interval(PERIOD / SAMPLES);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        for _ in 0..SAMPLES {
            tick.tick().await;
            sample(control);
        }
        adjust(control);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(low: f64, wish: f64, high: f64) -> Claim {
        Claim { low, wish, high }
    }

    fn shared(total: f64, claims: &[Claim]) -> Vec<i64> {
        share(total, claims).into_iter().map(|s| s.round() as i64).collect()
    }

    #[test]
    fn seats_follow_the_wishes_within_the_bounds() {
        assert_eq!(shared(100.0, &[claim(10.0, 80.0, 100.0), claim(10.0, 10.0, 100.0)]), [89, 11], "spare seats go by wish");
        assert_eq!(shared(100.0, &[claim(50.0, 100.0, 100.0), claim(10.0, 100.0, 100.0)]), [50, 50], "equal wishes, equal seats");
        assert_eq!(
            shared(100.0, &[claim(70.0, 70.0, 100.0), claim(10.0, 500.0, 100.0)]),
            [70, 30],
            "nobody gets less than its lower bound"
        );
        assert_eq!(shared(100.0, &[claim(10.0, 10.0, 20.0), claim(10.0, 10.0, 30.0)]), [20, 30], "nor more than its upper one");
    }

    #[test]
    fn demand_rises_at_once_and_falls_slowly() {
        let mut demand = Demand::default();
        (0..10).for_each(|_| demand.sample(100));
        assert_eq!(demand.settle(), 100.0);
        (0..10).for_each(|_| demand.sample(0));
        assert_eq!(demand.settle(), 97.7);
    }
}
