//! Timestamps and durations, with Go's notation of durations.

use super::{Def, ONE, Site, f};
use crate::value::{EvalError, Evaluated, Nanos, Value};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

macro_rules! parts {
    ($($name:literal => $code:ident),* $(,)?) => {
        pub(super) const TABLE: &[Def] = &[
            $(f($name, "timestamp.() -> int", ONE, $code), f($name, "timestamp.(string) -> int", ONE, $code),)*
            f("getHours", "duration.() -> int", ONE, hours),
            f("getMinutes", "duration.() -> int", ONE, minutes),
            f("getSeconds", "duration.() -> int", ONE, seconds),
            f("getMilliseconds", "duration.() -> int", ONE, milliseconds),
        ];
    };
}

parts! {
    "getFullYear" => year,
    "getMonth" => month,
    "getDayOfYear" => day_of_year,
    "getDayOfMonth" => day_of_month,
    "getDate" => date,
    "getDayOfWeek" => day_of_week,
    "getHours" => hours,
    "getMinutes" => minutes,
    "getSeconds" => seconds,
    "getMilliseconds" => milliseconds,
}

fn zone(name: &str) -> Result<TimeZone, EvalError> {
    let bad = || EvalError::new(format!("unknown time zone {name}"));
    if name.is_empty() || name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    let Some((h, m)) = name.split_once(':') else { return TimeZone::get(name).map_err(|_| bad()) };
    let (sign, h) = match h.strip_prefix('-') {
        Some(h) => (-1, h),
        None => (1, h.trim_start_matches('+')),
    };
    let (h, m): (i32, i32) = (h.parse().map_err(|_| bad())?, m.parse().map_err(|_| bad())?);
    let seconds = h.checked_mul(3600).and_then(|h| h.checked_add(m.checked_mul(60)?)).ok_or_else(bad)?;
    Ok(TimeZone::fixed(Offset::from_seconds(sign * seconds).map_err(|_| bad())?))
}

fn civil(args: &[Value<'_>]) -> Result<DateTime, EvalError> {
    match args {
        [Value::Timestamp(t)] => Ok(t.to_zoned(TimeZone::UTC).datetime()),
        [Value::Timestamp(t), Value::String(name)] => Ok(t.to_zoned(zone(name)?).datetime()),
        _ => Err(EvalError::overload()),
    }
}

fn number<'a>(n: impl Into<i64>) -> Evaluated<'a> {
    Ok(Value::Int(n.into()))
}

fn year<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    number(civil(args)?.year())
}

fn month<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    number(civil(args)?.month() - 1)
}

fn day_of_year<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    number(civil(args)?.day_of_year() - 1)
}

fn day_of_month<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    number(civil(args)?.day() - 1)
}

fn date<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    number(civil(args)?.day())
}

fn day_of_week<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    number(civil(args)?.weekday().to_sunday_zero_offset())
}

fn hours<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Duration(d)] => number(d / 3_600_000_000_000),
        _ => number(civil(args)?.hour()),
    }
}

fn minutes<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Duration(d)] => number(d / 60_000_000_000),
        _ => number(civil(args)?.minute()),
    }
}

fn seconds<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Duration(d)] => number(d / 1_000_000_000),
        _ => number(civil(args)?.second()),
    }
}

fn milliseconds<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Duration(d)] => number(d / 1_000_000),
        _ => number(civil(args)?.millisecond()),
    }
}

/// Earliest and latest second of CEL: the years 1 to 9999.
const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;

pub(super) fn shift<'a>(t: Timestamp, nanos: i128) -> Evaluated<'a> {
    let moved = Timestamp::from_nanosecond(t.as_nanosecond() + nanos).ok();
    let moved = moved.filter(|t| (FIRST..=LAST).contains(&t.as_second()));
    moved.map(Value::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow"))
}

/// RFC 3339.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    let shaped = text.len() >= 20 && matches!(text.as_bytes()[10], b'T' | b't');
    text.parse::<Timestamp>().ok().filter(|t| shaped && (FIRST..=LAST).contains(&t.as_second()))
}

/// A `date-time` or a `date` of a schema.
pub(crate) fn parse_lenient(text: &str) -> Option<Timestamp> {
    parse(text).or_else(|| {
        let date: jiff::civil::Date = text.parse().ok()?;
        (text.len() == 10).then(|| date.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp()))?
    })
}

/// RFC 3339 with as many decimals as needed.
pub(crate) fn show(t: &Timestamp) -> String {
    t.to_string()
}

/// CEL's text of a duration: seconds.
pub(crate) fn show_duration(nanos: Nanos) -> String {
    let (sign, n) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let (whole, fraction) = (n / 1_000_000_000, n % 1_000_000_000);
    let fraction = format!("{fraction:09}");
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{whole}s"),
        digits => format!("{sign}{whole}.{digits}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_in_seconds() {
        assert_eq!((show_duration(1_500_000_000), show_duration(-60_000_000_000)), ("1.5s".into(), "-60s".into()));
    }
}
