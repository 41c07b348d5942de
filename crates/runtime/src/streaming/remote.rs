//! The `channel.k8s.io` protocols: a command (or a container's own streams) at one end, a client's streams at the other.
//!
//! From version 4 on, the error stream carries one `Status` document, by which the client learns the exit code.

use std::io::Result;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::pipes::{Reader, Writer};
use super::{spdy, websocket};
use crate::engine::{AttachTarget, Engine, ExecTarget};
use crate::error::Error;

/// A way to the client, over either transport.
#[derive(Debug)]
pub enum Outgoing {
    /// A stream.
    Spdy(spdy::Outgoing),
    /// A channel.
    Websocket(websocket::Outgoing),
}

impl Outgoing {
    /// Sends data; an error means that the client is gone.
    pub async fn send(&self, data: Bytes) -> Result<()> {
        match self {
            Self::Spdy(stream) => stream.send(data).await,
            Self::Websocket(channel) => channel.send(data).await,
        }
    }

    /// Nothing more will be sent.
    pub async fn finish(self) {
        if let Self::Spdy(stream) = self {
            // A client that is gone needs no end.
            let _ = stream.finish().await;
        }
    }
}

/// The client's streams.
#[derive(Debug)]
pub struct Streams {
    /// From the client, when it sends any.
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    /// To the client.
    pub stdout: Option<Outgoing>,
    /// To the client.
    pub stderr: Option<Outgoing>,
    /// Sizes of the client's terminal.
    pub resize: Option<mpsc::Receiver<Bytes>>,
    /// How it went.
    pub error: Option<Outgoing>,
    /// The error stream carries a `Status` document (version 4 and later), not plain text.
    pub status: bool,
}

/// How a session ended.
#[derive(Debug, PartialEq)]
enum Outcome {
    Exit(i32),
    Failed(String),
}

/// The document by which a client learns how its command ended.
fn status(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Exit(0) => json!({"metadata": {}, "status": "Success"}),
        Outcome::Exit(code) => json!({
            "metadata": {},
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Outcome::Failed(message) => json!({
            "metadata": {},
            "status": "Failure",
            "reason": "InternalError",
            "message": format!("Internal error occurred: {message}"),
            "details": {"causes": [{"message": message}]},
            "code": 500,
        }),
    }
}

async fn report(error: Option<Outgoing>, with_status: bool, outcome: &Outcome) {
    let Some(error) = error else { return };
    let text = match outcome {
        _ if with_status => status(outcome).to_string(),
        Outcome::Exit(0) => String::new(),
        Outcome::Exit(code) => format!("command terminated with non-zero exit code: exit status {code}"),
        Outcome::Failed(message) => message.clone(),
    };
    if !text.is_empty() {
        // A client that is gone does not ask.
        let _ = error.send(Bytes::from(text)).await;
    }
    error.finish().await;
}

/// Runs a command for a client.
pub async fn exec(engine: &Arc<Engine>, target: &ExecTarget, mut streams: Streams) {
    let (error, with_status) = (streams.error.take(), streams.status);
    let outcome = match exec_streams(engine, target, streams).await {
        Ok(code) => Outcome::Exit(code),
        Err(error) => Outcome::Failed(error.to_string()),
    };
    report(error, with_status, &outcome).await;
}

async fn exec_streams(engine: &Arc<Engine>, target: &ExecTarget, mut streams: Streams) -> crate::error::Result<i32> {
    let mut process = engine.exec(target).await?;
    let ended = CancellationToken::new();
    let (stdin, stdout, stderr) = match process.terminal.take() {
        Some(terminal) => {
            let (input, sizes) = (duplicate(&terminal)?, duplicate(&terminal)?);
            tokio::spawn(resize(streams.resize.take(), move |width, height| {
                let _ = crate::sys::set_window_size(&sizes, width, height);
                std::future::ready(())
            }));
            (Some(input), Some(terminal), None)
        }
        None => (process.stdin.take(), process.stdout.take(), process.stderr.take()),
    };
    let feeding = tokio::spawn(feed(streams.stdin.take(), stdin, target.tty));
    let copying = tokio::spawn({
        let (ended, out, err) = (ended.clone(), streams.stdout.take(), streams.stderr.take());
        async move { tokio::join!(copy(stdout, out, &ended), copy(stderr, err, &ended)) }
    });
    let code = process.wait().await;
    // What the process wrote is in the pipes by now; something that it left behind may hold them open for ever.
    ended.cancel();
    let _ = copying.await;
    feeding.abort();
    code
}

fn duplicate(fd: &OwnedFd) -> crate::error::Result<OwnedFd> {
    fd.try_clone().map_err(|error| Error::Io("the terminal".to_owned(), error))
}

/// Joins a client to a container's own streams, until either leaves.
pub async fn attach(engine: &Arc<Engine>, target: &AttachTarget, mut streams: Streams) {
    let (error, with_status) = (streams.error.take(), streams.status);
    let outcome = match attach_streams(engine, target, streams).await {
        Ok(()) => Outcome::Exit(0),
        Err(error) => Outcome::Failed(error.to_string()),
    };
    report(error, with_status, &outcome).await;
}

async fn attach_streams(engine: &Arc<Engine>, target: &AttachTarget, mut streams: Streams) -> crate::error::Result<()> {
    let attachment = engine.attach(target).await?;
    if target.tty {
        let (engine, id) = (engine.clone(), target.container.clone());
        tokio::spawn(resize(streams.resize.take(), move |width, height| {
            let (engine, id) = (engine.clone(), id.clone());
            async move {
                if let Err(error) = engine.resize(&id, width, height).await {
                    tracing::debug!(container = id, "resizing a terminal: {error}");
                }
            }
        }));
    }
    let never = CancellationToken::new();
    let only_input = !target.stdout && !target.stderr;
    let mut feeding = std::pin::pin!(async {
        feed(streams.stdin.take(), attachment.stdin, target.tty).await;
        if target.stdin
            && let Err(error) = engine.close_stdin(&target.container).await
        {
            tracing::debug!(container = target.container, "closing stdin: {error}");
        }
    });
    let (out, err) = (streams.stdout.take(), streams.stderr.take());
    let mut copying = std::pin::pin!(async { tokio::join!(copy(attachment.stdout, out, &never), copy(attachment.stderr, err, &never)) });
    let mut fed = false;
    loop {
        tokio::select! {
            () = &mut feeding, if !fed => {
                fed = true;
                if only_input {
                    return Ok(());
                }
            }
            _ = &mut copying, if !only_input => return Ok(()),
        }
    }
}

/// Gives a process what the client sends, and the end of it.
async fn feed(from: Option<mpsc::Receiver<Bytes>>, to: Option<OwnedFd>, terminal: bool) {
    let (Some(mut from), Some(to)) = (from, to) else { return };
    let Ok(to) = Writer::new(to) else { return };
    while let Some(data) = from.recv().await {
        if to.write_all(&data).await.is_err() {
            break;
        }
    }
    if terminal {
        // The terminal stays open for output; its end of input is the process's business.
        return;
    }
    drop(to);
}

/// Copies what a process writes, until its end, or until nothing is left after `ended`.
async fn copy(from: Option<OwnedFd>, to: Option<Outgoing>, ended: &CancellationToken) {
    let Some(from) = from else {
        if let Some(to) = to {
            to.finish().await;
        }
        return;
    };
    let Ok(from) = Reader::new(from) else { return };
    let mut chunk = vec![0; 32 * 1024];
    loop {
        let read = tokio::select! {
            biased;
            read = from.read(&mut chunk) => read,
            () = ended.cancelled() => from.read_now(&mut chunk),
        };
        match read {
            Ok(length @ 1..) => {
                // A client that is gone, or that did not ask, does not keep the process from writing.
                if let Some(to) = &to {
                    let _ = to.send(Bytes::copy_from_slice(&chunk[..length])).await;
                }
            }
            _ => break,
        }
    }
    if let Some(to) = to {
        to.finish().await;
    }
}

/// The size of a client's terminal, as clients send it.
#[derive(Deserialize)]
struct Size {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

/// Applies sizes as they come. They are JSON documents in a row, cut anywhere.
async fn resize<F: Future<Output = ()>>(from: Option<mpsc::Receiver<Bytes>>, apply: impl Fn(u16, u16) -> F) {
    let Some(mut from) = from else { return };
    let mut buffer = Vec::new();
    while let Some(data) = from.recv().await {
        buffer.extend_from_slice(&data);
        for size in sizes(&mut buffer) {
            apply(size.width, size.height).await;
        }
        if buffer.len() > 4096 {
            return;
        }
    }
}

fn sizes(buffer: &mut Vec<u8>) -> Vec<Size> {
    let mut documents = serde_json::Deserializer::from_slice(buffer).into_iter::<Size>();
    let mut found = Vec::new();
    let mut consumed = 0;
    while let Some(Ok(size)) = documents.next() {
        consumed = documents.byte_offset();
        found.push(size);
    }
    buffer.drain(..consumed);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_carries_the_exit_code() {
        assert_eq!(status(&Outcome::Exit(0))["status"], "Success");
        let failed = status(&Outcome::Exit(3));
        assert_eq!((&failed["status"], &failed["reason"]), (&json!("Failure"), &json!("NonZeroExitCode")));
        assert_eq!(failed["details"]["causes"], json!([{"reason": "ExitCode", "message": "3"}]));
        assert_eq!(status(&Outcome::Failed("x".into()))["reason"], "InternalError");
    }

    #[test]
    fn sizes_are_found_however_they_are_cut() {
        let mut buffer = br#"{"Width":80,"Height":24}{"Width":1"#.to_vec();
        let found = sizes(&mut buffer);
        assert_eq!((found.len(), found[0].width, found[0].height), (1, 80, 24));
        buffer.extend_from_slice(br#"00,"Height":30}"#);
        assert_eq!(sizes(&mut buffer)[0].width, 100);
        assert!(buffer.is_empty());
    }
}
