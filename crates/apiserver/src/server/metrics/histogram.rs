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
        let comma = if labels.is_empty() { "" } else { "," };
        let own = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            below += count;
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {below}", shown(*bound));
        }
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(out, "{name}_sum{own} {}\n{name}_count{own} {}", self.sum, self.count);
    }
}

/// As Go writes it: very large and very small bounds with an exponent.
fn shown(bound: f64) -> String {
    let text = format!("{bound:e}");
    match bound {
        _ if bound >= 1e6 => text.replace('e', "e+0"),
        _ if bound < 1e-4 && bound > 0.0 => text.replace("e-", "e-0"),
        _ => bound.to_string(),
    }
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
        let (mut small, mut out) = (Histogram::new(&[0.000_000_5, 0.001]), String::new());
        small.record(0.0001);
        small.write(&mut out, "x", "");
        let lines = ["x_bucket{le=\"5e-07\"} 0", "x_bucket{le=\"0.001\"} 1", "x_bucket{le=\"+Inf\"} 1", "x_sum 0.0001", "x_count 1"];
        assert_eq!(out.lines().collect::<Vec<_>>(), lines);
    }
}
