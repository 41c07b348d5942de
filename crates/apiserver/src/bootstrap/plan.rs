//! From what is wanted and what is there to what must be written: pure, so that it can be tested as a table.

use crate::objects::{Objects, Target};
use serde_json::Value;

/// Changes an existing object towards the wanted one; whether anything changed.
pub(super) type Merge = fn(&mut Value, &Value) -> bool;

/// An object that must exist.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) target: Target,
    pub(super) object: Value,
    merge: Merge,
}

impl Wanted {
    pub(super) fn new(group: &str, version: &str, resource: &str, object: Value, merge: Merge) -> Self {
        let meta = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let target = Target {
            group: group.into(),
            version: version.into(),
            resource: resource.into(),
            subresource: String::new(),
            namespace: meta("namespace"),
            name: meta("name"),
        };
        Wanted { target, object, merge }
    }

    /// As another step that sees to a subresource of the same object.
    pub(super) fn subresource(mut self, name: &str) -> Self {
        self.target.subresource = name.into();
        self
    }

    /// What must be written, if anything.
    pub(super) fn step(&self, objects: &dyn Objects) -> Option<Step> {
        let t = &self.target;
        let Some(existing) = objects.get(&t.group, &t.resource, &t.namespace, &t.name) else {
            // A subresource has nothing to stand on until the object is there.
            return t.subresource.is_empty().then(|| Step { target: t.clone(), object: self.object.clone(), create: true });
        };
        let mut object: Value = existing.decode().ok()?;
        if object["apiVersion"].as_str().is_none() {
            object["apiVersion"] = self.object["apiVersion"].clone();
            object["kind"] = self.object["kind"].clone();
        }
        (self.merge)(&mut object, &self.object).then(|| Step { target: t.clone(), object, create: false })
    }
}

/// One write.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) target: Target,
    pub(super) object: Value,
    pub(super) create: bool,
}

/// What exists is right.
pub(super) fn keep(_: &mut Value, _: &Value) -> bool {
    false
}

/// Every field of the wanted object must stand in the existing one, as it is wanted. Lists are replaced as a whole.
pub(super) fn overlay(existing: &mut Value, wanted: &Value) -> bool {
    match (existing, wanted) {
        (Value::Object(have), Value::Object(want)) => {
            let mut changed = false;
            for (key, value) in want {
                match have.get_mut(key) {
                    Some(old) => changed |= overlay(old, value),
                    None => {
                        have.insert(key.clone(), value.clone());
                        changed = true;
                    }
                }
            }
            changed
        }
        (have, want) => {
            let changed = have != want;
            if changed {
                *have = want.clone();
            }
            changed
        }
    }
}

/// As [`overlay`], for objects whose annotation `apf.kubernetes.io/autoupdate-spec` is `"true"`.
pub(super) fn overlay_if_automatic(existing: &mut Value, wanted: &Value) -> bool {
    existing["metadata"]["annotations"]["apf.kubernetes.io/autoupdate-spec"] == "true" && overlay(existing, wanted)
}
