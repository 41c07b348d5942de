//! The five fields of a cron schedule, in a time zone: pure.
//!
//! The dialect of `robfig/cron` standard parser: names of months and days, steps, ranges, lists, `?`, `@hourly` and its
//! kin, `@every`. When both days are restricted, one that matches is enough.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// When things happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Times of the wall clock, as sets of bits.
    Fields { minutes: u64, hours: u64, days: u64, months: u64, weekdays: u64, any_day: bool, any_weekday: bool },
    /// Every so many seconds.
    Every(i64),
}

/// Reads a schedule; the error says what is wrong.
pub fn parse(text: &str) -> Result<Schedule, String> {
    let text = text.trim();
    let text = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other => other,
    };
    if let Some(every) = text.strip_prefix("@every ") {
        let span: jiff::SignedDuration = every.trim().parse().map_err(|e| format!("failed to parse duration {text}: {e}"))?;
        return Ok(Schedule::Every(span.as_secs().max(1)));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else {
        return Err(format!("expected exactly 5 fields, found {}: [{text}]", fields.len()));
    };
    let is_any = |field: &str| field.split(',').any(|p| p.starts_with('*') || p.starts_with('?'));
    Ok(Schedule::Fields {
        minutes: field(minute, 0, 59, &[])?,
        hours: field(hour, 0, 23, &[])?,
        days: field(day, 1, 31, &[])?,
        months: field(month, 1, 12, &MONTHS)?,
        weekdays: field(weekday, 0, 6, &DAYS)?,
        any_day: is_any(day),
        any_weekday: is_any(weekday),
    })
}

fn field(text: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, String> {
    text.split(',').try_fold(0, |bits, part| Ok(bits | range(part, low, high, names)?))
}

fn range(part: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, String> {
    let (span, step) = match part.split_once('/') {
        Some((span, step)) => (
            span,
            Some(step.parse::<u32>().ok().filter(|s| *s > 0).ok_or_else(|| format!("step of range should be a positive number: {part}"))?),
        ),
        None => (part, None),
    };
    let value = |text: &str| {
        let lower = text.to_lowercase();
        let named = names.iter().position(|n| *n == lower).and_then(|at| u32::try_from(at).ok()).map(|at| at + low);
        named.or_else(|| text.parse().ok()).ok_or_else(|| format!("failed to parse int from {text}"))
    };
    let (first, last) = match span.split_once('-') {
        Some((first, last)) => (value(first)?, value(last)?),
        None if span == "*" || span == "?" => (low, high),
        None => (value(span)?, if step.is_some() { high } else { value(span)? }),
    };
    if first < low || last > high || first > last {
        return Err(format!("range ({first}-{last}) outside of ({low}-{high}): {part}"));
    }
    let step = usize::try_from(step.unwrap_or(1)).unwrap_or(1);
    Ok((first..=last).step_by(step).fold(0, |bits, at| bits | 1 << at))
}

fn has(bits: u64, at: i8) -> bool {
    u32::try_from(at).is_ok_and(|at| bits >> at & 1 == 1)
}

impl Schedule {
    /// The first time after this one; `None` when there is none within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(seconds) => Timestamp::from_second(after.as_second() + seconds).ok(),
            Schedule::Fields { .. } => self.next_of_clock(after, zone),
        }
    }

    fn next_of_clock(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = after.to_zoned(zone.clone()).datetime();
        let mut at = DateTime::from_parts(start.date(), Time::constant(start.hour(), start.minute(), 0, 0)).checked_add(1.minute()).ok()?;
        let limit = start.checked_add(5.years()).ok()?;
        while at <= limit {
            match self.skip(at) {
                Some((step, floor)) => at = floor.checked_add(step).ok()?,
                None => {
                    // A time that the clock leaves out or shows twice: the first instant that exists and is later.
                    let instant = zone.to_ambiguous_zoned(at).compatible().ok()?;
                    if instant.timestamp() > after && (instant.datetime() == at) {
                        return Some(instant.timestamp());
                    }
                    at = at.checked_add(1.minute()).ok()?;
                }
            }
        }
        None
    }

    /// How far to go on from a time that does not match.
    fn skip(&self, at: DateTime) -> Option<(Span, DateTime)> {
        let Schedule::Fields { minutes, hours, days, months, weekdays, any_day, any_weekday } = self else { return None };
        let midnight = DateTime::from_parts(at.date(), Time::midnight());
        if !has(*months, at.month()) {
            return Some((1.month(), DateTime::from_parts(at.date().first_of_month(), Time::midnight())));
        }
        let (day, weekday) = (has(*days, at.day()), has(*weekdays, at.weekday().to_sunday_zero_offset()));
        let fits = if *any_day || *any_weekday { day && weekday } else { day || weekday };
        if !fits {
            return Some((1.day(), midnight));
        }
        if !has(*hours, at.hour()) {
            return Some((1.hour(), DateTime::from_parts(at.date(), Time::constant(at.hour(), 0, 0, 0))));
        }
        (!has(*minutes, at.minute())).then(|| (1.minute(), at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(text: &str, after: &str, zone: &TimeZone) -> String {
        parse(text).unwrap().next(after.parse().unwrap(), zone).map(|t| t.to_string()).unwrap_or_default()
    }

    #[test]
    fn schedules_say_when_they_are_next() {
        let cases = [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"),
            ("30 4 * * *", "2026-01-01T05:00:00Z", "2026-01-02T04:30:00Z"),
            ("0 0 29 feb *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 9 * * MON-FRI", "2026-01-02T10:00:00Z", "2026-01-05T09:00:00Z"),
            ("0 0 13 * 5", "2026-01-03T00:00:00Z", "2026-01-09T00:00:00Z"),
            ("@hourly", "2026-01-01T00:00:01Z", "2026-01-01T01:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"),
            ("0 0 31 2 *", "2026-01-01T00:00:00Z", ""),
            ("10-20/5,40 1 1 1 ?", "2026-01-01T01:11:00Z", "2026-01-01T01:15:00Z"),
        ];
        for (text, after, expected) in cases {
            assert_eq!(next(text, after, &TimeZone::UTC), expected, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "5-1 * * * *", "x * * * *"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_fixed_offset_shifts_the_wall_clock() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(next("0 9 * * *", "2026-01-01T00:00:00Z", &zone), "2026-01-01T07:00:00Z");
    }
}
