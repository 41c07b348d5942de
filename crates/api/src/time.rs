//! Times and durations as the API writes and shows them.
//!
//! `metav1.Time` is RFC 3339 in whole seconds, `metav1.MicroTime` in microseconds, both UTC. [`parse_duration`] reads Go's, [`human_duration`] is the
//! age that Tables show (apimachinery `util/duration`). Nothing here reads a clock.

use jiff::Timestamp;

/// `metav1.Time`: `2026-01-02T15:04:05Z`.
pub fn format_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime`: `2026-01-02T15:04:05.000000Z`.
pub fn format_micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Reads RFC 3339.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Whole seconds from `since` to `now`.
pub fn seconds_since(since: Timestamp, now: Timestamp) -> i64 {
    now.as_second() - since.as_second()
}

/// A duration in the two most telling units: `45s`, `5m30s`, `3h12m`, `5d3h`, `2y17d`.
pub fn human_duration(seconds: i64) -> String {
    // Clocks of two machines differ a little; more than that is not a duration.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let pair = |whole: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{small}") }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        pair(minutes, "m", seconds % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        pair(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 24 * 8 {
        pair(days, "d", hours % 24, "h")
    } else if hours < 24 * 365 * 2 {
        format!("{days}d")
    } else if hours < 24 * 365 * 8 {
        pair(years, "y", days % 365, "d")
    } else {
        format!("{years}y")
    }
}

/// Go's `time.ParseDuration`, in nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let whole_end = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, tail) = rest.split_at(whole_end);
        let (fraction, tail) = match tail.strip_prefix('.') {
            Some(tail) => tail.split_at(tail.bytes().take_while(u8::is_ascii_digit).count()),
            None => ("", tail),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_end = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let unit: i128 = match &tail[..unit_end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = &tail[unit_end..];
        let whole: i128 =
            if whole.is_empty() { 0 } else { whole.get(..whole.len().min(19)).filter(|w| w.len() == whole.len())?.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        let fraction = &fraction[..fraction.len().min(15)];
        if !fraction.is_empty() {
            total += fraction.parse::<i128>().ok()? * unit / 10_i128.pow(fraction.len() as u32);
        }
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// The age of a timestamp as Tables show it; `<unknown>` when there is none.
pub fn age(text: Option<&str>, now: Timestamp) -> String {
    match text.and_then(parse_time) {
        Some(at) => human_duration(seconds_since(at, now)),
        None => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_in_go() {
        for (text, nanos) in [("1h30m", 5_400_000_000_000), ("1.5s", 1_500_000_000), ("-10ms", -10_000_000), ("0", 0), ("2us", 2_000)] {
            assert_eq!(parse_duration(text), Some(nanos), "{text}");
        }
        for text in ["", "1", "s", "1d", "9223372036854775808ns", "1h-2m", "é"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations_show_two_units_at_most() {
        for (seconds, want) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600 + 60, "8h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86400, "8d"),
            (729 * 86400, "729d"),
            (2 * 365 * 86400, "2y"),
            ((2 * 365 + 17) * 86400, "2y17d"),
            (9 * 365 * 86400, "9y"),
        ] {
            assert_eq!(human_duration(seconds), want, "{seconds}");
        }
    }

    #[test]
    fn times_are_written_as_the_api_does() {
        let at: Timestamp = "2026-01-02T15:04:05.25Z".parse().expect("a literal");
        assert_eq!(format_time(at), "2026-01-02T15:04:05Z");
        assert_eq!(format_micro_time(at), "2026-01-02T15:04:05.250000Z");
    }
}
