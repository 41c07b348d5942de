//! Expressions of structured authentication: over the claims of a token, and over the user they became.
//!
//! Source: `apiserver/pkg/authentication/cel`. They are compiled when the configuration is read, so that a wrong one is
//! refused then and not when somebody logs in.

use crate::attributes::UserInfo;
use ferrokube_cel::{Budget, Decl, Env, PER_CALL, Program, Type, Value as CelValue};
use serde_json::{Value, json};
use std::fmt;
use std::sync::{Arc, LazyLock};

/// What an expression is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `claims`.
    Claims,
    /// `user`.
    User,
}

/// What an expression must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// True or false.
    Truth,
    /// Text.
    Text,
    /// Text or a list of text.
    Texts,
}

/// A compiled expression.
#[derive(Clone)]
pub struct Expression {
    program: Arc<Program>,
    /// What is said when it comes to false.
    message: String,
}

static USER: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let text = || Decl::simple(Type::String);
    Arc::new(Decl::object(
        "kubernetes.UserInfo",
        [("username", text()), ("uid", text()), ("groups", Decl::list(text())), ("extra", Decl::map(Decl::list(text())))],
    ))
});

fn fits(ty: &Type, wanted: Wanted) -> bool {
    match (ty, wanted) {
        (Type::Dyn, _) | (Type::Bool, Wanted::Truth) | (Type::String, Wanted::Text | Wanted::Texts) => true,
        (Type::List(inner), Wanted::Texts) => matches!(**inner, Type::String | Type::Dyn),
        _ => false,
    }
}

/// A string, or several; nothing, an empty string and an empty list are none.
pub(super) fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::String(one) if one.is_empty() => Some(Vec::new()),
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(many) => many.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

impl Expression {
    /// Compiles; the error is for whoever wrote it.
    pub fn new(source: &str, message: &str, subject: Subject, wanted: Wanted) -> Result<Self, String> {
        let env = match subject {
            Subject::Claims => Env::new().with("claims", Decl::simple(Type::map(Type::String, Type::Dyn))),
            Subject::User => Env::new().with("user", USER.clone()),
        };
        let program = env.compile(source).map_err(|e| format!("compilation failed: {e}"))?;
        if !fits(program.result(), wanted) {
            let types = match wanted {
                Wanted::Truth => "bool",
                Wanted::Text => "string",
                Wanted::Texts => "one of [string list(string)]",
            };
            return Err(format!("must evaluate to {types}"));
        }
        Ok(Expression { program: Arc::new(program), message: message.to_owned() })
    }

    /// As written.
    pub fn source(&self) -> &str {
        self.program.source()
    }

    fn result<'a>(&'a self, value: CelValue<'a>) -> Result<Value, String> {
        let result = self.program.eval(&[value], &Budget::new(PER_CALL));
        let result = result.map_err(|e| format!("oidc: error evaluating expression {:?}: {}", self.source(), e.message))?;
        match result {
            CelValue::Optional(None) => Ok(Value::Null),
            other => other.to_json().ok_or_else(|| format!("oidc: expression {:?} has a result of another type", self.source())),
        }
    }

    /// Its result over claims.
    pub(super) fn of_claims(&self, claims: &Value) -> Result<Value, String> {
        self.result(CelValue::json(claims))
    }

    fn verdict(&self, result: Result<Value, String>) -> Result<(), String> {
        match result? {
            Value::Bool(true) => Ok(()),
            Value::Bool(false) if self.message.is_empty() => Err(format!("oidc: validation expression '{}' failed", self.source())),
            Value::Bool(false) => Err(format!("oidc: validation expression '{}' failed: {}", self.source(), self.message)),
            _ => Err(format!("oidc: validation expression '{}' must return a boolean", self.source())),
        }
    }

    /// An error unless it holds of the claims.
    pub(super) fn check_claims(&self, claims: &Value) -> Result<(), String> {
        self.verdict(self.of_claims(claims))
    }

    /// An error unless it holds of the user.
    pub(super) fn check_user(&self, user: &UserInfo) -> Result<(), String> {
        let user = json!({ "username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra });
        self.verdict(self.result(CelValue::typed(&user, &USER)))
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source() == other.source() && self.message == other.message
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.source())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_checked_when_they_are_read() {
        let of = |source: &str, subject, wanted| Expression::new(source, "", subject, wanted);
        assert!(of("claims.exp - claims.nbf <= 86400", Subject::Claims, Wanted::Truth).is_ok());
        assert!(of("claims.roles.split(',')", Subject::Claims, Wanted::Texts).is_ok());
        assert!(of("'a' + claims.sub", Subject::Claims, Wanted::Text).is_ok());
        for (source, subject, wanted) in [
            ("claims.", Subject::Claims, Wanted::Truth),
            ("user.username == 'x'", Subject::Claims, Wanted::Truth),
            ("user.nonsense == 'x'", Subject::User, Wanted::Truth),
            ("'text'", Subject::Claims, Wanted::Truth),
            ("['a']", Subject::Claims, Wanted::Text),
            ("[1]", Subject::Claims, Wanted::Texts),
        ] {
            assert!(of(source, subject, wanted).is_err(), "{source}");
        }
    }

    #[test]
    fn a_rule_that_does_not_hold_says_its_message() {
        let rule = Expression::new("!user.username.startsWith('system:')", "reserved", Subject::User, Wanted::Truth).expect("compiles");
        let user = |name: &str| UserInfo { name: name.to_owned(), ..UserInfo::default() };
        assert!(rule.check_user(&user("jane")).is_ok());
        assert!(rule.check_user(&user("system:node:x")).expect_err("reserved").ends_with("failed: reserved"));
        let absent = Expression::new("claims.hd == 'x'", "", Subject::Claims, Wanted::Truth).expect("compiles");
        assert!(absent.check_claims(&json!({"iss": "y"})).is_err(), "an error is no yes");
    }
}
