//! What comes next for the migrations of one resource, and what their status says: pure.
//!
//! One migration of a resource runs at a time, the oldest first. `Running` is set before anything is done, and taken back together
//! with the word of what came of it.

use ferrokube_api::time::format_time;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// The resource whose objects are migrated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Migrated {
    pub group: String,
    pub resource: String,
}

impl Migrated {
    /// That of a migration.
    pub fn of(migration: &Value) -> Self {
        let text = |key: &str| migration["spec"]["resource"][key].as_str().unwrap_or_default().to_owned();
        Migrated { group: text("group"), resource: text("resource") }
    }
}

/// What a migration came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Succeeded,
    Failed(String),
}

/// What to do next for a resource.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step<'m> {
    /// Say that this one runs.
    Begin(&'m Value),
    /// Work at this one.
    Work(&'m Value),
    /// It is over and still said to run: somebody else, or an earlier one of us, was interrupted.
    End(&'m Value, Outcome),
}

pub(super) fn is(migration: &Value, condition: &str) -> bool {
    let all = migration["status"]["conditions"].as_array().into_iter().flatten();
    all.filter(|c| c["type"] == condition).any(|c| c["status"] == "True")
}

fn outcome(migration: &Value) -> Option<Outcome> {
    let failed = || is(migration, "Failed").then(|| Outcome::Failed(String::new()));
    if is(migration, "Succeeded") { Some(Outcome::Succeeded) } else { failed() }
}

/// The next step for all migrations of one resource.
pub(super) fn next(migrations: &[Value]) -> Option<Step<'_>> {
    let running = || migrations.iter().filter(|m| is(m, "Running"));
    if let Some((over, outcome)) = running().find_map(|m| outcome(m).map(|o| (m, o))) {
        return Some(Step::End(over, outcome));
    }
    if let Some(at_work) = running().next() {
        return Some(Step::Work(at_work));
    }
    let age =
        |m: &&Value| (m["metadata"]["creationTimestamp"].as_str().map(str::to_owned), m["metadata"]["name"].as_str().map(str::to_owned));
    migrations.iter().filter(|m| outcome(m).is_none()).min_by_key(age).map(Step::Begin)
}

/// A resource that nobody serves yet may still come: its definition may be as new as the migration.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// Whether a resource that is not there is waited for.
pub(super) fn waits(migration: &Value, now: Timestamp) -> bool {
    let created = migration["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    created.is_some_and(|created| now.duration_since(created) < PATIENCE)
}

/// The migration with a condition set. The time stays when the status of the condition does.
fn set(migration: &mut Value, kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) {
    let mut new = json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": format_time(now)});
    let conditions = &mut migration["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    match list.iter_mut().find(|c| c["type"] == kind) {
        Some(old) => {
            if old["status"] == status {
                new["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = new;
        }
        None => list.push(new),
    }
}

/// The migration said to run.
pub(super) fn begun(migration: &Value, now: Timestamp) -> Value {
    let mut new = migration.clone();
    set(&mut new, "Running", "True", "MigrationRunning", "The migration is running", now);
    new
}

/// The migration with the version up to which objects are rewritten.
pub(super) fn up_to(migration: &Value, version: &str) -> Value {
    let mut new = migration.clone();
    new["status"]["resourceVersion"] = version.into();
    new
}

/// The migration that is over.
pub(super) fn ended(migration: &Value, outcome: &Outcome, now: Timestamp) -> Value {
    let mut new = migration.clone();
    set(&mut new, "Running", "False", "MigrationCompleted", "Migration completed", now);
    match outcome {
        // What was said before stays as it was said.
        _ if is(migration, "Succeeded") || is(migration, "Failed") => {}
        Outcome::Succeeded => set(&mut new, "Succeeded", "True", "StorageVersionMigrationSucceeded", "", now),
        Outcome::Failed(why) => set(&mut new, "Failed", "True", "StorageVersionMigrationFailed", why, now),
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migration(name: &str, hour: u8, conditions: &[(&str, &str)]) -> Value {
        let list: Vec<Value> = conditions.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
        json!({"metadata": {"name": name, "creationTimestamp": format!("2026-06-01T{hour:02}:00:00Z")},
            "spec": {"resource": {"group": "example.com", "resource": "widgets"}}, "status": {"conditions": list}})
    }

    #[test]
    fn one_migration_of_a_resource_runs_at_a_time_and_the_oldest_comes_first() {
        let (old, new) = (migration("b", 10, &[]), migration("a", 11, &[]));
        assert_eq!(next(&[new.clone(), old.clone()]), Some(Step::Begin(&old)));
        let twin = migration("a", 10, &[]);
        assert_eq!(next(&[old.clone(), twin.clone()]), Some(Step::Begin(&twin)), "then by name");
        let running = migration("z", 12, &[("Running", "True")]);
        assert_eq!(next(&[old.clone(), running.clone()]), Some(Step::Work(&running)));
        let done = migration("z", 9, &[("Running", "False"), ("Succeeded", "True")]);
        assert_eq!(next(&[done.clone(), new.clone()]), Some(Step::Begin(&new)));
        assert_eq!(next(&[done]), None);
        assert_eq!(next(&[]), None);
    }

    #[test]
    fn what_is_over_and_still_said_to_run_is_ended_first() {
        let half = migration("a", 9, &[("Running", "True"), ("Failed", "True")]);
        let waiting = migration("b", 8, &[]);
        assert_eq!(next(&[waiting, half.clone()]), Some(Step::End(&half, Outcome::Failed(String::new()))));
        let ended = ended(&half, &Outcome::Failed(String::new()), Timestamp::UNIX_EPOCH);
        assert!(!is(&ended, "Running") && is(&ended, "Failed"));
        assert_eq!(ended["status"]["conditions"][1], json!({"type": "Failed", "status": "True"}), "what was said stays");
    }

    #[test]
    fn a_resource_that_is_not_there_is_waited_for_for_a_minute() {
        let migration = migration("a", 9, &[]);
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert!(waits(&migration, at("2026-06-01T09:00:59Z")));
        assert!(!waits(&migration, at("2026-06-01T09:01:00Z")));
    }

    #[test]
    fn the_status_is_told_in_the_words_of_upstream() {
        let begun = begun(&migration("a", 9, &[]), Timestamp::UNIX_EPOCH);
        let condition = |m: &Value, at: usize| {
            let c = &m["status"]["conditions"][at];
            ["type", "status", "reason", "message"].map(|key| c[key].as_str().unwrap_or_default().to_owned())
        };
        assert_eq!(condition(&begun, 0), ["Running", "True", "MigrationRunning", "The migration is running"]);
        let later: Timestamp = "2026-06-01T12:00:00Z".parse().expect("a time");
        let good = ended(&begun, &Outcome::Succeeded, later);
        assert_eq!(condition(&good, 0), ["Running", "False", "MigrationCompleted", "Migration completed"]);
        assert_eq!(condition(&good, 1), ["Succeeded", "True", "StorageVersionMigrationSucceeded", ""]);
        assert_eq!(good["status"]["conditions"][0]["lastTransitionTime"], "2026-06-01T12:00:00Z");
        let bad = ended(&begun, &Outcome::Failed("why".into()), later);
        assert_eq!(condition(&bad, 1), ["Failed", "True", "StorageVersionMigrationFailed", "why"]);
        assert_eq!(up_to(&begun, "42")["status"]["resourceVersion"], "42");
    }
}
