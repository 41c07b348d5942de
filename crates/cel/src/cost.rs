//! The estimate of what an expression can cost at most, from the sizes that its declarations allow.
//!
//! The walk follows the declarations through selections, so that `self.list.all(x, x.name.size() < 5)` knows how many
//! elements there can be and how long a name is. Source: cel-go `checker/cost.go`, apiserver `cel/library/cost.go`.

use crate::ast::{Expr, Fold, Kind, Literal, UNUSED};
use crate::check::{Checked, Target};
use crate::env::Env;
use crate::functions::{Overload, Price, Sized};
use crate::schema::Decl;
use crate::types::Type;
use std::sync::Arc;

/// Least and most, saturating.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub min: u64,
    pub max: u64,
}

impl Cost {
    const UNKNOWN: Cost = Cost { min: 0, max: u64::MAX };

    fn exactly(n: u64) -> Cost {
        Cost { min: n, max: n }
    }

    fn plus(self, other: Cost) -> Cost {
        Cost { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Cost) -> Cost {
        Cost { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn or(self, other: Cost) -> Cost {
        Cost { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// Rounded up `n/d` of it.
    fn share(self, n: u64, d: u64) -> Cost {
        let part =
            |x: u64| if x == u64::MAX { x } else { u64::try_from((u128::from(x) * u128::from(n)).div_ceil(d.into())).unwrap_or(u64::MAX) };
        Cost { min: part(self.min), max: part(self.max) }
    }
}

const ONE: Cost = Cost { min: 1, max: 1 };
/// Cost of one question to an authorizer.
const AUTHORIZE: u64 = 350_000;

/// What is known of a node: what it costs, how large its value is, how its value is declared.
#[derive(Clone, Debug)]
struct Known {
    cost: Cost,
    size: Option<Cost>,
    decl: Option<Arc<Decl>>,
    /// Size of the elements of a list that has no declaration.
    element: Option<Cost>,
    ty: Type,
}

impl Known {
    /// How many characters, bytes or elements there may be.
    fn size(&self) -> Cost {
        let size = match (self.size, &self.decl) {
            (Some(size), _) => size,
            (None, Some(decl)) => Cost { min: 0, max: decl.max },
            (None, None) if self.ty.is_scalar() => ONE,
            (None, None) => Cost::UNKNOWN,
        };
        // An optional counts as one, however empty what it holds.
        let least = u64::from(matches!(self.ty, Type::Optional(_)));
        Cost { max: size.max.max(least), ..size }
    }
}

struct Walk<'e> {
    env: &'e Env,
    checked: &'e Checked,
    scope: Vec<Known>,
}

/// Estimates a checked tree.
pub(crate) fn estimate(env: &Env, root: &Expr, checked: &Checked) -> Cost {
    Walk { env, checked, scope: Vec::new() }.expr(root).cost
}

impl Walk<'_> {
    fn known(&self, e: &Expr, cost: Cost) -> Known {
        Known { cost, size: None, decl: None, element: None, ty: self.checked.types[e.id].clone() }
    }

    fn expr(&mut self, e: &Expr) -> Known {
        match &self.checked.targets[e.id] {
            Target::Variable(at) => return Known { decl: self.env.decl(*at).cloned(), ..self.known(e, ONE) },
            Target::Local(at) => {
                let value = self.scope.get(*at).cloned();
                return Known { cost: ONE, ..value.unwrap_or_else(|| self.known(e, ONE)) };
            }
            Target::Type(_) => return self.known(e, ONE),
            _ => {}
        }
        match &e.kind {
            Kind::Literal(literal) => Known { size: literal_size(literal), ..self.known(e, Cost::default()) },
            Kind::Ident(_) => self.known(e, ONE),
            Kind::Select { operand, field, test, .. } => self.select(e, operand, field, *test),
            Kind::Call { function, target, args } => self.call(e, function, target.as_deref(), args),
            Kind::List(items) => {
                let parts: Vec<Known> = items.iter().map(|(i, _)| self.expr(i)).collect();
                let cost = parts.iter().fold(Cost::exactly(10), |sum, p| sum.plus(p.cost));
                let element = parts.iter().map(Known::size).reduce(Cost::or);
                Known { size: Some(Cost::exactly(items.len() as u64)), element, ..self.known(e, cost) }
            }
            Kind::Map(entries) => {
                let cost = entries.iter().fold(Cost::exactly(30), |sum, (k, v, _)| sum.plus(self.expr(k).cost).plus(self.expr(v).cost));
                Known { size: Some(Cost::exactly(entries.len() as u64)), ..self.known(e, cost) }
            }
            Kind::Struct(_, fields) => {
                let cost = fields.iter().fold(Cost::exactly(40), |sum, (_, v, _)| sum.plus(self.expr(v).cost));
                self.known(e, cost)
            }
            Kind::Fold(fold) => self.fold(e, fold),
        }
    }

    fn select(&mut self, e: &Expr, operand: &Expr, field: &str, test: bool) -> Known {
        let from = self.expr(operand);
        if test {
            return self.known(e, from.cost);
        }
        let charged = matches!(from.ty, Type::Map(_) | Type::Object(_) | Type::Named(_) | Type::Optional(_));
        let cost = if charged { from.cost.plus(ONE) } else { from.cost };
        Known { decl: from.decl.and_then(|d| d.field(field).cloned()), ..self.known(e, cost) }
    }

    fn call(&mut self, e: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Known {
        let (overloads, named) = match &self.checked.targets[e.id] {
            Target::Call(overloads, named) => (overloads.clone(), *named),
            _ => (Vec::new(), false),
        };
        let parts: Vec<Known> = target.into_iter().filter(|_| !named).chain(args).map(|a| self.expr(a)).collect();
        let all = parts.iter().fold(Cost::default(), |sum, p| sum.plus(p.cost));
        match (function, parts.as_slice()) {
            ("_&&_" | "_||_", [left, _]) => return self.known(e, Cost { min: left.cost.min, max: all.max }),
            ("_?_:_", [condition, yes, no]) => {
                let cost = condition.cost.plus(yes.cost.or(no.cost));
                let decl = yes.decl.clone().filter(|d| no.decl.as_ref().is_some_and(|n| Arc::ptr_eq(d, n)));
                let element = yes.element.into_iter().chain(no.element).reduce(Cost::or);
                return Known { size: Some(yes.size().or(no.size())), decl, element, ..self.known(e, cost) };
            }
            ("_[_]" | "_[?_]", [from, _]) => {
                let decl = from.decl.as_ref().and_then(|d| d.element().cloned());
                return Known { decl, size: from.element.filter(|_| from.decl.is_none()), ..self.known(e, all.plus(ONE)) };
            }
            ("dyn" | "orValue" | "value" | "optional.of" | "of", [from, ..]) => {
                let size = if parts.len() > 1 { Some(from.size().or(parts[1].size())) } else { from.size };
                return Known { size, decl: from.decl.clone(), ..self.known(e, all.plus(ONE)) };
            }
            _ => {}
        }
        let mut own: Option<Cost> = None;
        let mut size: Option<Cost> = None;
        for overload in &overloads {
            let cost = price(overload, &parts);
            own = Some(own.map_or(cost, |before| before.or(cost)));
            if let Some(result) = result_size(overload, &parts) {
                size = Some(size.map_or(result, |before| before.or(result)));
            }
        }
        let element = match function {
            // The parts of a text are no longer than the text.
            "split" | "findAll" => parts.first().map(|p| Cost { min: 0, max: p.size().max }),
            "_+_" => parts.iter().filter_map(element_size).reduce(Cost::or),
            "sort" | "reverse" | "distinct" | "slice" | "@sortByAssociatedKeys" => parts.first().and_then(element_size),
            _ => None,
        };
        Known { size, element, ..self.known(e, all.plus(own.unwrap_or_default())) }
    }

    fn fold(&mut self, e: &Expr, fold: &Fold) -> Known {
        if &*fold.var == UNUSED {
            let init = self.expr(&fold.init);
            self.scope.push(init.clone());
            let result = self.expr(&fold.result);
            self.scope.pop();
            return Known { cost: init.cost.plus(Cost::exactly(10)).plus(result.cost), ..result };
        }
        let range = self.expr(&fold.range);
        let init = self.expr(&fold.init);
        let turns = range.size();
        let is_map = matches!(range.ty, Type::Map(_));
        let element = Known {
            decl: range.decl.as_ref().and_then(|d| d.element().cloned()),
            size: range.element.filter(|_| range.decl.is_none()),
            ..self.bound(&range, false)
        };
        let key = self.bound(&range, true);
        let collected = matches!(fold.init.kind, Kind::List(_) | Kind::Map(_));
        let accu_size = collected.then_some(Cost { min: 0, max: turns.max });
        self.scope.push(Known { size: accu_size, ..init.clone() });
        match (&fold.second, is_map) {
            (None, false) => self.scope.push(element),
            (None, true) => self.scope.push(key),
            (Some(_), _) => self.scope.extend([key, element]),
        }
        let condition = self.expr(&fold.condition);
        let step = self.expr(&fold.step);
        self.scope.truncate(self.scope.len() - 1 - usize::from(fold.second.is_some()));
        let result = self.expr(&fold.result);
        self.scope.pop();
        let loops = turns.times(condition.cost.plus(step.cost));
        let cost = range.cost.plus(init.cost).plus(loops).plus(result.cost);
        Known { size: accu_size, element: step.element, ..self.known(e, cost) }
    }

    /// What is known of an element or a key of a range.
    fn bound(&self, range: &Known, key: bool) -> Known {
        let ty = match (&range.ty, key) {
            (Type::List(_), true) => Type::Int,
            (Type::List(inner), false) => (**inner).clone(),
            (Type::Map(inner), true) => inner.0.clone(),
            (Type::Map(inner), false) => inner.1.clone(),
            _ => Type::Dyn,
        };
        // A key of a map in a request can be as long as the request.
        let size = match (&ty, key) {
            (Type::String, true) => Some(Cost { min: 0, max: crate::schema::MAX_REQUEST - 2 }),
            _ => None,
        };
        Known { cost: ONE, size, decl: None, element: None, ty }
    }
}

/// Size of the elements of a list.
fn element_size(list: &Known) -> Option<Cost> {
    list.element.or_else(|| list.decl.as_ref().and_then(|d| d.element()).map(|d| Cost { min: 0, max: d.max }))
}

fn literal_size(literal: &Literal) -> Option<Cost> {
    match literal {
        Literal::String(s) => Some(Cost::exactly(s.chars().count() as u64)),
        Literal::Bytes(b) => Some(Cost::exactly(b.len() as u64)),
        Literal::Null => Some(ONE),
        _ => None,
    }
}

fn price(overload: &Overload, parts: &[Known]) -> Cost {
    let size = |at: usize| parts.get(at).map_or(Cost::default(), Known::size);
    match overload.def.price {
        Price::Fixed(n) => Cost::exactly(n),
        Price::Text(at, factor) => size(at).share(factor, 10),
        Price::Elements(at) => size(at),
        Price::Deep(at) => {
            let element = parts.get(at).and_then(element_size).filter(|_| !matches!(overload.args[at], Type::List(ref t) if t.is_scalar()));
            let each = element.map_or(ONE, |e| Cost { min: 1, max: e.share(1, 10).max.max(1) });
            size(at).times(each)
        }
        Price::Compare => {
            let most = size(0).max.min(size(1).max);
            Cost { min: u64::from(most > 0), max: most }.share(1, 10)
        }
        Price::Concat => size(0).plus(size(1)).share(1, 10),
        Price::ConcatLists => ONE,
        Price::Pattern => size(0).plus(ONE).share(1, 10).times(size(1).share(1, 4)),
        Price::Contains => size(0).share(1, 10).times(size(1).share(1, 10)),
        Price::Product if parts.len() == 1 => size(0).times(size(0)).plus(ONE),
        Price::Product => size(0).times(size(1)),
        Price::Result => {
            let separator = parts.get(1).map_or(Cost::default(), Known::size);
            let element = parts.first().and_then(element_size).unwrap_or(Cost::UNKNOWN);
            size(0).times(element.plus(separator)).share(2, 10)
        }
        Price::Authorize => Cost::exactly(AUTHORIZE),
    }
}

fn result_size(overload: &Overload, parts: &[Known]) -> Option<Cost> {
    let size = |at: usize| parts.get(at).map_or(Cost::default(), Known::size);
    match (overload.def.price, overload.def.sized) {
        (Price::Concat | Price::ConcatLists, _) => Some(size(0).plus(size(1))),
        (Price::Result, _) => {
            let element = parts.first().and_then(element_size).unwrap_or(Cost::UNKNOWN);
            Some(Cost { min: 0, max: size(0).times(element.plus(size(1))).max })
        }
        (_, Sized::Within(at)) => Some(Cost { min: 0, max: size(at).max }),
        (_, Sized::AtMost(n)) => Some(Cost { min: 0, max: n }),
        (_, Sized::Replaced) => Some(replaced(size(0), size(1), size(2))),
        (_, Sized::Unknown) => None,
    }
}

/// How long a text gets when every `from` in it becomes a `to`.
fn replaced(text: Cost, from: Cost, to: Cost) -> Cost {
    let longest = if from.min == 0 {
        text.max.saturating_add(text.max.saturating_add(1).saturating_mul(to.max))
    } else if to.max <= from.min {
        text.max
    } else {
        text.max.div_ceil(from.min).saturating_mul(to.max).max(text.max)
    };
    Cost { min: 0, max: longest }
}
