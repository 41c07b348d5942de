//! What is wrong with an expression, shown as cel-go shows it: position, message, and a pointer into the source.

use std::fmt;

/// One error of parsing or checking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Byte offset into the source.
    pub at: usize,
    /// In cel-go's words.
    pub message: String,
}

/// Everything that is wrong with an expression; its text is what a client is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issues {
    source: String,
    list: Vec<Issue>,
}

/// cel-go stops after so many.
const MAX: usize = 100;

impl Issues {
    pub(crate) fn new(source: &str, mut list: Vec<Issue>) -> Self {
        list.sort_by_key(|i| i.at);
        list.truncate(MAX);
        Issues { source: source.to_owned(), list }
    }

    /// The errors in the order of their positions.
    pub fn list(&self) -> &[Issue] {
        &self.list
    }
}

/// Line (from 1), column (from 0, in characters) and the text of the line.
fn locate(source: &str, at: usize) -> (usize, usize, &str) {
    let at = (0..=at.min(source.len())).rev().find(|i| source.is_char_boundary(*i)).unwrap_or(0);
    let before = &source[..at];
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    let line = source[start..].split('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, before[start..].chars().count(), line)
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, issue) in self.list.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            let (line, column, text) = locate(&self.source, issue.at);
            write!(f, "ERROR: <input>:{line}:{}: {}", column + 1, issue.message)?;
            let text = text.replace('\t', " ");
            write!(f, "\n | {text}\n | {}^", ".".repeat(column))?;
        }
        Ok(())
    }
}

impl std::error::Error for Issues {}
