//! Impersonation: acting as somebody else, header by header, when allowed to.
//!
//! Source: `endpoints/filters/impersonation`, KEP-5284. The constrained verbs of 1.36 are tried first: they allow one
//! kind of identity for one kind of action. The plain verb `impersonate` allows an identity for everything.

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, front_proxy};
use crate::attributes::{Attributes, UserInfo};
use crate::audit::Trail;
use crate::authz::Authorizer;
use crate::tokens;
use ferrokube_api::Status;
use http::HeaderMap;

/// What the headers ask for.
fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let groups = headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    let extra = front_proxy::extra(headers, &["impersonate-extra-".to_owned()]);
    let user = UserInfo { name: text("impersonate-user"), uid: text("impersonate-uid"), groups, extra };
    if user == UserInfo::default() {
        return Ok(None);
    }
    if user.name.is_empty() {
        return Err(Status::internal("requested impersonation without impersonating a user"));
    }
    Ok(Some(user))
}

/// The identity to continue with: the requestor's own, or the one its `Impersonate-*` headers ask for. 403 when one of
/// the permissions is missing.
pub async fn impersonate(
    authorizer: &Authorizer,
    requestor: UserInfo,
    headers: &HeaderMap,
    request: &Attributes,
    trail: &Trail,
) -> Result<UserInfo, Status> {
    match wanted(headers)? {
        // Boxed: few requests do this, and all would be as large as it is.
        Some(user) => Box::pin(assume(authorizer, requestor, user, request, trail)).await,
        None => Ok(requestor),
    }
}

async fn assume(
    authorizer: &Authorizer,
    requestor: UserInfo,
    mut user: UserInfo,
    request: &Attributes,
    trail: &Trail,
) -> Result<UserInfo, Status> {
    let mode = constrained(authorizer, &requestor, &user, request).await;
    if mode.is_none() {
        for ask in questions(&requestor, &user, "impersonate") {
            authorizer.check(&ask).await?;
        }
    }
    complete(&mut user, mode.is_some());
    trail.impersonated(&user, &mode.map(|m| format!("impersonate:{m}")).unwrap_or_default());
    Ok(user)
}

fn question(requestor: &UserInfo, verb: &str, group: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> Attributes {
    Attributes {
        user: requestor.clone(),
        verb: verb.to_owned(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    }
}

/// One question per part of the identity. The constrained verbs ask in group `authentication.k8s.io`, the plain one in core.
fn questions(requestor: &UserInfo, user: &UserInfo, verb: &str) -> Vec<Attributes> {
    const AUTHENTICATION: &str = "authentication.k8s.io";
    let core = if verb == "impersonate" { "" } else { AUTHENTICATION };
    let mut asks = vec![match (verb, tokens::split_username(&user.name), user.name.strip_prefix("system:node:")) {
        ("impersonate:arbitrary-node", _, Some(node)) => question(requestor, verb, core, "nodes", "", "", node),
        (_, Some((namespace, name)), _) => question(requestor, verb, core, "serviceaccounts", "", namespace, name),
        _ => question(requestor, verb, core, "users", "", "", &user.name),
    }];
    asks.extend(user.groups.iter().map(|g| question(requestor, verb, core, "groups", "", "", g)));
    for (key, values) in &user.extra {
        asks.extend(values.iter().map(|v| question(requestor, verb, AUTHENTICATION, "userextras", key, "", v)));
    }
    if !user.uid.is_empty() {
        asks.push(question(requestor, verb, AUTHENTICATION, "uids", "", "", &user.uid));
    }
    asks
}

/// The mode whose constrained permissions suffice: those for the identity, and that for the action under the mode.
async fn constrained(authorizer: &Authorizer, requestor: &UserInfo, user: &UserInfo, request: &Attributes) -> Option<&'static str> {
    let node = user.name.strip_prefix("system:node:");
    let mode = match (tokens::split_username(&user.name), node) {
        (Some(_), _) => "serviceaccount",
        (_, Some(_)) => "arbitrary-node",
        _ => "user-info",
    };
    let allowed = async |mode: &str, asks: Vec<Attributes>| {
        let on = Attributes { user: requestor.clone(), verb: format!("impersonate-on:{mode}:{}", request.verb), ..request.clone() };
        for ask in std::iter::once(&on).chain(&asks) {
            if !authorizer.decide(ask).await.allowed() {
                return false;
            }
        }
        true
    };
    if allowed(mode, questions(requestor, user, &format!("impersonate:{mode}"))).await {
        return Some(mode);
    }
    // A service account may act as the very node its pod runs on.
    let own = requestor.extra.get("authentication.kubernetes.io/node-name").and_then(|v| v.first());
    let bare = user.groups.is_empty() && user.extra.is_empty() && user.uid.is_empty();
    if !bare || node.is_none() || own.map(String::as_str) != node {
        return None;
    }
    let ask = question(requestor, "impersonate:associated-node", "authentication.k8s.io", "nodes", "", "", "*");
    allowed("associated-node", vec![ask]).await.then_some("associated-node")
}

/// Groups that come with the name. A node's group comes only with the constrained verbs, which say that it is a node.
fn complete(user: &mut UserInfo, constrained: bool) {
    if user.groups.is_empty() {
        if let Some((namespace, _)) = tokens::split_username(&user.name) {
            user.groups = tokens::groups(namespace);
        } else if constrained && user.name.starts_with("system:node:") {
            user.groups = vec!["system:nodes".to_owned()];
        }
    }
    let implied = if user.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if user.groups.iter().all(|g| g != AUTHENTICATED && g != UNAUTHENTICATED) {
        user.groups.push(implied.to_owned());
    }
}
