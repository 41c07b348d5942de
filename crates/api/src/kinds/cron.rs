//! The form of cron expressions: five fields, or one of the words that start with `@`.
//!
//! Only the form is checked here; when a CronJob starts is its controller's business.

/// Bounds of the five fields, and the names some of them know.
const FIELDS: [(u32, u32, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

const WORDS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Checks an expression; the error is a sentence.
pub fn check(schedule: &str) -> Result<(), String> {
    if schedule.starts_with('@') {
        let every = schedule.strip_prefix("@every ").is_some_and(|d| !d.is_empty());
        return if every || WORDS.contains(&schedule) { Ok(()) } else { Err(format!("unrecognized descriptor: {schedule}")) };
    }
    let parts: Vec<&str> = schedule.split_whitespace().collect();
    if parts.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    }
    for (part, (lo, hi, known)) in parts.iter().zip(FIELDS) {
        part.split(',').try_for_each(|range| check_range(range, lo, hi, known))?;
    }
    Ok(())
}

fn check_range(text: &str, lo: u32, hi: u32, known: &[&str]) -> Result<(), String> {
    let (range, step) = text.split_once('/').map_or((text, None), |(r, s)| (r, Some(s)));
    let (mut start, mut end) = (lo, hi);
    if range != "*" && range != "?" {
        let (a, b) = range.split_once('-').map_or((range, None), |(a, b)| (a, Some(b)));
        start = number(a, lo, known)?;
        end = match b {
            Some(b) => number(b, lo, known)?,
            None if step.is_some() => hi,
            None => start,
        };
    }
    if step.is_some_and(|s| s.parse::<u32>().is_ok_and(|n| n == 0)) {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    if let Some(step) = step {
        step.parse::<u32>().map_err(|_| format!("failed to parse int from {step}: strconv.Atoi: parsing {step:?}: invalid syntax"))?;
    }
    if start < lo {
        return Err(format!("beginning of range ({start}) below minimum ({lo}): {text}"));
    }
    if end > hi {
        return Err(format!("end of range ({end}) above maximum ({hi}): {text}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    Ok(())
}

fn number(text: &str, first: u32, known: &[&str]) -> Result<u32, String> {
    if let Some(at) = known.iter().position(|k| k.eq_ignore_ascii_case(text)) {
        return Ok(first + at as u32);
    }
    text.parse().map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn expressions_are_accepted_and_refused() {
        for good in ["* * * * *", "*/5 0-6 1,15 jan-mar MON", "@hourly", "@every 5m", "0 0 ? * 6"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert_eq!(check("* * *"), Err("expected exactly 5 fields, found 3: [* * *]".into()));
        assert_eq!(check("60 * * * *"), Err("end of range (60) above maximum (59): 60".into()));
        assert!(check("@never").is_err() && check("*/0 * * * *").is_err() && check("a * * * *").is_err());
    }
}
