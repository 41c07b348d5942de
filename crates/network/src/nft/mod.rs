//! nf_tables in pure Rust: a model of a table, the difference of two models, and one atomic transaction to the kernel.
//!
//! Three layers, each ignorant of the next: `expr` (what a rule says), `ruleset` (a table's chains, sets and maps as a
//! value; `diff`), `wire` (netlink bytes). Everything about services or pods is elsewhere. No `nft` binary is used.
//!
//! Must never: touch a table it was not given by name, or apply half a transaction (the kernel takes all or nothing).

pub mod expr;
pub mod ruleset;
mod wire;

pub use expr::{Expr, Field, Rule, Verdict};
pub use ruleset::{Chain, Data, Hook, Kind, RuleSet, Set, SetKind, SetSpec, Transaction, diff};
pub use wire::{Nft, TableName};
