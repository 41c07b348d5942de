//! Running the rules over an object, beside the object it replaces.

use super::{Node, Rule, Step};
use ferrokube_api::field::{At, Errors};
use ferrokube_cel::{Budget, EvalError, Value as Cel};
use serde_json::Value;
use std::rc::Rc;

/// Units that all rules of one write may cost.
const PER_WRITE: u64 = 10_000_000;
/// Longest message of a `messageExpression`, in bytes.
const MAX_MESSAGE: usize = 5 << 10;
const EXHAUSTED: &str = "validation failed due to running out of cost budget, no further validation rules will be run";

/// Runs all rules. `old` is the object that is replaced. What is as it was is not held against the rules again, unless
/// they look at the old value themselves.
pub fn validate(node: &Node, object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let mut run = Run { budget: Budget::new(PER_WRITE), errors, over: false };
    run.node(node, object, old, old.is_some(), &At::ROOT);
}

struct Run<'e> {
    budget: Budget,
    errors: &'e mut Errors,
    over: bool,
}

impl Run<'_> {
    /// `update` says that an old object exists, even where `old` has no counterpart.
    fn node(&mut self, node: &Node, value: &Value, old: Option<&Value>, update: bool, at: &At) {
        if self.over {
            return;
        }
        if !node.rules.is_empty() && !value.is_null() {
            let unchanged = old.is_some_and(|old| old == value);
            for rule in &node.rules {
                self.rule(node, rule, value, old, unchanged, at);
            }
        }
        match value {
            Value::Object(map) => {
                for (name, inner) in map {
                    let old = old.and_then(|o| o.get(name));
                    if let Some(property) = node.properties.get(name) {
                        self.node(property, inner, old, update, &at.child(name));
                    } else if let Some(values) = &node.values {
                        self.node(values, inner, old, update, &at.key(name));
                    }
                }
            }
            Value::Array(list) => {
                let Some(items) = &node.items else { return };
                let before = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                for (i, item) in list.iter().enumerate() {
                    let old = before.iter().find(|o| same_entry(node, o, item));
                    self.node(items, item, old, update, &at.index(i));
                }
            }
            _ => {}
        }
    }

    fn rule(&mut self, node: &Node, rule: &Rule, value: &Value, old: Option<&Value>, unchanged: bool, at: &At) {
        if self.over {
            return;
        }
        let transition = rule.is_transition();
        if (transition && old.is_none() && !rule.optional_old) || (unchanged && !transition) {
            return;
        }
        let program = match &rule.program {
            Ok(program) => program,
            Err(why) => return self.fail(node, rule, value, at, &format!("rule compile error: {why}")),
        };
        let old = old.map(|o| Cel::typed(o, &node.decl));
        let old = if rule.optional_old { Cel::Optional(old.map(Rc::new)) } else { old.unwrap_or(Cel::Null) };
        let variables = [Cel::typed(value, &node.decl), old];
        match program.eval(&variables, &self.budget) {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => {
                let said = rule.message_program.as_ref().and_then(|p| p.as_ref().ok()).and_then(|p| self.said(p, &variables));
                self.fail(node, rule, value, at, &said.unwrap_or_else(|| default_message(rule)));
            }
            Err(error) => self.failed(node, rule, value, at, &error),
        }
    }

    /// What a `messageExpression` says, when it says something usable.
    fn said<'a>(&self, program: &'a ferrokube_cel::Program, variables: &[Cel<'a>]) -> Option<String> {
        let value = program.eval(variables, &self.budget).ok()?;
        let text = value.as_str()?.trim();
        let usable = !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n');
        usable.then(|| text.to_owned())
    }

    fn failed(&mut self, node: &Node, rule: &Rule, value: &Value, at: &At, error: &EvalError) {
        if error.exhausted && self.budget.left() == 0 {
            self.over = true;
            return self.errors.invalid_omitted(at, EXHAUSTED);
        }
        let shown = if rule.message.is_empty() { &rule.text } else { &rule.message };
        let detail = if error.exhausted {
            self.over = true;
            format!("'{}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}", error.message)
        } else if error.message.starts_with("no such overload") {
            let why = "call arguments did not match a supported operator, function or macro signature for rule";
            format!("'{}': {why}: {shown}", error.message)
        } else {
            format!("{} evaluating rule: {shown}", error.message)
        };
        if matches!(node.kind.as_str(), "object" | "array") {
            self.errors.invalid_omitted(at, &detail);
        } else {
            self.errors.invalid(at, value, &detail);
        }
    }

    fn fail(&mut self, node: &Node, rule: &Rule, value: &Value, at: &At, detail: &str) {
        let mut path = at.to_string();
        for step in &rule.field_path {
            match step {
                Step::Field(name) if path.is_empty() => path.push_str(name),
                Step::Field(name) => path.push_str(&format!(".{name}")),
                Step::Key(key) => path.push_str(&format!("[{key}]")),
            }
        }
        match rule.reason.as_str() {
            "FieldValueForbidden" => self.errors.forbidden(&path, detail),
            "FieldValueRequired" => self.errors.required(&path, detail),
            "FieldValueDuplicate" => self.errors.duplicate(&path, value),
            _ if matches!(node.kind.as_str(), "object" | "array") => self.errors.invalid_omitted(&path, detail),
            _ => self.errors.invalid(&path, value, detail),
        }
    }
}

fn default_message(rule: &Rule) -> String {
    if rule.message.is_empty() { format!("failed rule: {}", rule.text) } else { rule.message.clone() }
}

/// Whether two items of a list map have the same keys. Items of other lists have no counterpart.
fn same_entry(node: &Node, old: &Value, new: &Value) -> bool {
    let key = |item: &Value, key: &str, default: &Value| item.get(key).unwrap_or(default).clone();
    !node.keys.is_empty() && node.keys.iter().all(|(k, default)| key(old, k, default) == key(new, k, default))
}
