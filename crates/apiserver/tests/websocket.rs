//! Watches and logs in the messages of a websocket, as browsers ask for them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::dial::dial;
use common::{Cluster, MAPS, pod};
use futures_util::StreamExt;
use http::HeaderMap;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

type Socket = WebSocketStream<TlsStream<TcpStream>>;

async fn open(cluster: &Cluster, uri: &str, admin: bool, headers: &[(&'static str, String)]) -> Result<(Socket, HeaderMap), u16> {
    let stream = dial(cluster, admin.then_some(&cluster.pki.admin), b"http/1.1").await;
    let mut request = format!("wss://localhost{uri}").into_client_request().unwrap();
    // As a browser does; an empty one is taken out again.
    request.headers_mut().insert("origin", "https://elsewhere.example".parse().unwrap());
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    if request.headers()["origin"].is_empty() {
        request.headers_mut().remove("origin");
    }
    match client_async(request, stream).await {
        Ok((socket, response)) => Ok((socket, response.into_parts().0.headers)),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

async fn next(socket: &mut Socket) -> Option<Message> {
    let message = tokio::time::timeout(Duration::from_secs(60), socket.next()).await.expect("a message in time");
    message.map(|m| m.unwrap())
}

async fn event(socket: &mut Socket) -> (String, String) {
    let Some(Message::Text(text)) = next(socket).await else { panic!("a text message") };
    let event: Value = serde_json::from_str(&text).unwrap();
    (event["type"].as_str().unwrap().to_owned(), event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned())
}

async fn listening() -> Cluster {
    Cluster::with(|config| config.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)))).await
}

#[tokio::test]
async fn each_event_of_a_watch_is_a_message() {
    let cluster = listening().await;
    cluster.config_map("a", &json!({})).await;
    let (mut socket, headers) = open(&cluster, &format!("{MAPS}?watch=1"), true, &[("origin", "https://localhost".into())]).await.unwrap();
    assert!(!headers.contains_key("sec-websocket-protocol"));
    assert_eq!(event(&mut socket).await, common::pair("ADDED", "a"));
    cluster.config_map("b", &json!({})).await;
    cluster.delete(&format!("{MAPS}/a"), &Value::Null).await;
    assert_eq!(event(&mut socket).await, common::pair("ADDED", "b"));
    assert_eq!(event(&mut socket).await, common::pair("DELETED", "a"));
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf;stream=watch".to_owned())];
    let (mut socket, _) = open(&cluster, &format!("{MAPS}?watch=1"), true, &protobuf).await.unwrap();
    let Some(Message::Binary(frame)) = next(&mut socket).await else { panic!("a binary message") };
    assert!(frame.starts_with(b"\n\x05ADDED"), "the message is the frame, without its length");
    let nowhere = open(&cluster, &format!("{MAPS}?watch=1"), true, &[("origin", String::new())]).await;
    assert_eq!(nowhere.err(), Some(403), "a watch asks for an origin, whatever it is");
    // A watch that ends says goodbye.
    let (mut socket, _) =
        open(&cluster, &format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion=1&fieldSelector=metadata.name%3Dnone"), true, &[])
            .await
            .unwrap();
    while let Some(message) = next(&mut socket).await {
        assert!(message.is_close() || message.is_text(), "{message}");
    }
}

#[tokio::test]
async fn a_token_travels_among_the_protocols() {
    let cluster = listening().await;
    let token = cluster.post("/api/v1/namespaces/default/serviceaccounts/default/token", &json!({"spec": {}})).await.json;
    let token = URL_SAFE_NO_PAD.encode(token["status"]["token"].as_str().unwrap());
    let protocols = |more: &str| [("sec-websocket-protocol", format!("base64url.bearer.authorization.k8s.io.{token}{more}"))];
    let uri = format!("{MAPS}?watch=1");
    assert_eq!(open(&cluster, &uri, false, &protocols(", v1")).await.err(), Some(403), "known, but not allowed");
    let binding = json!({"metadata": {"name": "r"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    let bound = cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    assert_eq!(bound.code, 201, "{}", bound.text);
    cluster.config_map("a", &json!({})).await;
    let (mut socket, headers) = open(&cluster, &uri, false, &protocols(", v1")).await.unwrap();
    assert_eq!(headers["sec-websocket-protocol"], "v1");
    assert_eq!(event(&mut socket).await, common::pair("ADDED", "a"));
    assert_eq!(open(&cluster, &uri, false, &[]).await.err(), Some(401));
}

#[tokio::test]
async fn a_log_begins_with_an_empty_message_in_the_protocol_asked_for() {
    let cluster = listening().await;
    let made = cluster.post("/api/v1/namespaces/default/pods", &pod("p")).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let uri = "/api/v1/namespaces/default/pods/p/log";
    let asked = |protocol: &str| [("sec-websocket-protocol", protocol.to_owned())];
    let (mut socket, headers) = open(&cluster, uri, true, &asked("base64.binary.k8s.io")).await.unwrap();
    assert_eq!(headers["sec-websocket-protocol"], "base64.binary.k8s.io");
    assert_eq!(next(&mut socket).await, Some(Message::text("")));
    assert!(next(&mut socket).await.is_some_and(|m| m.is_close()));
    let (mut socket, _) = open(&cluster, uri, true, &[("origin", String::new())]).await.unwrap();
    assert_eq!(next(&mut socket).await, Some(Message::binary(Vec::new())), "a log does not ask for an origin");
    assert_eq!(open(&cluster, uri, true, &asked("other")).await.err(), Some(400));
}
