//! What `up` tells while it goes: one line per step with its time. Plain lines when the output is not a terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Tells about steps on standard error; standard output stays for data.
pub struct Progress {
    began: Instant,
    terminal: bool,
    quiet: bool,
}

impl Progress {
    /// Time starts now.
    pub fn new(quiet: bool) -> Self {
        Progress { began: Instant::now(), terminal: std::io::stderr().is_terminal(), quiet }
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// A step is done; `since` is when it began.
    pub fn done(&self, step: &str, since: Instant, detail: &str) {
        if self.quiet {
            return;
        }
        let mark = if self.terminal { "\x1b[32m✓\x1b[0m" } else { "✓" };
        let time = spoken(since.elapsed());
        self.line(&format!(" {mark} {step:<22} {time:>8}  {detail}"));
    }

    /// Anything else worth a line.
    pub fn line(&self, text: &str) {
        if !self.quiet {
            // A closed terminal is no reason to stop the cluster.
            let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
        }
    }
}

/// `12 ms`, `1.25 s`.
pub fn spoken(d: Duration) -> String {
    if d < Duration::from_secs(1) { format!("{} ms", d.as_millis()) } else { format!("{:.2} s", d.as_secs_f64()) }
}
