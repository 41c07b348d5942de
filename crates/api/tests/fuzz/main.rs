//! The front doors of the API under generated and damaged input: not only without a panic, but with the laws that hold
//! for whatever comes in. Long runs: see `ferrokube_testkit::fuzz`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod decoding;
mod generate;
mod kinds;
mod owners;
mod patches;
mod small;
