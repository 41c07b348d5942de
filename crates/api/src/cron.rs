//! Cron expressions: five fields, or one of the words that start with `@`.
//!
//! The dialect of `robfig/cron`'s standard parser: names of months and days, steps, ranges, lists, `?`. One reader for
//! those who check a schedule and for those who follow it: what is accepted can be kept.

use crate::time::parse_duration;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// When things happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Times of the wall clock.
    Clock(Clock),
    /// Every so many seconds.
    Every(i64),
}

/// Times of the wall clock, as sets of bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// 0 to 59.
    pub minutes: u64,
    /// 0 to 23.
    pub hours: u64,
    /// Days of the month, 1 to 31.
    pub days: u64,
    /// 1 to 12.
    pub months: u64,
    /// Sunday is 0.
    pub weekdays: u64,
    /// A day has to be in both sets, because one of them was written with a star. Otherwise one that is in either will do.
    pub both_days: bool,
}

struct Bounds {
    low: i64,
    high: i64,
    names: &'static [&'static str],
}

const fn bounds(low: i64, high: i64, names: &'static [&'static str]) -> Bounds {
    Bounds { low, high, names }
}

/// Reads a schedule; the error says what is wrong.
pub fn parse(text: &str) -> Result<Schedule, String> {
    if text.starts_with('@') {
        return descriptor(text);
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    };
    let (minutes, _) = field(minute, &bounds(0, 59, &[]))?;
    let (hours, _) = field(hour, &bounds(0, 23, &[]))?;
    let (days, any_day) = field(day, &bounds(1, 31, &[]))?;
    let (months, _) = field(month, &bounds(1, 12, &MONTHS))?;
    let (weekdays, any_weekday) = field(weekday, &bounds(0, 6, &DAYS))?;
    Ok(Schedule::Clock(Clock { minutes, hours, days, months, weekdays, both_days: any_day || any_weekday }))
}

fn descriptor(text: &str) -> Result<Schedule, String> {
    let fields = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let every = text.strip_prefix("@every ").ok_or_else(|| format!("unrecognized descriptor: {text}"))?;
            let nanos =
                parse_duration(every).ok_or_else(|| format!("failed to parse duration {text}: time: invalid duration {every:?}"))?;
            return Ok(Schedule::Every((nanos / 1_000_000_000).max(1)));
        }
    };
    parse(fields)
}

/// The bits of a list, and whether a star is among it.
fn field(text: &str, bounds: &Bounds) -> Result<(u64, bool), String> {
    let mut all = (0, false);
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (bits, star) = range(part, bounds)?;
        all = (all.0 | bits, all.1 | star);
    }
    Ok(all)
}

fn range(part: &str, bounds: &Bounds) -> Result<(u64, bool), String> {
    let mut slashes = part.split('/');
    let span: Vec<&str> = slashes.next().unwrap_or_default().split('-').collect();
    let star = matches!(span[0], "*" | "?");
    let (first, mut last) = match span.as_slice() {
        _ if star => (bounds.low, bounds.high),
        [one] => (value(one, bounds)?, value(one, bounds)?),
        [first, last] => (value(first, bounds)?, value(last, bounds)?),
        _ => return Err(format!("too many hyphens: {part}")),
    };
    let step = match (slashes.next(), slashes.next()) {
        (None, _) => None,
        (Some(step), None) => Some(number(step)?),
        (Some(_), Some(_)) => return Err(format!("too many slashes: {part}")),
    };
    // From there on, in steps.
    if step.is_some() && span.len() == 1 {
        last = bounds.high;
    }
    let step = step.unwrap_or(1);
    if first < bounds.low {
        return Err(format!("beginning of range ({first}) below minimum ({}): {part}", bounds.low));
    }
    if last > bounds.high {
        return Err(format!("end of range ({last}) above maximum ({}): {part}", bounds.high));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {part}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    let steps = usize::try_from(step).unwrap_or(usize::MAX);
    // A star in steps leaves days out, and so restricts like any other list.
    Ok(((first..=last).step_by(steps).fold(0, |bits, at| bits | 1 << at), star && step == 1))
}

fn value(text: &str, bounds: &Bounds) -> Result<i64, String> {
    match bounds.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        Some(at) => Ok(bounds.low + at as i64),
        None => number(text),
    }
}

fn number(text: &str) -> Result<i64, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let number: i64 = text.parse().map_err(|e: std::num::ParseIntError| {
        let why = if matches!(e.kind(), PosOverflow | NegOverflow) { "value out of range" } else { "invalid syntax" };
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}")
    })?;
    if number < 0 { Err(format!("negative number ({number}) not allowed: {text}")) } else { Ok(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(text: &str) -> Clock {
        match parse(text) {
            Ok(Schedule::Clock(clock)) => clock,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_star_in_steps_restricts_days_and_a_plain_one_does_not() {
        let either = ["0 0 13 * 5", "0 0 */2 * 5", "0 0 ?/3 * 5", "0 0 13 * */2"];
        assert!(either.iter().all(|text| !clock(text).both_days));
        let both = ["0 0 * * 5", "0 0 */1 * 5", "0 0 13 * ?", "0 0 1,* * 5"];
        assert!(both.iter().all(|text| clock(text).both_days));
    }

    #[test]
    fn lists_and_ranges_are_sets() {
        assert_eq!(clock("1,,3 * * * *").minutes, 0b1010);
        assert_eq!(clock("5-11/3,58/1 * * * *").minutes, 1 << 5 | 1 << 8 | 1 << 11 | 1 << 58 | 1 << 59);
        assert_eq!(clock("* * * jan-MAR *").months, 0b1110);
        assert_eq!(clock("* *-5 * * sat").hours, (1 << 24) - 1);
        assert_eq!(clock(", * * * *").minutes, 0, "nothing is never");
        assert_eq!(parse("@every 1h30m"), Ok(Schedule::Every(5400)));
        assert_eq!(parse("@every 10ms"), Ok(Schedule::Every(1)));
        assert_eq!(parse("@weekly"), parse("0 0 * * 0"));
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        let cases = [
            ("", "empty spec string"),
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("*/-5 * * * *", "negative number (-5) not allowed: -5"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            (
                "99999999999999999999 * * * *",
                "failed to parse int from 99999999999999999999: strconv.Atoi: parsing \"99999999999999999999\": value out of range",
            ),
            ("@never", "unrecognized descriptor: @never"),
            ("@every 5x", "failed to parse duration @every 5x: time: invalid duration \"5x\""),
        ];
        for (text, why) in cases {
            assert_eq!(parse(text), Err(why.to_owned()), "{text}");
        }
    }
}
