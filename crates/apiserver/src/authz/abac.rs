//! ABAC: a file with a policy per line. Source: `pkg/auth/authorizer/abac`.

use super::{AuthzConfigError, Decision};
use crate::attributes::{Attributes, UserInfo};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    api_version: String,
    kind: String,
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Spec {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

/// The policies of a file.
#[derive(Debug, Default)]
pub(super) struct Policies(Vec<Spec>);

fn is(pattern: &str, value: &str) -> bool {
    pattern == "*" || pattern == value
}

impl Spec {
    fn is_about(&self, user: &UserInfo) -> bool {
        let named = self.user.is_empty() || is(&self.user, &user.name);
        let grouped = self.group.is_empty() || self.group == "*" || user.groups.contains(&self.group);
        // A policy for nobody is for nobody.
        named && grouped && !(self.user.is_empty() && self.group.is_empty())
    }

    fn allows(&self, a: &Attributes) -> bool {
        let reads = matches!(a.verb.as_str(), "get" | "list" | "watch");
        if !self.is_about(&a.user) || (self.readonly && !reads) {
            return false;
        }
        if a.is_resource() {
            return is(&self.namespace, &a.namespace) && is(&self.resource, &a.resource) && is(&self.api_group, &a.group);
        }
        let path = self.non_resource_path.as_str();
        is(path, &a.path) || path.strip_suffix('*').is_some_and(|start| a.path.starts_with(start))
    }
}

impl Policies {
    /// Reads a file of JSON lines.
    pub fn parse(text: &str) -> Result<Self, AuthzConfigError> {
        let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())).filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
        let policy = |(line, text): (usize, &str)| {
            let fail = |why: String| AuthzConfigError::Abac { line, why };
            let read: Line = serde_json::from_str(text).map_err(|e| fail(e.to_string()))?;
            match (read.api_version.as_str(), read.kind.as_str()) {
                ("abac.authorization.kubernetes.io/v1beta1", "Policy") => Ok(read.spec),
                (version, kind) => {
                    Err(fail(format!("{version}, Kind={kind} is not abac.authorization.kubernetes.io/v1beta1, Kind=Policy")))
                }
            }
        };
        lines.map(policy).collect::<Result<_, _>>().map(Policies)
    }

    pub fn authorize(&self, a: &Attributes) -> Decision {
        if self.0.iter().any(|policy| policy.allows(a)) {
            return Decision::Allow(String::new());
        }
        Decision::NoOpinion("No policy matched.".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(user: &str, verb: &str, group: &str, resource: &str, namespace: &str, path: &str) -> Attributes {
        let text = str::to_owned;
        Attributes {
            user: UserInfo::component(user, &["dev"]),
            verb: text(verb),
            group: text(group),
            resource: text(resource),
            namespace: text(namespace),
            path: text(path),
            ..Attributes::default()
        }
    }

    #[test]
    fn a_line_allows_what_it_says() {
        let line =
            |spec: &str| format!("{{\"apiVersion\":\"abac.authorization.kubernetes.io/v1beta1\",\"kind\":\"Policy\",\"spec\":{spec}}}\n");
        let text = [
            "# a comment\n\n".to_owned(),
            line(r#"{"user":"alice","namespace":"*","resource":"*","apiGroup":"*"}"#),
            line(r#"{"group":"dev","readonly":true,"namespace":"projects","resource":"pods"}"#),
            line(r#"{"user":"*","nonResourcePath":"/api*","readonly":true}"#),
            line(r#"{"namespace":"*","resource":"*","apiGroup":"*"}"#),
        ];
        let policies = Policies::parse(&text.concat()).expect("policies");
        let allowed = |a: Attributes| policies.authorize(&a).allowed();
        assert!(allowed(ask("alice", "delete", "apps", "deployments", "x", "")));
        assert!(allowed(ask("bob", "list", "", "pods", "projects", "")));
        assert!(!allowed(ask("bob", "create", "", "pods", "projects", "")), "it is for reading");
        assert!(!allowed(ask("bob", "list", "apps", "pods", "projects", "")), "core only");
        assert!(!allowed(ask("bob", "list", "", "pods", "other", "")), "and a policy for nobody is for nobody");
        assert!(allowed(ask("bob", "get", "", "", "", "/apis/apps")));
        assert!(!allowed(ask("bob", "get", "", "", "", "/metrics")));
        assert!(Policies::parse("{\"user\":\"old\"}").is_err());
    }
}
