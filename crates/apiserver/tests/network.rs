//! The server on a socket: TLS, credentials, limits, and streams to a kubelet.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::dial::{dial, provider};
use common::{Cluster, pod};
use ferrokube_apiserver::{ClientCas, MinTls, Tls};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

async fn h1(cluster: &Cluster, identity: Option<&Tls>) -> http1::SendRequest<Full<Bytes>> {
    let (sender, connection) = http1::handshake(TokioIo::new(dial(cluster, identity, b"http/1.1").await)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

fn request(method: &str, uri: &str) -> http::request::Builder {
    http::Request::builder().method(method).uri(uri).header("host", "localhost")
}

async fn answer(sender: &mut http1::SendRequest<Full<Bytes>>, request: http::Request<Full<Bytes>>) -> (u16, http::HeaderMap, Bytes) {
    let response = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes())
}

async fn get(sender: &mut http1::SendRequest<Full<Bytes>>, uri: &str) -> (u16, Value) {
    let (code, _, body) = answer(sender, request("GET", uri).body(Full::default()).unwrap()).await;
    (code, serde_json::from_slice(&body).unwrap_or_default())
}

async fn listening() -> Cluster {
    Cluster::with(|config| config.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)))).await
}

#[tokio::test]
async fn who_asks_decides_what_is_seen() {
    let cluster = listening().await;
    let mut admin = h1(&cluster, Some(&cluster.pki.admin)).await;
    assert_eq!(get(&mut admin, "/api/v1/namespaces/default").await.0, 200);
    let mut nobody = h1(&cluster, None).await;
    assert_eq!(get(&mut nobody, "/healthz").await.0, 200);
    let (code, status) = get(&mut nobody, "/api/v1/namespaces").await;
    assert_eq!((code, status["reason"].as_str()), (401, Some("Unauthorized")));
    let jane = cluster.pki.client("jane", "dev").unwrap();
    let mut jane = h1(&cluster, Some(&jane)).await;
    let (code, status) = get(&mut jane, "/api/v1/namespaces/default/secrets").await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "secrets is forbidden: User \"jane\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(get(&mut jane, "/apis").await.0, 200);
    let token = cluster.post("/api/v1/namespaces/default/serviceaccounts/default/token", &json!({"spec": {}})).await.json;
    let token = token["status"]["token"].as_str().unwrap();
    let asked = request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews").header("authorization", format!("Bearer {token}"));
    let (code, _, body) = answer(&mut nobody, asked.body(Full::from("{}")).unwrap()).await;
    let review: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((code, review["status"]["userInfo"]["username"].as_str()), (201, Some("system:serviceaccount:default:default")));
    let asked = request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews");
    let (_, _, body) = answer(&mut admin, asked.body(Full::from("{}")).unwrap()).await;
    let review: Value = serde_json::from_slice(&body).unwrap();
    let credential = review["status"]["userInfo"]["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap();
    assert!(review["metadata"]["creationTimestamp"].is_string(), "{review}");
    assert!(credential.strip_prefix("X509SHA256=").is_some_and(|hex| hex.len() == 64), "which certificate it was: {credential}");
    let (_, _, metrics) = answer(&mut admin, request("GET", "/metrics").body(Full::default()).unwrap()).await;
    let metrics = String::from_utf8_lossy(&metrics);
    assert!(metrics.contains("authentication_attempts{result=\"failure\"} 1\n"), "{metrics}");
    assert!(metrics.contains("authorization_attempts_total{result=\"no-opinion\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn both_versions_of_http_are_served_with_the_headers_of_upstream() {
    let cluster = listening().await;
    let mut one = h1(&cluster, Some(&cluster.pki.admin)).await;
    let (code, headers, _) = answer(&mut one, request("GET", "/api/v1/nodes").body(Full::default()).unwrap()).await;
    assert_eq!(
        (code, headers["content-type"].to_str().unwrap(), headers["cache-control"].to_str().unwrap()),
        (200, "application/json", "no-cache, private")
    );
    assert!(headers.contains_key("audit-id") && headers.contains_key("content-length"));
    let stream = dial(&cluster, Some(&cluster.pki.admin), b"h2").await;
    let (mut two, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response = two.send_request(http::Request::get("https://localhost/version").body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2));
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_take_it() {
    let cluster = listening().await;
    cluster.config_map("big", &json!({"k": "x".repeat(300_000)})).await;
    let mut admin = h1(&cluster, Some(&cluster.pki.admin)).await;
    let asked = request("GET", "/api/v1/configmaps").header("accept-encoding", "gzip").body(Full::default()).unwrap();
    let (_, headers, body) = answer(&mut admin, asked).await;
    assert_eq!(headers["content-encoding"], "gzip");
    assert!(body.len() < 10_000);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&body[..]), &mut text).unwrap();
    assert!(serde_json::from_str::<Value>(&text).unwrap()["items"].as_array().unwrap().iter().any(|o| o["metadata"]["name"] == "big"));
}

#[tokio::test]
async fn a_certificate_is_replaced_without_a_restart() {
    let cluster = listening().await;
    let served =
        async |cluster: &Cluster| dial(cluster, None, b"http/1.1").await.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    let before = served(&cluster).await;
    let fresh = cluster.pki.server_again().unwrap();
    cluster.running.server.set_certificate(&fresh).unwrap();
    assert_ne!(served(&cluster).await, before);
    assert!(cluster.running.server.set_certificate(&Tls::default()).is_err());
}

#[tokio::test]
async fn other_cas_of_clients_count_without_a_restart_and_are_published() {
    let cluster = listening().await;
    let other = common::pki::Pki::make().unwrap();
    let map = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let mut standing = h1(&cluster, Some(&cluster.pki.admin)).await;
    assert_eq!(get(&mut standing, map).await.0, 200);
    let mut stranger = h1(&cluster, Some(&other.admin)).await;
    assert_eq!(get(&mut stranger, map).await.0, 401);

    let cas = ClientCas { client: other.ca.clone(), front_proxy: String::new() };
    cluster.running.server.set_client_cas(&cas).unwrap();
    // On connections that stand, too.
    assert_eq!(get(&mut standing, map).await.0, 401);
    assert_eq!(get(&mut stranger, map).await.0, 200);
    let mut fresh = h1(&cluster, Some(&other.admin)).await;
    // Others may believe the old one still.
    let both = |text: &str| [&cluster.pki, &other].iter().all(|pki| text.contains(pki.ca.lines().nth(1).unwrap()));
    while !both(get(&mut fresh, map).await.1["data"]["client-ca-file"].as_str().unwrap()) {}

    let rubbish = ClientCas { client: "rubbish".into(), ..cas };
    assert!(cluster.running.server.set_client_cas(&rubbish).is_err());
    assert!(cluster.running.server.set_client_cas(&ClientCas::default()).is_err(), "a file that is being written is empty for a moment");
    assert_eq!(get(&mut fresh, map).await.0, 200);
}

#[tokio::test]
async fn a_stop_ends_watches_and_closes_the_door() {
    let cluster = listening().await;
    let address = cluster.running.address.unwrap();
    let mut admin = h1(&cluster, Some(&cluster.pki.admin)).await;
    let watch = request("GET", "/api/v1/configmaps?watch=1").body(Full::default()).unwrap();
    let response = admin.send_request(watch).await.unwrap();
    let Cluster { running, .. } = cluster;
    running.stop().await;
    response.into_body().collect().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

/// Reads a watch until it tells of `last`; the names it told of, in order.
async fn told(watch: &mut hyper::body::Incoming, last: &str) -> Vec<String> {
    let (mut text, mut names) = (Vec::new(), Vec::new());
    while names.last().is_none_or(|name| name != last) {
        text.extend_from_slice(watch.frame().await.expect("it goes on").unwrap().data_ref().unwrap());
        let end = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let lines = serde_json::Deserializer::from_slice(&text[..end]).into_iter::<Value>();
        names.extend(lines.map(|event| event.unwrap()["object"]["metadata"]["name"].as_str().unwrap().to_owned()));
        text.drain(..end);
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_share_a_connection_hear_of_everything_until_the_server_stops() {
    let cluster = listening().await;
    let stream = dial(&cluster, Some(&cluster.pki.admin), b"h2").await;
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut watches = Vec::new();
    for _ in 0..40 {
        let uri = "https://localhost/api/v1/namespaces/default/configmaps?watch=1&labelSelector=!other";
        let asked = http::Request::get(uri).body(Full::<Bytes>::default()).unwrap();
        watches.push(sender.clone().send_request(asked).await.unwrap().into_body());
    }
    cluster.config_map("first", &json!({"k": "v"})).await;
    for watch in &mut watches {
        told(watch, "first").await;
    }
    // That some go is no matter to the others.
    watches.truncate(30);
    let names: Vec<String> = (0..20).map(|n| format!("more-{n}")).collect();
    for name in &names {
        cluster.config_map(name, &json!({"k": "v".repeat(5_000)})).await;
    }
    for watch in &mut watches {
        assert_eq!(told(watch, &names[19]).await, names);
    }
    let Cluster { running, .. } = cluster;
    let stopping = tokio::spawn(running.stop());
    for watch in watches {
        assert!(watch.collect().await.unwrap().to_bytes().is_empty());
    }
    stopping.await.unwrap();
}

const LOG: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 9\r\n\r\nlog line\n";

/// A kubelet that tells what it was asked and then echoes.
async fn kubelet(cluster: &Cluster) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    kubelet_answering(cluster, LOG).await
}

/// The same with another answer to what is no upgrade.
async fn kubelet_answering(cluster: &Cluster, log: &'static [u8]) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(cluster.pki.server.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(cluster.pki.server.key.as_bytes()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()));
    let (heard, asked) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, heard) = (acceptor.clone(), heard.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                heard.send(head.clone()).await.unwrap();
                if !head.to_lowercase().contains("upgrade: ") {
                    stream.write_all(log).await.unwrap();
                    let _ = stream.shutdown().await;
                    return;
                }
                stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: SPDY/3.1\r\n\r\n").await.unwrap();
                let (mut read, mut write) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    (address, asked)
}

async fn with_pod(cluster: &Cluster, port: u16) {
    let node = json!({"metadata": {"name": "n1"}});
    assert_eq!(cluster.post("/api/v1/nodes", &node).await.code, 201);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    assert_eq!(cluster.patch("/api/v1/nodes/n1/status", "merge-patch", &status).await.code, 200);
    cluster.post("/api/v1/namespaces/default/pods", &pod("p")).await;
    cluster.post("/api/v1/namespaces/default/pods/p/binding", &json!({"target": {"name": "n1"}})).await;
}

#[tokio::test]
async fn streams_pass_through_to_the_kubelet_and_back() {
    let cluster = listening().await;
    let (address, mut asked) = kubelet(&cluster).await;
    with_pod(&cluster, address.port()).await;
    let mut admin = h1(&cluster, Some(&cluster.pki.admin)).await;
    let logs = request("GET", "/api/v1/namespaces/default/pods/p/log?tailLines=5&follow=true").body(Full::default()).unwrap();
    let (code, _, body) = answer(&mut admin, logs).await;
    assert_eq!((code, &body[..]), (200, &b"log line\n"[..]));
    assert!(asked.recv().await.unwrap().starts_with("GET /containerLogs/default/p/c?follow=true&tailLines=5 HTTP/1.1\r\n"));
    let exec = request("POST", "/api/v1/namespaces/default/pods/p/exec?command=echo&command=a%20b&stdin=true&stdout=true&container=c")
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", "v4.channel.k8s.io");
    let response = admin.send_request(exec.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 101);
    let head = asked.recv().await.unwrap();
    assert!(head.starts_with("POST /exec/default/p/c?input=1&output=1&command=echo&command=a%20b HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("x-stream-protocol-version: v4.channel.k8s.io") && !head.to_lowercase().contains("authorization"));
    let mut pipe = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    pipe.write_all(b"there and back").await.unwrap();
    let mut echoed = [0; 14];
    pipe.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"there and back");
    // Whether there is a command is the runtime's concern.
    let bare = request("POST", "/api/v1/namespaces/default/pods/p/exec?stdout=true").header("connection", "Upgrade");
    let mut other = h1(&cluster, Some(&cluster.pki.admin)).await;
    let response = other.send_request(bare.header("upgrade", "SPDY/3.1").body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 101);
    assert!(asked.recv().await.unwrap().starts_with("POST /exec/default/p/c?output=1 HTTP/1.1\r\n"));
}

/// All that comes of a body, and whether it came to its end.
async fn received(response: http::Response<hyper::body::Incoming>) -> (Vec<u8>, bool) {
    let (mut body, mut all) = (response.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => all.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(_) => return (all, false),
        }
    }
    (all, true)
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_passed_off_as_whole() {
    let short: &'static [u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 100\r\n\r\nlog line\n";
    let open: &'static [u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n9\r\nlog line\n\r\n";
    for (answer, whole) in [(LOG, true), (short, false), (open, false)] {
        let cluster = listening().await;
        let (address, _asked) = kubelet_answering(&cluster, answer).await;
        with_pod(&cluster, address.port()).await;
        let stream = dial(&cluster, Some(&cluster.pki.admin), b"h2").await;
        let (mut two, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        for path in
            ["/api/v1/namespaces/default/pods/p/log", "/api/v1/namespaces/default/pods/p/log?follow=true", "/api/v1/nodes/n1/proxy/logs/"]
        {
            let mut one = h1(&cluster, Some(&cluster.pki.admin)).await;
            let response = one.send_request(request("GET", path).body(Full::default()).unwrap()).await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(received(response).await, (b"log line\n".to_vec(), whole), "{path} over HTTP/1.1");
            let asked = http::Request::get(format!("https://localhost{path}")).body(Full::<Bytes>::default()).unwrap();
            // A reset may overtake what was sent before it.
            let (came, ended) = match two.send_request(asked).await {
                Ok(response) => received(response).await,
                Err(_) => (Vec::new(), false),
            };
            assert_eq!(ended, whole, "{path} over HTTP/2");
            assert!(if whole { came == b"log line\n" } else { b"log line\n".starts_with(&came) }, "{path} over HTTP/2");
        }
    }
}

#[tokio::test]
async fn a_backend_behind_a_proxy_is_told_the_way_and_its_redirects_lead_through_it() {
    let away: &'static [u8] = b"HTTP/1.1 302 Found\r\nlocation: /elsewhere/?x=1\r\nkeep-alive: timeout=5\r\naccess-control-allow-origin: *\r\ncontent-length: 4\r\n\r\nthen";
    let cluster = listening().await;
    let (address, mut asked) = kubelet_answering(&cluster, away).await;
    with_pod(&cluster, address.port()).await;
    let proxy = "/api/v1/nodes/n1/proxy";
    let mut one = h1(&cluster, Some(&cluster.pki.admin)).await;
    let logs = request("GET", &format!("{proxy}/logs/")).header("x-forwarded-for", "192.0.2.1").body(Full::default()).unwrap();
    let (code, headers, body) = answer(&mut one, logs).await;
    let of = |headers: &http::HeaderMap, name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    assert_eq!((code, of(&headers, "location")), (302, Some(format!("{proxy}/elsewhere/?x=1"))));
    assert_eq!((of(&headers, "content-length").as_deref(), &body[..]), (Some("4"), &b"then"[..]));
    assert!(!headers.contains_key("keep-alive") && !headers.contains_key("access-control-allow-origin"), "{headers:?}");
    let told = asked.recv().await.unwrap();
    assert!(
        told.contains("x-forwarded-for: 192.0.2.1, 127.0.0.1\r\n") && told.contains(&format!("x-forwarded-uri: {proxy}/logs/\r\n")),
        "{told}"
    );
    let root = request("GET", &format!("{proxy}?a=b")).body(Full::default()).unwrap();
    let (code, headers, _) = answer(&mut one, root).await;
    assert_eq!((code, of(&headers, "location")), (301, Some(format!("{proxy}/?a=b"))), "links of its page need a path that ends");
    let posted = request("POST", proxy).body(Full::default()).unwrap();
    assert_eq!(answer(&mut one, posted).await.0, 302);
    assert!(asked.recv().await.unwrap().starts_with("POST / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn links_of_a_page_behind_a_proxy_lead_through_it() {
    let page: &'static [u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: 66\r\n\r\n<a href=\"/logs/a&amp;b\">/logs</a><img src=b.png><script src=/s.js>";
    let cluster = listening().await;
    let (address, _asked) = kubelet_answering(&cluster, page).await;
    with_pod(&cluster, address.port()).await;
    let proxy = "/api/v1/nodes/n1/proxy";
    let led = format!("<a href=\"{proxy}/logs/a&amp;b\">/logs</a><img src=b.png><script src=\"{proxy}/s.js\">");
    let mut one = h1(&cluster, Some(&cluster.pki.admin)).await;
    let response = one.send_request(request("GET", &format!("{proxy}/logs/")).body(Full::default()).unwrap()).await.unwrap();
    assert!(!response.headers().contains_key("content-length"), "{:?}", response.headers());
    assert_eq!(received(response).await, (led.into_bytes(), true));
}

/// What the server says of itself when a connection of HTTP/2 begins: how many streams it may carry.
async fn streams(cluster: &Cluster) -> Option<u32> {
    let mut stream = dial(cluster, Some(&cluster.pki.admin), b"h2").await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "settings come first");
    let mut settings = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    stream.read_exact(&mut settings).await.unwrap();
    let found = settings.chunks_exact(6).find(|s| s[..2] == [0, 3])?;
    Some(u32::from_be_bytes([found[2], found[3], found[4], found[5]]))
}

#[tokio::test]
async fn a_connection_carries_as_many_streams_as_upstream_allows_or_a_flag_says() {
    assert_eq!(streams(&listening().await).await, Some(100));
    let more = Cluster::with(|config| {
        config.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.serving.http2_streams = 2000;
    });
    assert_eq!(streams(&more.await).await, Some(2000));
}

#[tokio::test]
async fn streams_that_cannot_be_had_say_why() {
    let cluster = listening().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    with_pod(&cluster, closed.port()).await;
    let exec = "/api/v1/namespaces/default/pods/p/exec";
    let down = cluster.get("/api/v1/namespaces/default/pods/p/log").await;
    assert_eq!(
        (down.code, down.message()),
        (500, format!("Get \"https://{closed}/containerLogs/default/p/c\": dial tcp {closed}: connect: connection refused").as_str())
    );
    let plain = cluster.post(&format!("{exec}?stdout=true&command=ls"), &Value::Null).await;
    assert_eq!((plain.code, plain.message()), (400, "Upgrade request required"));
    let node = cluster.get("/api/v1/namespaces/default/pods/p").await.json["spec"]["nodeName"].as_str().unwrap().to_owned();
    let proxied = cluster.get(&format!("/api/v1/nodes/{node}/proxy/healthz")).await;
    assert_eq!(
        (proxied.code, proxied.message()),
        (503, format!("error trying to reach service: dial tcp {closed}: connect: connection refused").as_str())
    );
    let wrong = cluster.post(&format!("{exec}?command=x&container=nope"), &Value::Null).await;
    assert_eq!((wrong.code, wrong.message()), (400, "container nope is not valid for pod p"));
    assert_eq!(cluster.get("/api/v1/namespaces/default/pods/p/log?tailLines=-1").await.code, 422);
    cluster.post("/api/v1/namespaces/default/pods", &pod("q")).await;
    let unplaced = cluster.post("/api/v1/namespaces/default/pods/q/exec?command=x", &Value::Null).await;
    assert_eq!((unplaced.code, unplaced.message()), (400, "pod q does not have a host assigned"));
}

#[tokio::test]
async fn a_request_may_have_many_headers_and_long_ones() {
    let cluster = listening().await;
    let mut one = h1(&cluster, Some(&cluster.pki.admin)).await;
    let mut many = request("GET", "/apis/authentication.k8s.io/v1/selfsubjectreviews");
    for group in 0..300 {
        many = many.header("x-remote-group", format!("g{group}"));
    }
    let (code, ..) = answer(&mut one, many.body(Full::default()).unwrap()).await;
    assert_eq!(code, 405, "the answer is that of the path");
    let stream = TokioIo::new(dial(&cluster, Some(&cluster.pki.admin), b"h2").await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let long =
        http::Request::get("https://localhost/version").header("x-long", "x".repeat(200_000)).body(Full::<Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(long).await.unwrap().status(), 200);
}

#[tokio::test]
async fn proxies_lead_to_pods_and_nowhere_else() {
    let cluster = listening().await;
    let pods = "/api/v1/namespaces/default/pods";
    cluster.post(pods, &pod("p")).await;
    let status = json!({"status": {"podIP": "169.254.169.254", "podIPs": [{"ip": "169.254.169.254"}]}});
    assert_eq!(cluster.patch(&format!("{pods}/p/status"), "merge-patch", &status).await.code, 200);
    let link = cluster.get(&format!("{pods}/p:80/proxy/")).await;
    assert_eq!((link.code, link.message()), (400, "address not allowed"));
    let scheme = cluster.get(&format!("{pods}/ftp:p:80/proxy/")).await;
    assert_eq!((scheme.code, scheme.message()), (400, "invalid pod request \"ftp:p:80\""));
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
    assert_eq!(cluster.post("/api/v1/namespaces/default/services", &service).await.code, 201);
    let slice = json!({"metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80}], "endpoints": [{"addresses": ["10.9.9.9"]},
            {"addresses": ["10.9.9.9"], "targetRef": {"kind": "Pod", "namespace": "default", "name": "p"}}]});
    assert_eq!(cluster.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await.code, 201);
    for name in ["web:http", "web:80", "web"] {
        let nowhere = cluster.get(&format!("/api/v1/namespaces/default/services/{name}/proxy/")).await;
        let why = format!("no endpoints available for service {name:?}");
        assert_eq!((nowhere.code, nowhere.message()), (503, why.as_str()));
    }
    let unknown = cluster.get("/api/v1/namespaces/default/services/web:81/proxy/").await;
    assert_eq!((unknown.code, unknown.message()), (503, "no service port 81 found for service \"web\""));
}

#[tokio::test]
async fn a_log_may_be_had_from_a_kubelet_whose_certificate_is_of_another_ca() {
    let cluster = listening().await;
    let other = listening().await;
    let (address, _asked) = kubelet(&other).await;
    with_pod(&cluster, address.port()).await;
    let log = "/api/v1/namespaces/default/pods/p/log";
    assert_eq!(cluster.get(log).await.code, 500);
    let anyhow = cluster.get(&format!("{log}?insecureSkipTLSVerifyBackend=true")).await;
    assert_eq!((anyhow.code, anyhow.text.as_str()), (200, "log line\n"));
    let both = cluster.get(&format!("{log}?sinceSeconds=0&sinceTime=2026-01-01T00:00:00Z")).await;
    let causes = both.json["details"]["causes"].as_array().map(Vec::len);
    assert_eq!((both.code, causes), (422, Some(1)), "{}", both.text);
    let ports = cluster.post("/api/v1/namespaces/default/pods/p/portforward?ports=x", &Value::Null).await;
    assert_eq!((ports.code, ports.message()), (400, "cannot convert to []int32: strconv.ParseUint: parsing \"x\": invalid syntax"));
}

#[tokio::test]
async fn health_version_discovery_and_metrics_answer() {
    let cluster = listening().await;
    let ready = cluster.get("/readyz?verbose").await;
    assert!(ready.text.contains("[+]etcd ok") && ready.text.ends_with("readyz check passed\n"), "{}", ready.text);
    assert_eq!(cluster.get("/livez/ping").await.text, "ok");
    assert_eq!(cluster.get("/livez/nope").await.code, 404);
    let version = cluster.get("/version").await;
    assert_eq!(version.json["minor"], "36");
    assert!(version.text.contains("\n  \"minor\": \"36\""), "indented: {}", version.text);
    assert_eq!(cluster.get("/apis/apps").await.json["preferredVersion"]["groupVersion"], "apps/v1");
    let resources = cluster.get("/apis/apps/v1").await.json;
    assert!(resources["resources"].as_array().unwrap().iter().any(|r| r["name"] == "deployments/scale" && r["group"] == "autoscaling"));
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let document = cluster.send(common::admin(), "GET", "/apis", "", aggregated, Vec::new()).await;
    assert_eq!(document.headers()["content-type"], aggregated);
    assert!(document.headers().contains_key("etag"));
    assert_eq!(
        cluster.get("/openapi/v3").await.json["paths"]["apis/apps/v1"]["serverRelativeURL"]
            .as_str()
            .map(|u| u.starts_with("/openapi/v3/apis/apps/v1?hash=")),
        Some(true)
    );
    assert!(cluster.get("/.well-known/openid-configuration").await.json["jwks_uri"].is_string());
    let keys = cluster.send(common::admin(), "GET", "/openid/v1/jwks", "", "*/*", Vec::new()).await;
    assert_eq!(keys.headers()["cache-control"], "public, max-age=3600");
    assert!(cluster.get("/metrics").await.text.contains("apiserver_storage_objects{resource=\"namespaces\"} 4"));
}

#[tokio::test]
async fn browsers_and_balancers_get_the_headers_that_flags_ask_for() {
    let cluster = Cluster::with(|config| {
        config.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.serving.hsts = vec!["max-age=600".to_owned()];
        config.serving.cors = vec!["^https://console[.]example[.]com$".to_owned()];
        config.serving.goaway_chance = 0.02;
        config.serving.min_tls = MinTls::Tls13;
    })
    .await;
    let mut one = h1(&cluster, Some(&cluster.pki.admin)).await;
    let asked = |method: &str| request(method, "/version").header("origin", "https://console.example.com").body(Full::default()).unwrap();
    let (code, headers, _) = answer(&mut one, asked("OPTIONS")).await;
    assert_eq!((code, headers["access-control-allow-origin"].to_str().unwrap()), (204, "https://console.example.com"));
    let (code, headers, _) = answer(&mut one, asked("GET")).await;
    assert_eq!((code, headers["strict-transport-security"].to_str().unwrap()), (200, "max-age=600"));
    assert_eq!(headers["access-control-allow-credentials"], "true");

    // Of fifty requests one, on average, is the last of its connection: after a thousand it has come to that.
    let stream = dial(&cluster, Some(&cluster.pki.admin), b"h2").await;
    let (two, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut served = 0;
    while served < 1000 && !connection.is_finished() {
        let mut two = two.clone();
        if two.ready().await.is_err() {
            break;
        }
        match two.send_request(http::Request::get("https://localhost/version").body(Full::<Bytes>::default()).unwrap()).await {
            Ok(response) => drop(response.into_body().collect().await),
            Err(_) => break,
        }
        served += 1;
    }
    assert!((1..1000).contains(&served), "the client was asked to come anew after {served} requests");
}

#[tokio::test]
async fn a_server_that_is_about_to_stop_says_so_and_lets_watches_go_on_for_a_while() {
    let cluster = Cluster::with(|config| {
        config.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.serving.shutdown_delay = Duration::from_secs(4);
        config.serving.watch_grace = Duration::from_secs(60);
    })
    .await;
    let mut watching = h1(&cluster, Some(&cluster.pki.admin)).await;
    let uri = "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=6";
    let response = watching.send_request(request("GET", uri).body(Full::default()).unwrap()).await.unwrap();
    let mut other = h1(&cluster, Some(&cluster.pki.admin)).await;
    assert_eq!(get(&mut other, "/readyz").await.0, 200);
    let Cluster { running, .. } = cluster;
    let stopping = tokio::spawn(running.stop());
    tokio::time::timeout(Duration::from_secs(60), async {
        while get(&mut other, "/readyz").await.0 == 200 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it says that it is not ready");
    assert_eq!(get(&mut other, "/livez").await.0, 200, "while it goes on serving");
    drop(other);
    let ended = tokio::time::timeout(Duration::from_secs(60), response.into_body().collect()).await;
    assert!(ended.expect("the watch ends at its own time").is_ok(), "and is not cut off");
    tokio::time::timeout(Duration::from_secs(60), stopping).await.expect("then all is over").unwrap();
}
