//! Histograms in the text format of Prometheus.

use std::fmt::Write;

/// Counts of values below each of some bounds.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Box<[u64]>,
    sum: f64,
    count: u64,
}

impl Histogram {
    /// Nothing counted yet. What is above the last bound is counted too.
    pub fn new(bounds: &'static [f64]) -> Self {
        Histogram { bounds, counts: vec![0; bounds.len()].into(), sum: 0.0, count: 0 }
    }

    /// Counts a value.
    pub fn record(&mut self, value: f64) {
        if let Some(count) = self.counts.get_mut(self.bounds.partition_point(|bound| *bound < value)) {
            *count += 1;
        }
        self.sum += value;
        self.count += 1;
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The lines of one series.
    pub fn write(&self, out: &mut String, name: &str, labels: &str) {
        let mut below = 0;
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            below += count;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{}\"}} {below}", shown(*bound));
        }
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {}", self.sum, self.count);
    }
}

/// As Go writes it: large bounds with an exponent.
fn shown(bound: f64) -> String {
    if bound < 1e6 { bound.to_string() } else { format!("{bound:e}").replace('e', "e+0") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_below_their_bounds() {
        let mut histogram = Histogram::new(&[1.0, 10.0, 1e6]);
        [0.5, 1.0, 7.0, 2e6].into_iter().for_each(|v| histogram.record(v));
        let mut out = String::new();
        histogram.write(&mut out, "x", "a=\"b\"");
        let lines = [
            "x_bucket{a=\"b\",le=\"1\"} 2",
            "x_bucket{a=\"b\",le=\"10\"} 3",
            "x_bucket{a=\"b\",le=\"1e+06\"} 3",
            "x_bucket{a=\"b\",le=\"+Inf\"} 4",
            "x_sum{a=\"b\"} 2000008.5",
            "x_count{a=\"b\"} 4",
        ];
        assert_eq!(out.lines().collect::<Vec<_>>(), lines);
    }
}
