//! Reads a few fields of an encoded object and steps over the rest without building it: what a Table row shows of a pod is
//! a tenth of the pod.

use serde::de::Error as _;
use serde_json::{Map, Value};

/// Most paths that one projection can hold.
pub const MOST_PATHS: usize = 64;

/// Decodes only what stands at or below `paths` (dotted; lists are looked through). No path at all stands for everything
/// but `metadata.managedFields`, which no reader of a projection wants and which is half of many objects.
///
/// The bytes are ones that we encoded: what is stepped over is not checked, except that it ends.
///
/// # Errors
/// When the bytes end early, or a value that is read is not JSON.
pub fn project(json: &[u8], paths: &[&str]) -> serde_json::Result<Value> {
    debug_assert!(paths.len() <= MOST_PATHS);
    let all = if paths.is_empty() { 0 } else { u64::MAX >> (64 - paths.len().min(MOST_PATHS)) };
    Reader { json, at: 0 }.value(Step { paths, depth: 0, active: all, whole: paths.is_empty() })
}

/// Where the value that starts at `at` ends; `None` when the bytes end first.
pub fn value_end(json: &[u8], at: usize) -> Option<usize> {
    match json.get(at)? {
        b'{' => nested_end(json, at, b'{', b'}'),
        b'[' => nested_end(json, at, b'[', b']'),
        b'"' => string_end(json, at + 1),
        _ => {
            let rest = &json[at..];
            Some(at + rest.iter().position(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\t' | b'\r')).unwrap_or(rest.len()))
        }
    }
}

/// Brackets of the other kind are balanced in between, so only those of one kind are counted.
fn nested_end(json: &[u8], mut at: usize, open: u8, close: u8) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        at += memchr::memchr3(b'"', open, close, json.get(at..)?)? + 1;
        match json[at - 1] {
            b'"' => at = string_end(json, at)?,
            byte if byte == open => depth += 1,
            _ if depth == 1 => return Some(at),
            _ => depth -= 1,
        }
    }
}

/// Where a string ends whose opening quote is behind; its closing quote included.
fn string_end(json: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', json.get(at..)?)? + 1;
        if json[at - 1] == b'"' {
            return Some(at);
        }
        at += 1; // what the backslash escapes
    }
}

/// A place in the value: the paths (as bits) that lead here or further.
#[derive(Clone, Copy)]
struct Step<'p> {
    paths: &'p [&'p str],
    depth: usize,
    active: u64,
    /// Everything from here on, except for managed fields.
    whole: bool,
}

impl<'p> Step<'p> {
    /// The place below a key; `None` when no path goes there.
    fn below(self, key: &str) -> Option<Step<'p>> {
        if self.whole {
            // Only metadata is looked into; everything else is taken as it is.
            let managed = self.depth == 1 && key == "managedFields";
            let depth = if self.depth == 0 && key == "metadata" { 1 } else { 2 };
            return (!managed).then_some(Step { depth, ..self });
        }
        let (mut active, mut whole) = (0, false);
        for (bit, path) in self.paths.iter().enumerate().filter(|(bit, _)| self.active & (1 << bit) != 0) {
            let mut steps = path.split('.').skip(self.depth);
            if steps.next() == Some(key) {
                active |= 1 << bit;
                whole |= steps.next().is_none();
            }
        }
        // Where a path ends, all is taken.
        let depth = if whole { self.depth.max(1) + 1 } else { self.depth + 1 };
        (active != 0).then_some(Step { depth, active, whole, ..self })
    }

    /// Whether all of what stands here is wanted.
    fn takes_all(self) -> bool {
        self.whole && self.depth > 1
    }
}

struct Reader<'a> {
    json: &'a [u8],
    at: usize,
}

fn cut<T>() -> serde_json::Result<T> {
    Err(serde_json::Error::custom("the object ends early"))
}

impl Reader<'_> {
    /// The next byte that is no space.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.json.get(self.at)?, b' ' | b'\n' | b'\t' | b'\r') {
            self.at += 1;
        }
        self.json.get(self.at).copied()
    }

    /// The bytes of the next value, stepped over.
    fn raw(&mut self) -> serde_json::Result<&[u8]> {
        self.peek();
        let start = self.at;
        let Some(end) = value_end(self.json, start) else { return cut() };
        self.at = end;
        Ok(&self.json[start..end])
    }

    fn value(&mut self, step: Step<'_>) -> serde_json::Result<Value> {
        match self.peek() {
            Some(b'{') if !step.takes_all() => self.object(step),
            Some(b'[') if !step.takes_all() => self.list(step),
            Some(_) => serde_json::from_slice(self.raw()?),
            None => cut(),
        }
    }

    fn object(&mut self, step: Step<'_>) -> serde_json::Result<Value> {
        let mut map = Map::new();
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(map));
                }
                Some(b',') => self.at += 1,
                Some(b'"') => {
                    let key: std::borrow::Cow<'_, str> = read_key(self.raw()?)?;
                    let (below, key) = (step.below(&key), key.into_owned());
                    if self.peek() != Some(b':') {
                        return cut();
                    }
                    self.at += 1;
                    match below {
                        Some(below) => _ = map.insert(key, self.value(below)?),
                        None => _ = self.raw()?,
                    }
                }
                _ => return cut(),
            }
        }
    }

    fn list(&mut self, step: Step<'_>) -> serde_json::Result<Value> {
        let mut list = Vec::new();
        self.at += 1;
        loop {
            match self.peek() {
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::Array(list));
                }
                Some(b',') => self.at += 1,
                Some(_) => list.push(self.value(step)?),
                None => return cut(),
            }
        }
    }
}

/// A key from its bytes, quotes included; most have nothing escaped.
fn read_key(raw: &[u8]) -> serde_json::Result<std::borrow::Cow<'_, str>> {
    let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    match std::str::from_utf8(inner) {
        Ok(text) if !inner.contains(&b'\\') => Ok(text.into()),
        _ => serde_json::from_slice::<String>(raw).map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::project;
    use serde_json::{Value, json};

    fn of(value: Value, paths: &[&str]) -> Value {
        project(value.to_string().as_bytes(), paths).expect("JSON")
    }

    #[test]
    fn only_what_the_paths_name_is_read_also_through_lists() {
        let pod = json!({"metadata": {"name": "a", "labels": {"x": "y"}},
            "spec": {"containers": [{"name": "c", "env": [1]}, {"name": "d"}], "nodeName": "n"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready"}]}});
        let paths = ["metadata.name", "spec.containers.name", "status", "spec.absent"];
        let expected = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}, {"name": "d"}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready"}]}});
        assert_eq!(of(pod, &paths), expected);
    }

    #[test]
    fn texts_that_look_like_structure_and_cut_bytes_do_no_harm() {
        let object = json!({"a": {"x": "}]\\\"{[,", "k\\\"": {"y": []}}, "b": [1, {"c": "\\\\"}], "n": -1.5e3, "t": null});
        assert_eq!(of(object.clone(), &["b", "n", "t"]), json!({"b": [1, {"c": "\\\\"}], "n": -1.5e3, "t": null}));
        assert_eq!(of(object.clone(), &["a.k\\\".y"]), json!({"a": {"k\\\"": {"y": []}}}));
        let text = serde_json::to_string_pretty(&object).expect("JSON");
        assert_eq!(project(text.as_bytes(), &[]).expect("JSON"), object);
        for cut in 0..text.len() {
            assert!(project(&text.as_bytes()[..cut], &["a.x", "n"]).is_err(), "{cut}");
        }
    }

    #[test]
    fn without_paths_everything_but_managed_fields_is_read() {
        let object = json!({"metadata": {"name": "a", "managedFields": [{}]}, "x": {"managedFields": [1.5, null, true, -2, "t"]}});
        assert_eq!(of(object, &[]), json!({"metadata": {"name": "a"}, "x": {"managedFields": [1.5, null, true, -2, "t"]}}));
    }
}
