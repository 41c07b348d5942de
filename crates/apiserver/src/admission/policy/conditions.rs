//! `matchConditions`, of policies and of webhooks.

use super::super::Context;
use super::compile::{self, Compiled};
use super::run::Scene;
use ferrokube_cel::{Budget, Value as Cel};
use serde_json::Value;

/// Units that the conditions of one policy or webhook may cost.
const BUDGET: u64 = 2_500_000;

/// Whether all conditions hold. A condition that does not hold decides, whatever others fail at.
///
/// # Errors
/// What the first failing condition said.
pub(super) fn hold<'a>(conditions: &'a [(String, Compiled)], values: &[Cel<'a>]) -> Result<bool, String> {
    let budget = Budget::new(BUDGET);
    let mut failed = None;
    for (name, condition) in conditions {
        let value = match condition {
            Ok(program) => program.eval(values, &budget).map_err(|e| format!("expression '{}' resulted in error: {e}", program.source())),
            Err(why) => Err(format!("compilation error for match condition {name:?}: {why}")),
        };
        match value {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => return Ok(false),
            Err(why) => failed = failed.or(Some(why)),
        }
    }
    failed.map_or(Ok(true), Err)
}

/// Whether the conditions of a webhook let it see the request. Webhooks with conditions are few; theirs are compiled on the way.
///
/// # Errors
/// What the first failing condition said.
pub(in super::super) fn admits(c: &Context<'_>, hook: &Value, object: Option<&Value>) -> Result<bool, String> {
    let conditions = compile::conditions(hook, false);
    if conditions.is_empty() {
        return Ok(true);
    }
    let scene = Scene::new(c, object);
    hold(&conditions, &scene.values(object, None))
}
