//! A closed loop: so many workers, each with one request at a time, for a time or a number of requests.

use crate::process::{Meter, Usage};
use crate::table::{self, Table};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// When a loop ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After this many operations.
    Count(usize),
}

/// What came of a loop.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// How long each operation that succeeded took, sorted.
    pub took: Vec<Duration>,
    /// From the first to the last.
    pub elapsed: Duration,
    /// Bytes of the answers.
    pub bytes: u64,
    /// Operations that failed.
    pub errors: usize,
    /// Why the first of them did.
    pub first_error: Option<String>,
    /// What the server used meanwhile, and its memory at the end.
    pub cost: Option<Usage>,
}

/// Runs `operation(worker, serial)` in `workers` loops. It returns the bytes it received.
pub(crate) async fn run<F, O>(workers: usize, until: Until, meter: &Meter, operation: F) -> Outcome
where
    F: Fn(usize, usize) -> O + Send + Sync + 'static,
    O: Future<Output = anyhow::Result<usize>> + Send,
{
    let operation = Arc::new(operation);
    let serial = Arc::new(AtomicUsize::new(0));
    let before = meter.read();
    let started = Instant::now();
    let tasks: Vec<_> = (0..workers)
        .map(|worker| {
            let (operation, serial) = (Arc::clone(&operation), Arc::clone(&serial));
            tokio::spawn(async move {
                let mut part = Outcome::default();
                loop {
                    let number = serial.fetch_add(1, Ordering::Relaxed);
                    let over = match until {
                        Until::Elapsed(time) => started.elapsed() >= time,
                        Until::Count(count) => number >= count,
                    };
                    // A server that refuses everything shall not be asked millions of times.
                    if over || part.errors >= 100 {
                        return part;
                    }
                    let at = Instant::now();
                    match operation(worker, number).await {
                        Ok(bytes) => {
                            part.took.push(at.elapsed());
                            part.bytes += bytes as u64;
                        }
                        Err(error) => {
                            part.errors += 1;
                            part.first_error.get_or_insert_with(|| format!("{error:#}"));
                        }
                    }
                }
            })
        })
        .collect();
    let mut outcome = Outcome::default();
    for task in tasks {
        match task.await {
            Ok(part) => {
                outcome.took.extend(part.took);
                outcome.bytes += part.bytes;
                outcome.errors += part.errors;
                outcome.first_error = outcome.first_error.or(part.first_error);
            }
            Err(error) => {
                outcome.errors += 1;
                outcome.first_error.get_or_insert_with(|| error.to_string());
            }
        }
    }
    outcome.elapsed = started.elapsed();
    outcome.took.sort_unstable();
    outcome.cost = before.zip(meter.read()).map(|(a, b)| Usage { cpu: b.cpu.saturating_sub(a.cpu), resident: b.resident });
    outcome
}

impl Outcome {
    /// CPU time of the server for one operation.
    pub fn cpu_each(&self) -> Option<Duration> {
        let count = u32::try_from(self.took.len()).ok().filter(|c| *c > 0)?;
        self.cost.map(|cost| cost.cpu / count)
    }

    /// Prints the row of this loop.
    pub fn show(&self, table: &Table, work: &str, workers: usize) {
        let cells = vec![
            work.to_owned(),
            workers.to_string(),
            table::rate(self.took.len(), self.elapsed),
            table::time(table::quantile(&self.took, 0.5)),
            table::time(table::quantile(&self.took, 0.99)),
            table::time(table::quantile(&self.took, 0.999)),
            format!("{:.1}", self.bytes as f64 / 1e6 / self.elapsed.as_secs_f64().max(1e-9)),
            table::known(self.cpu_each().map(table::time)),
            table::known(self.cost.map(|c| table::mebibytes(c.resident))),
            self.errors.to_string(),
        ];
        table.row(cells);
        self.complain(work);
    }

    /// Says why operations failed, if any did.
    pub fn complain(&self, work: &str) {
        if let Some(error) = &self.first_error {
            eprintln!("{work}: {} failed, the first one: {error}", self.errors);
        }
    }
}

/// The columns of [`Outcome::show`].
pub(crate) const COLUMNS: [&str; 10] =
    ["work", "workers", "per s", "p50", "p99", "p99.9", "MB/s", "server CPU each", "server RSS", "errors"];

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_counted_loop_does_each_operation_once_and_keeps_errors_apart() {
        let done = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&done);
        let operation = move |_, serial: usize| {
            counter.fetch_add(1, Ordering::Relaxed);
            async move { if serial.is_multiple_of(10) { Err(anyhow::anyhow!("number {serial}")) } else { Ok(3) } }
        };
        let outcome = run(7, Until::Count(100), &Meter::default(), operation).await;
        assert_eq!(done.load(Ordering::Relaxed), 100);
        assert_eq!((outcome.took.len(), outcome.errors, outcome.bytes), (90, 10, 270));
        assert!(outcome.first_error.is_some() && outcome.cpu_each().is_none());
    }
}
