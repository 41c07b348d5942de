//! The one binary.

#[allow(dead_code, reason = "wired by the commands")]
mod pki;

fn main() {}
