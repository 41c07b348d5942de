//! A client's request, passed on: the user goes along in headers that count because of this server's certificate. What a client
//! put into such headers itself never does.

use super::{Aggregator, Remote, availability};
use crate::ApiServer;
use crate::attributes::UserInfo;
use crate::audit::Trail;
use crate::connect::forwarded::set_uri;
use crate::connect::passage::Passenger;
use crate::objects::Objects;
use crate::output::Body;
use crate::request::RequestBody;
use crate::server::answer::refusal;
use ferrokube_api::Status;
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, UPGRADE};
use http::request::Parts;
use http::{Response, StatusCode};
use std::sync::Arc;

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// Characters of a header's name stay, others become `%xx`.
fn escape(key: &str) -> String {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b);
    key.bytes().map(|b| if legal(b) { char::from(b).to_string() } else { format!("%{b:02x}") }).collect()
}

/// Says who asks, and forgets what the client said of that.
fn introduce(headers: &mut HeaderMap, user: &UserInfo) -> Result<(), Status> {
    let claimed: Vec<HeaderName> =
        headers.keys().filter(|n| **n == USER || **n == UID || **n == GROUP || n.as_str().starts_with(EXTRA)).cloned().collect();
    claimed.iter().for_each(|name| drop(headers.remove(name)));
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).map_err(Status::internal);
    headers.insert(USER, value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(GROUP, value(group)?);
    }
    for (key, values) in &user.extra {
        let name = HeaderName::from_bytes(format!("{EXTRA}{}", escape(key)).as_bytes()).map_err(Status::internal)?;
        for text in values {
            headers.append(&name, value(text)?);
        }
    }
    Ok(())
}

impl Aggregator {
    /// Passes a request on and its answer back.
    pub(crate) async fn forward(
        &self,
        server: &Arc<ApiServer>,
        remote: &Remote,
        mut parts: Parts,
        body: RequestBody,
        user: &UserInfo,
        trail: Trail,
    ) -> Result<Response<Body>, Status> {
        let objects: &dyn Objects = &*server.caches;
        let places = if remote.state().available { availability::places(objects, &remote.spec).ok() } else { None };
        let Some(mut places) = places.filter(|p| !p.is_empty()) else {
            return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "service unavailable"));
        };
        let place = places.swap_remove(rand::random_range(0..places.len()));
        introduce(&mut parts.headers, user)?;
        if !parts.headers.contains_key(UPGRADE) {
            set_uri(&mut parts.headers, parts.uri.path());
        }
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        if let Err(why) = remote.backend.check() {
            return Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, &why));
        }
        let passenger = Passenger {
            method: parts.method,
            headers: parts.headers,
            body: Some(body),
            upgrade: parts.extensions.remove::<hyper::upgrade::OnUpgrade>(),
            stopping: server.stopping.clone(),
            trail,
        };
        Ok(match remote.backend.pass(passenger, &remote.backend.destination(place, path)).await {
            Ok(response) if response.status().is_redirection() && response.headers().contains_key(LOCATION) => {
                refusal(StatusCode::BAD_GATEWAY, "the backend attempted to redirect this request, which is not permitted")
            }
            Ok(response) => response,
            Err(why) => refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("error trying to reach service: {why}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_goes_along_and_claims_of_the_client_do_not() {
        let mut headers = HeaderMap::new();
        headers.insert(USER, HeaderValue::from_static("system:admin"));
        headers.insert("x-remote-extra-evil", HeaderValue::from_static("1"));
        headers.insert("accept", HeaderValue::from_static("application/json"));
        let extra = [("scopes/a b".to_owned(), vec!["x".to_owned(), "y".to_owned()])].into();
        let user = UserInfo { name: "jane".into(), uid: "7".into(), groups: vec!["a".into(), "b".into()], extra };
        introduce(&mut headers, &user).expect("headers");
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().expect("text").to_owned()).collect::<Vec<_>>();
        assert_eq!(
            (all("x-remote-user"), all("x-remote-uid"), all("x-remote-group")),
            (vec!["jane".into()], vec!["7".into()], vec!["a".into(), "b".into()])
        );
        assert_eq!(all("x-remote-extra-scopes%2fa%20b"), ["x", "y"]);
        assert!(all("x-remote-extra-evil").is_empty());
        assert_eq!(all("accept"), ["application/json"]);
    }
}
