//! The reviews: questions about identity and permission, asked as objects that are never stored.

use super::{Authorizer, Decision};
use crate::attributes::{Attributes, UserInfo};
use crate::authn::Authenticator;
use ferrokube_api::field::{Errors, Path};
use ferrokube_api::time::format_time;
use ferrokube_api::{Reason, Status};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const AUTHORIZATION: &str = "authorization.k8s.io";

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    user: String,
    groups: Option<Vec<String>>,
    uid: String,
    extra: Option<BTreeMap<String, Vec<String>>>,
    resource_attributes: Option<ResourceAttributes>,
    non_resource_attributes: Option<PathAttributes>,
    namespace: String,
    token: String,
    audiences: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ResourceAttributes {
    namespace: String,
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    name: String,
    field_selector: Option<Selector>,
    label_selector: Option<Selector>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PathAttributes {
    path: String,
    verb: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Selector {
    raw_selector: String,
    requirements: Option<Vec<Requirement>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Requirement {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

impl Selector {
    /// `ValidateFieldSelectorAttributes`, `ValidateLabelSelectorAttributes`.
    fn check(&self, path: &Path, errors: &mut Errors) {
        let requirements = self.requirements.as_deref().unwrap_or_default();
        if !self.raw_selector.is_empty() && !requirements.is_empty() {
            errors.invalid(&path.child("rawSelector"), &json!(self.raw_selector), "may not specified at the same time as requirements");
        }
        if self.raw_selector.is_empty() && requirements.is_empty() {
            let text = format!("when {path} is specified, requirements or rawSelector is required");
            errors.required(&path.child("requirements"), &text);
        }
        for (at, requirement) in requirements.iter().enumerate() {
            let path = path.child("requirements").index(at);
            let values = requirement.values.as_ref().map_or(0, Vec::len);
            if requirement.key.is_empty() {
                errors.required(&path.child("key"), "must be specified");
            }
            match requirement.operator.as_str() {
                "In" | "NotIn" if values == 0 => {
                    errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if values > 0 => {
                    errors.forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                _ => errors.invalid(&path.child("operator"), &json!(requirement.operator), "not a valid selector operator"),
            }
        }
    }

    /// As the text of a query. Requirements that text cannot say are left out: the question then gets wider, never narrower.
    fn text(self) -> String {
        if !self.raw_selector.is_empty() {
            return self.raw_selector;
        }
        let term = |r: Requirement| {
            let values = r.values.unwrap_or_default();
            match (r.operator.as_str(), values.as_slice()) {
                ("In", [one]) => Some(format!("{}={one}", r.key)),
                ("In", many) => Some(format!("{} in ({})", r.key, many.join(","))),
                ("NotIn", many) => Some(format!("{} notin ({})", r.key, many.join(","))),
                ("Exists", _) => Some(r.key),
                ("DoesNotExist", _) => Some(format!("!{}", r.key)),
                _ => None,
            }
        };
        self.requirements.unwrap_or_default().into_iter().filter_map(term).collect::<Vec<_>>().join(",")
    }
}

/// Answers SubjectAccessReview, SelfSubjectAccessReview, LocalSubjectAccessReview, SelfSubjectRulesReview,
/// SelfSubjectReview and TokenReview: the body with its `status`. `namespace` is that of the request.
/// Errors: 400, 422, and 403 for a review that the namespace of the request does not fit.
pub async fn handle(
    authenticator: &Authenticator,
    authorizer: &Authorizer,
    kind: &str,
    namespace: &str,
    mut review: Value,
    user: &UserInfo,
) -> Result<Value, Status> {
    let spec = match review.get("spec") {
        None | Some(Value::Null) => Spec::default(),
        Some(spec) => Spec::deserialize(spec).map_err(|e| Status::bad_request(e.to_string()))?,
    };
    let status = match kind {
        "SelfSubjectReview" => json!({ "userInfo": user_info(user) }),
        "TokenReview" => token_review(authenticator, spec).await?,
        "SelfSubjectAccessReview" => access(authorizer, kind, spec, Some(user)).await?,
        "SubjectAccessReview" => access(authorizer, kind, spec, None).await?,
        "LocalSubjectAccessReview" => {
            local(&spec, namespace)?;
            access(authorizer, kind, spec, None).await?
        }
        "SelfSubjectRulesReview" => rules_review(authorizer, &spec, user)?,
        _ => return Err(Status::bad_request(format!("no kind {kind:?} is a review"))),
    };
    review["status"] = status;
    if kind == "SelfSubjectReview" {
        review["metadata"] = json!({ "creationTimestamp": format_time(Timestamp::now()) });
    } else if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    Ok(review)
}

/// `authentication/v1 UserInfo`.
pub fn user_info(user: &UserInfo) -> Value {
    let mut info = json!({ "username": user.name });
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

async fn token_review(authenticator: &Authenticator, spec: Spec) -> Result<Value, Status> {
    if spec.token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = spec.audiences.unwrap_or_default();
    let now = jiff::Timestamp::now().as_second();
    Ok(match authenticator.review_token(&spec.token, &audiences, now).await {
        Ok(identity) => {
            let mut status = json!({ "authenticated": true, "user": user_info(&identity.user) });
            if !identity.audiences.is_empty() {
                status["audiences"] = json!(identity.audiences);
            }
            status
        }
        Err(why) => json!({ "user": {}, "error": format!("[invalid bearer token, {why}]") }),
    })
}

fn local(spec: &Spec, namespace: &str) -> Result<(), Status> {
    let asked = spec.resource_attributes.as_ref().map(|r| r.namespace.as_str()).unwrap_or_default();
    if asked != namespace {
        return Err(Status::bad_request(format!("spec.resourceAttributes.namespace must match namespace: {namespace}")));
    }
    if spec.non_resource_attributes.is_some() {
        let mut errors = Errors::default();
        errors.forbidden(&Path::new("spec").child("nonResourceAttributes"), "disallowed on this kind of request");
        return Err(Status::invalid(AUTHORIZATION, "LocalSubjectAccessReview", "", errors.into_causes()));
    }
    Ok(())
}

fn validate(kind: &str, spec: &Spec, is_self: bool) -> Result<(), Status> {
    let mut errors = Errors::default();
    let path = Path::new("spec");
    match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(_), Some(_)) => {
            errors.invalid(&path.child("nonResourceAttributes"), &Value::Null, "cannot be specified in combination with resourceAttributes")
        }
        (None, None) => errors.invalid(
            &path.child("resourceAttributes"),
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    if let Some(resource) = &spec.resource_attributes {
        let path = path.child("resourceAttributes");
        let selectors = [("fieldSelector", &resource.field_selector), ("labelSelector", &resource.label_selector)];
        selectors
            .into_iter()
            .filter_map(|(name, s)| Some((name, s.as_ref()?)))
            .for_each(|(name, s)| s.check(&path.child(name), &mut errors));
    }
    if !is_self && spec.user.is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        errors.invalid(&path.child("user"), &json!(""), "at least one of user or group must be specified");
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(AUTHORIZATION, kind, "", errors.into_causes())) }
}

async fn access(authorizer: &Authorizer, kind: &str, spec: Spec, myself: Option<&UserInfo>) -> Result<Value, Status> {
    validate(kind, &spec, myself.is_some())?;
    let user = myself.cloned().unwrap_or_else(|| UserInfo {
        name: spec.user,
        uid: spec.uid,
        groups: spec.groups.unwrap_or_default(),
        extra: spec.extra.unwrap_or_default(),
    });
    let attributes = match (spec.resource_attributes, spec.non_resource_attributes) {
        (Some(r), _) => Attributes {
            user,
            verb: r.verb,
            group: r.group,
            version: if r.version.is_empty() { "*".into() } else { r.version },
            resource: r.resource,
            subresource: r.subresource,
            namespace: r.namespace,
            name: r.name,
            path: String::new(),
            field_selector: r.field_selector.map(Selector::text).unwrap_or_default(),
            label_selector: r.label_selector.map(Selector::text).unwrap_or_default(),
        },
        (None, path) => {
            let path = path.unwrap_or_default();
            Attributes { user, verb: path.verb, path: path.path, ..Attributes::default() }
        }
    };
    Ok(match authorizer.decide(&attributes).await {
        Decision::Allow(reason) if reason.is_empty() => json!({ "allowed": true }),
        Decision::Allow(reason) => json!({ "allowed": true, "reason": reason }),
        Decision::Deny(reason) if reason.is_empty() => json!({ "allowed": false, "denied": true }),
        Decision::Deny(reason) => json!({ "allowed": false, "denied": true, "reason": reason }),
        Decision::NoOpinion(reason) if reason.is_empty() => json!({ "allowed": false }),
        Decision::NoOpinion(reason) => json!({ "allowed": false, "reason": reason }),
    })
}

fn rules_review(authorizer: &Authorizer, spec: &Spec, user: &UserInfo) -> Result<Value, Status> {
    if spec.namespace.is_empty() {
        return Err(Status::failure(400, Reason::BadRequest, "no namespace on request"));
    }
    let (mut resource_rules, mut path_rules) = (Vec::new(), Vec::new());
    let (beyond, all) = authorizer.beyond_rules(user);
    if all || super::privileged(user) {
        resource_rules.push(json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }));
        path_rules.push(json!({ "verbs": ["*"], "nonResourceURLs": ["*"] }));
    }
    let (granted, missing) = authorizer.rules_for(user, &spec.namespace);
    for rule in granted.iter().flat_map(|rules| rules.iter()) {
        if !rule.resources.is_empty() {
            let mut shown = json!({ "verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources });
            if !rule.resource_names.is_empty() {
                shown["resourceNames"] = json!(rule.resource_names);
            }
            resource_rules.push(shown);
        }
        if !rule.non_resource_urls.is_empty() {
            path_rules.push(json!({ "verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls }));
        }
    }
    let mut status =
        json!({ "resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": !beyond.is_empty() || !missing.is_empty() });
    let errors: Vec<String> = beyond.into_iter().map(str::to_owned).chain(missing).collect();
    if !errors.is_empty() {
        status["evaluationError"] = json!(errors.join(", "));
    }
    Ok(status)
}
