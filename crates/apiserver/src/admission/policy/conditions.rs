//! `matchConditions`, of policies and of webhooks.

use super::super::Context;
use super::super::constraints::Seen;
use super::super::versions::View;
use super::compile::Condition;
use super::run::Scene;
use ferrokube_cel::{Budget, Value as Cel};

/// Units that the conditions of one policy or webhook may cost.
const BUDGET: u64 = 2_500_000;

/// Whether all conditions hold. A condition that does not hold decides, whatever others fail at.
///
/// # Errors
/// What the first failing condition said.
pub(super) fn hold<'a>(conditions: &'a [Condition], values: &[Cel<'a>]) -> Result<bool, String> {
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

/// Whether all conditions of a webhook hold for a request as it sees it.
///
/// # Errors
/// What the first failing condition said.
pub(in super::super) async fn holds(c: &Context<'_>, seen: &Seen, conditions: &[Condition], view: &View<'_>) -> Result<bool, String> {
    let scene = Scene::new(c, seen, view);
    loop {
        let held = hold(conditions, &scene.values(scene.object(), None));
        if !c.questions.answer().await {
            return held;
        }
    }
}
