//! How the outcome of a workload is shown.

use super::play::Outcome;
use super::script::Workload;
use crate::table::{self, Table};

/// A table of outcomes.
pub(super) fn table(title: &str) -> Table {
    Table::new(&[title, "nodes", "before", "pods", "placed", "pods/s", "p50", "p99", "threshold", "times", "CPU each", "memory"])
}

/// A row of it. Where pods are deleted and made again, those are many.
pub(super) fn row(table: &Table, workload: &Workload, outcome: &Outcome) {
    let placed = outcome.took.len();
    let rate = placed as f64 / outcome.elapsed.as_secs_f64().max(1e-9);
    let each = u32::try_from(placed.max(1)).unwrap_or(u32::MAX);
    let cpu = outcome.cost.map(|(before, after)| (after.cpu - before.cpu) / each);
    table.row(vec![
        workload.name.to_owned(),
        workload.nodes().to_string(),
        workload.sizes.init.to_string(),
        outcome.pods.to_string(),
        placed.to_string(),
        table::rate(placed, outcome.elapsed),
        table::time(table::quantile(&outcome.took, 0.5)),
        table::time(table::quantile(&outcome.took, 0.99)),
        table::known(workload.threshold.map(|t| t.to_string())),
        table::known(workload.threshold.map(|t| format!("{:.0}", rate / f64::from(t)))),
        table::known(cpu.map(table::time)),
        table::known(outcome.cost.map(|(_, after)| table::mebibytes(after.resident))),
    ]);
}
