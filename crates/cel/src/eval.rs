//! Evaluation with a budget. Costs are those that cel-go counts at run time, so that an expression which is too
//! expensive there is too expensive here.

use crate::env::Program;
use crate::functions::{self, Overload, Price};
use crate::plan::{FoldNode, Node};
use crate::value::{EvalError, Evaluated, Key, List, Map, Str, Value};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Cost of one question to an authorizer.
const AUTHORIZE: u64 = 350_000;

/// What may be spent, and what has been.
#[derive(Debug)]
pub struct Budget {
    left: Cell<u64>,
}

impl Budget {
    /// So many units for all evaluations that share it.
    pub fn new(limit: u64) -> Budget {
        Budget { left: Cell::new(limit) }
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.left.get()
    }
}

/// Units that one evaluation may cost.
pub const PER_CALL: u64 = 1_000_000;

const EXCEEDED: &str = "operation cancelled: actual cost limit exceeded";

impl Program {
    /// Evaluates. `variables` are in the order of the environment. One evaluation may cost [`PER_CALL`], all that share
    /// `budget` what is left of it.
    ///
    /// # Errors
    /// What went wrong in cel-go's words; [`EvalError::exhausted`] when the budget is spent.
    pub fn eval<'a>(&'a self, variables: &[Value<'a>], budget: &Budget) -> Evaluated<'a> {
        let mut run = Run { variables, locals: Vec::new(), cost: 0, limit: PER_CALL.min(budget.left.get()) };
        let value = run.node(&self.root);
        budget.left.set(budget.left.get().saturating_sub(run.cost));
        value
    }

    /// As [`Program::eval`], with what the evaluation cost.
    pub fn eval_costed<'a>(&'a self, variables: &[Value<'a>]) -> (Evaluated<'a>, u64) {
        let mut run = Run { variables, locals: Vec::new(), cost: 0, limit: PER_CALL };
        let value = run.node(&self.root);
        (value, run.cost)
    }
}

struct Run<'v, 'a> {
    variables: &'v [Value<'a>],
    /// Values of the names bound by folds. An accumulator may hold an error that a later element makes irrelevant.
    locals: Vec<Evaluated<'a>>,
    cost: u64,
    limit: u64,
}

fn tenth(n: u64) -> u64 {
    n.div_ceil(10)
}

impl<'a> Run<'_, 'a> {
    fn spend(&mut self, units: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(units);
        if self.cost > self.limit {
            return Err(EvalError { message: EXCEEDED.into(), exhausted: true });
        }
        Ok(())
    }

    fn node(&mut self, node: &'a Node) -> Evaluated<'a> {
        match node {
            Node::Literal(literal) => Ok(literal.into()),
            Node::Type(name) => Ok(Value::Type((**name).into())),
            Node::Variable(at) => {
                self.spend(1)?;
                Ok(self.variables.get(*at).cloned().unwrap_or(Value::Null))
            }
            Node::Local(at) => {
                self.spend(1)?;
                self.locals.get(*at).cloned().unwrap_or_else(|| Err(EvalError::overload()))
            }
            Node::Select { operand, field, test, optional } => self.select(operand, field, *test, *optional),
            Node::Index { operand, index, optional } => self.index(operand, index, *optional),
            Node::And(two) => self.logic(two, false),
            Node::Or(two) => self.logic(two, true),
            Node::Choice(three) => match self.node(&three[0])? {
                Value::Bool(true) => self.node(&three[1]),
                Value::Bool(false) => self.node(&three[2]),
                _ => Err(EvalError::overload()),
            },
            Node::NotStrictlyFalse(inner) => {
                self.spend(1)?;
                match self.node(inner) {
                    Err(e) if e.exhausted => Err(e),
                    Ok(Value::Bool(b)) => Ok(Value::Bool(b)),
                    _ => Ok(Value::Bool(true)),
                }
            }
            Node::Call { overloads, args, site } => {
                let args = args.iter().map(|a| self.node(a)).collect::<Result<Vec<_>, _>>()?;
                self.call(overloads, &args, site)
            }
            Node::Append { local, item } => self.append(*local, item),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Struct(name, fields) => self.structure(name, fields),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind { init, result } => {
                self.spend(10)?;
                let value = self.node(init)?;
                self.locals.push(Ok(value));
                let result = self.node(result);
                self.locals.pop();
                result
            }
        }
    }

    /// `&&` (decided by false) and `||` (decided by true): an error on one side gives way to a decision of the other.
    fn logic(&mut self, two: &'a [Node; 2], decisive: bool) -> Evaluated<'a> {
        let left = self.node(&two[0]);
        match &left {
            Ok(Value::Bool(b)) if *b == decisive => return left,
            Err(e) if e.exhausted => return left,
            _ => {}
        }
        let right = self.node(&two[1]);
        match (&left, &right) {
            (_, Ok(Value::Bool(b))) if *b == decisive => right,
            (_, Err(e)) if e.exhausted => right,
            (Err(_), _) => left,
            (_, Err(_)) => right,
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => right,
            _ => Err(EvalError::overload()),
        }
    }

    fn select(&mut self, operand: &'a Node, field: &'a str, test: bool, optional: bool) -> Evaluated<'a> {
        let from = self.node(operand)?;
        if !test {
            self.spend(1)?;
        }
        let (from, optional) = match from {
            Value::Optional(None) if test => return Ok(Value::Bool(false)),
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => ((*inner).clone(), true),
            other => (other, optional),
        };
        let found = match &from {
            Value::Map(map) => map.field(field),
            Value::Lazy(lazy) => lazy.field(field).transpose()?,
            _ if test => return Err(EvalError::overload()),
            _ => return Err(EvalError::new(format!("no such key: {field}"))),
        };
        match (found, test, optional) {
            (found, true, _) => Ok(Value::Bool(found.is_some())),
            (Some(v @ Value::Optional(_)), _, true) => Ok(v),
            (Some(v), _, true) => Ok(Value::some(v)),
            (None, _, true) => Ok(Value::Optional(None)),
            (Some(v), ..) => Ok(v),
            (None, ..) => Err(EvalError::new(format!("no such key: {field}"))),
        }
    }

    fn index(&mut self, operand: &'a Node, index: &'a Node, optional: bool) -> Evaluated<'a> {
        let from = self.node(operand)?;
        let at = self.node(index)?;
        self.spend(1)?;
        let (from, optional) = match from {
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => ((*inner).clone(), true),
            other => (other, optional),
        };
        let found = match (&from, &at) {
            (Value::List(list), at) => {
                let number = match at {
                    Value::Int(n) => usize::try_from(*n).ok(),
                    Value::Uint(n) => usize::try_from(*n).ok(),
                    Value::Double(n) if n.fract() == 0.0 && *n >= 0.0 => Some(*n as usize),
                    _ => return Err(EvalError::new(format!("unsupported index type '{}' in list", at.type_name()))),
                };
                number.and_then(|n| list.get(n)).ok_or_else(|| EvalError::new(format!("index out of bounds: {}", functions::plain(&at))))
            }
            (Value::Map(map), key) => map.get(key).ok_or_else(|| EvalError::new(format!("no such key: {}", functions::plain(key)))),
            _ => return Err(EvalError::overload()),
        };
        match (found, optional) {
            (Ok(v @ Value::Optional(_)), true) => Ok(v),
            (Ok(v), true) => Ok(Value::some(v)),
            (Err(_), true) => Ok(Value::Optional(None)),
            (found, false) => found,
        }
    }

    fn call(&mut self, overloads: &[&'static Overload], args: &[Value<'a>], site: &functions::Site) -> Evaluated<'a> {
        let chosen = match overloads {
            [one] => Some(one),
            many => many.iter().find(|o| o.args.iter().zip(args).all(|(ty, v)| functions::fits(ty, v))),
        };
        let overload = chosen.ok_or_else(EvalError::overload)?;
        let price = overload.def.price;
        // What is known before is paid before, so that nothing expensive starts without money.
        if !matches!(price, Price::Result) {
            self.spend(charge(price, args))?;
        }
        let value = (overload.def.code)(site, args)?;
        if matches!(price, Price::Result) {
            self.spend(tenth(value.size().saturating_mul(2)))?;
        }
        Ok(value)
    }

    fn append(&mut self, local: usize, item: &'a Node) -> Evaluated<'a> {
        let item = self.node(item)?;
        // The name, the list of one, and the sum.
        self.spend(12)?;
        let slot = self.locals.get_mut(local).ok_or_else(EvalError::overload)?;
        match std::mem::replace(slot, Ok(Value::Null))? {
            Value::List(List::Owned(mut list)) => {
                Rc::make_mut(&mut list).push(item);
                Ok(Value::List(List::Owned(list)))
            }
            _ => Err(EvalError::overload()),
        }
    }

    /// The value, unless it is an optional that is empty.
    fn element(&mut self, node: &'a Node, optional: bool) -> Result<Option<Value<'a>>, EvalError> {
        match (self.node(node)?, optional) {
            (Value::Optional(o), true) => Ok(o.map(|v| (*v).clone())),
            (_, true) => Err(EvalError::new("cannot initialize optional entry from a value that is not optional")),
            (value, false) => Ok(Some(value)),
        }
    }

    fn list(&mut self, items: &'a [(Node, bool)]) -> Evaluated<'a> {
        let mut out = Vec::with_capacity(items.len());
        for (node, optional) in items {
            out.extend(self.element(node, *optional)?);
        }
        self.spend(10)?;
        Ok(Value::list(out))
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Evaluated<'a> {
        let mut out = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.node(key)?;
            let key = Key::of(&key).ok_or_else(|| EvalError::new("unsupported key type"))?;
            let Some(value) = self.element(value, *optional)? else { continue };
            let shown = key.value();
            if out.insert(key, value).is_some() {
                return Err(EvalError::new(format!("Failed with repeated key: {}", functions::plain(&shown))));
            }
        }
        self.spend(30)?;
        Ok(Value::Map(Map::of(out)))
    }

    fn structure(&mut self, name: &'a str, fields: &'a [(std::sync::Arc<str>, Node, bool)]) -> Evaluated<'a> {
        let mut out = BTreeMap::new();
        for (field, node, optional) in fields {
            if let Some(value) = self.element(node, *optional)? {
                out.insert(Key::String(Str::Borrowed(field)), value);
            }
        }
        self.spend(40)?;
        Ok(Value::Map(Map::Owned(Rc::new(out), Some(name))))
    }

    fn fold(&mut self, fold: &'a FoldNode) -> Evaluated<'a> {
        let range = self.node(&fold.range)?;
        let accu = self.node(&fold.init)?;
        let base = self.locals.len();
        self.locals.push(Ok(accu));
        let walked = match &range {
            Value::List(list) => (0..list.len()).try_fold((), |(), i| {
                let Some(item) = list.get(i) else { return Ok(()) };
                if fold.two { self.turn(fold, base, Value::Int(i as i64), Some(item)) } else { self.turn(fold, base, item, None) }
            }),
            Value::Map(map) => map.keys().into_iter().try_fold((), |(), key| {
                let value = if fold.two { map.get(&key) } else { None };
                self.turn(fold, base, key, value)
            }),
            _ => Err(Turned::Failed(EvalError::overload())),
        };
        let result = match walked {
            Ok(()) | Err(Turned::Stop) => self.node(&fold.result),
            Err(Turned::Failed(e)) => Err(e),
        };
        self.locals.truncate(base);
        result
    }

    /// One turn of a fold: asks whether to go on, then takes the step. An error of a step becomes the accumulator, where the
    /// condition of `all` and `exists` can look past it; where nothing looks, it ends the fold.
    fn turn(&mut self, fold: &'a FoldNode, base: usize, first: Value<'a>, second: Option<Value<'a>>) -> Result<(), Turned> {
        self.locals.push(Ok(first));
        self.locals.extend(second.map(Ok));
        let stepped = match self.node(&fold.condition) {
            Ok(Value::Bool(true)) => Some(self.node(&fold.step)),
            Ok(Value::Bool(false)) => None,
            Ok(_) => Some(Err(EvalError::overload())),
            Err(e) => Some(Err(e)),
        };
        self.locals.truncate(base + 1);
        match stepped {
            None => Err(Turned::Stop),
            Some(Err(e)) if e.exhausted || matches!(fold.condition, Node::Literal(_)) => Err(Turned::Failed(e)),
            Some(stepped) => {
                self.locals[base] = stepped;
                Ok(())
            }
        }
    }
}

enum Turned {
    Stop,
    Failed(EvalError),
}

fn charge(price: Price, args: &[Value<'_>]) -> u64 {
    let size = |at: usize| args.get(at).map_or(0, Value::size);
    match price {
        Price::Fixed(n) => n,
        Price::Text(at, factor) => tenth(size(at).saturating_mul(factor)),
        Price::Elements(at) => size(at),
        Price::Deep(at) => args.get(at).map_or(0, deep),
        Price::Compare => tenth(size(0).min(size(1))),
        Price::Concat => tenth(size(0).saturating_add(size(1))),
        Price::ConcatLists => 1,
        Price::Pattern => tenth(size(0) + 1).saturating_mul(size(1).div_ceil(4)),
        Price::Contains => tenth(size(0)).saturating_mul(tenth(size(1))),
        Price::Product if args.len() == 1 => size(0).saturating_mul(size(0)).max(1),
        Price::Product => size(0).saturating_mul(size(1)),
        Price::Result => 0,
        Price::Authorize => AUTHORIZE,
    }
}

/// A walk over everything in a value.
fn deep(value: &Value<'_>) -> u64 {
    match value {
        Value::String(_) | Value::Bytes(_) => value.size() / 10,
        Value::List(list) => list.iter().map(|v| deep(&v)).sum(),
        _ => 1,
    }
}
