//! Which events are worth writing: many of a kind become one, and an object that is talked about without end is no longer
//! talked about.
//!
//! The numbers are those of client-go's event correlator, whose results people know: from the eleventh different message of
//! one reason within ten minutes on, one event says `(combined from similar events)`; and of the events that one component has
//! about one object, 25 are written at once, and then one each five minutes. Pure but for what it remembers.

use crate::events::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// Different messages of one reason after which the others are combined.
const SIMILAR: usize = 10;
/// Similar events that are further apart than this have nothing to do with each other.
const APART: SignedDuration = SignedDuration::from_secs(600);
/// Events about one object that are written at once.
const BURST: f64 = 25.0;
/// Seconds until another one may be.
const REFILL: f64 = 300.0;
/// How many objects and reasons are remembered.
const REMEMBERED: usize = 4096;

/// An object, as one component talks about it.
type Subject = (String, String, String, String, String);
/// What similar events have in common.
type Likeness = (Subject, EventType, String);

struct Similar {
    messages: HashSet<String>,
    at: Timestamp,
}

struct Allowance {
    tokens: f64,
    at: Timestamp,
}

/// What was said lately.
#[derive(Default)]
pub(crate) struct Correlator {
    similar: HashMap<Likeness, Similar>,
    allowances: HashMap<Subject, Allowance>,
}

fn subject(about: &ObjectReference) -> Subject {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    (text(&about.api_version), text(&about.kind), text(&about.namespace), text(&about.name), text(&about.uid))
}

impl Correlator {
    /// Whether an event is to be combined with others that are like it.
    pub(crate) fn is_combined(&mut self, about: &ObjectReference, kind: EventType, reason: &str, message: &str, now: Timestamp) -> bool {
        forget(&mut self.similar, |s| s.at);
        let fresh = || Similar { messages: HashSet::new(), at: now };
        let similar = self.similar.entry((subject(about), kind, reason.to_owned())).or_insert_with(fresh);
        if now.duration_since(similar.at) > APART {
            similar.messages.clear();
        }
        similar.at = now;
        if similar.messages.contains(message) {
            return similar.messages.len() >= SIMILAR;
        }
        // The set grows no further than what decides.
        if similar.messages.len() + 1 < SIMILAR {
            similar.messages.insert(message.to_owned());
            return false;
        }
        true
    }

    /// Whether an event about an object may be written now; takes of its allowance.
    pub(crate) fn may_write(&mut self, about: &ObjectReference, now: Timestamp) -> bool {
        forget(&mut self.allowances, |a| a.at);
        let allowance = self.allowances.entry(subject(about)).or_insert(Allowance { tokens: BURST, at: now });
        let passed = now.duration_since(allowance.at).as_secs_f64().max(0.0);
        allowance.tokens = (allowance.tokens + passed / REFILL).min(BURST);
        allowance.at = now;
        let may = allowance.tokens >= 1.0;
        allowance.tokens -= f64::from(u8::from(may));
        may
    }
}

/// Forgets the older half of a memory that is full.
pub(crate) fn forget<K: Eq + Hash, V>(memory: &mut HashMap<K, V>, at: impl Fn(&V) -> Timestamp) {
    if memory.len() < REMEMBERED {
        return;
    }
    let mut ages: Vec<Timestamp> = memory.values().map(&at).collect();
    ages.sort_unstable();
    let middle = ages[ages.len() / 2];
    memory.retain(|_, v| at(v) > middle);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_700_000_000 + seconds)
    }

    fn pod(name: &str) -> ObjectReference {
        ObjectReference { kind: Some("Pod".into()), name: Some(name.into()), ..ObjectReference::default() }
    }

    #[test]
    fn the_tenth_different_message_of_a_reason_and_what_follows_are_combined() {
        let mut correlator = Correlator::default();
        let mut say = |n: i64, message: &str| correlator.is_combined(&pod("a"), EventType::Normal, "Created", message, at(n));
        let combined: Vec<bool> = (0..12).map(|n| say(n, &format!("pod {n}"))).collect();
        assert_eq!(combined.iter().filter(|c| !**c).count(), 9);
        assert!(combined[9..].iter().all(|c| *c));
        assert!(!say(700, "pod 700"), "after a pause each stands for itself again");
        assert!(!correlator.is_combined(&pod("b"), EventType::Normal, "Created", "pod 1", at(12)), "another object has its own");
        assert!(!correlator.is_combined(&pod("a"), EventType::Normal, "Killed", "pod 1", at(12)), "and so has another reason");
    }

    #[test]
    fn the_same_message_again_is_not_a_different_one() {
        let mut correlator = Correlator::default();
        assert!((0..100).all(|n| !correlator.is_combined(&pod("a"), EventType::Warning, "BackOff", "again", at(n))));
    }

    #[test]
    fn an_object_that_is_talked_about_without_end_is_left_alone() {
        let mut correlator = Correlator::default();
        assert_eq!((0..100).filter(|_| correlator.may_write(&pod("a"), at(0))).count(), 25);
        assert!(correlator.may_write(&pod("b"), at(0)));
        assert!(!correlator.may_write(&pod("a"), at(299)) && correlator.may_write(&pod("a"), at(300)));
    }
}
