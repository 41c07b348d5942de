//! Reads a few fields of an encoded object and steps over the rest without building it: what a Table row shows of a pod is
//! a tenth of the pod.

use crate::scan::value_end;
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
    Reader { json, at: 0 }.value(Step { paths, depth: 0, from: 0, active: all, whole: paths.is_empty() })
}

/// A place in the value: the paths (as bits) that lead here or further. They all begin with the same steps.
#[derive(Clone, Copy)]
struct Step<'p> {
    paths: &'p [&'p str],
    depth: usize,
    /// Where in the paths the steps begin that are still to be taken.
    from: usize,
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
        let mut left = self.active;
        while left != 0 {
            let bit = left.trailing_zeros();
            left &= left - 1;
            match self.paths[bit as usize].get(self.from..).and_then(|rest| rest.strip_prefix(key)).map(str::as_bytes) {
                Some([]) => (active, whole) = (active | 1 << bit, true),
                Some([b'.', ..]) => active |= 1 << bit,
                _ => {}
            }
        }
        // A key with a dot in it is no step of a path, whatever it looks like.
        if active == 0 || key.contains('.') {
            return None;
        }
        // Where a path ends, all is taken.
        let depth = if whole { self.depth.max(1) + 1 } else { self.depth + 1 };
        Some(Step { depth, from: self.from + key.len() + 1, active, whole, ..self })
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
                    let below = step.below(&key).map(|below| (below, key.into_owned()));
                    if self.peek() != Some(b':') {
                        return cut();
                    }
                    self.at += 1;
                    match below {
                        Some((below, key)) => _ = map.insert(key, self.value(below)?),
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
        assert_eq!(of(json!({"a.b": 1, "a": {"b": 2, "bc": 3}}), &["a.b"]), json!({"a": {"b": 2}}));
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
