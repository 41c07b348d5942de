//! When a cron schedule is next, in a time zone: pure.

use ferrokube_api::cron::{Clock, Schedule};
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};

/// The first time after this one; `None` when there is none within five years.
pub fn next(schedule: &Schedule, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    match schedule {
        Schedule::Every(seconds) => Timestamp::from_second(after.as_second().checked_add(*seconds)?).ok(),
        Schedule::Clock(clock) => next_of_clock(clock, after, zone),
    }
}

fn next_of_clock(clock: &Clock, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let start = after.to_zoned(zone.clone()).datetime();
    let mut at = DateTime::from_parts(start.date(), Time::constant(start.hour(), start.minute(), 0, 0)).checked_add(1.minute()).ok()?;
    let limit = start.checked_add(5.years()).ok()?;
    while at <= limit {
        match skip(clock, at) {
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

fn has(bits: u64, at: i8) -> bool {
    u32::try_from(at).is_ok_and(|at| bits >> at & 1 == 1)
}

fn on_that_day(clock: &Clock, at: DateTime) -> bool {
    let (day, weekday) = (has(clock.days, at.day()), has(clock.weekdays, at.weekday().to_sunday_zero_offset()));
    if clock.both_days { day && weekday } else { day || weekday }
}

/// How far to go on from a time that does not match.
fn skip(clock: &Clock, at: DateTime) -> Option<(Span, DateTime)> {
    if !has(clock.months, at.month()) {
        return Some((1.month(), DateTime::from_parts(at.date().first_of_month(), Time::midnight())));
    }
    if !on_that_day(clock, at) {
        return Some((1.day(), DateTime::from_parts(at.date(), Time::midnight())));
    }
    if !has(clock.hours, at.hour()) {
        return Some((1.hour(), DateTime::from_parts(at.date(), Time::constant(at.hour(), 0, 0, 0))));
    }
    (!has(clock.minutes, at.minute())).then(|| (1.minute(), at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrokube_api::cron::parse;

    fn told(text: &str, after: &str, zone: &TimeZone) -> String {
        next(&parse(text).unwrap(), after.parse().unwrap(), zone).map(|t| t.to_string()).unwrap_or_default()
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
            ("0 0 */2 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("@hourly", "2026-01-01T00:00:01Z", "2026-01-01T01:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"),
            ("0 0 31 2 *", "2026-01-01T00:00:00Z", ""),
            ("10-20/5,40 1 1 1 ?", "2026-01-01T01:11:00Z", "2026-01-01T01:15:00Z"),
        ];
        for (text, after, expected) in cases {
            assert_eq!(told(text, after, &TimeZone::UTC), expected, "{text}");
        }
    }

    /// Whether the clock shows a time of the schedule, field by field.
    fn shows(clock: &Clock, at: DateTime) -> bool {
        has(clock.minutes, at.minute()) && has(clock.hours, at.hour()) && has(clock.months, at.month()) && on_that_day(clock, at)
    }

    #[test]
    fn any_schedule_is_next_at_the_first_minute_that_shows_it() {
        use ferrokube_testkit::fuzz::{Random, damage, run};
        let field = |random: &mut Random, low: usize, high: usize, names: &[&str]| {
            let value = |random: &mut Random| low + random.below(high - low + 1);
            let part = |random: &mut Random| {
                let (a, b) = (value(random), value(random));
                let step = 1 + random.below(20);
                match random.below(8) {
                    0..=2 => "*".to_owned(),
                    3 => format!("*/{step}"),
                    4 => format!("{}-{}", a.min(b), a.max(b)),
                    5 => format!("{}-{}/{step}", a.min(b), a.max(b)),
                    6 if !names.is_empty() => random.one(names).to_uppercase(),
                    _ => a.to_string(),
                }
            };
            let number = 1 + random.below(2);
            (0..number).map(|_| part(random)).collect::<Vec<_>>().join(",")
        };
        run("cron", 100, |random| {
            let fields = [(0, 59, &[][..]), (0, 23, &[]), (1, 31, &[]), (1, 12, &["jan", "dec"]), (0, 6, &["sun", "wed", "sat"])];
            let mut text = fields.map(|(low, high, names)| field(random, low, high, names)).join(" ");
            if random.chance(30) {
                let mut bytes = text.into_bytes();
                damage(random, &mut bytes);
                text = String::from_utf8_lossy(&bytes).into_owned();
            }
            let Ok(schedule) = parse(&text) else { return };
            let zone = TimeZone::fixed(jiff::tz::offset(random.below(25) as i8 - 12));
            let after = Timestamp::from_second(1_600_000_000 + random.below(400_000_000) as i64).expect("in range");
            let found = next(&schedule, after, &zone);
            let Schedule::Clock(times) = schedule else { return };
            // Minute by minute, for as long as that is quick.
            let clock = after.to_zoned(zone.clone()).datetime();
            let start = DateTime::from_parts(clock.date(), Time::constant(clock.hour(), clock.minute(), 0, 0));
            let slow = (1..20_000i64).find_map(|n| start.checked_add(n.minutes()).ok().filter(|at| shows(&times, *at)));
            let found = found.map(|t| t.to_zoned(zone.clone()).datetime());
            match slow {
                Some(at) => assert_eq!(found, Some(at), "{text} after {after}"),
                None => assert!(found.is_none_or(|at| shows(&times, at)), "{text} after {after}"),
            }
        });
    }

    #[test]
    fn a_fixed_offset_shifts_the_wall_clock() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(told("0 9 * * *", "2026-01-01T00:00:00Z", &zone), "2026-01-01T07:00:00Z");
    }
}
