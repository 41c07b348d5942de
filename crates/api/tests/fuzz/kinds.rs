//! The hooks of every kind: they see what clients send, so they see anything that decodes.

use crate::generate;
use ferrokube_api::decode::{Strictness, normalize};
use ferrokube_api::field::Errors;
use ferrokube_api::kinds::{HookContext, known};
use ferrokube_api::schema::Schema;
use ferrokube_testkit::fuzz::{assert_same, change, run};

#[test]
fn defaulting_is_idempotent_and_no_object_upsets_a_kind() {
    let rows: Vec<_> = known().collect();
    run("kinds", 1500, |random| {
        let row = random.one(&rows);
        let Some(schema) = Schema::builtin(&row.schema) else { return };
        let wrong = *random.one(&[0, 0, 2]);
        let context = HookContext { now: jiff::Timestamp::UNIX_EPOCH };
        let object = |random: &mut _| normalize(generate::object(random, &schema, wrong), &schema, Strictness::Ignore).ok();
        let (Some(new), Some(old)) = (object(random), object(random)) else { return };
        let (mut new, mut old) = (new.value, old.value);
        if random.chance(60) {
            // A small change of the same object.
            old = new.clone();
            change(random, &mut new);
            let Ok(changed) = normalize(new, &schema, Strictness::Ignore) else { return };
            new = changed.value;
        }
        let hooks = &row.hooks;
        if let Some(default) = hooks.default {
            default(&mut old);
            default(&mut new);
            let mut again = new.clone();
            default(&mut again);
            assert_same(&again, &new, &row.kind);
        }
        let mut created = new.clone();
        hooks.prepare_create.into_iter().for_each(|prepare| prepare(&mut created, &context));
        let mut errors = Errors::default();
        hooks.validate_create.into_iter().for_each(|validate| validate(&created, &mut errors));
        let mut updated = new.clone();
        hooks.prepare_update.into_iter().for_each(|prepare| prepare(&mut updated, &old, &context));
        hooks.validate_update.into_iter().for_each(|validate| validate(&updated, &old, &mut errors));
        let mut status = new.clone();
        hooks.prepare_status.into_iter().for_each(|prepare| prepare(&mut status, &old, &context));
        hooks.validate_status.into_iter().for_each(|validate| validate(&status, &old, &mut errors));
        for view in hooks.views {
            let mut viewed = new.clone();
            (view.prepare)(&mut viewed, &old, &context);
            (view.validate)(&viewed, &old, &mut errors);
        }
        let _ = (hooks.warnings.map(|w| w(&new)), hooks.grace.map(|g| g(&new)));
        if let Some(cells) = hooks.cells {
            assert_eq!(cells(&new, &context).len(), row.columns.len(), "{} {}", row.group, row.kind);
        }
        for convert in hooks.to_storage.iter().chain(&hooks.from_storage) {
            convert(&mut new.clone());
        }
    });
}
