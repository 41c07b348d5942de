//! Rewrites every object of a resource by applying nothing to it.
//!
//! An object that is named with its UID and version is either the one that was listed, and then the server writes it as it writes now,
//! or it was changed or deleted since, and then there is nothing to do. What was written after the migration's own version needs no
//! rewriting, so a migration that is begun again does not start all over.

use crate::discovery::ApiResource;
use ferrokube_api::Reason;
use ferrokube_client::{Client, Error, Patch, Target, percent_encoded};
use futures_util::stream::{self, TryStreamExt};
use serde::Deserialize;
use serde_json::json;

/// Field manager: the name of the controller.
const MANAGER: &str = "storage-version-migrator-controller";
/// Objects listed at once.
const PAGE: usize = 500;
/// Objects rewritten at once: the store commits together what comes together.
const AT_ONCE: usize = 16;

/// Why objects are left as they were.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    /// Comes again later.
    #[error(transparent)]
    Again(Error),
    /// No use in trying again.
    #[error("{0}")]
    Failed(String),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        const PASSING: [Reason; 5] =
            [Reason::ServerTimeout, Reason::TooManyRequests, Reason::ServiceUnavailable, Reason::InternalError, Reason::Timeout];
        // A list that took longer than the server remembers is begun again.
        let passing = error.status().is_none_or(|s| PASSING.into_iter().chain([Reason::Expired, Reason::Gone]).any(|reason| s.is(reason)));
        if passing { Stopped::Again(error) } else { Stopped::Failed(error.to_string()) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    more: String,
}

#[derive(Deserialize)]
struct Item {
    metadata: Meta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
}

async fn page(client: &Client, resource: &ApiResource, limit: usize, more: &str) -> Result<Page, Error> {
    let mut query = format!("limit={limit}");
    if !more.is_empty() {
        query = format!("{query}&continue={}", percent_encoded(more));
    }
    let body = client.list_metadata(&resource.target(), &query).await?;
    serde_json::from_slice(&body).map_err(|source| Error::Decode { what: "a list", source })
}

/// Versions in their order; upstream's rule for what is one.
fn order(version: &str) -> Result<(usize, &str), Stopped> {
    let well_formed = !version.is_empty() && !version.starts_with('0') && version.bytes().all(|b| b.is_ascii_digit());
    if well_formed { Ok((version.len(), version)) } else { Err(Stopped::Failed(format!("resource version is not well formed: {version}"))) }
}

/// The newest version of a resource's list.
pub(super) async fn newest(client: &Client, resource: &ApiResource) -> Result<String, Stopped> {
    let version = page(client, resource, 1, "").await?.metadata.resource_version;
    order(&version)?;
    Ok(version)
}

/// Rewrites what is not newer than `until`. `more` is where in the list the work stands: who comes again goes on from there.
pub(super) async fn rewrite(client: &Client, resource: &ApiResource, until: &str, more: &mut String) -> Result<(), Stopped> {
    let newest = order(until)?;
    loop {
        let page = match page(client, resource, PAGE, more).await {
            Ok(page) => page,
            Err(error) => {
                // The server has forgotten the place, and only a new list leads on.
                if error.status().is_some_and(|s| s.is(Reason::Expired) || s.is(Reason::Gone)) {
                    more.clear();
                }
                return Err(error.into());
            }
        };
        let items = stream::iter(page.items.into_iter().map(Ok));
        items
            .try_for_each_concurrent(AT_ONCE, |item| async move {
                if order(&item.metadata.resource_version)? > newest { Ok(()) } else { one(client, resource, &item.metadata).await }
            })
            .await?;
        *more = page.metadata.more;
        if more.is_empty() {
            return Ok(());
        }
    }
}

async fn one(client: &Client, resource: &ApiResource, meta: &Meta) -> Result<(), Stopped> {
    let target = Target { namespace: meta.namespace.clone(), name: meta.name.clone(), ..resource.target() };
    let api_version = if resource.group.is_empty() { resource.version.clone() } else { format!("{}/{}", resource.group, resource.version) };
    let nothing =
        json!({"apiVersion": api_version, "kind": resource.kind, "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version}});
    match client.patch_target(&target, &Patch::Apply(MANAGER, nothing)).await {
        Ok(_) => Ok(()),
        // Changed, or deleted, or another one by now: whoever did it wrote as is written now.
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use ferrokube_api::{Change, Selection, Status};
    use ferrokube_client::{Transport, TransportError};
    use futures_util::future::BoxFuture;
    use futures_util::stream::BoxStream;
    use http::{Request, Response};
    use serde_json::Value;
    use std::sync::{Arc, Mutex};

    /// Answers as it was told to, in this order, and keeps what was asked.
    #[derive(Default)]
    struct Script {
        answers: Mutex<Vec<(u16, Value)>>,
        asked: Mutex<Vec<String>>,
    }

    impl Transport for Script {
        fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
            self.asked.lock().expect("nobody panics with it").push(request.uri().to_string());
            let (code, body) = self.answers.lock().expect("nobody panics with it").remove(0);
            let answer = Response::builder().status(code).body(Bytes::from(body.to_string()));
            Box::pin(std::future::ready(answer.map_err(TransportError::new)))
        }

        fn subscribe(&self, _: Selection) -> BoxStream<'static, Change> {
            Box::pin(stream::pending())
        }
    }

    #[tokio::test]
    async fn who_comes_again_goes_on_in_the_list_unless_the_place_is_forgotten() {
        let page = |more: &str| (200, json!({"metadata": {"resourceVersion": "9", "continue": more}, "items": []}));
        let failed = |code: u16, reason| (code, serde_json::to_value(Status::failure(code, reason, "no")).expect("json"));
        let script = Arc::new(Script::default());
        let client = Client::new(script.clone(), "test");
        let resource = ApiResource {
            group: String::new(),
            version: "v1".into(),
            resource: "secrets".into(),
            kind: "Secret".into(),
            namespaced: true,
            verbs: Vec::new(),
        };
        let mut more = String::new();
        for (answers, place) in [
            (vec![page("two"), failed(500, Reason::InternalError)], "two"),
            (vec![page("three"), failed(410, Reason::Expired)], ""),
            (vec![page("")], ""),
        ] {
            *script.answers.lock().expect("nobody panics with it") = answers;
            let _ = rewrite(&client, &resource, "9", &mut more).await;
            assert_eq!(more, place);
        }
        let asked = script.asked.lock().expect("nobody panics with it");
        let places: Vec<&str> = asked.iter().map(|uri| uri.split_once("continue=").map_or("", |(_, place)| place)).collect();
        assert_eq!(places, ["", "two", "two", "three", ""]);
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        assert!(order("99").expect("fine") < order("100").expect("fine"));
        for odd in ["", "0", "012", "abc", "-1"] {
            assert!(order(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn what_passes_is_tried_again() {
        let again = |code, reason| matches!(Stopped::from(Error::from(Status::failure(code, reason, "no"))), Stopped::Again(_));
        assert!(again(429, Reason::TooManyRequests) && again(503, Reason::ServiceUnavailable) && again(500, Reason::InternalError));
        assert!(again(410, Reason::Expired));
        assert!(!again(403, Reason::Forbidden) && !again(422, Reason::Invalid) && !again(400, Reason::BadRequest));
    }
}
