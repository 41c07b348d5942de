//! From the claims of a token to a user.

use super::expressions::{Expression, strings};
use crate::attributes::UserInfo;
use serde_json::Value;
use std::collections::BTreeMap;

/// What must hold of the claims.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// A claim must have a value; an empty one stands for any.
    Claim(String, String),
    /// An expression must hold.
    Expression(Expression),
}

/// Where a part of a user comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// From a claim, with something put before it.
    Claim {
        /// The claim.
        name: String,
        /// What is put before its values.
        prefix: String,
    },
    /// From an expression over the claims.
    Expression(Expression),
}

/// Where the parts of a user come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    /// The name.
    pub username: Source,
    /// Groups, if any.
    pub groups: Option<Source>,
    /// The uid, if any.
    pub uid: Option<Source>,
    /// Extra, by key.
    pub extra: Vec<(String, Expression)>,
}

pub(super) fn check(rules: &[Rule], claims: &Value) -> Result<(), String> {
    rules.iter().try_for_each(|rule| match rule {
        Rule::Expression(expression) => expression.check_claims(claims),
        Rule::Claim(name, required) => match &claims[name] {
            Value::Null => Err(format!("oidc: required claim {name} not present in ID token")),
            Value::String(value) if required.is_empty() || value == required => Ok(()),
            other => {
                let said = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
                Err(format!("oidc: required claim {name} value does not match. Got = {said}, want = {required}"))
            }
        },
    })
}

impl Source {
    /// A claim with a prefix.
    pub fn claim(name: &str, prefix: &str) -> Self {
        Source::Claim { name: name.to_owned(), prefix: prefix.to_owned() }
    }

    /// One text; `what` it is for.
    fn text(&self, claims: &Value, what: &str) -> Result<String, String> {
        match self {
            Source::Claim { name, prefix } => {
                let value =
                    claims[name].as_str().ok_or_else(|| format!("oidc: parse {what} claim {name:?}: claim not present or no string"))?;
                if value.is_empty() {
                    return Err(format!("oidc: {what} claim {name:?} is empty"));
                }
                Ok(format!("{prefix}{value}"))
            }
            Source::Expression(expression) => match expression.of_claims(claims)? {
                Value::String(text) if !text.is_empty() => Ok(text),
                _ => Err(format!("oidc: {what} expression {:?} must come to a text that is not empty", expression.source())),
            },
        }
    }

    /// Any number of texts.
    fn texts(&self, claims: &Value, what: &str) -> Result<Vec<String>, String> {
        match self {
            Source::Claim { name, .. } if claims[name].is_null() => Ok(Vec::new()),
            Source::Claim { name, prefix } => {
                let values =
                    strings(&claims[name]).ok_or_else(|| format!("oidc: parse {what} claim {name:?}: not a string or list of strings"))?;
                Ok(values.into_iter().map(|v| format!("{prefix}{v}")).collect())
            }
            Source::Expression(expression) => several(expression, claims, what),
        }
    }
}

fn several(expression: &Expression, claims: &Value, what: &str) -> Result<Vec<String>, String> {
    let result = expression.of_claims(claims)?;
    strings(&result).ok_or_else(|| format!("oidc: {what} expression {:?} must come to a string or list of strings", expression.source()))
}

impl Mapping {
    pub(super) fn user(&self, claims: &Value) -> Result<UserInfo, String> {
        let name = self.username.text(claims, "username")?;
        // A provider that does not say is trusted; one that says no is not. Expressions check for themselves.
        let email = matches!(&self.username, Source::Claim { name, .. } if name == "email");
        if email && !matches!(&claims["email_verified"], Value::Null | Value::Bool(true)) {
            return Err("oidc: email not verified".to_owned());
        }
        let groups = self.groups.as_ref().map_or(Ok(Vec::new()), |source| source.texts(claims, "groups"))?;
        let uid = self.uid.as_ref().map_or(Ok(String::new()), |source| source.text(claims, "uid"))?;
        let mut extra = BTreeMap::new();
        if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
            extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={id}")]);
        }
        for (key, expression) in &self.extra {
            let values = several(expression, claims, "extra")?;
            if !values.is_empty() {
                extra.insert(key.clone(), values);
            }
        }
        Ok(UserInfo { name, uid, groups, extra })
    }
}

#[cfg(test)]
mod tests {
    use super::super::expressions::{Subject, Wanted};
    use super::*;
    use serde_json::json;

    fn expression(source: &str, wanted: Wanted) -> Expression {
        Expression::new(source, "", Subject::Claims, wanted).expect("compiles")
    }

    #[test]
    fn claims_become_name_groups_and_uid() {
        let mapping = Mapping {
            username: Source::claim("email", "oidc:"),
            groups: Some(Source::claim("roles", "g:")),
            uid: Some(Source::claim("sub", "")),
            extra: Vec::new(),
        };
        let claims = json!({"email": "jane@example.com", "roles": ["dev", "ops"], "sub": "7", "jti": "x"});
        let user = mapping.user(&claims).expect("a user");
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("oidc:jane@example.com", "7"));
        assert_eq!(user.groups, ["g:dev", "g:ops"]);
        assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=x"]);
        let one = json!({"email": "j", "roles": "dev", "sub": "7"});
        assert_eq!(mapping.user(&one).expect("a user").groups, ["g:dev"]);
        for wrong in [
            json!({"roles": [], "sub": "7"}),
            json!({"email": "", "sub": "7"}),
            json!({"email": "j", "email_verified": false, "sub": "7"}),
            json!({"email": "j", "email_verified": "true", "sub": "7"}),
            json!({"email": "j", "roles": [1], "sub": "7"}),
            json!({"email": "j"}),
        ] {
            assert!(mapping.user(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn expressions_may_make_every_part() {
        let mapping = Mapping {
            username: Source::Expression(expression("claims.sub + '@' + claims.org", Wanted::Text)),
            groups: Some(Source::Expression(expression("claims.roles.split(',')", Wanted::Texts))),
            uid: Some(Source::Expression(expression("claims.id", Wanted::Text))),
            extra: vec![
                ("example.com/tier".to_owned(), expression("claims.?tier.orValue('')", Wanted::Texts)),
                ("example.com/orgs".to_owned(), expression("[claims.org]", Wanted::Texts)),
            ],
        };
        let user = mapping.user(&json!({"sub": "jane", "org": "acme", "roles": "dev,ops", "id": "7"})).expect("a user");
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("jane@acme", "7"));
        assert_eq!(user.groups, ["dev", "ops"]);
        assert_eq!(
            user.extra.into_iter().collect::<Vec<_>>(),
            [("example.com/orgs".to_owned(), vec!["acme".to_owned()])],
            "empty values are left out"
        );
        assert!(mapping.user(&json!({"sub": "jane", "org": "acme", "roles": "dev", "id": 7})).is_err(), "a uid is text");
        assert!(mapping.user(&json!({"sub": "jane"})).is_err(), "what an expression needs must be there");
    }

    #[test]
    fn required_claims_are_required() {
        let rules = [Rule::Claim("hd".to_owned(), "example.com".to_owned())];
        assert!(check(&rules, &json!({"hd": "example.com"})).is_ok());
        assert!(check(&rules, &json!({"hd": "example.org"})).is_err());
        assert!(check(&rules, &json!({"hd": ["example.com"]})).is_err());
        assert!(check(&rules, &json!({})).is_err());
        let rules = [Rule::Expression(expression("claims.hd == 'example.com'", Wanted::Truth))];
        assert!(check(&rules, &json!({"hd": "example.com"})).is_ok());
        assert!(check(&rules, &json!({"hd": "example.org"})).is_err());
    }

    #[test]
    fn whatever_claims_come_the_user_is_one_that_they_name() {
        use ferrokube_testkit::fuzz::{change, run};
        let mapping = Mapping {
            username: Source::claim("sub", "oidc:"),
            groups: Some(Source::claim("roles", "g:")),
            uid: Some(Source::Expression(expression("claims.id", Wanted::Text))),
            extra: vec![("example.com/tier".to_owned(), expression("claims.?tier.orValue('')", Wanted::Texts))],
        };
        run("claims", 400, |random| {
            let mut claims = json!({"sub": "jane", "roles": ["dev", "ops"], "id": "7", "tier": "gold", "jti": "x"});
            for _ in 0..random.below(4) {
                change(random, &mut claims);
            }
            let _ = check(&[Rule::Claim("sub".to_owned(), "jane".to_owned())], &claims);
            let Ok(user) = mapping.user(&claims) else { return };
            assert_eq!(Some(user.name.as_str()), claims["sub"].as_str().map(|s| format!("oidc:{s}")).as_deref());
            assert_eq!(Some(user.uid.as_str()), claims["id"].as_str());
            let roles = strings(&claims["roles"]).unwrap_or_default();
            assert_eq!(user.groups, roles.iter().map(|r| format!("g:{r}")).collect::<Vec<_>>());
        });
    }
}
