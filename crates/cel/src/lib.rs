//! The Common Expression Language as Kubernetes 1.36 speaks it: rules of custom resources, admission policies, match
//! conditions.
//!
//! ```
//! use ferrokube_cel::{Budget, Decl, Env, Type, Value};
//! let env = Env::new().with("self", Decl::simple(Type::Dyn));
//! let program = env.compile("self.replicas <= 5 && self.name.startsWith('web')")?;
//! let object = serde_json::json!({"replicas": 3, "name": "web-1"});
//! let value = program.eval(&[Value::json(&object)], &Budget::new(1000));
//! assert!(matches!(value, Ok(Value::Bool(true))));
//! # Ok::<(), ferrokube_cel::Issues>(())
//! ```
//!
//! Source text goes through `parser`, `check`, `cost` and `plan` once; a [`Program`] is then evaluated as often as
//! wanted over JSON that stays where it is. Nothing here may block, do I/O, or panic on whatever comes in.

mod ast;
mod authorizer;
mod check;
mod cost;
mod env;
mod eval;
mod functions;
mod issue;
mod lexer;
mod macros;
mod parser;
mod plan;
pub mod policy;
mod schema;
mod types;
mod value;

pub use authorizer::{Authorizer, Authz, Check, Decision};
pub use env::{Env, Program};
pub use eval::{Budget, PER_CALL};
pub use issue::{Issue, Issues};
pub use schema::{Decl, ObjectDecl, escape};
pub use types::Type;
pub use value::{EvalError, Evaluated, Lazy, List, Map, Str, Value};
