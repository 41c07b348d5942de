//! The URLs that exec, attach and port-forward are answered with: each good for one use, and for a short while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Target;

/// How long the kubelet may take to come back.
const LIFETIME: Duration = Duration::from_secs(60);

/// More are not kept: the oldest goes.
const CAPACITY: usize = 1000;

/// Requests that wait to be picked up.
#[derive(Debug, Default)]
pub struct Tokens(Mutex<HashMap<String, (Instant, Target)>>);

impl Tokens {
    /// Keeps a request and returns the token for it.
    pub fn put(&self, target: Target) -> String {
        let token = crate::engine::model::new_id()[..32].to_owned();
        let mut held = self.0.lock();
        held.retain(|_, (at, _)| at.elapsed() < LIFETIME);
        if held.len() >= CAPACITY
            && let Some(oldest) = held.iter().min_by_key(|(_, (at, _))| *at).map(|(token, _)| token.clone())
        {
            held.remove(&oldest);
        }
        held.insert(token.clone(), (Instant::now(), target));
        token
    }

    /// Gives out a request, once.
    pub fn take(&self, token: &str) -> Option<Target> {
        let (at, target) = self.0.lock().remove(token)?;
        (at.elapsed() < LIFETIME).then_some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_once() {
        let tokens = Tokens::default();
        let token = tokens.put(Target::PortForward { sandbox: "s".into(), ports: vec![80] });
        assert!(tokens.take("other").is_none());
        assert!(tokens.take(&token).is_some());
        assert!(tokens.take(&token).is_none());
    }

    #[test]
    fn only_so_many_are_kept() {
        let tokens = Tokens::default();
        let target = || Target::PortForward { sandbox: "s".into(), ports: vec![80] };
        let first = tokens.put(target());
        for _ in 0..CAPACITY {
            tokens.put(target());
        }
        assert!(tokens.take(&first).is_none());
        assert_eq!(tokens.0.lock().len(), CAPACITY);
    }
}
