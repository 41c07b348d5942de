//! Exec, attach and port-forward as clients see them: the websocket and SPDY dialects against a real container.

mod node;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use ferrokube_cri::v1::*;
use ferrokube_runtime::streaming::spdy::frame::{self, Frame};
use ferrokube_runtime::streaming::spdy::headers;
use ferrokube_testkit::lab::available;
use node::{RuntimeNode, pod, script};
use tokio_tungstenite::tungstenite::{Message, WebSocket, protocol::Role};

/// Connects to a URL of the node's loopback, from the node's network.
fn connect(node: &RuntimeNode, url: &str) -> Result<(TcpStream, String)> {
    let rest = url.strip_prefix("http://").context("an http URL")?;
    let (address, path) = rest.split_once('/').context("a path")?;
    let (netns, address) = (node.node.netns(), address.to_owned());
    let socket = std::thread::spawn(move || -> Result<TcpStream> {
        nix::sched::setns(std::fs::File::open(netns)?, nix::sched::CloneFlags::CLONE_NEWNET)?;
        Ok(TcpStream::connect(address)?)
    });
    let socket = socket.join().expect("the thread does not panic")?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok((socket, format!("/{path}")))
}

/// Sends an upgrade and reads the head of the answer.
fn upgrade(socket: &mut TcpStream, path: &str, headers: &str) -> Result<String> {
    write!(socket, "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n{headers}\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    Ok(String::from_utf8(head)?.to_ascii_lowercase())
}

/// A SPDY client.
struct Spdy {
    socket: TcpStream,
    buffer: BytesMut,
    encoder: headers::Encoder,
    next: u32,
}

impl Spdy {
    fn open(node: &RuntimeNode, url: &str, protocol: &str) -> Result<Self> {
        let (mut socket, path) = connect(node, url)?;
        let head = upgrade(&mut socket, &path, &format!("Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n"))?;
        ensure!(head.starts_with("http/1.1 101") && head.contains(&format!("x-stream-protocol-version: {protocol}")), "{head}");
        Ok(Self { socket, buffer: BytesMut::new(), encoder: headers::Encoder::new()?, next: 1 })
    }

    fn send(&mut self, frame: &Frame) -> Result<()> {
        let mut wire = BytesMut::new();
        frame::encode(frame, &mut wire);
        Ok(self.socket.write_all(&wire)?)
    }

    fn stream(&mut self, pairs: &[(&str, &str)]) -> Result<u32> {
        let stream = self.next;
        self.next += 2;
        let pairs: Vec<(String, String)> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let block = self.encoder.encode(&pairs)?.into();
        self.send(&Frame::SynStream { stream, fin: false, block })?;
        Ok(stream)
    }

    fn data(&mut self, stream: u32, fin: bool, data: &'static [u8]) -> Result<()> {
        self.send(&Frame::Data { stream, fin, data: Bytes::from_static(data) })
    }

    fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = frame::decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            let mut chunk = [0; 4096];
            match self.socket.read(&mut chunk)? {
                0 => return Ok(None),
                length => self.buffer.extend_from_slice(&chunk[..length]),
            }
        }
    }

    /// Everything that comes on some streams until all of them have ended.
    fn collect(&mut self, streams: &[u32]) -> Result<Vec<Vec<u8>>> {
        let mut content = vec![Vec::new(); streams.len()];
        let mut open = streams.len();
        while open > 0 {
            match self.next()?.context("the connection has ended early")? {
                Frame::Data { stream, fin, data } => {
                    if let Some(index) = streams.iter().position(|known| *known == stream) {
                        content[index].extend_from_slice(&data);
                        open -= usize::from(fin);
                    }
                }
                Frame::Reset { stream, .. } => anyhow::bail!("stream {stream} was reset"),
                _ => {}
            }
        }
        Ok(content)
    }
}

fn websocket(node: &RuntimeNode, url: &str, protocol: &str) -> Result<WebSocket<TcpStream>> {
    let (mut socket, path) = connect(node, url)?;
    let wanted = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n{wanted}Sec-WebSocket-Protocol: {protocol}\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8(head)?;
    ensure!(head.starts_with("HTTP/1.1 101") && head.contains(protocol), "{head}");
    Ok(WebSocket::from_raw_socket(socket, Role::Client, None))
}

/// What comes by channel until the end.
fn channels(socket: &mut WebSocket<TcpStream>) -> Result<[Vec<u8>; 4]> {
    let mut content: [Vec<u8>; 4] = Default::default();
    loop {
        match socket.read() {
            Ok(Message::Binary(data)) => content[usize::from(data[0])].extend_from_slice(&data[1..]),
            Ok(Message::Close(_)) => return Ok(content),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn exec_url(node: &mut RuntimeNode, id: &str, command: &str, tty: bool) -> Result<String> {
    let request = ExecRequest {
        container_id: id.into(),
        cmd: vec!["sh".into(), "-c".into(), command.into()],
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    };
    Ok(node.runtime.exec(request).await?.into_inner().url)
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_streams_over_both_transports() -> Result<()> {
    if !available("exec_streams_over_both_transports") {
        return Ok(());
    }
    let mut node = RuntimeNode::start().await?;
    let sandbox = node.pod(pod("web")).await?;
    let id = node.run(&sandbox, script("main", "sleep 1000")).await?;

    let url = exec_url(&mut node, &id, "cat; echo no >&2; exit 3", false).await?;
    let mut spdy = Spdy::open(&node, &url, "v4.channel.k8s.io")?;
    let [error, stdin, stdout, stderr] = ["error", "stdin", "stdout", "stderr"].map(|kind| spdy.stream(&[("streamType", kind)]));
    let (error, stdin, stdout, stderr) = (error?, stdin?, stdout?, stderr?);
    spdy.data(stdin, false, b"hello ")?;
    spdy.data(stdin, true, b"world")?;
    let content = spdy.collect(&[error, stdout, stderr])?;
    let status: serde_json::Value = serde_json::from_slice(&content[0])?;
    assert_eq!(status["details"]["causes"][0]["message"], "3");
    assert_eq!((content[1].as_slice(), content[2].as_slice()), (&b"hello world"[..], &b"no\n"[..]));
    // The token is used up.
    let (mut socket, path) = connect(&node, &url)?;
    let head = upgrade(&mut socket, &path, "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n")?;
    assert!(head.starts_with("http/1.1 404"), "{head}");

    let url = exec_url(&mut node, &id, "read first; echo $first; cat; exit 0", false).await?;
    let mut socket = websocket(&node, &url, "v5.channel.k8s.io")?;
    socket.send(Message::Binary(Bytes::from_static(b"\x0012345\nrest")))?;
    socket.send(Message::Binary(Bytes::from_static(b"\xff\x00")))?;
    let content = channels(&mut socket)?;
    assert_eq!(String::from_utf8_lossy(&content[1]), "12345\nrest");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&content[3])?["status"], "Success");

    // Much output is not cut short by the end of the process.
    let url = exec_url(&mut node, &id, "seq 1 100000", false).await?;
    let content = channels(&mut websocket(&node, &url, "v4.channel.k8s.io")?)?;
    assert!(content[1].ends_with(b"99999\n100000\n"));

    // A terminal has a size and echoes.
    let url = exec_url(&mut node, &id, "read x; until [ \"$(stty size)\" = '40 100' ]; do sleep 0.02; done; stty size; echo got $x", true)
        .await?;
    let mut socket = websocket(&node, &url, "v5.channel.k8s.io")?;
    socket.send(Message::Binary(Bytes::from_static(b"\x04{\"Width\":100,\"Height\":40}")))?;
    socket.send(Message::Binary(Bytes::from_static(b"\x00this\n")))?;
    let content = channels(&mut socket)?;
    assert_eq!(String::from_utf8_lossy(&content[1]), "this\r\n40 100\r\ngot this\r\n");

    // Whoever it runs as can open its own output by name.
    let mut config = script("somebody", "echo said > /dev/stderr; sleep 1000");
    config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("context").run_as_user =
        Some(Int64Value { value: 1234 });
    let somebody = node.run(&sandbox, config).await?;
    for (tty, expected) in [(false, "hi\n"), (true, "hi\r\n")] {
        let url = exec_url(&mut node, &somebody, "echo hi > /dev/stdout", tty).await?;
        let content = channels(&mut websocket(&node, &url, "v5.channel.k8s.io")?)?;
        assert_eq!(String::from_utf8_lossy(&content[1]), expected);
    }
    assert_eq!(node.log("somebody")?, ["stderr F said"]);

    let url = exec_url(&mut node, &id, "exit 0", false).await?;
    node.runtime.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 0 }).await?;
    let content = channels(&mut websocket(&node, &url, "v4.channel.k8s.io")?)?;
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&content[3])?["status"], "Failure");
    assert!(exec_url(&mut node, &id, "true", false).await.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_joins_the_containers_own_streams() -> Result<()> {
    if !available("attach_joins_the_containers_own_streams") {
        return Ok(());
    }
    let mut node = RuntimeNode::start().await?;
    let sandbox = node.pod(pod("web")).await?;
    let mut config = script("main", "while read line; do echo got $line; done; echo end; exit 4");
    (config.stdin, config.stdin_once) = (true, true);
    let id = node.run(&sandbox, config).await?;
    let request = AttachRequest { container_id: id.clone(), stdin: true, tty: false, stdout: true, stderr: true };
    let url = node.runtime.attach(request).await?.into_inner().url;
    let mut spdy = Spdy::open(&node, &url, "v4.channel.k8s.io")?;
    let error = spdy.stream(&[("streamtype", "error")])?;
    let stdin = spdy.stream(&[("streamtype", "stdin")])?;
    let stdout = spdy.stream(&[("streamtype", "stdout")])?;
    let stderr = spdy.stream(&[("streamtype", "stderr")])?;
    spdy.data(stdin, false, b"one\ntwo\n")?;
    spdy.data(stdin, true, b"")?;
    let content = spdy.collect(&[stdout, stderr, error])?;
    assert_eq!(String::from_utf8_lossy(&content[0]), "got one\ngot two\nend\n");
    assert_eq!(node.ended(&id).await?.exit_code, 4);
    assert_eq!(node.log("main")?, ["stdout F got one", "stdout F got two", "stdout F end"]);

    let mut config = script("tty", "until [ \"$(stty size)\" = '33 90' ]; do sleep 0.02; done; read x; stty size; sleep 1000");
    (config.stdin, config.tty) = (true, true);
    let id = node.run(&sandbox, config).await?;
    let request = AttachRequest { container_id: id.clone(), stdin: true, tty: true, stdout: true, stderr: false };
    let url = node.runtime.attach(request).await?.into_inner().url;
    let mut socket = websocket(&node, &url, "v5.channel.k8s.io")?;
    socket.send(Message::Binary(Bytes::from_static(b"\x04{\"Width\":90,\"Height\":33}")))?;
    socket.send(Message::Binary(Bytes::from_static(b"\x00x\n")))?;
    let mut seen = String::new();
    while !seen.contains("33 90\r\n") {
        if let Message::Binary(data) = socket.read()?
            && data[0] == 1
        {
            seen += &String::from_utf8_lossy(&data[1..]);
        }
    }
    drop(socket);
    assert_eq!(node.status(&id).await?.state(), ContainerState::ContainerRunning);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_into_the_pods_network() -> Result<()> {
    if !available("ports_are_forwarded_into_the_pods_network") {
        return Ok(());
    }
    let mut node = RuntimeNode::start().await?;
    let sandbox = node.pod(pod("web")).await?;
    let id = node.run(&sandbox, script("main", "httpd -p 127.0.0.1:8080 -h /www; touch /ready; sleep 1000")).await?;
    ferrokube_testkit::wait_for("the server", Duration::from_secs(60), async || {
        let request = ExecSyncRequest { container_id: id.clone(), cmd: vec!["ls".into(), "/ready".into()], timeout: 5 };
        ensure!(node.runtime.clone().exec_sync(request).await?.into_inner().exit_code == 0);
        Ok(())
    })
    .await?;
    let request = PortForwardRequest { pod_sandbox_id: sandbox.clone(), port: vec![8080] };
    let url = node.runtime.port_forward(request.clone()).await?.into_inner().url;
    let mut spdy = Spdy::open(&node, &url, "portforward.k8s.io")?;
    for (request, port) in [("0", "8080"), ("1", "8080"), ("2", "9")] {
        let error = spdy.stream(&[("streamtype", "error"), ("port", port), ("requestID", request)])?;
        let data = spdy.stream(&[("streamtype", "data"), ("port", port), ("requestID", request)])?;
        spdy.data(error, true, b"")?;
        spdy.data(data, true, b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let content = spdy.collect(&[data, error])?;
        if port == "9" {
            let failure = String::from_utf8_lossy(&content[1]).to_lowercase();
            assert!(failure.contains("connection refused"), "{failure}");
        } else {
            assert!(content[0].ends_with(b"ok\n"), "{}", String::from_utf8_lossy(&content[0]));
            assert!(content[1].is_empty());
        }
    }
    let url = node.runtime.port_forward(request.clone()).await?.into_inner().url;
    let mut socket = websocket(&node, &url, "v4.channel.k8s.io")?;
    socket.send(Message::Binary(Bytes::from_static(b"\x00GET /index.html HTTP/1.0\r\n\r\n")))?;
    let content = channels(&mut socket)?;
    assert_eq!((&content[0][..2], &content[1][..]), (&8080u16.to_le_bytes()[..], &8080u16.to_le_bytes()[..]));
    assert!(content[0].ends_with(b"ok\n"));
    let url = node.runtime.port_forward(request).await?.into_inner().url;
    assert!(websocket(&node, &url, "SPDY/3.1+portforward.k8s.io").is_ok());
    Ok(())
}
