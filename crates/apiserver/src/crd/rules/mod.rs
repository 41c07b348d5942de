//! `x-kubernetes-validations`: the CEL rules of a structural schema, compiled once per version of a CRD.
//!
//! The tree of [`Node`]s follows the schema, but only where rules are: an object without rules costs nothing here. Rules are
//! compiled in the same way when a CRD is written (`definition.rs`, where what is wrong becomes errors) and when it is served (where
//! a rule that does not compile fails every write, as upstream). Source: apiextensions `apiserver/schema/cel`.

mod definition;
mod evaluate;

pub use definition::check;
pub use evaluate::validate;

use ferrokube_cel::{Decl, Env, Program, Type};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Position of the variables in every environment here.
const OLD_SELF: usize = 1;

/// The rules of a schema and of what is below it.
#[derive(Debug)]
pub struct Node {
    rules: Vec<Rule>,
    decl: Arc<Decl>,
    /// The `type` of the schema.
    kind: String,
    properties: BTreeMap<String, Node>,
    items: Option<Box<Node>>,
    values: Option<Box<Node>>,
    /// `x-kubernetes-list-map-keys`, by which the items of two lists belong together, with the defaults of the keys.
    keys: Vec<(String, Value)>,
}

/// One rule.
#[derive(Debug)]
struct Rule {
    text: String,
    message: String,
    reason: String,
    /// Steps below the object that the rule is about.
    field_path: Vec<Step>,
    optional_old: bool,
    program: Result<Program, String>,
    message_program: Option<Result<Program, String>>,
}

/// One step of a `fieldPath`.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Key(String),
}

impl Rule {
    /// Whether the rule compares with what was there.
    fn is_transition(&self) -> bool {
        self.program.as_ref().is_ok_and(|p| p.uses(OLD_SELF))
    }

    /// Whether the rule looks at the old value in either of its expressions.
    fn uses_old(&self) -> bool {
        let message = self.message_program.as_ref().and_then(|p| p.as_ref().ok());
        self.is_transition() || message.is_some_and(|p| p.uses(OLD_SELF))
    }

    fn compile(rule: &Value, decl: &Arc<Decl>) -> Rule {
        let text = |key: &str| rule[key].as_str().unwrap_or_default().trim().to_owned();
        let optional_old = rule["optionalOldSelf"] == true;
        let old = if optional_old { Arc::new(Decl::simple(Type::optional(decl.ty()))) } else { decl.clone() };
        let env = Env::new().with("self", decl.clone()).with("oldSelf", old);
        let compile = |source: &str, wanted: Type, why: &str| match env.compile(source) {
            Err(issues) => Err(format!("compilation failed: {issues}")),
            Ok(program) if *program.result() != wanted && !matches!(program.result(), Type::Dyn) => Err(why.to_owned()),
            Ok(program) => Ok(program),
        };
        let program = compile(&text("rule"), Type::Bool, "rule must evaluate to a bool");
        let expression = text("messageExpression");
        let message_program =
            (!expression.is_empty()).then(|| compile(&expression, Type::String, "messageExpression must evaluate to a string"));
        Rule {
            field_path: steps(&text("fieldPath")).unwrap_or_default(),
            text: text("rule"),
            message: text("message"),
            reason: text("reason"),
            optional_old,
            program,
            message_program,
        }
    }
}

/// Reads a `fieldPath`: `.spec.a`, `['a.b'].c`.
fn steps(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("['") {
            let (key, after) = after.split_once("']")?;
            steps.push(Step::Key(key.replace("\\'", "'")));
            rest = after;
        } else {
            let after = rest.strip_prefix('.')?;
            let end = after.find(['.', '[']).unwrap_or(after.len());
            if end == 0 {
                return None;
            }
            steps.push(Step::Field(after[..end].to_owned()));
            rest = &after[end..];
        }
    }
    Some(steps)
}

/// Compiles the rules of a schema; `None` when there are none in it.
pub fn compile(schema: &Value, root: bool) -> Option<Node> {
    let inner = |key: &str| schema.get(key).filter(|s| s.is_object());
    let properties: BTreeMap<String, Node> = inner("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, schema)| Some((name.clone(), compile(schema, false)?)))
        .collect();
    let items = inner("items").and_then(|s| compile(s, false)).map(Box::new);
    let values = inner("additionalProperties").and_then(|s| compile(s, false)).map(Box::new);
    let rules = schema["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rules.is_empty() && properties.is_empty() && items.is_none() && values.is_none() {
        return None;
    }
    let decl = Arc::new(Decl::of_schema(schema, root).unwrap_or(Decl::simple(Type::Dyn)));
    let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let default = |key: &str| schema["items"]["properties"][key]["default"].clone();
    Some(Node {
        rules: rules.iter().map(|r| Rule::compile(r, &decl)).collect(),
        kind: schema["type"].as_str().unwrap_or_default().to_owned(),
        decl,
        properties,
        items,
        values,
        keys: keys.map(|k| (k.to_owned(), default(k))).collect(),
    })
}
