//! Whatever comes in, there is a value, an error or a refusal; never a panic, never an endless run.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use ferrokube_cel::{Budget, Decl, Env, Type, Value};
use proptest::prelude::*;
use serde_json::json;

fn run(source: &str) {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "l": {"type": "array", "items": {"type": "integer"}}}});
    let decl = Decl::of_schema(&schema, true).unwrap();
    let env = Env::new().with("self", decl.clone()).with_type("d", Type::Dyn).with_mutations();
    if let Ok(program) = env.compile(source) {
        let object = json!({"a": "x", "l": [1, 2, 3]});
        let variables = [Value::typed(&object, &decl), Value::json(&object)];
        if let Ok(value) = program.eval(&variables, &Budget::new(100_000)) {
            let _ = (value.to_json(), format!("{value:?}"));
        }
        let _ = program.max_cost();
    }
}

/// Pieces of which most programs are made, so that random sequences get past the parser.
const PIECES: [&str; 60] = [
    "self",
    "d",
    ".a",
    ".l",
    "[0]",
    "[?'k']",
    "['k']",
    ".?a",
    "1",
    "2u",
    "3.5",
    "'s'",
    "b'x'",
    "true",
    "null",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "?",
    "+",
    "-",
    "*",
    "/",
    "%",
    "!",
    "&&",
    "||",
    "==",
    "!=",
    "<",
    ">=",
    " in ",
    ".all(x, ",
    ".map(x, ",
    ".filter(y, ",
    ".exists(i, v, ",
    "x",
    "y",
    "has(",
    "size(",
    "cel.bind(x, ",
    "optional.of(",
    ".orValue(",
    ".matches('a.*')",
    ".split('')",
    ".format([",
    "duration(",
    "quantity(",
    "ip(",
    ".isSorted()",
    "Object{",
    "a: ",
    ".sortBy(x, ",
    ".optMap(x, ",
    "string(",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_compiled_or_refused(source in ".{0,80}") {
        run(&source);
    }

    #[test]
    fn any_sequence_of_pieces_is_evaluated_or_refused(pieces in proptest::collection::vec(proptest::sample::select(&PIECES[..]), 1..24)) {
        run(&pieces.concat());
    }
}

/// Expressions with a shape, grown from the leaves.
fn expression() -> impl Strategy<Value = String> {
    let leaf = proptest::sample::select(vec![
        "1",
        "0",
        "-1",
        "2.5",
        "'a'",
        "''",
        "self.a",
        "self.l",
        "d",
        "d.a",
        "d.l",
        "true",
        "[]",
        "{}",
        "null",
        "9223372036854775807",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(4, 40, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            (two.clone(), proptest::sample::select(vec!["+", "-", "*", "/", "%", "==", "<", "&&", "||", "in"]))
                .prop_map(|((a, b), op)| format!("({a} {op} {b})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            two.clone().prop_map(|(a, b)| format!("{a}.map(x, {b})")),
            two.clone().prop_map(|(a, b)| format!("{a}.all(x, {b} == x)")),
            two.clone().prop_map(|(a, b)| format!("dyn({a})[{b}]")),
            two.clone().prop_map(|(a, b)| format!("dyn({a}).indexOf({b})")),
            two.clone().prop_map(|(a, b)| format!("dyn({a}).substring({b})")),
            two.clone().prop_map(|(a, b)| format!("dyn({a}).slice(0, {b})")),
            two.prop_map(|(a, b)| format!("'%s %d'.format([{a}, dyn({b})])")),
            inner.clone().prop_map(|a| format!("[{a}]")),
            inner.prop_map(|a| format!("string(dyn({a}))")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_expression_ends(source in expression()) {
        run(&source);
    }
}

#[test]
fn nesting_and_length_are_bounded() {
    for source in [
        "(".repeat(100_000),
        format!("{}1{}", "(".repeat(5000), ")".repeat(5000)),
        vec!["1"; 20_000].join(" + "),
        vec!["true"; 20_000].join(" && "),
        format!("self{}", ".a".repeat(30_000)),
        "!".repeat(90_000) + "true",
        "-".repeat(90_000) + "1",
        "[".repeat(3000),
        format!("{}true{}", "[1].all(x, ".repeat(240), ")".repeat(240)),
        format!("self{}", ".optMap(x, x)".repeat(200)),
    ] {
        run(&source);
    }
}
