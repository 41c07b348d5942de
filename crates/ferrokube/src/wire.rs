//! The one place where a component is given its client: here, a plain call into the API server of this process.
//!
//! The component keeps its own identity, so authorization and admission apply as they would over the network. What another
//! server behind an APIService serves has no cache here: it is listed and watched by requests, which are passed on.

use bytes::Bytes;
use ferrokube_api::{Change, Selection};
use ferrokube_apiserver::ApiServer;
use ferrokube_apiserver::attributes::UserInfo;
use ferrokube_client::reflect::{self, Open, Opened};
use ferrokube_client::{Client, Transport, TransportError};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;

/// Waits between tries of a subscription that is refused: roles may still be on their way.
const RETRY: [Duration; 4] = [Duration::from_millis(20), Duration::from_millis(200), Duration::from_secs(2), Duration::from_secs(10)];

/// A [`Transport`] without sockets.
#[derive(Clone)]
pub struct InProcess {
    server: Arc<ApiServer>,
    user: UserInfo,
}

/// A client of this process's API server for a user with these groups.
pub fn client(server: &Arc<ApiServer>, user: &str, groups: &[&str], agent: &str) -> Client {
    let transport = InProcess { server: server.clone(), user: UserInfo::component(user, groups) };
    Client::new(Arc::new(transport), agent)
}

/// A client as a service account of `kube-system`.
pub fn account_client(server: &Arc<ApiServer>, account: &str, agent: &str) -> Client {
    let user = format!("system:serviceaccount:kube-system:{account}");
    client(server, &user, &["system:serviceaccounts", "system:serviceaccounts:kube-system"], agent)
}

impl Transport for InProcess {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Bytes>, TransportError>> {
        Box::pin(async move {
            let (parts, body) = self.server.call(self.user.clone(), request).await.into_parts();
            Ok(http::Response::from_parts(parts, body.collect().await.map_err(TransportError::new)?))
        })
    }

    fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change> {
        let tries = Tries { own: self.clone(), selection, failures: 0 };
        stream::unfold(tries, |mut tries| async move { tries.next().await.map(|s| (s, tries)) }).flatten().boxed()
    }
}

impl Open for InProcess {
    fn open(&self, request: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Opened>, TransportError>> {
        Box::pin(async move {
            let answer = self.server.call(self.user.clone(), request).await;
            Ok(answer.map(|body| body.into_data_stream().map_err(TransportError::new).boxed()))
        })
    }
}

struct Tries {
    own: InProcess,
    selection: Selection,
    failures: usize,
}

impl Tries {
    /// The next stream of changes, as soon as one is granted; none once the server has stopped.
    async fn next(&mut self) -> Option<BoxStream<'static, Change>> {
        let InProcess { server, user } = &self.own;
        loop {
            if server.is_stopping() {
                return None;
            }
            if server.is_served_elsewhere(&self.selection.group, &self.selection.version) {
                return Some(reflect::changes(self.own.clone(), self.selection.clone()));
            }
            match server.subscribe(user.clone(), self.selection.clone()) {
                Ok(changes) => {
                    self.failures = 0;
                    return Some(changes.boxed());
                }
                Err(status) => {
                    tracing::debug!(user = user.name, resource = self.selection.resource, "subscription refused: {status}");
                    tokio::time::sleep(RETRY[self.failures.min(RETRY.len() - 1)]).await;
                    self.failures += 1;
                }
            }
        }
    }
}
