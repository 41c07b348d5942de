//! Expressions at random, with the laws of evaluation: the same value each time, and never dearer than was estimated.
//! Long runs: see `ferrokube_testkit::fuzz`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use ferrokube_cel::{Budget, Decl, Env, PER_CALL, Type, Value};
use ferrokube_testkit::fuzz::{Random, damage, run};
use serde_json::json;

const LEAVES: [&str; 24] = [
    "1",
    "0",
    "-1",
    "2u",
    "2.5",
    "'a'",
    "''",
    "self.a",
    "self.l",
    "self.m",
    "self.n",
    "d",
    "d.a",
    "d.l",
    "true",
    "false",
    "[]",
    "{}",
    "null",
    "x",
    "y",
    "9223372036854775807",
    "b'a'",
    "timestamp('2026-01-02T03:04:05Z')",
];
const BINARY: [&str; 14] = ["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||", " in "];
const METHODS: [&str; 22] = [
    "size()",
    "contains('a')",
    "startsWith('a')",
    "matches('a+')",
    "indexOf('a')",
    "substring(1)",
    "split(',')",
    "lowerAscii()",
    "replace('a', 'bb')",
    "isSorted()",
    "sum()",
    "min()",
    "max()",
    "orValue(1)",
    "hasValue()",
    "getFullYear()",
    "trim()",
    "reverse()",
    "distinct()",
    "flatten()",
    "first()",
    "format(['a', 1])",
];
const FOLDS: [&str; 6] = ["all", "exists", "exists_one", "map", "filter", "sortBy"];
const CALLS: [&str; 12] =
    ["string", "int", "uint", "double", "bool", "size", "type", "duration", "dyn", "quantity", "optional.of", "optional.ofNonZeroValue"];

/// An expression with a shape; names that folds bind may be free in it.
fn expression(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        return (*random.one(&LEAVES)).to_owned();
    }
    let mut inner = || expression(random, depth - 1);
    let (a, b, c) = (inner(), inner(), inner());
    match random.below(12) {
        0 | 1 => format!("({a} {} {b})", random.one(&BINARY)),
        2 => format!("({a} ? {b} : {c})"),
        3 | 4 => format!("{a}.{}({}, {b})", random.one(&FOLDS), random.one(&["x", "y"])),
        5 => format!("{a}.{}", random.one(&METHODS)),
        6 => format!("{}({a})", random.one(&CALLS)),
        7 => format!("dyn({a})[{b}]"),
        8 => format!("[{a}, {b}]"),
        9 => format!("{{'k': {a}, 'j': {b}}}"),
        10 => format!("cel.bind(x, {a}, {b})"),
        _ => format!("!({a})"),
    }
}

#[test]
fn an_expression_has_one_value_and_costs_no_more_than_estimated() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 8},
        "l": {"type": "array", "maxItems": 4, "items": {"type": "integer"}},
        "m": {"type": "object", "maxProperties": 3, "additionalProperties": {"type": "string", "maxLength": 4}},
        "n": {"type": "integer"}}});
    let object = json!({"a": "abcabc", "l": [3, 1, 2, 2], "m": {"k": "v", "j": "wwww"}, "n": 7});
    let declared = Decl::of_schema(&schema, true).unwrap();
    let (exact, loose) = (Env::new().with("self", declared.clone()), Env::new().with("self", declared.clone()).with_type("d", Type::Dyn));
    run("cel", 5000, |random| {
        let depth = 1 + random.below(4);
        let mut source = expression(random, depth);
        let damaged = random.chance(15);
        if damaged {
            let mut bytes = source.into_bytes();
            damage(random, &mut bytes);
            source = String::from_utf8_lossy(&bytes).into_owned();
        }
        let variables = [Value::typed(&object, &declared), Value::json(&object)];
        let Ok(program) = loose.compile(&source) else { return };
        let shown = |value: Result<Value<'_>, ferrokube_cel::EvalError>| match value {
            Ok(value) => format!("{} {:?}", value.type_name(), value.to_json()),
            Err(error) => format!("error {}", error.message),
        };
        let (first, cost) = program.eval_costed(&variables);
        let first = shown(first);
        assert!(cost <= PER_CALL + 1_000_000, "{source}: {cost}");
        let (second, again) = program.eval_costed(&variables);
        assert_eq!((shown(second), again), (first.clone(), cost), "{source}");
        // What sizes are declared for is never dearer than was said beforehand. Three things are not in the estimate, upstream as
        // well: fields of what may be anything, which only damage makes here, that nothing splits into one part, and what is in lists
        // that are elements of a list whose elements are compared with each other.
        let compares = [".isSorted(", ".sum(", ".min(", ".max(", ".indexOf("].iter().any(|f| source.contains(f));
        let estimated = !damaged && !source.contains("split(") && !(compares && source.contains('['));
        if let Some(program) = exact.compile(&source).ok().filter(|_| estimated) {
            let (_, cost) = program.eval_costed(&[Value::typed(&object, &declared)]);
            assert!(cost <= program.max_cost(), "{source}: {cost} of {}", program.max_cost());
        }
        // With less than it costs there is no value.
        if cost > 0 && !first.starts_with("error") {
            let value = program.eval(&variables, &Budget::new(cost - 1));
            assert!(value.is_err_and(|e| e.exhausted), "{source} for {}", cost - 1);
        }
    });
}
