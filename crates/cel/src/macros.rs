//! Macros: `has`, the comprehensions with one and two variables, `cel.bind`, `optMap`, `optFlatMap`, `sortBy`.
//!
//! A comprehension becomes a [`Fold`] of exactly the shape that cel-go gives it, because the cost of an expression counts
//! the nodes that are evaluated.

use crate::ast::{ACCU, Expr, Fold, Kind, Literal, UNUSED};
use crate::parser::{Parser, Stop};
use std::sync::Arc;

type Made = Result<Expr, Stop>;

/// A call without target.
pub(crate) fn global(p: &mut Parser<'_>, at: usize, name: Arc<str>, mut args: Vec<Expr>) -> Made {
    if &*name != "has" || args.len() != 1 {
        return Ok(p.call(at, name, args));
    }
    let arg = args.remove(0);
    match arg.kind {
        Kind::Select { operand, field, test: false, optional: false } => {
            Ok(p.node(at, Kind::Select { operand, field, test: true, optional: false }))
        }
        _ => p.fail(arg.at, "invalid argument to has() macro"),
    }
}

/// A call with a target.
pub(crate) fn method(p: &mut Parser<'_>, at: usize, target: Expr, name: Arc<str>, args: Vec<Expr>) -> Made {
    let on_cel = matches!(&target.kind, Kind::Ident(n) if &**n == "cel");
    match (&*name, args.len()) {
        ("bind", 3) if on_cel => bind(p, at, args),
        ("all", 2 | 3) => quantifier(p, at, target, args, "&&", true),
        ("exists", 2 | 3) => quantifier(p, at, target, args, "||", false),
        ("exists_one" | "existsOne", 2 | 3) => exists_one(p, at, target, args),
        ("map", 2 | 3) => collect(p, at, target, args, false),
        ("filter", 2) => collect(p, at, target, args, true),
        ("transformList", 3 | 4) => transform(p, at, target, args, Transform::List),
        ("transformMap", 3 | 4) => transform(p, at, target, args, Transform::Map),
        ("transformMapEntry", 3 | 4) => transform(p, at, target, args, Transform::Entry),
        ("optMap", 2) => optional_map(p, at, target, args, true),
        ("optFlatMap", 2) => optional_map(p, at, target, args, false),
        ("sortBy", 2) => sort_by(p, at, target, args),
        _ => Ok(p.node(at, Kind::Call { function: name, target: Some(Box::new(target)), args })),
    }
}

fn variable(p: &mut Parser<'_>, arg: &Expr) -> Result<Arc<str>, Stop> {
    match &arg.kind {
        Kind::Ident(name) if &**name == "__result__" => p.fail(arg.at, "iteration variable overwrites accumulator variable"),
        Kind::Ident(name) => Ok(name.clone()),
        _ => p.fail(arg.at, "argument must be a simple name"),
    }
}

fn accu(p: &mut Parser<'_>, at: usize) -> Expr {
    p.node(at, Kind::Ident(ACCU.into()))
}

fn literal(p: &mut Parser<'_>, at: usize, value: Literal) -> Expr {
    p.node(at, Kind::Literal(value))
}

/// The parts of a fold that differ between macros.
struct Loop {
    init: Expr,
    condition: Expr,
    step: Expr,
    result: Expr,
}

fn fold(p: &mut Parser<'_>, at: usize, range: Expr, vars: (Arc<str>, Option<Arc<str>>), l: Loop) -> Expr {
    let fold = Fold {
        range,
        var: vars.0,
        second: vars.1,
        accu: ACCU.into(),
        init: l.init,
        condition: l.condition,
        step: l.step,
        result: l.result,
    };
    p.node(at, Kind::Fold(Box::new(fold)))
}

/// The last argument, and the names that the ones before it give.
fn variables(p: &mut Parser<'_>, args: &mut Vec<Expr>, count: usize) -> Result<(Arc<str>, Option<Arc<str>>), Stop> {
    let rest = args.split_off(count);
    let names = std::mem::replace(args, rest);
    let first = variable(p, &names[0])?;
    let second = match names.get(1) {
        Some(arg) => Some(variable(p, arg)?),
        None => None,
    };
    if second.as_ref() == Some(&first) {
        return p.fail(names[1].at, format!("duplicate variable name: {first}"));
    }
    Ok((first, second))
}

fn quantifier(p: &mut Parser<'_>, at: usize, range: Expr, mut args: Vec<Expr>, sign: &str, all: bool) -> Made {
    let count = args.len() - 1;
    let vars = variables(p, &mut args, count)?;
    let predicate = args.remove(0);
    let init = literal(p, at, Literal::Bool(all));
    let mut going = accu(p, at);
    if !all {
        going = p.call(at, "!_", vec![going]);
    }
    let condition = p.call(at, "@not_strictly_false", vec![going]);
    let so_far = accu(p, at);
    let step = p.call(at, crate::parser::operator(sign), vec![so_far, predicate]);
    let result = accu(p, at);
    Ok(fold(p, at, range, vars, Loop { init, condition, step, result }))
}

fn exists_one(p: &mut Parser<'_>, at: usize, range: Expr, mut args: Vec<Expr>) -> Made {
    let count = args.len() - 1;
    let vars = variables(p, &mut args, count)?;
    let predicate = args.remove(0);
    let (init, one, condition) = (literal(p, at, Literal::Int(0)), literal(p, at, Literal::Int(1)), literal(p, at, Literal::Bool(true)));
    let (before, same) = (accu(p, at), accu(p, at));
    let more = p.call(at, "_+_", vec![before, one]);
    let step = p.call(at, "_?_:_", vec![predicate, more, same]);
    let (found, wanted) = (accu(p, at), literal(p, at, Literal::Int(1)));
    let result = p.call(at, "_==_", vec![found, wanted]);
    Ok(fold(p, at, range, vars, Loop { init, condition, step, result }))
}

/// `map(x, t)`, `map(x, p, t)` and `filter(x, p)`.
fn collect(p: &mut Parser<'_>, at: usize, range: Expr, mut args: Vec<Expr>, filter: bool) -> Made {
    let vars = variables(p, &mut args, 1)?;
    let kept =
        if filter { p.node(at, Kind::Ident(vars.0.clone())) } else { args.pop().unwrap_or_else(|| unreachable!("counted by the caller")) };
    let predicate = args.pop();
    let item = p.node(at, Kind::List(vec![(kept, false)]));
    let before = accu(p, at);
    let step = p.call(at, "_+_", vec![before, item]);
    let init = p.node(at, Kind::List(Vec::new()));
    Ok(guarded(p, at, range, vars, init, step, predicate))
}

/// A fold whose step is only taken where a predicate holds.
fn guarded(
    p: &mut Parser<'_>,
    at: usize,
    range: Expr,
    vars: (Arc<str>, Option<Arc<str>>),
    init: Expr,
    step: Expr,
    predicate: Option<Expr>,
) -> Expr {
    let step = match predicate {
        None => step,
        Some(predicate) => {
            let same = accu(p, at);
            p.call(at, "_?_:_", vec![predicate, step, same])
        }
    };
    let condition = literal(p, at, Literal::Bool(true));
    let result = accu(p, at);
    fold(p, at, range, vars, Loop { init, condition, step, result })
}

#[derive(Clone, Copy, PartialEq)]
enum Transform {
    List,
    Map,
    Entry,
}

fn transform(p: &mut Parser<'_>, at: usize, range: Expr, mut args: Vec<Expr>, kind: Transform) -> Made {
    let vars = variables(p, &mut args, 2)?;
    let made = args.pop().unwrap_or_else(|| unreachable!("counted by the caller"));
    let predicate = args.pop();
    let before = accu(p, at);
    let (init, step) = match kind {
        Transform::List => {
            let item = p.node(at, Kind::List(vec![(made, false)]));
            (p.node(at, Kind::List(Vec::new())), p.call(at, "_+_", vec![before, item]))
        }
        Transform::Map => {
            let key = p.node(at, Kind::Ident(vars.0.clone()));
            (p.node(at, Kind::Map(Vec::new())), p.call(at, "cel.@mapInsert", vec![before, key, made]))
        }
        Transform::Entry => (p.node(at, Kind::Map(Vec::new())), p.call(at, "cel.@mapInsert", vec![before, made])),
    };
    Ok(guarded(p, at, range, vars, init, step, predicate))
}

/// `cel.bind(name, value, expression)`: a fold over nothing.
fn bind(p: &mut Parser<'_>, at: usize, mut args: Vec<Expr>) -> Made {
    let result = args.pop().unwrap_or_else(|| unreachable!("counted by the caller"));
    let init = args.pop().unwrap_or_else(|| unreachable!("counted by the caller"));
    let Kind::Ident(name) = args[0].kind.clone() else {
        return p.fail(args[0].at, "cel.bind() variable names must be simple identifiers");
    };
    Ok(binding(p, at, name, init, result))
}

fn binding(p: &mut Parser<'_>, at: usize, name: Arc<str>, init: Expr, result: Expr) -> Expr {
    let range = p.node(at, Kind::List(Vec::new()));
    let condition = literal(p, at, Literal::Bool(false));
    let step = p.node(at, Kind::Ident(name.clone()));
    p.node(at, Kind::Fold(Box::new(Fold { range, var: UNUSED.into(), second: None, accu: name, init, condition, step, result })))
}

/// `opt.optMap(x, e)`: `bind(o, opt, o.hasValue() ? optional.of(bind(x, o.value(), e)) : optional.none())`.
fn optional_map(p: &mut Parser<'_>, at: usize, target: Expr, mut args: Vec<Expr>, wrap: bool) -> Made {
    const NAME: &str = "@optional";
    let body = args.remove(1);
    let Kind::Ident(name) = args[0].kind.clone() else { return p.fail(args[0].at, "optMap() variable name must be a simple identifier") };
    let method = |p: &mut Parser<'_>, name: &str| {
        let target = p.node(at, Kind::Ident(NAME.into()));
        p.node(at, Kind::Call { function: name.into(), target: Some(Box::new(target)), args: Vec::new() })
    };
    let there = method(p, "hasValue");
    let value = method(p, "value");
    let mut made = binding(p, at, name, value, body);
    if wrap {
        made = p.call(at, "optional.of", vec![made]);
    }
    let none = p.call(at, "optional.none", Vec::new());
    let choice = p.call(at, "_?_:_", vec![there, made, none]);
    Ok(binding(p, at, NAME.into(), target, choice))
}

/// `list.sortBy(x, key)`: bind(list) { list.@sortByAssociatedKeys(list.map(x, key)) }.
fn sort_by(p: &mut Parser<'_>, at: usize, target: Expr, args: Vec<Expr>) -> Made {
    const NAME: &str = "@__sortBy_input__";
    let (input, again) = (p.node(at, Kind::Ident(NAME.into())), p.node(at, Kind::Ident(NAME.into())));
    let keys = collect(p, at, again, args, false)?;
    let function = "@sortByAssociatedKeys".into();
    let sorted = p.node(at, Kind::Call { function, target: Some(Box::new(input)), args: vec![keys] });
    Ok(binding(p, at, NAME.into(), target, sorted))
}
