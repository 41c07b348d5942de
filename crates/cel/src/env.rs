//! Environments: the variables that an expression may use. Compiling is parsing, checking, estimating and planning.

use crate::check::{self, Checked};
use crate::cost::{self, Cost};
use crate::issue::{Issue, Issues};
use crate::parser;
use crate::plan::{self, Node};
use crate::schema::Decl;
use crate::types::Type;
use std::sync::Arc;

/// A variable.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub name: Arc<str>,
    pub decl: Arc<Decl>,
}

/// What expressions of one place may use.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: Vec<Variable>,
    /// `Object{...}` and `JSONPatch{...}` may be made.
    pub(crate) mutations: bool,
}

impl Env {
    /// Only functions.
    pub fn new() -> Env {
        Env::default()
    }

    /// Declares a variable. The values of an evaluation stand in the order of these calls.
    #[must_use]
    pub fn with(mut self, name: &str, decl: impl Into<Arc<Decl>>) -> Env {
        self.variables.push(Variable { name: name.into(), decl: decl.into() });
        self
    }

    /// Declares a variable of a type without sizes.
    #[must_use]
    pub fn with_type(self, name: &str, ty: Type) -> Env {
        self.with(name, Decl::simple(ty))
    }

    /// Takes a variable away, with those whose names go on after it and a dot.
    #[must_use]
    pub fn without(mut self, name: &str) -> Env {
        let named = |v: &Variable| v.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.variables.retain(|v| !named(v));
        self
    }

    /// Allows `Object{...}` and `JSONPatch{...}`, as mutations do.
    #[must_use]
    pub fn with_mutations(mut self) -> Env {
        self.mutations = true;
        self
    }

    pub(crate) fn variable(&self, name: &str) -> Option<(usize, &Variable)> {
        self.variables.iter().enumerate().rev().find(|(_, v)| *v.name == *name)
    }

    /// The declaration of a variable, by position.
    pub(crate) fn decl(&self, at: usize) -> Option<&Arc<Decl>> {
        self.variables.get(at).map(|v| &v.decl)
    }

    /// Compiles an expression.
    pub fn compile(&self, source: &str) -> Result<Program, Issues> {
        let parsed = parser::parse(source)?;
        let checked = check::check(self, &parsed.root, parsed.ids).map_err(|list| Issues::new(source, list))?;
        let root = plan::plan(&parsed.root, &checked).map_err(|issue: Issue| Issues::new(source, vec![issue]))?;
        let cost = cost::estimate(self, &parsed.root, &checked);
        let Checked { types, .. } = checked;
        let uses = plan::used(&root);
        Ok(Program { source: source.into(), result: types[parsed.root.id].clone(), root, cost, uses })
    }
}

/// A compiled expression: evaluated as often as wanted, from any thread.
#[derive(Debug)]
pub struct Program {
    source: Arc<str>,
    result: Type,
    pub(crate) root: Node,
    cost: Cost,
    uses: Vec<usize>,
}

impl Program {
    /// The expression as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of its value.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// What an evaluation may cost at most, by what is declared about sizes.
    pub fn max_cost(&self) -> u64 {
        self.cost.max
    }

    /// Whether the expression uses the variable at that position of the environment.
    pub fn uses(&self, variable: usize) -> bool {
        self.uses.contains(&variable)
    }
}
