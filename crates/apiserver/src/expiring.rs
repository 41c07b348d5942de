//! Answers of other servers, remembered for a while: at most so many, each for its own time.

use parking_lot::Mutex;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Answers by question.
pub(crate) struct Expiring<K, V> {
    most: usize,
    known: Mutex<HashMap<K, (V, Instant)>>,
}

impl<K: Eq + Hash, V: Clone> Expiring<K, V> {
    /// Remembers nothing yet, and never more than `most` answers.
    pub fn new(most: usize) -> Self {
        Expiring { most, known: Mutex::default() }
    }

    /// The answer, unless its time is over.
    pub fn get<Q>(&self, question: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.known.lock().get(question).filter(|(_, until)| Instant::now() < *until).map(|(answer, _)| answer.clone())
    }

    /// Remembers an answer for a time; zero is not at all. When there is no room, what is over goes; if that is not enough, the
    /// answer is not kept.
    pub fn remember(&self, question: K, answer: V, ttl: Duration) {
        if ttl.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut known = self.known.lock();
        if known.len() >= self.most {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() < self.most {
            known.insert(question, (answer, now + ttl));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_for_their_time_and_not_without_bound() {
        const LONG: Duration = Duration::from_secs(3600);
        let answers = Expiring::new(2);
        answers.remember("never", 0, Duration::ZERO);
        answers.remember("over", 1, Duration::from_nanos(1));
        answers.remember("known", 2, LONG);
        assert_eq!(["never", "over", "known"].map(|q| answers.get(q)), [None, None, Some(2)]);
        answers.remember("more", 3, LONG);
        assert_eq!(answers.get("more"), Some(3), "in the place of what is over");
        answers.remember("too many", 4, LONG);
        assert_eq!(answers.get("too many"), None);
    }
}
