//! Rules as they are written in a CRD: what does not compile or may cost too much is refused.

use super::{Rule, steps};
use ferrokube_api::field::{Errors, Path};
use ferrokube_cel::Decl;
use serde_json::Value;
use std::sync::Arc;

/// Units that one expression may cost, multiplied by how often it may run.
const PER_EXPRESSION: u64 = 10_000_000;
/// Units of all expressions of a version together.
const PER_SCHEMA: u64 = 100_000_000;
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
const MAX_MESSAGE: usize = 2048;

/// Checks all rules of the schema of a version.
pub fn check(schema: &Value, path: &Path, errors: &mut Errors) {
    let mut walk = Walk { errors, total: 0, costs: Vec::new() };
    walk.schema(schema, true, 1, None, path);
    if walk.total > PER_SCHEMA {
        let (total, mut costs) = (walk.total, std::mem::take(&mut walk.costs));
        costs.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        for (at, _) in costs.iter().take(4).filter(|(_, cost)| *cost > 0) {
            let why = "contributed to estimated rule & messageExpression cost total exceeding cost limit for entire OpenAPIv3 schema";
            walk.errors.forbidden(at, why);
        }
        let what = "x-kubernetes-validations estimated rule & messageExpression cost total for entire OpenAPIv3 schema";
        walk.errors.forbidden(path, &exceeded(what, total, PER_SCHEMA));
    }
}

fn exceeded(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

struct Walk<'e> {
    errors: &'e mut Errors,
    total: u64,
    costs: Vec<(Path, u64)>,
}

impl Walk<'_> {
    /// `times` is how often the schema may occur in an object, `lost` the list above it whose items cannot be told apart.
    fn schema(&mut self, schema: &Value, root: bool, times: u64, lost: Option<&Path>, path: &Path) {
        if let Some(rules) = schema["x-kubernetes-validations"].as_array().filter(|r| !r.is_empty()) {
            let decl = Decl::of_schema(schema, root).map(Arc::new);
            let at = path.child("x-kubernetes-validations");
            for (i, rule) in rules.iter().enumerate() {
                self.rule(rule, decl.as_ref(), schema, times, lost, &at.index(i));
            }
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            self.schema(inner, false, times, lost, &path.child("properties").key(name));
        }
        let below = |key: &str| schema.get(key).filter(|s| s.is_object());
        let many = || Decl::of_schema(schema, false).map_or(1, |d| d.max_elements());
        if let Some(items) = below("items") {
            let at = path.child("items");
            let lost = lost.or_else(|| (schema["x-kubernetes-list-type"] != "map").then_some(&at));
            self.schema(items, false, times.saturating_mul(many()), lost, &at);
        }
        if let Some(values) = below("additionalProperties") {
            self.schema(values, false, times.saturating_mul(many()), lost, &path.child("additionalProperties"));
        }
    }

    fn rule(&mut self, rule: &Value, decl: Option<&Arc<Decl>>, schema: &Value, times: u64, lost: Option<&Path>, at: &Path) {
        let text = |key: &str| rule[key].as_str().unwrap_or_default();
        self.words(rule, schema, at);
        if text("rule").trim().is_empty() {
            return self.errors.required(&at.child("rule"), "rule is not specified");
        }
        let Some(decl) = decl else {
            return self.errors.invalid(&at.child("rule"), &shown(rule), "the schema has no type that a rule can be about");
        };
        let compiled = Rule::compile(rule, decl);
        match &compiled.program {
            Ok(program) => self.cost("estimated rule cost", program.max_cost(), times, &at.child("rule")),
            Err(why) => self.errors.invalid(&at.child("rule"), &shown(rule), why),
        }
        match &compiled.message_program {
            Some(Ok(program)) => self.cost("estimated messageExpression cost", program.max_cost(), times, &at.child("messageExpression")),
            Some(Err(why)) => {
                let why = if why.starts_with("messageExpression") { why.clone() } else { format!("messageExpression {why}") };
                self.errors.invalid(&at.child("messageExpression"), &shown(rule), &why);
            }
            None => {}
        }
        if compiled.uses_old() {
            if let Some(lost) = lost {
                let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}");
                self.errors.invalid(&at.child("rule"), &text("rule").into(), &why);
            }
        } else if compiled.program.is_ok() && !rule["optionalOldSelf"].is_null() {
            let why = "may not be set if oldSelf is not used in rule";
            self.errors.invalid(&at.child("optionalOldSelf"), &rule["optionalOldSelf"], why);
        }
    }

    /// What is wrong with the words around a rule.
    fn words(&mut self, rule: &Value, schema: &Value, at: &Path) {
        let text = |key: &str| rule[key].as_str().unwrap_or_default();
        let (message, reason, field_path) = (text("message"), text("reason"), text("fieldPath"));
        let source = text("rule").trim();
        if !rule["message"].is_null() && !message.is_empty() && message.trim().is_empty() {
            self.errors.invalid(&at.child("message"), &message.into(), "message must be non-empty if specified");
        }
        if message.trim().contains('\n') {
            self.errors.invalid(&at.child("message"), &message.into(), "message must not contain line breaks");
        }
        if source.contains('\n') && message.trim().is_empty() {
            self.errors.required(&at.child("message"), "message must be specified if rule contains line breaks");
        }
        if message.len() > MAX_MESSAGE {
            self.errors.too_long(&at.child("message"), MAX_MESSAGE);
        }
        if !rule["messageExpression"].is_null() && text("messageExpression").trim().is_empty() {
            self.errors.required(&at.child("messageExpression"), "messageExpression must be non-empty if specified");
        }
        if !reason.is_empty() && !REASONS.contains(&reason) {
            self.errors.not_supported(&at.child("reason"), &reason.into(), &REASONS);
        }
        if !field_path.is_empty() && !reaches(schema, field_path) {
            self.errors.invalid(&at.child("fieldPath"), &field_path.into(), "fieldPath must be a valid path");
        }
    }

    fn cost(&mut self, what: &str, cost: u64, times: u64, at: &Path) {
        let cost = cost.saturating_mul(times);
        if cost > PER_EXPRESSION {
            self.errors.forbidden(at, &exceeded(what, cost, PER_EXPRESSION));
        }
        self.total = self.total.saturating_add(cost);
        self.costs.push((at.clone(), cost));
    }
}

/// Whether a `fieldPath` leads to a field of the schema.
fn reaches(schema: &Value, path: &str) -> bool {
    let Some(steps) = steps(path) else { return false };
    let mut at = Some(schema);
    for step in &steps {
        let (super::Step::Field(name) | super::Step::Key(name)) = step;
        at = at.and_then(|s| s["properties"].get(name).or_else(|| s.get("additionalProperties").filter(|a| a.is_object())));
    }
    at.is_some()
}

/// A rule as it is quoted in errors.
fn shown(rule: &Value) -> Value {
    let text = |key: &str| rule[key].as_str().unwrap_or_default();
    serde_json::json!({
        "rule": text("rule"), "message": text("message"), "messageExpression": text("messageExpression"), "fieldPath": text("fieldPath"),
    })
}
