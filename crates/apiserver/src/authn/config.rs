//! `apiserver.config.k8s.io/v1 AuthenticationConfiguration`: issuers of tokens, and who may come without a credential.
//!
//! Expressions in CEL are refused with an error that says so. Source of the rules:
//! `apiserver/pkg/apis/apiserver/validation`.

use super::jwt::{ALGORITHMS, JwtConfig, Mapping, Prefixed, Rule};
use super::{Anonymous, AuthnConfigError};
use serde::Deserialize;
use std::collections::HashSet;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    api_version: String,
    kind: String,
    #[serde(default)]
    jwt: Vec<Jwt>,
    #[serde(default)]
    anonymous: Option<AnonymousSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnonymousSpec {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Jwt {
    issuer: Issuer,
    #[serde(default)]
    claim_validation_rules: Vec<ClaimRule>,
    claim_mappings: Mappings,
    #[serde(default)]
    user_validation_rules: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Issuer {
    url: String,
    #[serde(default, rename = "discoveryURL")]
    discovery_url: String,
    #[serde(default)]
    certificate_authority: String,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    audience_match_policy: String,
    #[serde(default)]
    egress_selector_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClaimRule {
    #[serde(default)]
    claim: String,
    #[serde(default)]
    required_value: String,
    #[serde(default)]
    expression: String,
    #[serde(default, rename = "message")]
    _message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mappings {
    username: Claim,
    #[serde(default)]
    groups: Claim,
    #[serde(default)]
    uid: Claim,
    #[serde(default)]
    extra: Vec<serde_json::Value>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Claim {
    #[serde(default)]
    claim: String,
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    expression: String,
}

/// What a file says.
pub(super) struct Read {
    pub jwt: Vec<JwtConfig>,
    /// `None`: the file leaves it to the flag.
    pub anonymous: Option<Anonymous>,
}

fn no_cel(what: &str) -> String {
    format!("{what}: CEL expressions are not supported by this server yet")
}

pub(super) fn parse(text: &str) -> Result<Read, AuthnConfigError> {
    let read: Configuration = serde_saphyr::from_str(text).map_err(|e| AuthnConfigError::File(e.to_string()))?;
    if read.kind != "AuthenticationConfiguration"
        || !matches!(read.api_version.as_str(), "apiserver.config.k8s.io/v1" | "apiserver.config.k8s.io/v1beta1")
    {
        let why = format!("{}, Kind={} is not apiserver.config.k8s.io/v1, Kind=AuthenticationConfiguration", read.api_version, read.kind);
        return Err(AuthnConfigError::File(why));
    }
    let (mut issuers, mut discovery) = (HashSet::new(), HashSet::new());
    let mut jwt = Vec::new();
    for (at, one) in read.jwt.into_iter().enumerate() {
        let fail = |why: String| AuthnConfigError::File(format!("jwt[{at}].{why}"));
        let config = one.config().map_err(fail)?;
        if !issuers.insert(config.issuer.clone()) {
            return Err(fail(format!("issuer.url: Duplicate value: {:?}", config.issuer)));
        }
        if !config.discovery_url.is_empty() && !discovery.insert(config.discovery_url.clone()) {
            return Err(fail(format!("issuer.discoveryURL: Duplicate value: {:?}", config.discovery_url)));
        }
        jwt.push(config);
    }
    Ok(Read { jwt, anonymous: read.anonymous.map(AnonymousSpec::read).transpose().map_err(AuthnConfigError::File)? })
}

impl AnonymousSpec {
    fn read(self) -> Result<Anonymous, String> {
        match (self.enabled, self.conditions) {
            (false, conditions) if !conditions.is_empty() => {
                Err("anonymous.conditions: Invalid value: enabled should be set to true when conditions are defined".to_owned())
            }
            (false, _) => Ok(Anonymous::Nowhere),
            (true, conditions) if conditions.is_empty() => Ok(Anonymous::Everywhere),
            (true, conditions) => Ok(Anonymous::Paths(conditions.into_iter().map(|c| c.path).collect())),
        }
    }
}

fn check_url(url: &str, what: &str) -> Result<(), String> {
    let uri: http::Uri = url.parse().map_err(|_| format!("{what}: Invalid value: {url:?}: not a URL"))?;
    if uri.scheme_str() != Some("https") {
        return Err(format!("{what}: Invalid value: {url:?}: URL scheme must be https"));
    }
    if uri.query().is_some() || uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(format!("{what}: Invalid value: {url:?}: URL must not contain a username, password or query"));
    }
    Ok(())
}

impl Jwt {
    fn config(self) -> Result<JwtConfig, String> {
        let Jwt { issuer, claim_validation_rules, claim_mappings, user_validation_rules } = self;
        check_url(&issuer.url, "issuer.url")?;
        if !issuer.discovery_url.is_empty() {
            check_url(&issuer.discovery_url, "issuer.discoveryURL")?;
            if issuer.discovery_url.trim_end_matches('/') == issuer.url.trim_end_matches('/') {
                return Err("issuer.discoveryURL: Invalid value: discoveryURL must be different from URL".to_owned());
            }
        }
        if issuer.audiences.is_empty() || issuer.audiences.iter().any(String::is_empty) {
            return Err("issuer.audiences: Required value: at least one jwt[].issuer.audiences is required".to_owned());
        }
        let policy = issuer.audience_match_policy.as_str();
        if (issuer.audiences.len() > 1 && policy != "MatchAny") || !matches!(policy, "" | "MatchAny") {
            return Err(format!(
                "issuer.audienceMatchPolicy: Invalid value: {policy:?}: audienceMatchPolicy must be MatchAny for multiple audiences"
            ));
        }
        if !matches!(issuer.egress_selector_type.as_str(), "") {
            return Err("issuer.egressSelectorType: Invalid value: this server has no egress selectors".to_owned());
        }
        if !user_validation_rules.is_empty() {
            return Err(no_cel("userValidationRules"));
        }
        let rules = claim_validation_rules.into_iter().map(ClaimRule::read).collect::<Result<Vec<_>, _>>()?;
        Ok(JwtConfig {
            issuer: issuer.url,
            discovery_url: issuer.discovery_url,
            ca: issuer.certificate_authority,
            audiences: issuer.audiences,
            algorithms: ALGORITHMS.map(str::to_owned).to_vec(),
            rules,
            mapping: claim_mappings.read()?,
        })
    }
}

impl ClaimRule {
    fn read(self) -> Result<Rule, String> {
        match (self.claim.is_empty(), self.expression.is_empty()) {
            (false, true) => Ok(Rule { claim: self.claim, required: self.required_value }),
            (true, false) => Err(no_cel("claimValidationRules.expression")),
            _ => Err("claimValidationRules: Required value: exactly one of claim or expression is required".to_owned()),
        }
    }
}

impl Mappings {
    fn read(self) -> Result<Mapping, String> {
        for (what, claim) in [("username", &self.username), ("groups", &self.groups), ("uid", &self.uid)] {
            if !claim.expression.is_empty() {
                return Err(no_cel(&format!("claimMappings.{what}.expression")));
            }
            if what != "uid" && !claim.claim.is_empty() && claim.prefix.is_none() {
                return Err(format!(
                    "claimMappings.{what}.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing"
                ));
            }
        }
        if !self.extra.is_empty() {
            return Err(no_cel("claimMappings.extra"));
        }
        if self.username.claim.is_empty() {
            return Err("claimMappings.username: Required value: claim or expression is required".to_owned());
        }
        let prefixed = |c: Claim| Prefixed { claim: c.claim, prefix: c.prefix.unwrap_or_default() };
        Ok(Mapping {
            username: prefixed(self.username),
            groups: (!self.groups.claim.is_empty()).then(|| prefixed(self.groups)),
            uid: (!self.uid.claim.is_empty()).then_some(self.uid.claim),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
    const GOOD: &str = "jwt: [{issuer: {url: 'https://a', audiences: [x]}, claimMappings: {username: {claim: sub, prefix: ''}}}]";

    #[test]
    fn a_configuration_is_read() {
        let read = parse(&format!("{HEAD}{GOOD}\nanonymous: {{enabled: true, conditions: [{{path: /livez}}]}}")).expect("a configuration");
        assert_eq!((read.jwt[0].issuer.as_str(), read.jwt[0].mapping.username.claim.as_str()), ("https://a", "sub"));
        assert_eq!(read.anonymous, Some(Anonymous::Paths(vec!["/livez".to_owned()])));
        assert_eq!(parse(&format!("{HEAD}anonymous: {{enabled: false}}")).expect("a configuration").anonymous, Some(Anonymous::Nowhere));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for (from, to) in [
            ("https://a", "http://a"),
            ("audiences: [x]", "audiences: []"),
            ("audiences: [x]", "audiences: [x, y]"),
            (", prefix: ''", ""),
            ("claim: sub, prefix: ''", "expression: claims.sub"),
            ("}}}]", "}, extra: [{key: 'a/b', valueExpression: claims.x}]}}]"),
            ("claimMappings", "claimValidationRules: [{expression: 'true'}], claimMappings"),
            ("claimMappings", "unknown: 1, claimMappings"),
        ] {
            let text = format!("{HEAD}{}", GOOD.replace(from, to));
            assert!(parse(&text).is_err(), "{text}");
        }
        assert!(parse(&format!("{HEAD}anonymous: {{enabled: false, conditions: [{{path: /livez}}]}}")).is_err());
    }
}
