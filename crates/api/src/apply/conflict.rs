//! What an apply is told when it would take fields from others.

use crate::status::{Cause, Details, Reason, Status};

/// A field that the configuration changes and somebody else owns.
#[derive(Clone)]
pub(super) struct Conflict {
    pub(super) manager: String,
    pub(super) path: String,
}

/// The 409, with one cause per field.
pub(super) fn refusal(conflicts: &[Conflict]) -> Status {
    let message = match conflicts {
        [one] => format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.path),
        many => {
            let mut managers: Vec<&str> = many.iter().map(|c| c.manager.as_str()).collect();
            managers.sort_unstable();
            managers.dedup();
            let section = |manager: &&str| {
                let paths: Vec<&str> = many.iter().filter(|c| c.manager == *manager).map(|c| c.path.as_str()).collect();
                format!("conflicts with {manager}:\n- {}", paths.join("\n- "))
            };
            format!("Apply failed with {} conflicts: {}", many.len(), managers.iter().map(section).collect::<Vec<_>>().join("\n"))
        }
    };
    let causes = conflicts
        .iter()
        .map(|c| Cause { kind: "FieldManagerConflict".into(), message: format!("conflict with {}", c.manager), field: c.path.clone() })
        .collect();
    let mut status = Status::failure(409, Reason::Conflict, message);
    status.details = Some(Details { causes, ..Details::default() });
    status
}
