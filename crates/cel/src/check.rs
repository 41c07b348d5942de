//! The type checker: gives every node a type and every call its overloads, or says what is wrong in cel-go's words.

use crate::ast::{Expr, Fold, Kind, Literal};
use crate::env::Env;
use crate::functions::{self, Overload};
use crate::issue::Issue;
use crate::parser::dotted;
use crate::types::{self, Type};
use std::sync::Arc;

/// What a node refers to, besides its type.
#[derive(Clone, Debug, Default)]
pub(crate) enum Target {
    #[default]
    None,
    /// A variable of the environment; a chain of selections may be one (`authorizer.requestResource`).
    Variable(usize),
    /// A name bound by a fold: how many names are bound outside it.
    Local(usize),
    /// A type by name.
    Type(Type),
    /// Overloads that fit; `true` when the target is part of the function's name (`optional.of`).
    Call(Vec<&'static Overload>, bool),
}

/// What the checker found, by id of the node.
#[derive(Debug)]
pub(crate) struct Checked {
    pub types: Vec<Type>,
    pub targets: Vec<Target>,
}

struct Checker<'e> {
    env: &'e Env,
    types: Vec<Type>,
    targets: Vec<Target>,
    /// Names bound by folds, innermost last.
    scope: Vec<(Arc<str>, Type)>,
    /// What type variables stand for.
    bound: Vec<Option<Type>>,
    issues: Vec<Issue>,
    /// Inside the arguments of `format`, whose list may hold anything.
    lenient: bool,
}

/// Checks a tree.
pub(crate) fn check(env: &Env, root: &Expr, ids: usize) -> Result<Checked, Vec<Issue>> {
    let mut checker = Checker {
        env,
        types: vec![Type::Dyn; ids],
        targets: vec![Target::None; ids],
        scope: Vec::new(),
        bound: Vec::new(),
        issues: Vec::new(),
        lenient: false,
    };
    checker.expr(root);
    if !checker.issues.is_empty() {
        return Err(checker.issues);
    }
    let types = checker.types.iter().map(|t| checker.settled(t)).collect();
    Ok(Checked { types, targets: checker.targets })
}

impl Checker<'_> {
    fn issue(&mut self, at: usize, message: String) -> Type {
        self.issues.push(Issue { at, message });
        Type::Error
    }

    fn undeclared(&mut self, at: usize, name: &str) -> Type {
        self.issue(at, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn fresh(&mut self) -> Type {
        self.bound.push(None);
        Type::Param(self.bound.len() - 1)
    }

    /// What a type is known to be, at its root.
    fn shallow(&self, ty: &Type) -> Type {
        let mut ty = ty.clone();
        while let Type::Param(i) = ty {
            match self.bound.get(i) {
                Some(Some(known)) => ty = known.clone(),
                _ => break,
            }
        }
        ty
    }

    /// What a type is known to be; what is not known is dyn.
    fn settled(&self, ty: &Type) -> Type {
        match self.shallow(ty) {
            Type::Param(_) => Type::Dyn,
            Type::List(inner) => Type::list(self.settled(&inner)),
            Type::Map(inner) => Type::map(self.settled(&inner.0), self.settled(&inner.1)),
            Type::Optional(inner) => Type::optional(self.settled(&inner)),
            Type::Type(inner) => Type::Type(Arc::new(self.settled(&inner))),
            other => other,
        }
    }

    fn occurs(&self, param: usize, ty: &Type) -> bool {
        match self.shallow(ty) {
            Type::Param(i) => i == param,
            Type::List(t) | Type::Optional(t) | Type::Type(t) => self.occurs(param, &t),
            Type::Map(t) => self.occurs(param, &t.0) || self.occurs(param, &t.1),
            _ => false,
        }
    }

    /// Whether a value of type `from` may stand where `to` is wanted; binds type variables.
    fn assign(&mut self, to: &Type, from: &Type) -> bool {
        let (wanted, given) = (self.shallow(to), self.shallow(from));
        match (&wanted, &given) {
            (Type::Param(a), Type::Param(b)) if a == b => true,
            (Type::Param(a), _) => self.bind(*a, &given),
            (_, Type::Param(b)) => self.bind(*b, &wanted),
            (a, b) if a.is_dyn() || b.is_dyn() => {
                // What was bound to something narrower is no longer.
                if let (Type::Param(i), true) = (to, b.is_dyn() && !a.is_dyn()) {
                    self.bound[*i] = Some(Type::Dyn);
                }
                true
            }
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null | Type::Timestamp | Type::Duration | Type::Object(_) | Type::Named(_) | Type::Opaque(_) | Type::Optional(_)
            ),
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.assign(a, b),
            (Type::Map(a), Type::Map(b)) => self.assign(&a.0, &b.0) && self.assign(&a.1, &b.1),
            (Type::Type(_), Type::Type(_)) => true,
            (a, b) => a == b,
        }
    }

    fn bind(&mut self, param: usize, ty: &Type) -> bool {
        if self.occurs(param, ty) {
            return false;
        }
        self.bound[param] = Some(ty.clone());
        true
    }

    /// As [`Checker::assign`], for several at once, undone when one does not fit.
    fn assign_all(&mut self, to: &[Type], from: &[Type]) -> bool {
        let before = self.bound.clone();
        let fits = to.len() == from.len() && to.iter().zip(from).all(|(to, from)| self.assign(to, from));
        if !fits {
            self.bound = before;
        }
        fits
    }

    fn expr(&mut self, e: &Expr) -> Type {
        let ty = match &e.kind {
            Kind::Literal(literal) => literal_type(literal),
            Kind::Ident(name) => self.ident(e, name),
            Kind::Select { operand, field, test, optional } => self.select(e, operand, field, *test, *optional),
            Kind::Call { function, target, args } => self.call(e, function, target.as_deref(), args),
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct(name, fields) => self.structure(e, name, fields),
            Kind::Fold(fold) => self.fold(fold),
        };
        self.types[e.id] = ty.clone();
        ty
    }

    fn ident(&mut self, e: &Expr, name: &str) -> Type {
        if let Some(at) = self.scope.iter().rposition(|(n, _)| **n == *name) {
            self.targets[e.id] = Target::Local(at);
            return self.scope[at].1.clone();
        }
        match self.global(e, name) {
            Some(ty) => ty,
            None => self.undeclared(e.at, name),
        }
    }

    fn global(&mut self, e: &Expr, name: &str) -> Option<Type> {
        if let Some((at, variable)) = self.env.variable(name) {
            self.targets[e.id] = Target::Variable(at);
            return Some(variable.decl.ty());
        }
        let ty = types::named(name)?;
        self.targets[e.id] = Target::Type(ty.clone());
        Some(Type::Type(Arc::new(ty)))
    }

    /// Whether the first name of a chain is bound by a fold.
    fn is_local(&self, chain: &str) -> bool {
        let head = chain.split('.').next().unwrap_or_default();
        self.scope.iter().any(|(n, _)| **n == *head)
    }

    fn select(&mut self, e: &Expr, operand: &Expr, field: &str, test: bool, optional: bool) -> Type {
        if !test
            && !optional
            && let Some(name) = dotted(e)
            && !self.is_local(&name)
            && let Some(ty) = self.global(e, &name)
        {
            return ty;
        }
        let from = self.expr(operand);
        let found = self.field(e, &from, field, optional);
        if test { Type::Bool } else { found }
    }

    fn field(&mut self, e: &Expr, from: &Type, field: &str, optional: bool) -> Type {
        let as_optional = |ty: Type| if matches!(ty, Type::Optional(_)) { ty } else { Type::optional(ty) };
        match self.shallow(from) {
            Type::Optional(inner) => {
                let ty = self.field(e, &inner, field, false);
                as_optional(ty)
            }
            other => {
                let ty = self.plain_field(e, &other, field);
                if optional { as_optional(ty) } else { ty }
            }
        }
    }

    fn plain_field(&mut self, e: &Expr, from: &Type, field: &str) -> Type {
        match from {
            Type::Map(inner) => inner.1.clone(),
            Type::Object(object) => match object.fields.get(field) {
                Some(f) => f.decl.ty(),
                None => self.issue(e.at, format!("undefined field '{field}'")),
            },
            Type::Named(_) | Type::Dyn | Type::Error => Type::Dyn,
            Type::Param(i) => {
                self.bound[*i] = Some(Type::Dyn);
                Type::Dyn
            }
            other => self.issue(e.at, format!("type '{}' does not support field selection", self.settled(other))),
        }
    }

    fn call(&mut self, e: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Type {
        // `optional.of(x)`: the target is part of the name.
        if let Some(name) = target.and_then(dotted)
            && !self.is_local(&name)
            && self.env.variable(&name).is_none()
            && let Some(overloads) = functions::overloads(&format!("{name}.{function}"))
        {
            let given: Vec<Type> = args.iter().map(|a| self.expr(a)).collect();
            return self.resolve(e, &format!("{name}.{function}"), overloads, false, given, true);
        }
        let mut given: Vec<Type> = target.into_iter().map(|t| self.expr(t)).collect();
        let outer = self.lenient;
        self.lenient |= function == "format";
        given.extend(args.iter().map(|a| self.expr(a)).collect::<Vec<_>>());
        self.lenient = outer;
        match functions::overloads(function) {
            Some(overloads) => self.resolve(e, function, overloads, target.is_some(), given, false),
            None => self.undeclared(e.at, function),
        }
    }

    fn resolve(&mut self, e: &Expr, name: &str, overloads: &'static [Overload], member: bool, given: Vec<Type>, named: bool) -> Type {
        if given.iter().any(|t| matches!(self.shallow(t), Type::Error)) {
            return Type::Error;
        }
        let (mut fitting, mut result): (Vec<&'static Overload>, Option<Type>) = (Vec::new(), None);
        for overload in overloads.iter().filter(|o| o.member == member && o.args.len() == given.len()) {
            let params = [self.fresh(), self.fresh()];
            let wanted: Vec<Type> = overload.args.iter().map(|t| instantiate(t, &params)).collect();
            if !self.assign_all(&wanted, &given) {
                continue;
            }
            fitting.push(overload);
            let ty = instantiate(&overload.result, &params);
            result = Some(match result {
                None => ty,
                Some(before) if self.settled(&before) == self.settled(&ty) => before,
                Some(_) => Type::Dyn,
            });
        }
        match result {
            Some(ty) => {
                self.targets[e.id] = Target::Call(fitting, named);
                // An optional that comes out of an optional is one.
                match self.shallow(&ty) {
                    Type::Optional(inner) if matches!(name, "_[?_]" | "_[_]") && matches!(self.shallow(&inner), Type::Optional(_)) => {
                        self.shallow(&inner)
                    }
                    _ => ty,
                }
            }
            None => {
                let shown: Vec<String> = given.iter().map(|t| self.settled(t).to_string()).collect();
                let signature =
                    if member { format!("{}.({})", shown[0], shown[1..].join(", ")) } else { format!("({})", shown.join(", ")) };
                self.issue(e.at, format!("found no matching overload for '{name}' applied to '{signature}'"))
            }
        }
    }

    /// The common type of elements: all the same, or the more general of those that fit.
    fn joined(&mut self, at: usize, before: Option<Type>, next: Type) -> Type {
        let Some(before) = before else { return next };
        if self.assign_all(std::slice::from_ref(&before), std::slice::from_ref(&next)) {
            return if self.shallow(&next).is_dyn() { Type::Dyn } else { before };
        }
        if self.lenient {
            return Type::Dyn;
        }
        let (a, b) = (self.settled(&before), self.settled(&next));
        self.issue(at, format!("expected type '{a}' but found '{b}'"))
    }

    fn element(&mut self, e: &Expr, optional: bool) -> Type {
        let ty = self.expr(e);
        if !optional {
            return ty;
        }
        match self.shallow(&ty) {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                let shown = self.settled(&other);
                self.issue(e.at, format!("expected type 'optional_type({shown})' but found '{shown}'"))
            }
        }
    }

    fn list(&mut self, items: &[(Expr, bool)]) -> Type {
        let mut common = None;
        for (item, optional) in items {
            let ty = self.element(item, *optional);
            common = Some(self.joined(item.at, common, ty));
        }
        let inner = match common {
            Some(ty) => ty,
            None => self.fresh(),
        };
        Type::list(inner)
    }

    fn map(&mut self, entries: &[(Expr, Expr, bool)]) -> Type {
        let (mut keys, mut values) = (None, None);
        for (key, value, optional) in entries {
            let ty = self.expr(key);
            keys = Some(self.joined(key.at, keys, ty));
            let ty = self.element(value, *optional);
            values = Some(self.joined(value.at, values, ty));
        }
        let key = match keys {
            Some(ty) => ty,
            None => self.fresh(),
        };
        let value = match values {
            Some(ty) => ty,
            None => self.fresh(),
        };
        Type::map(key, value)
    }

    fn structure(&mut self, e: &Expr, name: &Arc<str>, fields: &[(Arc<str>, Expr, bool)]) -> Type {
        let is_object = &**name == "Object" || name.starts_with("Object.");
        let known = self.env.mutations && (is_object || &**name == "JSONPatch");
        for (field, value, optional) in fields {
            let ty = self.element(value, *optional);
            if !known {
                continue;
            }
            let wanted = match (is_object, &**field) {
                (true, _) | (false, "value") => Type::Dyn,
                (false, "op" | "path" | "from") => Type::String,
                _ => {
                    self.issue(e.at, format!("undefined field '{field}'"));
                    continue;
                }
            };
            // A nested object says which field it is made for.
            if let (true, Type::Named(inner)) = (is_object, self.shallow(&ty))
                && *inner != *format!("{name}.{field}")
            {
                self.issue(value.at, format!("expected type of field '{field}' is '{name}.{field}' but provided type is '{inner}'"));
            }
            if !self.assign_all(std::slice::from_ref(&wanted), std::slice::from_ref(&ty)) {
                let shown = self.settled(&ty);
                self.issue(value.at, format!("expected type of field '{field}' is '{wanted}' but provided type is '{shown}'"));
            }
        }
        if known { Type::Named(name.clone()) } else { self.undeclared(e.at, name) }
    }

    fn fold(&mut self, fold: &Fold) -> Type {
        let range = self.expr(&fold.range);
        let range = self.shallow(&range);
        let (first, second) = match (&range, &fold.second) {
            (Type::List(inner), None) => ((**inner).clone(), Type::Dyn),
            (Type::List(inner), Some(_)) => (Type::Int, (**inner).clone()),
            (Type::Map(inner), _) => (inner.0.clone(), inner.1.clone()),
            (Type::Dyn | Type::Error, _) => (Type::Dyn, Type::Dyn),
            (Type::Param(i), _) => {
                self.bound[*i] = Some(Type::Dyn);
                (Type::Dyn, Type::Dyn)
            }
            (other, _) => {
                let shown = self.settled(other);
                let why = format!("expression of type '{shown}' cannot be range of a comprehension (must be list, map, or dynamic)");
                self.issue(fold.range.at, why);
                (Type::Error, Type::Error)
            }
        };
        let accu = self.expr(&fold.init);
        self.scope.push((fold.accu.clone(), accu.clone()));
        self.scope.push((fold.var.clone(), first));
        if let Some(name) = &fold.second {
            self.scope.push((name.clone(), second));
        }
        let condition = self.expr(&fold.condition);
        self.expect(&fold.condition, &Type::Bool, &condition);
        let step = self.expr(&fold.step);
        self.expect(&fold.step, &accu, &step);
        self.scope.truncate(self.scope.len() - 1 - usize::from(fold.second.is_some()));
        let result = self.expr(&fold.result);
        self.scope.pop();
        result
    }

    fn expect(&mut self, e: &Expr, wanted: &Type, given: &Type) {
        if !self.assign_all(std::slice::from_ref(wanted), std::slice::from_ref(given)) {
            let (wanted, given) = (self.settled(wanted), self.settled(given));
            self.issue(e.at, format!("expected type '{wanted}' but found '{given}'"));
        }
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

/// A type of a signature with its parameters replaced.
fn instantiate(ty: &Type, params: &[Type; 2]) -> Type {
    match ty {
        Type::Param(i) => params[*i].clone(),
        Type::List(inner) => Type::list(instantiate(inner, params)),
        Type::Map(inner) => Type::map(instantiate(&inner.0, params), instantiate(&inner.1, params)),
        Type::Optional(inner) => Type::optional(instantiate(inner, params)),
        Type::Type(inner) => Type::Type(Arc::new(instantiate(inner, params))),
        other => other.clone(),
    }
}
