//! From the claims of a token to a user.

use crate::attributes::UserInfo;
use serde_json::Value;
use std::collections::BTreeMap;

/// A claim that must have a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The claim.
    pub claim: String,
    /// Its value; empty: it must only be there.
    pub required: String,
}

/// A claim and what is put in front of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixed {
    /// The claim.
    pub claim: String,
    /// The prefix.
    pub prefix: String,
}

/// Where the parts of a user come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// The name.
    pub username: Prefixed,
    /// Groups, if any.
    pub groups: Option<Prefixed>,
    /// The uid, if any.
    pub uid: Option<String>,
}

pub(super) fn check(rules: &[Rule], claims: &Value) -> Result<(), String> {
    for rule in rules {
        match &claims[&rule.claim] {
            Value::Null => return Err(format!("oidc: required claim {} not present in ID token", rule.claim)),
            Value::String(value) if rule.required.is_empty() || *value == rule.required => {}
            other => {
                let said = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
                return Err(format!("oidc: required claim {} value does not match. Got = {said}, want = {}", rule.claim, rule.required));
            }
        }
    }
    Ok(())
}

/// A string, or several.
fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(many) => many.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

impl Mapping {
    pub(super) fn user(&self, claims: &Value) -> Result<UserInfo, String> {
        let claim = &self.username.claim;
        let name = claims[claim].as_str().ok_or_else(|| format!("oidc: parse username claims {claim:?}: claim not present"))?;
        if name.is_empty() {
            return Err(format!("oidc: username claim {claim:?} is empty"));
        }
        // A provider that does not say is trusted; one that says no is not.
        if claim == "email" && !matches!(&claims["email_verified"], Value::Null | Value::Bool(true)) {
            return Err("oidc: email not verified".to_owned());
        }
        let groups = match &self.groups {
            Some(groups) if !claims[&groups.claim].is_null() => {
                let values = strings(&claims[&groups.claim])
                    .ok_or_else(|| format!("oidc: parse groups claim {:?}: not a string or list of strings", groups.claim))?;
                values.into_iter().map(|g| format!("{}{g}", groups.prefix)).collect()
            }
            _ => Vec::new(),
        };
        let uid = match &self.uid {
            Some(claim) => claims[claim].as_str().ok_or_else(|| format!("oidc: error parsing uid claim {claim:?}"))?.to_owned(),
            None => String::new(),
        };
        let mut extra = BTreeMap::new();
        if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
            extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={id}")]);
        }
        Ok(UserInfo { name: format!("{}{name}", self.username.prefix), uid, groups, extra })
    }
}

impl Prefixed {
    /// A claim with a prefix.
    pub fn new(claim: &str, prefix: &str) -> Self {
        Prefixed { claim: claim.to_owned(), prefix: prefix.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_become_name_groups_and_uid() {
        let mapping =
            Mapping { username: Prefixed::new("email", "oidc:"), groups: Some(Prefixed::new("roles", "g:")), uid: Some("sub".to_owned()) };
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
    fn required_claims_are_required() {
        let rules = [Rule { claim: "hd".to_owned(), required: "example.com".to_owned() }];
        assert!(check(&rules, &json!({"hd": "example.com"})).is_ok());
        assert!(check(&rules, &json!({"hd": "example.org"})).is_err());
        assert!(check(&rules, &json!({"hd": ["example.com"]})).is_err());
        assert!(check(&rules, &json!({})).is_err());
    }
}
