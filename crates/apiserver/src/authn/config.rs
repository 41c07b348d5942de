//! `apiserver.config.k8s.io/v1 AuthenticationConfiguration`: issuers of tokens, and who may come without a credential.
//!
//! Source of the rules: `apiserver/pkg/apis/apiserver/validation`.

use super::jwt::{ALGORITHMS, Expression, JwtConfig, Mapping, Rule, Source, Subject, Wanted};
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
    user_validation_rules: Vec<UserRule>,
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
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserRule {
    expression: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Extra {
    key: String,
    value_expression: String,
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
    extra: Vec<Extra>,
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
        let rules = claim_validation_rules.into_iter().map(ClaimRule::read).collect::<Result<Vec<_>, _>>()?;
        let user_rule = |rule: UserRule| {
            let made = Expression::new(&rule.expression, &rule.message, Subject::User, Wanted::Truth);
            made.map_err(|e| format!("userValidationRules.expression: Invalid value: {:?}: {e}", rule.expression))
        };
        let user_rules = user_validation_rules.into_iter().map(user_rule).collect::<Result<Vec<_>, _>>()?;
        let mapping = claim_mappings.read()?;
        verified_email(&mapping, &rules)?;
        Ok(JwtConfig {
            issuer: issuer.url,
            discovery_url: issuer.discovery_url,
            ca: issuer.certificate_authority,
            audiences: issuer.audiences,
            algorithms: ALGORITHMS.map(str::to_owned).to_vec(),
            rules,
            mapping,
            user_rules,
        })
    }
}

impl ClaimRule {
    fn read(self) -> Result<Rule, String> {
        match (self.claim.is_empty(), self.expression.is_empty()) {
            (false, true) => Ok(Rule::Claim(self.claim, self.required_value)),
            (true, false) => {
                let made = Expression::new(&self.expression, &self.message, Subject::Claims, Wanted::Truth);
                let made = made.map_err(|e| format!("claimValidationRules.expression: Invalid value: {:?}: {e}", self.expression));
                made.map(Rule::Expression)
            }
            _ => Err("claimValidationRules: Required value: exactly one of claim or expression is required".to_owned()),
        }
    }
}

impl Claim {
    /// `None` when nothing is said.
    fn read(self, what: &str, wanted: Wanted) -> Result<Option<Source>, String> {
        let fail = |why: String| Err(format!("claimMappings.{what}{why}"));
        match (self.claim.is_empty(), self.expression.is_empty(), self.prefix) {
            (true, true, None) => Ok(None),
            (true, true, Some(_)) => fail(".prefix: Invalid value: must not be set without claim".to_owned()),
            (false, false, _) => fail(": Invalid value: claim and expression can't both be set".to_owned()),
            (true, false, Some(_)) => fail(".prefix: Invalid value: prefix can't be set when expression is set".to_owned()),
            (false, true, None) if what != "uid" => fail(
                ".prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing"
                    .to_owned(),
            ),
            (false, true, prefix) => Ok(Some(Source::Claim { name: self.claim, prefix: prefix.unwrap_or_default() })),
            (true, false, None) => match Expression::new(&self.expression, "", Subject::Claims, wanted) {
                Ok(expression) => Ok(Some(Source::Expression(expression))),
                Err(e) => fail(format!(".expression: Invalid value: {:?}: {e}", self.expression)),
            },
        }
    }
}

/// A key of extra: a path below a domain, in lower case, and none of Kubernetes' own.
fn check_extra_key(key: &str) -> Result<(), String> {
    let fail = |why: &str| Err(format!("claimMappings.extra.key: Invalid value: {key:?}: {why}"));
    let (domain, path) = key.split_once('/').unwrap_or_default();
    if domain.is_empty() || path.is_empty() || !domain.contains('.') {
        return fail("must be a domain-prefixed path (such as \"acme.io/foo\")");
    }
    if key != key.to_lowercase() {
        return fail("key must be lowercase");
    }
    let reserved = ["kubernetes.io", "k8s.io"].iter().any(|d| domain == *d || domain.ends_with(&format!(".{d}")));
    if reserved { fail("k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use") } else { Ok(()) }
}

impl Mappings {
    fn read(self) -> Result<Mapping, String> {
        let username = self.username.read("username", Wanted::Text)?;
        let username = username.ok_or_else(|| "claimMappings.username: Required value: claim or expression is required".to_owned())?;
        let mut extra: Vec<(String, Expression)> = Vec::new();
        for Extra { key, value_expression } in self.extra {
            check_extra_key(&key)?;
            if extra.iter().any(|(known, _)| *known == key) {
                return Err(format!("claimMappings.extra.key: Duplicate value: {key:?}"));
            }
            let made = Expression::new(&value_expression, "", Subject::Claims, Wanted::Texts);
            extra.push((key, made.map_err(|e| format!("claimMappings.extra.valueExpression: Invalid value: {value_expression:?}: {e}"))?));
        }
        Ok(Mapping { username, groups: self.groups.read("groups", Wanted::Texts)?, uid: self.uid.read("uid", Wanted::Text)?, extra })
    }
}

/// A name made from `claims.email` needs somebody who looks at `claims.email_verified`.
fn verified_email(mapping: &Mapping, rules: &[Rule]) -> Result<(), String> {
    let Source::Expression(username) = &mapping.username else { return Ok(()) };
    let source = username.source();
    let uses_email = source.match_indices("claims.email").any(|(at, word)| {
        let next = source[at + word.len()..].chars().next();
        next.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_')
    });
    let looks = |expression: &Expression| expression.source().contains("email_verified");
    let rules = rules.iter().any(|rule| matches!(rule, Rule::Expression(e) if looks(e)));
    if !uses_email || looks(username) || rules || mapping.extra.iter().any(|(_, e)| looks(e)) {
        return Ok(());
    }
    Err("claimMappings.username.expression: Invalid value: claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
    const GOOD: &str = "jwt: [{issuer: {url: 'https://a', audiences: [x]}, claimMappings: {username: {claim: sub, prefix: ''}}}]";

    #[test]
    fn a_configuration_is_read() {
        let cel = GOOD
            .replace("claim: sub, prefix: ''", "expression: claims.email")
            .replace("claimMappings", "claimValidationRules: [{expression: 'claims.email_verified == true', message: m}], claimMappings");
        assert_eq!(parse(&format!("{HEAD}{cel}")).map(|read| read.jwt.len()).ok(), Some(1), "expressions compile");
        let read = parse(&format!("{HEAD}{GOOD}\nanonymous: {{enabled: true, conditions: [{{path: /livez}}]}}")).expect("a configuration");
        assert_eq!((read.jwt[0].issuer.as_str(), &read.jwt[0].mapping.username), ("https://a", &Source::claim("sub", "")));
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
            ("claim: sub, prefix: ''", "expression: claims."),
            ("claim: sub, prefix: ''", "expression: '1 + 1'"),
            ("claim: sub, prefix: ''", "expression: claims.email"),
            ("claim: sub, prefix: ''", "expression: claims.sub, prefix: x"),
            ("}}}]", "}, extra: [{key: 'ab', valueExpression: claims.x}]}}]"),
            ("}}}]", "}, extra: [{key: 'x.k8s.io/b', valueExpression: claims.x}]}}]"),
            ("claimMappings", "claimValidationRules: [{expression: 'claims.sub'}, {expression: '1'}], claimMappings"),
            ("claimMappings", "userValidationRules: [{expression: 'claims.sub'}], claimMappings"),
            ("claimMappings", "unknown: 1, claimMappings"),
        ] {
            let text = format!("{HEAD}{}", GOOD.replace(from, to));
            assert!(parse(&text).is_err(), "{text}");
        }
        assert!(parse(&format!("{HEAD}anonymous: {{enabled: false, conditions: [{{path: /livez}}]}}")).is_err());
    }
}
