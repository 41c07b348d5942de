//! What was written becomes a mold for what comes next, because objects that are listed together say nearly the same: of two pods of one
//! template a dozen names, times and addresses differ. An object that has the text of an earlier one but for the values of some
//! scalars is written as that one was, with its own values in their places: it is compared and copied, not read.
//!
//! A mold learns by itself which scalars vary. What fits it becomes the very bytes that writing it member by member makes:
//! a scalar becomes the same wherever it stands, lengths are counted anew, and everything else has to be the same text.

use super::encode::varint_len;
use super::json::Json;
use super::{Fields, Wire};
use crate::scan::value_end;
use crate::schema::{Shape, TypeId, TypeRef, WirePath};
use std::cmp::Reverse;
use std::ops::Range;

/// Molds kept at once, the one that fitted last in front.
const MOLDS: usize = 4;
/// After so many objects in a row that fitted none, few more are tried as molds.
const PATIENCE: u32 = 4;

/// Of larger objects there are too few in a row to be worth a mold.
const LARGE: usize = 64 << 10;

/// A value of the object that a mold was made from, which is no list and no object with fields.
struct Scalar {
    json: Range<usize>,
    /// Its field, tag and length included.
    wire: Range<usize>,
    number: u32,
    ty: TypeId,
    varies: bool,
}

/// A scalar that varies, and what it was in the last object: often it is the same again, as times are.
struct Hole {
    scalar: usize,
    value: Vec<u8>,
    wire: Vec<u8>,
}

/// A field with a message in it.
#[derive(Clone, PartialEq)]
struct Message {
    tag: Range<usize>,
    body: Range<usize>,
}

/// How an object is written, from its end to its beginning: what a message holds is written by the time its length is asked for.
enum Step {
    /// As in the mold.
    Plain(Range<usize>),
    /// The value of the hole with this number.
    Hole(usize),
    /// A message ends here.
    End,
    /// A message begins here. Its tag.
    Begin(Range<usize>),
}

struct Mold {
    ty: TypeId,
    json: Vec<u8>,
    wire: Vec<u8>,
    /// In the order of the text.
    scalars: Vec<Scalar>,
    messages: Vec<Message>,
    /// In the order of the text.
    holes: Vec<Hole>,
    steps: Vec<Step>,
}

/// A field as it stands in a mold.
struct Part {
    whole: Range<usize>,
    message: Message,
}

impl Mold {
    /// From an object and what it was written as. None: it has something that a mold cannot have.
    fn of(json: &[u8], ty: TypeRef<'_>, wire: &[u8]) -> Option<Mold> {
        let (scalars, messages, holes, steps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut mold = Mold { ty: ty.id(), json: json.to_vec(), wire: wire.to_vec(), scalars, messages, holes, steps };
        mold.fields(&mut Json::new(json), ty, 0..wire.len())?;
        mold.messages.sort_by_key(|m| m.tag.start);
        mold.messages.dedup();
        mold.plan();
        Some(mold)
    }

    /// The fields of this number in the message that stands at `body`.
    fn parts(&self, body: &Range<usize>, number: u32) -> Option<Vec<Part>> {
        let (mut parts, mut fields, mut start) = (Vec::new(), Fields(&self.wire[body.clone()]), body.start);
        while let Some((found, wire)) = fields.next().ok()? {
            let end = body.end - fields.0.len();
            if found == u64::from(number) {
                let content = if let Wire::Bytes(bytes) = wire { bytes.len() } else { 0 };
                let tag = start..start + varint_len((number << 3) as usize);
                parts.push(Part { whole: start..end, message: Message { tag, body: end - content..end } });
            }
            start = end;
        }
        Some(parts)
    }

    fn enter(&mut self, part: Part) -> Range<usize> {
        let body = part.message.body.clone();
        self.messages.push(part.message);
        body
    }

    /// The message that a path leads into, and the last number of the path.
    fn inside(&mut self, mut body: Range<usize>, path: &WirePath) -> Option<(Range<usize>, u32)> {
        let numbers = path.split(|n| *n == 0).next()?;
        let (last, way) = numbers.split_last()?;
        for number in way {
            let part = self.parts(&body, u32::from(*number))?.pop()?;
            body = self.enter(part);
        }
        Some((body, u32::from(*last)))
    }

    fn fields(&mut self, json: &mut Json<'_>, ty: TypeRef<'_>, body: Range<usize>) -> Option<()> {
        let mut first = true;
        json.expect(b'{').ok()?;
        while json.more(b'}', &mut first).ok()? {
            let name = json.key().ok()?;
            match std::str::from_utf8(&name).ok().and_then(|name| ty.field(name)) {
                Some((_, field)) if field.wire[0] != 0 && json.peek() != b'n' => {
                    let (body, number) = self.inside(body.clone(), &field.wire)?;
                    self.field(json, ty.of(field), &body, number)?;
                }
                _ => _ = json.skip().ok()?,
            }
        }
        Some(())
    }

    fn field(&mut self, json: &mut Json<'_>, ty: TypeRef<'_>, body: &Range<usize>, number: u32) -> Option<()> {
        let (mut parts, mut first) = (self.parts(body, number)?.into_iter(), true);
        match (ty.shape(), json.peek(), ty.element()) {
            (Shape::List(_), b'[', Some(inner)) => {
                json.expect(b'[').ok()?;
                while json.more(b']', &mut first).ok()? {
                    self.single(json, inner, parts.next()?, number)?;
                }
            }
            (Shape::Map(_), b'{', Some(inner)) => {
                json.expect(b'{').ok()?;
                while json.more(b'}', &mut first).ok()? {
                    json.key().ok()?;
                    let entry = self.enter(parts.next()?);
                    let value = self.parts(&entry, 2)?.pop()?;
                    self.single(json, inner, value, 2)?;
                }
            }
            _ => self.single(json, ty, parts.next()?, number)?,
        }
        // Whatever was written is accounted for.
        parts.next().is_none().then_some(())
    }

    fn single(&mut self, json: &mut Json<'_>, ty: TypeRef<'_>, part: Part, number: u32) -> Option<()> {
        match (ty.shape(), json.peek()) {
            (Shape::Struct(..), b'{') => {
                let body = self.enter(part);
                return self.fields(json, ty, body);
            }
            (_, b'n') => return None,
            (Shape::Struct(..) | Shape::List(_) | Shape::Map(_) | Shape::Any, _) => _ = json.skip().ok()?,
            _ => {
                let start = json.at();
                json.skip().ok()?;
                self.scalars.push(Scalar { json: start..json.at(), wire: part.whole, number, ty: ty.id(), varies: false });
            }
        }
        Some(())
    }

    /// Makes the steps for the scalars that vary.
    fn plan(&mut self) {
        let varies = |n: &usize| self.scalars[*n].varies;
        self.holes = (0..self.scalars.len()).filter(varies).map(|scalar| Hole { scalar, value: Vec::new(), wire: Vec::new() }).collect();
        let holes = self.holes.iter().map(|hole| &self.scalars[hole.scalar].wire).enumerate();
        let mut steps: Vec<_> = holes.map(|(n, wire)| (wire.start, Reverse(0), Step::Hole(n), wire.end)).collect();
        let mut places: Vec<_> = steps.iter().map(|(at, ..)| *at).collect();
        places.sort_unstable();
        for Message { tag, body } in &self.messages {
            if places.get(places.partition_point(|at| *at < body.start)).is_some_and(|at| *at < body.end) {
                steps.push((tag.start, Reverse(0), Step::Begin(tag.clone()), body.start));
                // Of messages that end together, the innermost ends first, and all of them before the next field.
                steps.push((body.end, Reverse(body.start), Step::End, body.end));
            }
        }
        steps.sort_by_key(|(at, order, ..)| (*at, *order));
        self.steps.clear();
        let mut written = 0;
        for (at, _, step, end) in steps {
            if written < at {
                self.steps.push(Step::Plain(written..at));
            }
            self.steps.push(step);
            written = end;
        }
        self.steps.push(Step::Plain(written..self.wire.len()));
        self.steps.reverse();
    }

    /// Whether an object fits; then `values` is where it has its values for the holes.
    fn fits(&mut self, json: &[u8], values: &mut Vec<Range<usize>>) -> bool {
        values.clear();
        let (mut own, mut at) = (0, 0);
        for hole in &self.holes {
            let scalar = &self.scalars[hole.scalar];
            let Some(value) = self.value_of(scalar, own, json, at) else { return self.learns(json, values) };
            (own, at) = (scalar.json.end, value.end);
            values.push(value);
        }
        json[at..] == self.json[own..] || self.learns(json, values)
    }

    /// As [`Mold::fits`], with holes for all scalars that differ.
    fn learns(&mut self, json: &[u8], values: &mut Vec<Range<usize>>) -> bool {
        values.clear();
        let (mut own, mut at, mut fits, mut learned) = (0, 0, true, false);
        for n in 0..self.scalars.len() {
            let Some(value) = self.value_of(&self.scalars[n], own, json, at) else {
                fits = false;
                break;
            };
            let scalar = &mut self.scalars[n];
            (own, at) = (scalar.json.end, value.end);
            if !scalar.varies && json[value.clone()] != self.json[scalar.json.clone()] {
                (scalar.varies, learned) = (true, true);
            }
            if scalar.varies {
                values.push(value);
            }
        }
        if learned {
            self.plan();
        }
        fits && json[at..] == self.json[own..]
    }

    /// Where an object has its value for a scalar, if between `own` in the mold, `at` in the object, and the scalar both have the same text.
    fn value_of(&self, scalar: &Scalar, own: usize, json: &[u8], at: usize) -> Option<Range<usize>> {
        let text = &self.json[own..scalar.json.start];
        let at = if json[at..].starts_with(text) { at + text.len() } else { return None };
        let same_form = form(*json.get(at)?) == form(self.json[scalar.json.start]);
        if same_form { Some(at..value_end(json, at)?) } else { None }
    }
}

/// What a value is, by its first byte.
fn form(first: u8) -> u8 {
    match first {
        b'-' | b'0'..=b'9' => b'0',
        b't' | b'f' => b't',
        other => other,
    }
}

/// The last molds.
#[derive(Default)]
pub(super) struct Molds {
    molds: Vec<Mold>,
    /// Objects in a row that fitted none.
    missed: u32,
    /// How long the object before was.
    last: usize,
    /// Where the values for the holes are in an object.
    values: Vec<Range<usize>>,
    /// Where the messages end that are being written.
    ends: Vec<usize>,
    /// The object, written from the end.
    page: Vec<u8>,
}

impl Molds {
    /// Writes an object if it fits a mold. `scalar` writes a value as a field of this number and type.
    pub fn write<E>(
        &mut self,
        json: &[u8],
        ty: TypeRef<'_>,
        out: &mut Vec<u8>,
        mut scalar: impl FnMut(u32, &[u8], TypeRef<'_>, &mut Vec<u8>) -> Result<(), E>,
    ) -> bool {
        let Some(fitting) = self.molds.iter_mut().position(|m| m.ty == ty.id() && m.fits(json, &mut self.values)) else { return false };
        self.molds[..=fitting].rotate_right(1);
        let mold = &mut self.molds[0];
        let mut room = mold.wire.len() + mold.messages.len() * varint_len(usize::MAX);
        for (hole, value) in mold.holes.iter_mut().zip(&self.values) {
            let value = &json[value.clone()];
            if hole.value != value {
                let field = &mold.scalars[hole.scalar];
                hole.value.clear();
                hole.wire.clear();
                if scalar(field.number, value, ty.types().at(field.ty), &mut hole.wire).is_err() {
                    return false;
                }
                hole.value.extend_from_slice(value);
            }
            room += hole.wire.len();
        }
        (self.missed, self.last) = (0, json.len());
        self.page.resize(self.page.len().max(room), 0);
        let mut page = Page { at: self.page.len(), bytes: &mut self.page };
        for step in &mold.steps {
            match step {
                Step::Plain(range) => page.put(&mold.wire[range.clone()]),
                Step::Hole(number) => page.put(&mold.holes[*number].wire),
                Step::End => self.ends.push(page.at),
                Step::Begin(tag) => {
                    let length = self.ends.pop().unwrap_or(page.at) - page.at;
                    page.put_length(length);
                    page.put(&mold.wire[tag.clone()]);
                }
            }
        }
        let begins = page.at;
        out.extend_from_slice(&self.page[begins..]);
        true
    }

    /// An object that fitted no mold was written. It becomes one if it looks like one of many: those of one template are about as long.
    pub fn keep(&mut self, json: &[u8], ty: TypeRef<'_>, wire: &[u8]) {
        self.missed += 1;
        let before = std::mem::replace(&mut self.last, json.len());
        let alike = before.abs_diff(json.len()) <= json.len() / 16 && json.len() <= LARGE;
        if !alike || self.missed > PATIENCE && !self.missed.is_power_of_two() {
            return;
        }
        if let Some(mold) = Mold::of(json, ty, wire) {
            self.molds.truncate(MOLDS - 1);
            self.molds.insert(0, mold);
        }
    }
}

/// Bytes written from the end.
struct Page<'p> {
    bytes: &'p mut [u8],
    at: usize,
}

impl Page<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let start = self.at - bytes.len();
        self.bytes[start..self.at].copy_from_slice(bytes);
        self.at = start;
    }

    fn put_length(&mut self, length: usize) {
        let (mut shift, mut more) = (7 * (varint_len(length) - 1), 0);
        loop {
            self.at -= 1;
            self.bytes[self.at] = (length >> shift) as u8 & 0x7f | more;
            if shift == 0 {
                return;
            }
            (shift, more) = (shift - 7, 0x80);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Encoder, fixtures};
    use crate::schema::{Schema, Types};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::{Value, json};

    /// Changes some of the scalars of a value, and now and then its form.
    fn vary(value: &mut Value, often: f64, random: &mut StdRng) {
        match value {
            Value::Object(map) => map.values_mut().for_each(|v| vary(v, often, random)),
            Value::Array(list) => list.iter_mut().for_each(|v| vary(v, often, random)),
            _ if !random.random_bool(often) => {}
            Value::String(text) => {
                let time = text.ends_with('Z') && text.contains("T0");
                *text = match random.random_range(0..5) {
                    0 => "x".repeat(random.random_range(0..300)),
                    1 => "\"ü\\\n".to_owned(),
                    2 => format!("{text}{}", random.random::<u8>()),
                    _ if time => format!("20{:02}-03-04T05:06:07Z", random.random_range(10..99)),
                    _ => random.random::<u32>().to_string(),
                };
            }
            Value::Number(_) => *value = [json!(0), json!(-1), json!(8), json!(80), json!(1_u64 << 40)][random.random_range(0..5)].clone(),
            Value::Bool(yes) => *yes = !*yes,
            Value::Null => {}
        }
        if random.random_bool(often / 40.0) {
            match value {
                Value::Object(map) => map.keys().next_back().cloned().into_iter().for_each(|key| _ = map.remove(&key)),
                Value::Array(list) => list.extend(list.first().cloned()),
                other => *other = Value::Null,
            }
        }
    }

    fn alone(json: &[u8], schema: &Schema) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        Encoder::default().message(json, schema.root(), &mut out).ok().map(|()| out)
    }

    #[test]
    fn what_fits_a_mold_is_written_as_it_is_without_one() {
        let (mut random, mut fitted) = (StdRng::seed_from_u64(7), 0);
        let published = fixtures().into_iter().filter(|p| p.extension().is_some_and(|e| e == "json"));
        let own = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"a": "b", "c": ""},
            "managedFields": [{"fieldsV1": {"f:a": {"k:{\"ip\":\"1\"}": {}}}, "time": "2026-01-02T03:04:05Z"}]},
            "spec": {"containers": [{"name": "c", "livenessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "1"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"configMap": {"name": "cm", "items": [{"key": "k", "path": "p"}]}, "name": "w"}]},
            "status": {"containerStatuses": [{"ready": true, "restartCount": 1}]}});
        let objects: Vec<Value> =
            published.map(|p| serde_json::from_slice(&std::fs::read(p).expect("a fixture")).expect("JSON")).chain([own]).collect();
        for object in objects {
            let text = |key: &str| object[key].as_str().unwrap_or_default();
            let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
            let Some(schema) = Types::builtin().name_of(group, version, text("kind")).and_then(Schema::builtin) else { continue };
            let mut many = Encoder::default();
            for often in [0.0, 0.01, 0.01, 0.0, 0.1, 0.1, 0.02, 0.5, 0.0, 0.02, 0.02, 0.02] {
                let mut object = object.clone();
                vary(&mut object, often, &mut random);
                let (json, mut among) = (object.to_string(), Vec::new());
                let written = many.message(json.as_bytes(), schema.root(), &mut among).ok().map(|()| among);
                assert!(written == alone(json.as_bytes(), &schema), "{json}");
                fitted += usize::from(many.molds.missed == 0);
            }
        }
        assert!(fitted > 4 || fixtures().is_empty(), "only {fitted} fitted");
    }

    #[test]
    fn a_mold_learns_what_varies() {
        let schema = Schema::builtin("io.k8s.api.core.v1.Pod").expect("a built-in type");
        let mut encoder = Encoder::default();
        for n in 0..100 {
            let pod = json!({"metadata": {"name": format!("pod-{n}"), "labels": {"app": "a"}, "generation": n},
                "spec": {"containers": [{"name": "c", "image": "i".repeat(200 + n % 3)}]}});
            let (json, mut out) = (pod.to_string(), Vec::new());
            encoder.message(json.as_bytes(), schema.root(), &mut out).expect("an object");
            assert_eq!(Some(out), alone(json.as_bytes(), &schema));
            // The first one made no mold, the second one did.
            assert_eq!(encoder.molds.missed == 0, n >= 2, "{n}");
        }
        assert_eq!(encoder.molds.molds.len(), 1);
        assert_eq!(encoder.molds.molds[0].holes.len(), 3);
    }
}
