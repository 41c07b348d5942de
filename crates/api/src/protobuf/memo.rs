//! What was written last in each place, because objects that are listed together look alike: the pods of one template share
//! their probes, resources, tolerations and most of their managed fields to the byte. A value that reads as the last one in its
//! place did is written as that one was, for the price of comparing the two.
//!
//! Only values that stand for themselves may be kept: what a value becomes must not depend on what is around it.

use super::json::Json;

/// A field, by its number in the type table, and its position in the list around it.
pub(super) type Place = (u32, u32);

/// Values kept at once. When two places fall together, one of them is not kept.
const SLOTS: usize = 256;
/// Where values differ so many times in a row, nothing is kept any more.
const PATIENCE: u8 = 3;

#[derive(Clone, Default)]
struct Kept {
    place: Place,
    /// Values in a row that were not the one before them.
    differed: u8,
    json: Vec<u8>,
    wire: Vec<u8>,
}

/// The last values.
#[derive(Default)]
pub(super) struct Memo(Vec<Kept>);

impl Memo {
    fn slot(&mut self, (field, position): Place) -> &mut Kept {
        if self.0.is_empty() {
            self.0.resize(SLOTS, Kept::default());
        }
        &mut self.0[field.wrapping_add(position.wrapping_mul(37)) as usize % SLOTS]
    }

    /// Writes the value that comes next when it is the last one of its place, and steps over it. Otherwise tells whether the value
    /// should be [kept](Memo::keep) once it is written.
    pub fn write(&mut self, place: Place, json: &mut Json<'_>, out: &mut Vec<u8>) -> Outcome {
        let kept = self.slot(place);
        if kept.place != place {
            return Outcome::Keep;
        }
        // A whole value is never the beginning of another one: it ends with its bracket.
        if !kept.json.is_empty() && json.take(&kept.json) {
            out.extend_from_slice(&kept.wire);
            kept.differed = 0;
            return Outcome::Written;
        }
        if kept.differed < PATIENCE { Outcome::Keep } else { Outcome::Different }
    }

    /// Keeps what the value of a place was written as.
    pub fn keep(&mut self, place: Place, json: &[u8], wire: &[u8]) {
        let kept = self.slot(place);
        kept.differed = if kept.place == place { kept.differed + 1 } else { 0 };
        kept.place = place;
        for (kept, new) in [(&mut kept.json, json), (&mut kept.wire, wire)] {
            kept.clear();
            kept.extend_from_slice(new);
        }
    }
}

/// What [`Memo::write`] found.
#[derive(PartialEq)]
pub(super) enum Outcome {
    /// The value is the last one, and written.
    Written,
    /// The value is another one, which may come again.
    Keep,
    /// The values of this place differ from object to object.
    Different,
}

#[cfg(test)]
mod tests {
    use super::super::Encoder;
    use crate::schema::Schema;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::{Value, json};

    /// A pod of parts that come again in others, in other places, next to parts that never do.
    fn pod(random: &mut StdRng) -> Value {
        let mut probe = |path: &str| json!({"httpGet": {"path": path, "port": if random.random() { json!(80) } else { json!("web") }}});
        let probes = [probe("/live"), probe("/ready")];
        let mut container = |n: usize| {
            let mut container = json!({"name": format!("c{n}"), "env": [{"name": "A", "value": random.random_range(0..3).to_string()}]});
            container["livenessProbe"] = probes[random.random_range(0..2)].clone();
            container["readinessProbe"] = probes[random.random_range(0..2)].clone();
            container["resources"] = json!({"limits": {"cpu": format!("{}m", random.random_range(1..4))}});
            container
        };
        let containers: Vec<_> = (0..3).map(&mut container).collect();
        let fields = json!({"f:metadata": {format!("f:{}", random.random_range(0..2)): {}}});
        let entry = |manager: &str| json!({"manager": manager, "fieldsV1": fields, "fieldsType": "FieldsV1"});
        json!({"metadata": {"labels": {"app": "a"}, "annotations": {"n": random.random::<u64>().to_string()}, "managedFields": [entry("a"), entry("b")]},
            "spec": {"containers": containers, "nodeSelector": {"app": "a"}, "tolerations": []}})
    }

    #[test]
    fn objects_written_one_after_the_other_are_what_they_are_alone() {
        let (schema, mut random) = (Schema::builtin("io.k8s.api.core.v1.Pod").expect("a built-in type"), StdRng::seed_from_u64(1));
        let mut many = Encoder::default();
        for _ in 0..500 {
            let json = pod(&mut random).to_string();
            let (mut alone, mut among) = (Vec::new(), Vec::new());
            Encoder::default().message(json.as_bytes(), schema.root(), &mut alone).expect("an object");
            many.message(json.as_bytes(), schema.root(), &mut among).expect("an object");
            assert_eq!(among, alone, "{json}");
        }
    }

    #[test]
    fn an_object_that_is_cut_off_is_an_error_even_when_its_parts_are_known() {
        let (schema, mut random) = (Schema::builtin("io.k8s.api.core.v1.Pod").expect("a built-in type"), StdRng::seed_from_u64(2));
        let json = pod(&mut random).to_string();
        let mut encoder = Encoder::default();
        for end in (0..=json.len()).rev() {
            let written = encoder.message(&json.as_bytes()[..end], schema.root(), &mut Vec::new());
            assert_eq!(written.is_ok(), end == json.len(), "{end}");
        }
    }
}
