//! The part of JSONPath that printer columns and scale paths of CRDs use: fields, indexes, wildcards and equality filters.

use serde_json::Value;

#[derive(Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// `[?(@.path op value)]`.
    Filter(Vec<Step>, bool, Value),
}

fn field(text: &str) -> (String, usize) {
    let (mut name, mut used, mut chars) = (String::new(), 0, text.chars().peekable());
    while let Some(c) = chars.peek().copied() {
        match c {
            '\\' => {
                chars.next();
                used += 1;
                if let Some(escaped) = chars.next() {
                    name.push(escaped);
                    used += escaped.len_utf8();
                }
            }
            '.' | '[' => break,
            c => {
                name.push(c);
                used += c.len_utf8();
                chars.next();
            }
        }
    }
    (name, used)
}

/// The content of a bracket that starts at the front of `text`, and what it takes.
fn bracket(text: &str) -> Option<(&str, usize)> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some((&text[1..at], at + 1));
                }
            }
            _ => {}
        }
    }
    None
}

fn literal(text: &str) -> Value {
    let text = text.trim();
    let quoted = text.strip_prefix(['\'', '"']).and_then(|t| t.strip_suffix(['\'', '"']));
    quoted.map_or_else(|| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)), Value::from)
}

fn subscript(inner: &str) -> Option<Step> {
    if inner == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        let (left, equal, right) = match (filter.split_once("=="), filter.split_once("!=")) {
            (Some((l, r)), _) => (l, true, r),
            (None, Some((l, r))) => (l, false, r),
            _ => return None,
        };
        return Some(Step::Filter(steps(left.trim().strip_prefix('@')?)?, equal, literal(right)));
    }
    if let Some(name) = inner.strip_prefix(['\'', '"']).and_then(|t| t.strip_suffix(['\'', '"'])) {
        return Some(Step::Field(name.to_owned()));
    }
    inner.parse().ok().map(Step::Index)
}

fn steps(path: &str) -> Option<Vec<Step>> {
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    let mut out = Vec::new();
    while !rest.is_empty() {
        if rest.starts_with('[') {
            let (inner, used) = bracket(rest)?;
            out.push(subscript(inner)?);
            rest = &rest[used..];
            continue;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some(after) = rest.strip_prefix('*') {
            out.push(Step::All);
            rest = after;
            continue;
        }
        let (name, used) = field(rest);
        if used == 0 {
            break;
        }
        out.push(Step::Field(name));
        rest = &rest[used..];
    }
    Some(out)
}

fn follow<'v>(mut at: Vec<&'v Value>, steps: &[Step]) -> Vec<&'v Value> {
    for step in steps {
        at = at.into_iter().flat_map(|value| next(value, step)).collect();
    }
    at
}

fn next<'v>(value: &'v Value, step: &Step) -> Vec<&'v Value> {
    match (step, value) {
        (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
        (Step::Index(at), Value::Array(list)) => {
            let at = if *at < 0 { list.len() as i64 + at } else { *at };
            usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
        }
        (Step::All, Value::Array(list)) => list.iter().collect(),
        (Step::All, Value::Object(map)) => map.values().collect(),
        (Step::Filter(path, equal, wanted), Value::Array(list)) => {
            list.iter().filter(|item| follow(vec![item], path).into_iter().any(|found| found == wanted) == *equal).collect()
        }
        _ => Vec::new(),
    }
}

/// What a path finds first.
pub fn first(value: &Value, path: &str) -> Option<Value> {
    let steps = steps(path)?;
    follow(vec![value], &steps).into_iter().next().filter(|v| !v.is_null()).cloned()
}

/// The plain fields of a path without subscripts: what a scale path must be.
pub fn plain(path: &str) -> Option<Vec<String>> {
    steps(path)?.into_iter().map(|s| if let Step::Field(name) = s { Some(name) } else { None }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn printer_columns_find_their_values() {
        let value = json!({"spec": {"a.b": 3, "list": [{"x": 1}, {"x": 2}]}, "status": {"conditions": [
            {"type": "Synced", "status": "False"}, {"type": "Ready", "status": "True"}]}});
        assert_eq!(first(&value, ".status.conditions[?(@.type==\"Ready\")].status"), Some(json!("True")));
        assert_eq!(first(&value, ".spec.list[1].x"), Some(json!(2)));
        assert_eq!(first(&value, ".spec.list[*].x"), Some(json!(1)));
        assert_eq!(first(&value, ".spec.a\\.b"), Some(json!(3)));
        assert_eq!(first(&value, ".spec['a.b']"), Some(json!(3)));
        assert_eq!(first(&value, ".nope.x"), None);
        assert_eq!(plain(".spec.replicas"), Some(vec!["spec".into(), "replicas".into()]));
        assert_eq!(plain(".spec[0]"), None);
    }
}
