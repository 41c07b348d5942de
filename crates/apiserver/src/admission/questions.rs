//! What plugins and expressions ask the authorizer while they work without waiting.
//!
//! An authorizer may be another server (a webhook), and expressions and most plugins are plain functions. So a question that this
//! process cannot answer is written down and answered by a guess; afterwards whoever ran the function calls [`Questions::answer`], which
//! asks, and runs the function again when something had been open. What was worked out by guesses never counts.

use crate::attributes::Attributes;
use crate::authz::{Authorizer, Decision};
use parking_lot::Mutex;

#[derive(Debug, Default)]
struct Book {
    known: Vec<(Attributes, Decision)>,
    open: Vec<Attributes>,
}

/// The questions of one request.
pub(super) struct Questions<'a> {
    authorizer: &'a Authorizer,
    book: Mutex<Book>,
}

impl<'a> Questions<'a> {
    pub fn new(authorizer: &'a Authorizer) -> Self {
        Questions { authorizer, book: Mutex::default() }
    }

    /// The answer, or a guess until [`Questions::answer`] was called.
    pub fn authorize(&self, attributes: &Attributes) -> Decision {
        if let Some(decision) = self.authorizer.at_once(attributes) {
            return decision;
        }
        let mut book = self.book.lock();
        if let Some((_, decision)) = book.known.iter().find(|(a, _)| a == attributes) {
            return decision.clone();
        }
        if !book.open.contains(attributes) {
            book.open.push(attributes.clone());
        }
        Decision::NoOpinion(String::new())
    }

    /// Asks what is open. Whether there was anything: then the last run was a guess.
    pub async fn answer(&self) -> bool {
        let open = std::mem::take(&mut self.book.lock().open);
        for attributes in &open {
            // Boxed, as everything rare here: the futures of all requests would have room for it otherwise.
            let decision = Box::pin(self.authorizer.decide(attributes)).await;
            self.book.lock().known.push((attributes.clone(), decision));
        }
        !open.is_empty()
    }
}
