//! From a checked tree to what is evaluated: names become positions, calls become code, literal patterns are compiled.

use crate::ast::{Expr, Fold, Kind, Literal, UNUSED};
use crate::check::{Checked, Target};
use crate::functions::{Overload, Site, regex};
use crate::issue::Issue;
use crate::types::Type;
use std::sync::Arc;

/// A step of an evaluation.
#[derive(Debug)]
pub(crate) enum Node {
    Literal(Literal),
    Type(Arc<str>),
    Variable(usize),
    /// How many names are bound outside it.
    Local(usize),
    Select {
        operand: Box<Node>,
        field: Arc<str>,
        test: bool,
        optional: bool,
    },
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
    },
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Choice(Box<[Node; 3]>),
    NotStrictlyFalse(Box<Node>),
    Call {
        overloads: Box<[&'static Overload]>,
        args: Box<[Node]>,
        site: Site,
    },
    /// `@result + [item]` of a macro: grows the list in place. The cost is that of what it stands for.
    Append {
        local: usize,
        item: Box<Node>,
    },
    List(Box<[(Node, bool)]>),
    Map(Box<[(Node, Node, bool)]>),
    Struct(Arc<str>, Box<[(Arc<str>, Node, bool)]>),
    Fold(Box<FoldNode>),
    Bind {
        init: Box<Node>,
        result: Box<Node>,
    },
}

#[derive(Debug)]
pub(crate) struct FoldNode {
    pub range: Node,
    pub two: bool,
    pub init: Node,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
}

struct Planner<'c> {
    checked: &'c Checked,
}

/// Plans a tree; the error is a literal that no evaluation could use, such as a pattern that does not compile.
pub(crate) fn plan(root: &Expr, checked: &Checked) -> Result<Node, Issue> {
    Planner { checked }.node(root)
}

/// Positions of the variables that are used.
pub(crate) fn used(node: &Node) -> Vec<usize> {
    let mut out = Vec::new();
    collect(node, &mut out);
    out.sort_unstable();
    out.dedup();
    out
}

fn collect(node: &Node, out: &mut Vec<usize>) {
    match node {
        Node::Literal(_) | Node::Type(_) | Node::Local(_) => {}
        Node::Variable(at) => out.push(*at),
        Node::Select { operand, .. } => collect(operand, out),
        Node::Index { operand, index, .. } => {
            collect(operand, out);
            collect(index, out);
        }
        Node::And(two) | Node::Or(two) => two.iter().for_each(|n| collect(n, out)),
        Node::Choice(three) => three.iter().for_each(|n| collect(n, out)),
        Node::NotStrictlyFalse(inner) => collect(inner, out),
        Node::Append { item, .. } => collect(item, out),
        Node::Call { args, .. } => args.iter().for_each(|n| collect(n, out)),
        Node::List(items) => items.iter().for_each(|(n, _)| collect(n, out)),
        Node::Map(entries) => entries.iter().for_each(|(k, v, _)| {
            collect(k, out);
            collect(v, out);
        }),
        Node::Struct(_, fields) => fields.iter().for_each(|(_, n, _)| collect(n, out)),
        Node::Fold(f) => [&f.range, &f.init, &f.condition, &f.step, &f.result].into_iter().for_each(|n| collect(n, out)),
        Node::Bind { init, result } => {
            collect(init, out);
            collect(result, out);
        }
    }
}

fn type_name(ty: &Type) -> Arc<str> {
    match ty {
        Type::Null => "null_type".into(),
        Type::List(_) => "list".into(),
        Type::Map(_) => "map".into(),
        Type::Optional(_) => "optional_type".into(),
        Type::Type(_) => "type".into(),
        Type::Timestamp => "google.protobuf.Timestamp".into(),
        Type::Duration => "google.protobuf.Duration".into(),
        other => other.to_string().into(),
    }
}

impl Planner<'_> {
    fn boxed(&self, e: &Expr) -> Result<Box<Node>, Issue> {
        self.node(e).map(Box::new)
    }

    fn node(&self, e: &Expr) -> Result<Node, Issue> {
        match &self.checked.targets[e.id] {
            Target::Variable(at) => return Ok(Node::Variable(*at)),
            Target::Local(at) => return Ok(Node::Local(*at)),
            Target::Type(ty) => return Ok(Node::Type(type_name(ty))),
            _ => {}
        }
        Ok(match &e.kind {
            Kind::Literal(literal) => Node::Literal(literal.clone()),
            Kind::Ident(name) => return Err(Issue { at: e.at, message: format!("undeclared reference to '{name}' (in container '')") }),
            Kind::Select { operand, field, test, optional } => {
                Node::Select { operand: self.boxed(operand)?, field: field.clone(), test: *test, optional: *optional }
            }
            Kind::Call { function, target, args } => self.call(e, function, target.as_deref(), args)?,
            Kind::List(items) => Node::List(items.iter().map(|(e, o)| Ok((self.node(e)?, *o))).collect::<Result<_, _>>()?),
            Kind::Map(entries) => {
                Node::Map(entries.iter().map(|(k, v, o)| Ok((self.node(k)?, self.node(v)?, *o))).collect::<Result<_, _>>()?)
            }
            Kind::Struct(name, fields) => {
                let fields = fields.iter().map(|(n, e, o)| Ok((n.clone(), self.node(e)?, *o))).collect::<Result<_, _>>()?;
                Node::Struct(name.clone(), fields)
            }
            Kind::Fold(fold) => self.fold(fold)?,
        })
    }

    fn fold(&self, fold: &Fold) -> Result<Node, Issue> {
        if &*fold.var == UNUSED {
            return Ok(Node::Bind { init: self.boxed(&fold.init)?, result: self.boxed(&fold.result)? });
        }
        Ok(Node::Fold(Box::new(FoldNode {
            range: self.node(&fold.range)?,
            two: fold.second.is_some(),
            init: self.node(&fold.init)?,
            condition: self.node(&fold.condition)?,
            step: self.node(&fold.step)?,
            result: self.node(&fold.result)?,
        })))
    }

    fn call(&self, e: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Result<Node, Issue> {
        let pair = || Ok::<_, Issue>(Box::new([self.node(&args[0])?, self.node(&args[1])?]));
        match function {
            "_&&_" => return Ok(Node::And(pair()?)),
            "_||_" => return Ok(Node::Or(pair()?)),
            "_?_:_" => return Ok(Node::Choice(Box::new([self.node(&args[0])?, self.node(&args[1])?, self.node(&args[2])?]))),
            "@not_strictly_false" => return Ok(Node::NotStrictlyFalse(self.boxed(&args[0])?)),
            "_[_]" | "_[?_]" => {
                let optional = function == "_[?_]";
                return Ok(Node::Index { operand: self.boxed(&args[0])?, index: self.boxed(&args[1])?, optional });
            }
            "_+_" => {
                if let Some(node) = self.append(args)? {
                    return Ok(node);
                }
            }
            _ => {}
        }
        let (overloads, named) = match &self.checked.targets[e.id] {
            Target::Call(overloads, named) => (overloads.clone(), *named),
            _ => (Vec::new(), false),
        };
        let all: Vec<&Expr> = target.into_iter().filter(|_| !named).chain(args).collect();
        let site = Site { regex: literal_pattern(function, &all)? };
        let args = all.into_iter().map(|a| self.node(a)).collect::<Result<_, _>>()?;
        Ok(Node::Call { overloads: overloads.into(), args, site })
    }

    /// Recognizes the step of `map` and `filter`.
    fn append(&self, args: &[Expr]) -> Result<Option<Node>, Issue> {
        let [Expr { id, kind: Kind::Ident(name), .. }, Expr { kind: Kind::List(items), .. }] = args else { return Ok(None) };
        let (Target::Local(local), [(item, false)]) = (&self.checked.targets[*id], items.as_slice()) else { return Ok(None) };
        if &**name != crate::ast::ACCU {
            return Ok(None);
        }
        Ok(Some(Node::Append { local: *local, item: self.boxed(item)? }))
    }
}

/// The compiled pattern of a call, when it is a literal.
fn literal_pattern(function: &str, args: &[&Expr]) -> Result<Option<::regex::Regex>, Issue> {
    match (function, args) {
        ("matches" | "find" | "findAll", [_, Expr { at, kind: Kind::Literal(Literal::String(p)), .. }, ..]) => {
            regex::compile(p).map(Some).map_err(|why| Issue { at: *at, message: format!("invalid matches argument: {why}") })
        }
        ("timestamp", [Expr { at, kind: Kind::Literal(Literal::String(s)), .. }]) if crate::functions::time::parse(s).is_none() => {
            Err(Issue { at: *at, message: "invalid timestamp argument".into() })
        }
        ("duration", [Expr { at, kind: Kind::Literal(Literal::String(s)), .. }]) if ferrokube_api::time::parse_duration(s).is_none() => {
            Err(Issue { at: *at, message: "invalid duration argument".into() })
        }
        _ => Ok(None),
    }
}
