//! Objects grown from the type table, mostly right.

use ferrokube_api::schema::{ListType, Schema, Shape, TypeRef, Types};
use ferrokube_testkit::fuzz::{Random, scalar, text, value};
use serde_json::{Map, Value};
use std::sync::OnceLock;

/// The names of types that are served as kinds.
pub fn served() -> &'static [&'static str] {
    static NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let types = Types::builtin();
        let mut names: Vec<&str> = types.names().filter(|n| types.get(n).is_some_and(|t| t.gvk().is_some())).collect();
        names.retain(|n| !n.ends_with("List") && !n.contains(".meta."));
        names.sort_unstable();
        names
    })
}

/// Kinds with much in them come more often than others.
pub fn schema(random: &mut Random) -> Schema {
    const RICH: [&str; 6] = [
        "io.k8s.api.core.v1.Pod",
        "io.k8s.api.apps.v1.Deployment",
        "io.k8s.api.core.v1.Service",
        "io.k8s.api.resource.v1.ResourceSlice",
        "io.k8s.api.core.v1.PersistentVolume",
        "io.k8s.api.networking.v1.NetworkPolicy",
    ];
    let name = if random.chance(50) { *random.one(&RICH) } else { *random.one(served()) };
    Schema::builtin(name).expect("it is in the table")
}

/// An object of a kind, with `wrong` percent of its values of the wrong type.
pub fn object(random: &mut Random, schema: &Schema, wrong: usize) -> Value {
    let mut object = of_type(random, schema.root(), 7, wrong);
    if let (Some(gvk), Value::Object(map)) = (schema.root().gvk(), &mut object) {
        map.insert("apiVersion".into(), gvk.api_version().into());
        map.insert("kind".into(), gvk.kind.to_string().into());
        let metadata = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if let (Value::Object(metadata), true) = (metadata, random.chance(90)) {
            metadata.insert("name".into(), (*random.one(&["a", "b"])).into());
            metadata.remove("managedFields");
        }
    }
    object
}

pub fn of_type(random: &mut Random, ty: TypeRef<'_>, depth: usize, wrong: usize) -> Value {
    if random.chance(wrong) {
        return value(random, 2);
    }
    match ty.shape() {
        // Of the forms that these have, any but this is refused by the validation of definitions.
        Shape::Any if ty.struct_name().starts_with("JSONSchemaPropsOr") => Value::Object(Map::new()),
        Shape::Any => value(random, 2),
        Shape::Bool => random.chance(50).into(),
        Shape::Int32 => (*random.one(&[0, 1, -1, 80, i64::from(i32::MAX), 30])).into(),
        Shape::Int64 => (*random.one(&[0, 1, -1, 1000, i64::MAX, i64::MIN])).into(),
        Shape::Double => (*random.one(&[0.0, 1.5, -2.0, 1e300])).into(),
        Shape::String => text(random).into(),
        Shape::Bytes => (*random.one(&["", "YQ==", "YWI=", "YWJj", "AAECAwQ="])).into(),
        Shape::Quantity => match random.below(6) {
            0 => (*random.one(&[0, 1, 1024])).into(),
            _ => (*random.one(&["1", "100m", "1Gi", "0.5", "12e6", "1500Mi", "-1", "0"])).into(),
        },
        Shape::IntOrString => {
            if random.chance(50) {
                80.into()
            } else {
                text(random).into()
            }
        }
        Shape::Time => (*random.one(&["2026-01-02T03:04:05Z", "2026-01-02T03:04:05+02:00", "2026-12-31T23:59:59.5Z"])).into(),
        Shape::MicroTime => (*random.one(&["2026-01-02T03:04:05.000001Z", "2026-01-02T03:04:05Z"])).into(),
        Shape::Free => Value::Object((0..random.below(3)).map(|_| (text(random), value(random, 2))).collect()),
        Shape::Map(_) => {
            let Some(inner) = ty.element() else { return Value::Null };
            Value::Object((0..random.below(3)).map(|_| (text(random), of_type(random, inner, depth.saturating_sub(1), wrong))).collect())
        }
        Shape::List(_) => list(random, ty, depth, wrong),
        Shape::Struct(..) => structure(random, ty, depth, wrong),
    }
}

/// The elements of a list that is a set or a map differ in their keys, unless something is wrong on purpose.
fn list(random: &mut Random, ty: TypeRef<'_>, depth: usize, wrong: usize) -> Value {
    let (Some(inner), 1..) = (ty.element(), depth) else { return Value::Array(Vec::new()) };
    let mut list: Vec<Value> = (0..random.below(4)).map(|_| of_type(random, inner, depth - 1, wrong)).collect();
    if wrong == 0 {
        let key = |v: &Value| match &ty.node().list {
            ListType::Map(keys) => keys.iter().map(|k| v[&**k].clone()).collect(),
            _ => vec![v.clone()],
        };
        let mut seen = Vec::new();
        list.retain(|v| {
            let fresh = !seen.contains(&key(v));
            seen.push(key(v));
            fresh
        });
    }
    list.into()
}

fn structure(random: &mut Random, ty: TypeRef<'_>, depth: usize, wrong: usize) -> Value {
    let mut map = Map::new();
    let fields = ty.fields();
    let likely = if depth == 0 { 0 } else { (600 / fields.len().max(6)).max(12) };
    for field in fields {
        let key = field.required || is_key(ty, &field.name);
        if (key && random.chance(95)) || random.chance(likely) {
            let mut value = of_type(random, ty.of(field), depth.saturating_sub(1), wrong);
            if let (Some(key), Value::Array(list), 0) = (&field.merge_key, &mut value, wrong) {
                // A strategic patch knows elements by one key only.
                let mut seen = Vec::new();
                list.retain(|v| {
                    let fresh = !seen.contains(&v[&**key]);
                    seen.push(v[&**key].clone());
                    fresh
                });
            }
            map.insert(field.name.to_string(), value);
        }
    }
    if random.chance(wrong) {
        map.insert(text(random), scalar(random));
    }
    Value::Object(map)
}

/// Names of fields by which lists are merged.
fn is_key(_: TypeRef<'_>, name: &str) -> bool {
    matches!(name, "name" | "key" | "type" | "containerPort" | "port" | "protocol" | "mountPath" | "ip" | "uid" | "topologyKey")
}
