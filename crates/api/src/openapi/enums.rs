//! The closed sets of values that fields of built-in kinds have, for people and programs that read the description (OpenAPIEnums).
//!
//! Nothing is validated by them: validation has its own rules and words.

use serde_json::Value;
use std::collections::HashMap;
use std::sync::OnceLock;

pub(super) const TABLE: &str = include_str!("../../data/enums.tsv");

/// By type and field, as the table writes them.
type Sets = HashMap<&'static str, Vec<&'static str>>;

fn sets() -> &'static Sets {
    static SETS: OnceLock<Sets> = OnceLock::new();
    SETS.get_or_init(|| {
        let rows = TABLE.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t'));
        let row = |mut columns: std::str::Split<'static, char>| {
            let values: Vec<_> = columns.nth(1).unwrap_or_default().split(' ').map(|v| v.trim_matches('"')).collect();
            columns.next().unwrap_or_default().split(' ').map(move |field| (field, values.clone()))
        };
        rows.flat_map(row).collect()
    })
}

/// The values of a field of a type.
pub(super) fn of(owner: &str, field: &str) -> Option<Value> {
    let owner = owner.strip_prefix("io.k8s.api.")?;
    let values = sets().get(format!("{owner}.{field}").as_str())?;
    Some(values.iter().copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Shape, Types};

    #[test]
    fn every_set_belongs_to_a_field_that_holds_text() {
        for name in sets().keys() {
            let (owner, field) = name.rsplit_once('.').expect("type and field");
            let ty = Types::builtin().get(&format!("io.k8s.api.{owner}")).unwrap_or_else(|| panic!("no type {owner}"));
            let found = ty.fields().iter().find(|f| &*f.name == field).unwrap_or_else(|| panic!("no field {name}"));
            let ty = ty.of(found);
            let shape = ty.element().map_or(ty.node().shape, |items| items.node().shape);
            assert!(matches!(shape, Shape::String), "{name}");
        }
    }
}
