//! A server that is too busy and says when to come again.

use bytes::Bytes;
use ferrokube_client::{Change, Client, Selection, Transport, TransportError};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::{Method, Request, Response};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Answers with these codes and `Retry-After`s, the last one for ever; keeps the bodies.
struct Busy {
    answers: Mutex<Vec<(u16, Option<&'static str>)>>,
    bodies: Mutex<Vec<Bytes>>,
}

impl Transport for Busy {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        Box::pin(async move {
            self.bodies.lock().push(request.into_body());
            let mut answers = self.answers.lock();
            let (code, after) = if answers.len() > 1 { answers.remove(0) } else { answers[0] };
            let mut answer = Response::builder().status(code);
            if let Some(after) = after {
                answer = answer.header("retry-after", after);
            }
            answer.body(Bytes::from("{}")).map_err(TransportError::new)
        })
    }

    fn subscribe(&self, _: Selection) -> BoxStream<'static, Change> {
        futures_util::stream::pending().boxed()
    }
}

/// What comes of a request: whether it went well, how often it was sent and how long it took.
async fn ask(answers: &[(u16, Option<&'static str>)]) -> (bool, usize, Duration) {
    let transport = Arc::new(Busy { answers: Mutex::new(answers.to_vec()), bodies: Mutex::default() });
    let (client, began) = (Client::new(transport.clone(), "test"), Instant::now());
    let answer = client.send(Method::POST, "/api/v1/pods", Some("application/json"), Bytes::from("{\"a\":1}")).await;
    let bodies = transport.bodies.lock();
    assert!(bodies.iter().all(|b| b == "{\"a\":1}"), "the same is sent again");
    (answer.is_ok(), bodies.len(), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_request_is_repeated_when_the_server_says_when_and_not_otherwise() {
    let cases: [(&[(u16, Option<&str>)], bool, usize, u64); 6] = [
        (&[(429, Some("1")), (429, Some("2")), (201, None)], true, 3, 3),
        (&[(503, Some("1")), (201, None)], true, 2, 1),
        (&[(429, None)], false, 1, 0),
        (&[(503, None)], false, 1, 0),
        (&[(409, Some("1"))], false, 1, 0),
        // Ten times again, and no more.
        (&[(429, Some("1"))], false, 11, 10),
    ];
    for (answers, well, sent, seconds) in cases {
        let (ok, count, took) = ask(answers).await;
        assert_eq!((ok, count, took.as_secs()), (well, sent, seconds), "{answers:?}");
    }
}
