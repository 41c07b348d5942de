//! Objects that were stored under an older schema, read by the schema of now: what it does not know is pruned, and its defaults are set.
//!
//! The store keeps what was written until the next write; nobody sees it. Nearly all that is read was written under the schema of
//! now: [`Look`] sees that in passing, and no tree is built for it. Source: apiextensions `apiserver/customresource_handler.go`
//! (`schemaCoercingDecoder`, `unstructuredDefaulter`).

use crate::cache::Renew;
use crate::output::canonical;
use ferrokube_api::decode::{Strictness, normalize};
use ferrokube_api::schema::{Absent, Field, Gvk, Schema, Shape, TypeRef, set_defaults};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use smallvec::SmallVec;
use std::fmt;
use std::sync::Arc;

/// A version in which objects may be stored.
struct Version {
    api_version: String,
    /// How an object of it begins that this server wrote.
    head: String,
    schema: Schema,
}

/// How objects of a CRD are read: each by the schema of the version that it was stored in.
pub fn of(definition: &Value) -> Renew {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, kind) = (text(&spec["group"]), text(&spec["names"]["kind"]));
    // What a webhook adds that no schema knows is kept in the store and given back to it.
    let prunes = spec["conversion"]["strategy"] != "Webhook";
    let schema = |version: &Value| {
        let name = text(&version["name"]);
        let api_version = format!("{group}/{name}");
        let gvk = Gvk { group: group.clone().into(), version: name.into(), kind: kind.clone().into() };
        let openapi = version["schema"].get("openAPIV3Schema").filter(|s| !s.is_null());
        let head = format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{{");
        Some(Version { api_version, head, schema: Schema::custom(gvk, openapi).ok()? })
    };
    let versions: Vec<Version> = spec["versions"].as_array().into_iter().flatten().filter_map(schema).collect();
    Arc::new(move |stored| renewed(&versions, prunes, stored))
}

fn renewed(versions: &[Version], prunes: bool, stored: &[u8]) -> Option<Vec<u8>> {
    let own = versions.iter().find(|version| stored.starts_with(version.head.as_bytes()));
    if own.is_some_and(|version| is_settled(&version.schema, prunes, stored)) {
        return None;
    }
    let object: Value = serde_json::from_slice(stored).ok()?;
    let schema = &versions.iter().find(|version| object["apiVersion"] == version.api_version.as_str())?.schema;
    // What has another type by now stays as it is: the next write will be told.
    let mut object = match prunes.then(|| normalize(object.clone(), schema, Strictness::Ignore)) {
        Some(Ok(pruned)) => pruned.value,
        _ => object,
    };
    set_defaults(&mut object, schema.root());
    let bytes = canonical::encode(&object);
    (bytes != stored).then_some(bytes)
}

/// Whether an object that this server wrote is as the schema would make it. False when that is not certain.
fn is_settled(schema: &Schema, prunes: bool, stored: &[u8]) -> bool {
    let mut settled = true;
    let look = Look { ty: Some(schema.root()), root: true, prunes, settled: &mut settled };
    look.deserialize(&mut serde_json::Deserializer::from_slice(stored)).is_ok() && settled
}

/// A place in the object, and what the schema says of it; nothing where anything may be.
struct Look<'s, 'o> {
    ty: Option<TypeRef<'s>>,
    /// The whole object: its metadata were brought into form when it was written.
    root: bool,
    prunes: bool,
    settled: &'o mut bool,
}

impl<'s> Look<'s, '_> {
    fn below(&mut self, ty: Option<TypeRef<'s>>) -> Look<'s, '_> {
        Look { ty, root: false, prunes: self.prunes, settled: self.settled }
    }

    fn doubts(&mut self) {
        *self.settled = false;
    }

    fn visit_struct<'de, A: MapAccess<'de>>(mut self, ty: TypeRef<'s>, mut map: A) -> Result<(), A::Error> {
        let mut defaulted: SmallVec<[usize; 16]> = SmallVec::new();
        let own = |name: &str| matches!(name, "kind" | "apiVersion" | "metadata");
        while let Some(key) = map.next_key_seed(Known(ty))? {
            match key {
                Some((_, field)) if self.root && own(&field.name) => drop(map.next_value::<IgnoredAny>()?),
                Some((at, field)) => {
                    if matches!(field.absent, Absent::Value(_)) && !defaulted.contains(&at) {
                        defaulted.push(at);
                    }
                    map.next_value_seed(self.below(Some(ty.of(field))))?;
                }
                None if ty.node().preserve_unknown => map.next_value_seed(self.below(None))?,
                None => {
                    if self.prunes {
                        self.doubts();
                    }
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        // What code would fill in, Go's zeros in built-in types, is left to it.
        let by_code = |field: &Field| !matches!(field.absent, Absent::Nothing | Absent::Value(_)) && !(self.root && own(&field.name));
        let with_default = ty.fields().iter().filter(|field| matches!(field.absent, Absent::Value(_))).count();
        if defaulted.len() != with_default || ty.fields().iter().any(by_code) {
            self.doubts();
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Look<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(mut self, source: D) -> Result<(), D::Error> {
        match self.ty {
            None => IgnoredAny::deserialize(source).map(drop),
            // Built-in types are read by code of their own.
            Some(ty) if ty.node().typed => {
                self.doubts();
                IgnoredAny::deserialize(source).map(drop)
            }
            Some(_) => source.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Look<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        match self.ty {
            Some(ty) if matches!(ty.shape(), Shape::Struct(..)) => self.visit_struct(ty, map),
            ty => {
                // Something of another type than it should be is nobody's concern here.
                let element = ty.filter(|ty| matches!(ty.shape(), Shape::Map(_))).and_then(TypeRef::element);
                while map.next_key::<IgnoredAny>()?.is_some() {
                    map.next_value_seed(self.below(element))?;
                }
                Ok(())
            }
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let element = self.ty.filter(|ty| matches!(ty.shape(), Shape::List(_))).and_then(TypeRef::element);
        while list.next_element_seed(self.below(element))?.is_some() {}
        Ok(())
    }

    /// A `null` may stand for a default, or for nothing.
    fn visit_unit<E>(mut self) -> Result<(), E> {
        self.doubts();
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// The field that a key names, if it is declared.
struct Known<'s>(TypeRef<'s>);

impl<'de, 's> DeserializeSeed<'de> for Known<'s> {
    type Value = Option<(usize, &'s Field)>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Self::Value, D::Error> {
        source.deserialize_str(self)
    }
}

impl<'s> Visitor<'_> for Known<'s> {
    type Value = Option<(usize, &'s Field)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.field(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definition(conversion: Value) -> Value {
        let version = |name: &str, more: Value| {
            let mut properties = json!({"color": {"type": "string", "default": "blue"}, "size": {"type": "integer"}});
            properties.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            json!({"name": name, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}}})
        };
        let versions = json!([version("v1", json!({})), version("v2", json!({"shape": {"type": "string", "default": "round"}}))]);
        json!({"spec": {"group": "g", "names": {"kind": "K"}, "versions": versions, "conversion": conversion}})
    }

    fn read(definition: &Value, stored: &Value) -> Option<Value> {
        let renewed = of(definition)(&canonical::encode(stored));
        renewed.map(|bytes| serde_json::from_slice(&bytes).expect("an object"))
    }

    #[test]
    fn each_object_is_read_by_the_schema_of_the_version_it_was_stored_in() {
        let definition = definition(json!({"strategy": "None"}));
        let stored = |version: &str, spec: Value| json!({"kind": "K", "apiVersion": format!("g/{version}"), "metadata": {"name": "n"}, "spec": spec});
        let made = |version: &str, spec: Value| read(&definition, &stored(version, spec)).map(|o| o["spec"].clone());
        assert_eq!(made("v1", json!({"size": 1, "shape": "flat"})), Some(json!({"size": 1, "color": "blue"})));
        assert_eq!(made("v2", json!({"size": 1, "shape": "flat"})), Some(json!({"size": 1, "color": "blue", "shape": "flat"})));
        assert_eq!(made("v1", json!({"color": "red"})), None, "it is as it should be");
        assert_eq!(made("v9", json!({"x": 1})), None, "nothing is known of that version");
    }

    #[test]
    fn what_a_conversion_added_stays() {
        let definition = definition(json!({"strategy": "Webhook"}));
        let stored = json!({"kind": "K", "apiVersion": "g/v1", "metadata": {"name": "n"}, "spec": {"added": 1}});
        assert_eq!(read(&definition, &stored).map(|o| o["spec"].clone()), Some(json!({"added": 1, "color": "blue"})));
    }

    /// Objects of a schema with all that schemas have, as they may come from the store.
    fn cases() -> (Value, Vec<Value>) {
        let inner =
            json!({"type": "object", "properties": {"a": {"type": "string", "default": "x"}, "b": {"type": "string", "nullable": true}}});
        let properties = json!({
            "inner": inner, "list": {"type": "array", "items": inner}, "map": {"type": "object", "additionalProperties": inner},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "some": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"inner": inner}},
            "port": {"x-kubernetes-int-or-string": true}, "whole": {"type": "object", "x-kubernetes-embedded-resource": true},
            "filled": {"type": "object", "default": {"a": "y"}, "properties": {"a": {"type": "string"}}},
        });
        let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}});
        let definition = json!({"spec": {"group": "g", "names": {"kind": "K"}, "versions": [{"name": "v1", "schema": schema}]}});
        let filled = json!({"filled": {}});
        let with = |more: Value| {
            let mut spec = filled.clone();
            spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            spec
        };
        let specs = vec![
            json!({}),
            filled.clone(),
            with(json!({"inner": {"a": "1"}, "list": [{"a": "1"}, {"a": "2", "b": "3"}], "map": {"k": {"a": "1"}}})),
            with(json!({"inner": {}})),
            with(json!({"inner": {"a": null}})),
            with(json!({"inner": {"a": "1", "b": null}})),
            with(json!({"inner": {"a": "1", "c": 1}})),
            with(json!({"list": [{"a": "1"}, {}]})),
            with(json!({"list": [null]})),
            with(json!({"map": {"k": {"b": "1"}}})),
            with(json!({"map": [{"b": "1"}], "list": {"a": {}}, "inner": 3})),
            with(json!({"free": {"x": {"y": [null, 1.5, -3, true, "\u{1F600}"]}}})),
            with(json!({"some": {"x": null, "inner": {"a": "1"}}})),
            with(json!({"some": {"inner": {"z": 1, "a": "1"}}})),
            with(json!({"port": 80, "whole": {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}, "spec": {}}})),
            with(json!({"unknown": {"deep": [1]}})),
        ];
        (definition, specs)
    }

    #[test]
    fn what_is_seen_in_passing_is_what_reading_by_the_schema_finds() {
        let (definition, specs) = cases();
        let mut settled = 0;
        for conversion in ["None", "Webhook"] {
            let mut definition = definition.clone();
            definition["spec"]["conversion"] = json!({"strategy": conversion});
            let schema = Schema::custom(
                Gvk { group: "g".into(), version: "v1".into(), kind: "K".into() },
                Some(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]),
            );
            let schema = schema.expect("structural");
            for spec in &specs {
                let stored = canonical::encode(&json!({"kind": "K", "apiVersion": "g/v1", "metadata": {"name": "n"}, "spec": spec}));
                let prunes = conversion == "None";
                let mut made: Value = serde_json::from_slice(&stored).expect("JSON");
                if prunes {
                    made = normalize(made, &schema, Strictness::Ignore).expect("it fits").value;
                }
                set_defaults(&mut made, schema.root());
                let same = canonical::encode(&made) == stored;
                let seen = is_settled(&schema, prunes, &stored);
                assert!(same || !seen, "{spec} is not as it should be: {made}");
                assert_eq!(of(&definition)(&stored), (!same).then(|| canonical::encode(&made)), "{spec}");
                settled += usize::from(seen);
            }
        }
        assert!(settled >= 10, "most are seen to be as they should: {settled}");
    }
}
