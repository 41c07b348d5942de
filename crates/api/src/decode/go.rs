//! The walk: a value read by its schema, the way Go's decoder fills a struct and its encoder writes it back.
//!
//! It consumes any serde source once (JSON bytes, or a value that a patch made). It never stops early: the first
//! wrong type is remembered and reading goes on, so that a syntax error further down wins, as it does in Go.

use super::scalar;
use crate::protobuf::schema_props;
use crate::schema::{Absent, Field, Shape, TypeRef};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Go's decoder keeps that many strict errors and no more.
const MOST_FINDINGS: usize = 100;

enum Step<'s> {
    Field(TypeRef<'s>, &'s str),
    Key(String),
    Index(usize),
}

/// What the walk knows besides the place where it is.
pub(super) struct Walk<'s> {
    track: bool,
    path: Vec<Step<'s>>,
    /// Unknown and duplicate fields, in the order found.
    pub(super) findings: Vec<String>,
    /// The first value of a wrong type.
    pub(super) failure: Option<String>,
}

impl<'s> Walk<'s> {
    pub(super) fn new(track: bool) -> Self {
        Walk { track, path: Vec::new(), findings: Vec::new(), failure: None }
    }

    pub(super) fn tracks(&self) -> bool {
        self.track
    }

    /// Reads a value of that type.
    pub(super) fn at(&mut self, ty: TypeRef<'s>) -> At<'_, 's> {
        At { walk: self, ty: Some(ty) }
    }

    /// Reads a value that has no schema.
    pub(super) fn anything(&mut self) -> At<'_, 's> {
        At { walk: self, ty: None }
    }

    fn find(&mut self, what: &str, field: &str) {
        if !self.track || self.findings.len() >= MOST_FINDINGS {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Index(i) => path.push_str(&format!("[{i}]")),
                Step::Field(_, name) => dotted(&mut path, name),
                Step::Key(name) => dotted(&mut path, name),
            }
        }
        dotted(&mut path, field);
        let finding = format!("{what} field {path:?}");
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    fn fail(&mut self, text: impl FnOnce() -> String) -> Value {
        if self.failure.is_none() {
            self.failure = Some(text());
        }
        Value::Null
    }

    /// A value of the wrong type, in the words of Go's decoder.
    fn mismatch(&mut self, value: &str, go_type: &str) -> Value {
        let owner = self.path.iter().rev().find_map(|s| if let Step::Field(owner, _) = s { Some(owner.struct_name()) } else { None });
        let target = match owner {
            None => format!("Go value of type {go_type}"),
            Some(owner) => {
                let names: Vec<&str> =
                    self.path.iter().filter_map(|s| if let Step::Field(_, name) = s { Some(*name) } else { None }).collect();
                format!("Go struct field {owner}.{} of type {go_type}", names.join("."))
            }
        };
        self.fail(|| format!("json: cannot unmarshal {value} into {target}"))
    }
}

fn dotted(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// A place in the value, ready to read what stands there.
pub(super) struct At<'w, 's> {
    walk: &'w mut Walk<'s>,
    ty: Option<TypeRef<'s>>,
}

impl<'s> At<'_, 's> {
    /// The shape that the value must have; `Any` where nothing is demanded of it.
    fn demanded(&self) -> Shape {
        match self.ty {
            Some(ty) if ty.node().typed => ty.shape(),
            _ => Shape::Any,
        }
    }

    /// Which of the types of a schema that have several forms this is, if one: `Bool`, `Array`, `StringArray`; and the schema's own type.
    /// Go reads them with code of their own, that starts anew: it does not look for unknown fields and knows nothing of the path.
    fn form(&self) -> Option<(&'s str, TypeRef<'s>)> {
        let ty = self.ty.filter(|ty| matches!(ty.shape(), Shape::Any))?;
        let form = ty.struct_name().strip_prefix("JSONSchemaPropsOr")?;
        Some((form, schema_props(ty)?))
    }

    /// What is neither a schema nor anything else that the type may be: an error, or forgotten without one.
    fn formless(&mut self, form: &str) -> Value {
        match form {
            "Bool" => self.refused("boolean or JSON schema expected".to_owned()),
            _ => Value::Null,
        }
    }

    /// Reads on as Go does with a decoder of its own.
    fn anew<T>(self, ty: TypeRef<'s>, read: impl FnOnce(At<'_, 's>) -> T) -> T {
        let (track, path) = (std::mem::replace(&mut self.walk.track, false), std::mem::take(&mut self.walk.path));
        let read = read(At { walk: &mut *self.walk, ty: Some(ty) });
        (self.walk.track, self.walk.path) = (track, path);
        read
    }

    fn wrong(&mut self, value: &str) -> Value {
        let name = self.ty.map(TypeRef::go_name).unwrap_or_default();
        self.walk.mismatch(value, &name)
    }

    /// A value that is not what Go code behind the type (Quantity, Time) reads.
    fn refused(&mut self, text: String) -> Value {
        self.walk.fail(|| text)
    }

    fn number(&mut self, number: Number) -> Value {
        if let Some((form, _)) = self.form() {
            return self.formless(form);
        }
        let fits = |low: i64, high: i64| number.as_i64().is_some_and(|n| (low..=high).contains(&n));
        match self.demanded() {
            Shape::Any | Shape::Free | Shape::Double => Value::Number(number),
            Shape::Int64 if fits(i64::MIN, i64::MAX) => Value::Number(number),
            Shape::Int32 | Shape::IntOrString if fits(i32::MIN.into(), i32::MAX.into()) => Value::Number(number),
            Shape::Int64 | Shape::Int32 | Shape::IntOrString => self.wrong(&format!("number {number}")),
            Shape::Quantity => self.quantity(&number.to_string()),
            _ => self.wrong("number"),
        }
    }

    fn quantity(&mut self, text: &str) -> Value {
        match scalar::quantity(text) {
            Ok(canonical) => Value::String(canonical),
            Err(why) => self.refused(why),
        }
    }

    /// `borrowed` is what was read; `owned` gives it as a `String` without a copy where it is one already.
    fn text(&mut self, text: &str) -> Option<Value> {
        let refuse_or = |at: &mut Self, result: Result<Option<String>, String>| match result {
            Ok(same) => same.map(Value::String),
            Err(why) => Some(at.refused(why)),
        };
        if let Some((form, _)) = self.form() {
            return Some(self.formless(form));
        }
        match self.demanded() {
            Shape::Any | Shape::Free | Shape::String | Shape::IntOrString => None,
            Shape::Quantity => Some(self.quantity(text.trim())),
            Shape::Time => refuse_or(self, scalar::time(text, false)),
            Shape::MicroTime => refuse_or(self, scalar::time(text, true)),
            Shape::Bytes => refuse_or(self, scalar::base64(text)),
            _ => Some(self.wrong("string")),
        }
    }
}

impl<'de, 's> DeserializeSeed<'de> for At<'_, 's> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de, 's> Visitor<'de> for At<'_, 's> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(mut self, value: bool) -> Result<Value, E> {
        Ok(match self.demanded() {
            Shape::Any if self.form().is_some_and(|(form, _)| form != "Bool") => Value::Null,
            Shape::Any | Shape::Free | Shape::Bool => Value::Bool(value),
            Shape::Quantity => self.quantity(if value { "true" } else { "false" }),
            _ => self.wrong("bool"),
        })
    }

    fn visit_i64<E>(mut self, value: i64) -> Result<Value, E> {
        Ok(self.number(value.into()))
    }

    fn visit_u64<E>(mut self, value: u64) -> Result<Value, E> {
        Ok(self.number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(mut self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("not a finite number"))?;
        Ok(self.number(number))
    }

    fn visit_str<E>(mut self, value: &str) -> Result<Value, E> {
        Ok(self.text(value).unwrap_or_else(|| Value::String(value.to_owned())))
    }

    fn visit_string<E>(mut self, value: String) -> Result<Value, E> {
        Ok(self.text(&value).unwrap_or(Value::String(value)))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut source: A) -> Result<Value, A::Error> {
        match self.form() {
            Some(("Bool", _)) => {
                while source.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(self.formless("Bool"));
            }
            Some(("Array", props)) => return self.anew(props, |at| at.visit_elements(Some(props), source)),
            _ => {}
        }
        let element = self.ty.and_then(|t| if let Shape::List(_) = t.shape() { t.element() } else { None });
        if element.is_none() && !matches!(self.demanded(), Shape::Any | Shape::Free) {
            while source.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(match self.demanded() {
                Shape::Quantity => self.quantity("["),
                _ => self.wrong("array"),
            });
        }
        self.visit_elements(element, source)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, source: A) -> Result<Value, A::Error> {
        if let Some((_, props)) = self.form() {
            return self.anew(props, |at| at.visit_struct(props, source));
        }
        match self.ty.map(|t| (t, t.shape())) {
            Some((ty, Shape::Struct(..))) => self.visit_struct(ty, source),
            Some((ty, Shape::Map(_))) => self.visit_entries(ty.element(), source),
            _ if matches!(self.demanded(), Shape::Any | Shape::Free) => self.visit_entries(None, source),
            _ => {
                skip_map(source)?;
                Ok(match self.demanded() {
                    Shape::Quantity => self.quantity("{"),
                    _ => self.wrong("object"),
                })
            }
        }
    }
}

fn skip_map<'de, A: MapAccess<'de>>(mut source: A) -> Result<(), A::Error> {
    while source.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

impl<'s> At<'_, 's> {
    /// A list of one type, or of anything.
    fn visit_elements<'de, A: SeqAccess<'de>>(self, element: Option<TypeRef<'s>>, mut source: A) -> Result<Value, A::Error> {
        let mut list = Vec::with_capacity(source.size_hint().unwrap_or(0));
        loop {
            self.walk.path.push(Step::Index(list.len()));
            let next = source.next_element_seed(At { walk: &mut *self.walk, ty: element });
            self.walk.path.pop();
            match next? {
                None => return Ok(Value::Array(list)),
                Some(value) => list.push(or_zero(value, element)),
            }
        }
    }

    /// A map of one type, or of anything.
    fn visit_entries<'de, A: MapAccess<'de>>(self, element: Option<TypeRef<'s>>, mut source: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = source.next_key::<String>()? {
            if self.walk.track && map.contains_key(&key) {
                self.walk.find("duplicate", &key);
            }
            self.walk.path.push(Step::Key(key));
            let value = source.next_value_seed(At { walk: &mut *self.walk, ty: element });
            let Some(Step::Key(key)) = self.walk.path.pop() else { return Err(A::Error::custom("the path lost its last step")) };
            map.insert(key, or_zero(value?, element));
        }
        Ok(Value::Object(map))
    }

    fn visit_struct<'de, A: MapAccess<'de>>(self, ty: TypeRef<'s>, mut source: A) -> Result<Value, A::Error> {
        let (mut map, mut seen) = (Map::new(), Seen::default());
        while let Some(key) = source.next_key_seed(FieldName(ty))? {
            match key {
                Name::Field(at, field) => {
                    if seen.insert(at) {
                        self.walk.find("duplicate", &field.name);
                    }
                    self.walk.path.push(Step::Field(ty, &field.name));
                    let inner = ty.of(field);
                    let value = source.next_value_seed(At { walk: &mut *self.walk, ty: Some(inner) });
                    self.walk.path.pop();
                    let value = value?;
                    if is_kept(&value, field, inner) {
                        map.insert(field.name.to_string(), value);
                    }
                }
                Name::Unknown(name) if ty.node().preserve_unknown => {
                    if map.contains_key(&name) {
                        self.walk.find("duplicate", &name);
                    }
                    self.walk.path.push(Step::Key(name.clone()));
                    let value = source.next_value_seed(At { walk: &mut *self.walk, ty: None });
                    self.walk.path.pop();
                    map.insert(name, value?);
                }
                Name::Unknown(name) => {
                    self.walk.find("unknown", &name);
                    source.next_value::<IgnoredAny>()?;
                }
            }
        }
        fill_zeros(&mut map, ty);
        Ok(Value::Object(map))
    }
}

/// Which fields of a struct were read already; the largest struct has fewer than 128.
#[derive(Default)]
struct Seen(u128);

impl Seen {
    /// Whether it was there before.
    fn insert(&mut self, at: usize) -> bool {
        let bit = 1u128.checked_shl(at as u32).unwrap_or(0);
        let before = self.0 & bit != 0;
        self.0 |= bit;
        before
    }
}

enum Name<'s> {
    Field(usize, &'s Field),
    Unknown(String),
}

/// Reads a key of a struct without allocating when it is declared.
struct FieldName<'s>(TypeRef<'s>);

impl<'de, 's> DeserializeSeed<'de> for FieldName<'s> {
    type Value = Name<'s>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Name<'s>, D::Error> {
        source.deserialize_str(self)
    }
}

impl<'s> Visitor<'_> for FieldName<'s> {
    type Value = Name<'s>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name<'s>, E> {
        Ok(match self.0.field(name) {
            Some((at, field)) => Name::Field(at, field),
            None => Name::Unknown(name.to_owned()),
        })
    }
}

/// Whether Go would write the field back.
fn is_kept(value: &Value, field: &Field, ty: TypeRef<'_>) -> bool {
    if !ty.node().typed {
        return true;
    }
    match value {
        Value::Null => false,
        Value::String(s) if s.is_empty() => !field.drop_zero && (ty.shape() != Shape::Bytes || field.required),
        Value::Bool(false) => !field.drop_zero,
        Value::Number(n) => !field.drop_zero || n.as_i64() != Some(0),
        Value::Array(list) => !list.is_empty() || field.required,
        Value::Object(map) => !map.is_empty() || field.required || !matches!(ty.shape(), Shape::Map(_)),
        _ => true,
    }
}

/// `null` inside a list or a map is the zero of the type, for Go.
fn or_zero(value: Value, ty: Option<TypeRef<'_>>) -> Value {
    match (value, ty) {
        (Value::Null, Some(ty)) if ty.node().typed => zero(ty),
        (value, _) => value,
    }
}

fn zero(ty: TypeRef<'_>) -> Value {
    match ty.shape() {
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => Value::from(0),
        Shape::String => Value::from(""),
        Shape::Quantity => Value::from("0"),
        Shape::Struct(..) => {
            let mut map = Map::new();
            fill_zeros(&mut map, ty);
            Value::Object(map)
        }
        _ => Value::Null,
    }
}

/// Adds what Go shows although nobody set it.
fn fill_zeros(map: &mut Map<String, Value>, ty: TypeRef<'_>) {
    for field in ty.fields() {
        match field.absent {
            Absent::Zero | Absent::Struct if !map.contains_key(&*field.name) => {
                map.insert(field.name.to_string(), zero(ty.of(field)));
            }
            _ => {}
        }
    }
}
