//! Markdown tables whose rows are shown as they come: a long run shows how far it is.

use std::io::Write;
use std::time::Duration;

/// A table that is being printed.
pub(crate) struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// Prints the head. The first column is for words and wide.
    pub fn new(columns: &[&str]) -> Table {
        let widths = columns.iter().enumerate().map(|(i, c)| c.chars().count().max(if i == 0 { 44 } else { 9 })).collect();
        let table = Table { widths };
        table.row(columns.iter().map(|c| (*c).to_owned()).collect());
        println!("|{}|", table.widths.iter().map(|w| "-".repeat(w + 2)).collect::<Vec<_>>().join("|"));
        table
    }

    /// Prints a row.
    pub fn row(&self, cells: Vec<String>) {
        let padded: Vec<String> = cells.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("| {} |", padded.join(" | "));
        // Nobody is harmed when the reader has gone.
        let _ = std::io::stdout().flush();
    }
}

/// A duration with three figures that matter.
pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

/// A rate.
pub(crate) fn rate(count: usize, elapsed: Duration) -> String {
    let rate = count as f64 / elapsed.as_secs_f64().max(1e-9);
    if rate >= 10.0 { format!("{rate:.0}") } else { format!("{rate:.2}") }
}

/// Bytes as MiB.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// A value that may not be known.
pub(crate) fn known(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

/// The value below which a share `q` of sorted values lie.
pub(crate) fn quantile(sorted: &[Duration], q: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((sorted.len() as f64 * q) as usize).min(last)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_figures() {
        for (micros, want) in [(7, "7.00 µs"), (42_500, "42.5 ms"), (136_000, "136 ms"), (2_346_000, "2.35 s"), (0, "0.00 µs")] {
            assert_eq!(time(Duration::from_micros(micros)), want);
        }
    }

    #[test]
    fn quantiles_are_of_the_values_given() {
        let values: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&values, 0.5), Duration::from_millis(51));
        assert_eq!(quantile(&values, 0.999), Duration::from_millis(100));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
