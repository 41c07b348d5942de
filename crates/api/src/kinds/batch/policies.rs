//! When a Job counts a pod as failed, and when it has succeeded early: `podFailurePolicy` and `successPolicy`.

use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use serde_json::Value;

const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;
const MOST_CONDITIONS: usize = 20;
/// Longest list of indexes (bytes).
const LONGEST_INDEXES: usize = 64 << 10;

/// `podFailurePolicy` of a job's spec.
pub fn failure(policy: &Value, spec: &Value, path: &At, e: &mut Errors) {
    let path = path.child("rules");
    let rules = list(policy, "rules");
    if rules.len() > MOST_RULES {
        e.too_many(&path, rules.len(), MOST_RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        failure_rule(rule, spec, &path.index(i), e);
    }
}

fn failure_rule(rule: &Value, spec: &Value, at: &At, e: &mut Errors) {
    const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
    choice(rule, "action", &ACTIONS, at, e);
    if text(rule, "action") == "FailIndex" && !has(spec, "backoffLimitPerIndex") {
        e.invalid(&at.child("action"), &"FailIndex".into(), "requires the backoffLimitPerIndex to be set");
    }
    let template = spec.get("template").unwrap_or(&NONE);
    if let Some(codes) = get(rule, "onExitCodes") {
        exit_codes(codes, template, &at.child("onExitCodes"), e);
    }
    pod_conditions(rule, &at.child("onPodConditions"), e);
    match (has(rule, "onExitCodes"), list(rule, "onPodConditions").is_empty()) {
        (true, false) => e.invalid_omitted(at, "specifying both OnExitCodes and OnPodConditions is not supported"),
        (false, true) => e.invalid_omitted(at, "specifying one of OnExitCodes and OnPodConditions is required"),
        _ => {}
    }
}

/// One of a list; a missing value is told the list.
fn choice(v: &Value, key: &str, allowed: &[&str], at: &At, e: &mut Errors) {
    if text(v, key).is_empty() {
        let all: Vec<String> = allowed.iter().map(|a| format!("{a:?}")).collect();
        return e.required(&at.child(key), &format!("valid values: [{}]", all.join(" ")));
    }
    check::choice(v, key, allowed, at, e);
}

fn pod_conditions(rule: &Value, path: &At, e: &mut Errors) {
    const STATES: [&str; 3] = ["False", "True", "Unknown"];
    let all = list(rule, "onPodConditions");
    if all.len() > MOST_CONDITIONS {
        e.too_many(path, all.len(), MOST_CONDITIONS);
    }
    for (i, pattern) in all.iter().enumerate() {
        let at = path.index(i);
        check::label_name(text(pattern, "type"), &at.child("type"), e);
        choice(pattern, "status", &STATES, &at, e);
    }
}

fn exit_codes(codes: &Value, template: &Value, at: &At, e: &mut Errors) {
    choice(codes, "operator", &["In", "NotIn"], at, e);
    let name = text(codes, "containerName");
    let known = ["containers", "initContainers"].iter().any(|k| list_at(template, &["spec", k]).iter().any(|c| text(c, "name") == name));
    if has(codes, "containerName") && !known {
        e.invalid(&at.child("containerName"), &name.into(), "must be one of the container or initContainer names in the pod template");
    }
    let path = at.child("values");
    let values: Vec<i64> = list(codes, "values").iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        e.invalid_shown(&path, &codes.get("values").unwrap_or(&NONE).to_string(), "at least one value is required");
    } else if values.len() > MOST_CODES {
        e.too_many(&path, values.len(), MOST_CODES);
    }
    for (i, n) in values.iter().enumerate() {
        if text(codes, "operator") == "In" && *n == 0 {
            e.invalid(&path.index(i), &0.into(), "must not be 0 for the In operator");
        }
        if values[..i].contains(n) {
            e.duplicate(&path.index(i), &(*n).into());
        }
    }
    if !values.is_sorted() {
        e.invalid(&path, &codes["values"], "must be ordered");
    }
}

/// `successPolicy` of an Indexed job's spec.
pub fn success(policy: &Value, spec: &Value, path: &At, e: &mut Errors) {
    let rules = list(policy, "rules");
    let at = path.child("rules");
    if rules.is_empty() {
        e.required(&at, &format!("at least one rules must be specified when the {path} is specified"));
    }
    if rules.len() > MOST_RULES {
        e.too_many(&at, rules.len(), MOST_RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        success_rule(rule, int(spec, "completions").unwrap_or_default(), &at.index(i), e);
    }
}

fn success_rule(rule: &Value, completions: i64, at: &At, e: &mut Errors) {
    if !has(rule, "succeededCount") && !has(rule, "succeededIndexes") {
        e.required(at, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut named = None;
    if let Some(indexes) = get(rule, "succeededIndexes").and_then(Value::as_str) {
        let path = at.child("succeededIndexes");
        if indexes.len() > LONGEST_INDEXES {
            e.too_long(&path, LONGEST_INDEXES);
        }
        match count_indexes(indexes, completions) {
            Ok(n) => named = Some(n),
            Err(why) => e.invalid(&path, &indexes.into(), &format!("error parsing succeededIndexes: {why}")),
        }
    }
    let Some(count) = int(rule, "succeededCount") else { return };
    let path = at.child("succeededCount");
    check::non_negative(rule, "succeededCount", at, e);
    if count > completions {
        e.invalid(&path, &count.into(), &format!("must be less than or equal to {completions} (the number of specified completions)"));
    }
    if let Some(n) = named.filter(|n| count > *n) {
        let why = format!("must be less than or equal to {n} (the number of indexes in the specified succeededIndexes field)");
        e.invalid(&path, &count.into(), &why);
    }
}

/// How many indexes `1,3-5` names; they must be ascending and below `completions`.
pub fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let number = |part: &str| part.parse::<i64>().map_err(|_| format!("cannot convert string to integer for index: {part:?}"));
    let (mut total, mut last): (i64, Option<i64>) = (0, None);
    for interval in text.split(',') {
        let parts: Vec<&str> = interval.split('-').collect();
        if parts.len() > 2 {
            return Err(format!(
                "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let first = number(parts[0])?;
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        if first >= completions {
            return Err(format!("too large index: {:?}", parts[0]));
        }
        let mut end = first;
        if let Some(part) = parts.get(1) {
            end = number(part)?;
            if first >= end {
                return Err(format!("non-increasing order, previous: {first}, current: {end}"));
            }
            if end >= completions {
                return Err(format!("too large index: {part:?}"));
            }
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::count_indexes;

    #[test]
    fn indexes_are_counted_and_checked() {
        assert_eq!(count_indexes("0,2-4,9", 10), Ok(5));
        assert_eq!(count_indexes("", 10), Ok(0));
        for (text, why) in [
            ("1,1", "non-increasing order, previous: 1, current: 1"),
            ("3-2", "non-increasing order, previous: 3, current: 2"),
            ("1-2-3", "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'"),
            ("a", "cannot convert string to integer for index: \"a\""),
            ("10", "too large index: \"10\""),
        ] {
            assert_eq!(count_indexes(text, 10), Err(why.to_owned()));
        }
    }
}
