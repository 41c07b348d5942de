//! Reads a few fields of an encoded object and steps over the rest without building it: what a Table row shows of a pod is
//! a tenth of the pod.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::fmt;

/// Most paths that one projection can hold.
pub const MOST_PATHS: usize = 64;

/// Decodes only what stands at or below `paths` (dotted; lists are looked through). No path at all stands for everything
/// but `metadata.managedFields`, which no reader of a projection wants and which is half of many objects.
///
/// # Errors
/// When the bytes are not JSON.
pub fn project(json: &[u8], paths: &[&str]) -> serde_json::Result<Value> {
    debug_assert!(paths.len() <= MOST_PATHS);
    let mut source = serde_json::Deserializer::from_slice(json);
    let all = if paths.is_empty() { 0 } else { u64::MAX >> (64 - paths.len().min(MOST_PATHS)) };
    Step { paths, depth: 0, active: all, whole: paths.is_empty() }.deserialize(&mut source)
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

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
        (active != 0).then_some(Step { depth: self.depth + 1, active, whole, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.whole && self.depth > 1 { Value::deserialize(deserializer) } else { deserializer.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(Name(key)) = access.next_key::<Name<'de>>()? {
            match self.below(&key) {
                Some(below) => _ = map.insert(key.into_owned(), access.next_value_seed(below)?),
                None => drop(access.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = access.next_element_seed(self)? {
            list.push(element);
        }
        Ok(Value::Array(list))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
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
    fn without_paths_everything_but_managed_fields_is_read() {
        let object = json!({"metadata": {"name": "a", "managedFields": [{}]}, "x": {"managedFields": [1.5, null, true, -2, "t"]}});
        assert_eq!(of(object, &[]), json!({"metadata": {"name": "a"}, "x": {"managedFields": [1.5, null, true, -2, "t"]}}));
    }
}
