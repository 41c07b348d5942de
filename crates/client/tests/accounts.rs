//! Tokens of service accounts over a server that the test plays.

use bytes::Bytes;
use ferrokube_client::accounts::{AccountTokens, Tokens};
use ferrokube_client::{Change, Client, Selection, Transport, TransportError};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::BoxStream;
use http::{Request, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Gives a new token each time, to accounts that are there.
#[derive(Default)]
struct Issuer {
    asked: Mutex<Vec<String>>,
    accounts: Mutex<usize>,
}

impl Transport for Issuer {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        let path = request.uri().path().to_owned();
        self.asked.lock().push(path.clone());
        let serial = self.asked.lock().len();
        let (code, body) = match path.ends_with("/token") {
            true if *self.accounts.lock() == 0 => {
                (StatusCode::NOT_FOUND, json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}))
            }
            true => (StatusCode::CREATED, json!({"spec": {"expirationSeconds": 1000}, "status": {"token": format!("t{serial}")}})),
            false => {
                *self.accounts.lock() += 1;
                (StatusCode::CREATED, json!({}))
            }
        };
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut answer = Response::new(Bytes::from(body.to_string()));
            *answer.status_mut() = code;
            Ok(answer)
        })
    }

    fn subscribe(&self, _: Selection) -> BoxStream<'static, Change> {
        futures_util::stream::pending().boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_is_made_once_and_its_token_asked_for_when_it_is_needed() {
    let issuer = Arc::new(Issuer::default());
    let tokens = AccountTokens::new(Client::new(issuer.clone(), "test"), "kube-system", "some-controller");
    let at_once = join_all((0..5).map(|_| tokens.token())).await;
    let first = at_once[0].as_ref().unwrap().clone();
    assert!(at_once.iter().all(|t| t.as_ref().is_ok_and(|t| *t == first)), "many at once ask one time");
    let accounts = "/api/v1/namespaces/kube-system/serviceaccounts";
    let token = format!("{accounts}/some-controller/token");
    assert_eq!(*issuer.asked.lock(), [token.as_str(), accounts, token.as_str()]);
    // It lives for 1000 s and is asked for anew after 800.
    tokio::time::advance(Duration::from_secs(799)).await;
    assert_eq!(tokens.token().await.unwrap(), first);
    tokio::time::advance(Duration::from_secs(2)).await;
    let second = tokens.token().await.unwrap();
    assert_ne!(second, first);
    // The server does not believe it any more; that it did not believe the one before is old news.
    tokens.refused(&first).await;
    assert_eq!(tokens.token().await.unwrap(), second);
    tokens.refused(&second).await;
    assert_ne!(tokens.token().await.unwrap(), second);
}
