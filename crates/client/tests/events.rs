//! Events over a transport that answers when the test says so.

use bytes::Bytes;
use ferrokube_client::events::{EventType, Recorder, What};
use ferrokube_client::k8s_openapi::api::core::v1::ObjectReference;
use ferrokube_client::{Change, Client, Selection, Transport, TransportError};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// Tells of each request when it comes, answers it when it is let, with what was sent.
struct Held {
    requests: mpsc::UnboundedSender<(http::Method, Value)>,
    answers: Semaphore,
}

impl Transport for Held {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Bytes>, TransportError>> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let event = serde_json::from_slice(&body).map_err(TransportError::new)?;
            self.requests.send((parts.method, event)).map_err(TransportError::new)?;
            self.answers.acquire().await.map_err(TransportError::new)?.forget();
            Ok(http::Response::new(body))
        })
    }

    fn subscribe(&self, _: Selection) -> BoxStream<'static, Change> {
        futures_util::stream::pending().boxed()
    }
}

/// A transport, a recorder over it, and what it writes.
type Watched = (Arc<Held>, Recorder, mpsc::UnboundedReceiver<(http::Method, Value)>);

fn held() -> Watched {
    holding(|client| Recorder::new(client, "tester", ""))
}

fn holding(recorder: impl FnOnce(Client) -> Recorder) -> Watched {
    let (requests, seen) = mpsc::unbounded_channel();
    let transport = Arc::new(Held { requests, answers: Semaphore::new(0) });
    (transport.clone(), recorder(Client::new(transport, "test")), seen)
}

fn pod(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: Some("default".into()),
        name: Some(name.into()),
        uid: Some(name.into()),
        ..ObjectReference::default()
    }
}

#[tokio::test]
async fn what_happens_again_while_it_is_written_is_counted_and_written_once() {
    let (transport, recorder, mut seen) = held();
    recorder.event(pod("a"), EventType::Normal, "Happened", "it did");
    let (method, event) = seen.recv().await.unwrap();
    assert_eq!((method, &event["count"]), (http::Method::POST, &1.into()));
    for _ in 0..3 {
        recorder.event(pod("a"), EventType::Normal, "Happened", "it did");
    }
    // Another one comes behind them: once it is seen, they have been taken in.
    recorder.event(pod("b"), EventType::Normal, "Happened", "it did");
    let (method, event) = seen.recv().await.unwrap();
    assert_eq!((method, &event["involvedObject"]["name"]), (http::Method::POST, &"b".into()));
    transport.answers.add_permits(2);
    let (method, patch) = seen.recv().await.unwrap();
    assert_eq!((method, &patch["count"]), (http::Method::PATCH, &4.into()));
    transport.answers.add_permits(1);
    drop(recorder);
    assert!(seen.try_recv().is_err(), "nothing else is written");
}

#[tokio::test]
async fn one_event_that_takes_long_does_not_hold_up_the_others() {
    let (transport, recorder, mut seen) = held();
    for name in ["a", "b", "c", "d"] {
        recorder.event(pod(name), EventType::Warning, "Happened", "it did");
    }
    let mut names = Vec::new();
    for _ in 0..4 {
        let (_, event) = seen.recv().await.unwrap();
        names.push(event["involvedObject"]["name"].as_str().unwrap().to_owned());
    }
    names.sort();
    assert_eq!(names, ["a", "b", "c", "d"]);
    transport.answers.add_permits(4);
}

#[tokio::test]
async fn many_that_differ_only_in_their_message_become_one_event() {
    let (transport, recorder, mut seen) = held();
    transport.answers.add_permits(100);
    let mut messages = Vec::new();
    for n in 1..=12 {
        recorder.event(pod("set"), EventType::Normal, "SuccessfulCreate", format!("Created pod: set-{n}"));
        // One after the other, so that each finds what the one before it left.
        let (method, event) = seen.recv().await.unwrap();
        messages.push((method, event["message"].as_str().unwrap().to_owned(), event["count"].as_i64().unwrap()));
    }
    let combined = |n: u8| format!("(combined from similar events): Created pod: set-{n}");
    assert_eq!(messages[8], (http::Method::POST, "Created pod: set-9".to_owned(), 1));
    assert_eq!(messages[9], (http::Method::POST, combined(10), 1));
    assert_eq!(messages[11].1, combined(12), "the one that stands for them says what came last");
}

#[tokio::test]
async fn what_is_said_too_often_about_an_object_is_dropped_but_counted() {
    let (transport, recorder, mut seen) = held();
    transport.answers.add_permits(100);
    for _ in 0..40 {
        recorder.event(pod("a"), EventType::Warning, "BackOff", "again and again");
    }
    recorder.event(pod("b"), EventType::Normal, "Last", "after all others");
    // With the last of them the requests end.
    drop((recorder, transport));
    let mut last = 0;
    while let Some((_, event)) = seen.recv().await {
        last = last.max(event["count"].as_i64().unwrap());
    }
    assert!(last <= 25, "no more than the burst is written: {last}");
}

#[tokio::test]
async fn what_is_done_again_becomes_a_series_of_the_first_event() {
    let (transport, recorder, mut seen) = holding(|client| Recorder::of_series(client, "planner"));
    let what = || What { action: "Planning", related: Some(pod("b")) };
    recorder.did(what(), pod("a"), EventType::Warning, "FailedPlanning", "no place");
    let (method, event) = seen.recv().await.unwrap();
    assert_eq!((method, &event["apiVersion"], &event["note"]), (http::Method::POST, &"events.k8s.io/v1".into(), &"no place".into()));
    assert_eq!((&event["action"], &event["reportingController"]), (&"Planning".into(), &"planner".into()));
    assert_eq!((&event["regarding"]["name"], &event["related"]["name"]), (&"a".into(), &"b".into()));
    assert!(event["reportingInstance"].as_str().unwrap().starts_with("planner-") && event["eventTime"].is_string());
    assert!(event["series"].is_null(), "it is one so far");
    transport.answers.add_permits(1);
    recorder.did(what(), pod("a"), EventType::Warning, "FailedPlanning", "no place");
    let (method, patch) = seen.recv().await.unwrap();
    assert_eq!((method, &patch["series"]["count"]), (http::Method::PATCH, &2.into()));
    assert!(patch["series"]["lastObservedTime"].is_string());
    transport.answers.add_permits(1);
}

#[tokio::test]
async fn a_note_that_is_too_long_is_cut() {
    let (transport, recorder, mut seen) = holding(|client| Recorder::of_series(client, "planner"));
    recorder.did("Planning", pod("a"), EventType::Warning, "FailedPlanning", "\u{e9}".repeat(600));
    let (_, event) = seen.recv().await.unwrap();
    let note = event["note"].as_str().unwrap();
    assert!(note.len() <= 1024 && note.ends_with("\u{e9} ..."), "{note}");
    transport.answers.add_permits(1);
}
