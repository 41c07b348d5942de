//! The tree that the parser makes: macros are expanded already. Nodes have ids, by which the checker's findings are kept.

use std::sync::Arc;

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

/// A node.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    /// Index into what the checker found.
    pub id: usize,
    /// Byte offset of the token that an error points at.
    pub at: usize,
    /// Of the tree below, this node included.
    pub depth: u16,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Literal(Literal),
    Ident(Arc<str>),
    /// `operand.field`, `operand.?field`, or `has(operand.field)`.
    Select {
        operand: Box<Expr>,
        field: Arc<str>,
        test: bool,
        optional: bool,
    },
    Call {
        function: Arc<str>,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    /// Elements; `true` marks an optional one (`[?x]`).
    List(Vec<(Expr, bool)>),
    /// Key, value, optional.
    Map(Vec<(Expr, Expr, bool)>),
    /// Name, then field, value, optional.
    Struct(Arc<str>, Vec<(Arc<str>, Expr, bool)>),
    Fold(Box<Fold>),
}

/// What comprehension macros become.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    pub range: Expr,
    /// Element or key; with `second`, index or key.
    pub var: Arc<str>,
    pub second: Option<Arc<str>>,
    pub accu: Arc<str>,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

/// The name of the accumulator in macros; no identifier of a user can look like it.
pub(crate) const ACCU: &str = "@result";
/// The iteration variable of `cel.bind`, which iterates over nothing.
pub(crate) const UNUSED: &str = "#unused";

impl Expr {
    pub fn new(id: usize, at: usize, kind: Kind) -> Expr {
        let mut expr = Expr { id, at, depth: 1, kind };
        let mut deepest = 0;
        expr.children(|c| deepest = deepest.max(c.depth));
        expr.depth = deepest.saturating_add(1);
        expr
    }

    /// Calls `visit` with the children.
    pub fn children<'e>(&'e self, mut visit: impl FnMut(&'e Expr)) {
        match &self.kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => visit(operand),
            Kind::Call { target, args, .. } => target.as_deref().into_iter().chain(args).for_each(visit),
            Kind::List(items) => items.iter().for_each(|(e, _)| visit(e)),
            Kind::Map(entries) => entries.iter().for_each(|(k, v, _)| {
                visit(k);
                visit(v);
            }),
            Kind::Struct(_, fields) => fields.iter().for_each(|(_, e, _)| visit(e)),
            Kind::Fold(f) => [&f.range, &f.init, &f.condition, &f.step, &f.result].into_iter().for_each(visit),
        }
    }
}
