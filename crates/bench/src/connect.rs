//! The way to the server: a handful of HTTP/2 connections, as many clients would have.

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use ferrokube_client::Transport;
use ferrokube_client::http::HttpTransport;
use ferrokube_client::kubeconfig;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use std::path::{Path, PathBuf};

/// Where the server is and through how many connections to speak to it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Target {
    /// Kubeconfig of the cluster to measure
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Connections to spread requests over
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
}

impl Target {
    /// The connections; none is dialled yet.
    pub fn server(&self) -> anyhow::Result<Server> {
        let path = match &self.kubeconfig {
            Some(path) => path.clone(),
            None => PathBuf::from(std::env::var_os("HOME").context("no --kubeconfig and no home directory")?).join(".kube/config"),
        };
        Server::new(&path, usize::from(self.connections))
    }
}

/// A server under measurement.
#[derive(Clone)]
pub(crate) struct Server {
    lanes: Vec<HttpTransport>,
    kubeconfig: PathBuf,
}

/// One request to make.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub method: Method,
    /// Path and query.
    pub path: String,
    pub content_type: &'static str,
    pub accept: &'static str,
    /// Asks for a compressed answer.
    pub gzip: bool,
    pub body: Bytes,
}

/// The media type of most bodies.
pub(crate) const JSON: &str = "application/json";

impl Call {
    /// A request with a JSON body, or none.
    pub fn new(method: Method, path: impl Into<String>, body: impl Into<Bytes>) -> Call {
        Call { method, path: path.into(), content_type: JSON, accept: JSON, gzip: false, body: body.into() }
    }

    /// A read.
    pub fn get(path: impl Into<String>) -> Call {
        Call::new(Method::GET, path, Bytes::new())
    }

    fn request(self) -> anyhow::Result<Request<Bytes>> {
        let mut request =
            Request::builder().method(self.method).uri(self.path).header("accept", self.accept).header("user-agent", "ferrokube-bench");
        if !self.body.is_empty() {
            request = request.header("content-type", self.content_type);
        }
        if self.gzip {
            request = request.header("accept-encoding", "gzip");
        }
        Ok(request.body(self.body)?)
    }
}

impl Server {
    /// A server by its kubeconfig.
    pub fn new(kubeconfig: &Path, connections: usize) -> anyhow::Result<Server> {
        let parse = |text: &str| serde_saphyr::from_str::<serde_json::Value>(text).map_err(|e| e.to_string());
        let (endpoint, credentials) = kubeconfig::load(kubeconfig, parse).with_context(|| format!("reading {}", kubeconfig.display()))?;
        let lanes = (0..connections).map(|_| HttpTransport::new(&endpoint, credentials.clone())).collect::<Result<_, _>>()?;
        Ok(Server { lanes, kubeconfig: kubeconfig.to_owned() })
    }

    /// The same server with other connections, so that watches do not share those of the requests.
    pub fn again(&self, connections: usize) -> anyhow::Result<Server> {
        Server::new(&self.kubeconfig, connections)
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.lanes.len()
    }

    fn lane(&self, lane: usize) -> &HttpTransport {
        &self.lanes[lane % self.lanes.len()]
    }

    /// Makes a request over connection `lane` (modulo their number) and takes any answer.
    pub async fn call(&self, lane: usize, call: Call) -> anyhow::Result<(StatusCode, Bytes)> {
        let answer = self.lane(lane).send(call.request()?).await.map_err(chain)?;
        Ok((answer.status(), answer.into_body()))
    }

    /// Makes a request that must succeed.
    pub async fn ok(&self, lane: usize, call: Call) -> anyhow::Result<Bytes> {
        let what = format!("{} {}", call.method, call.path);
        let (status, body) = self.call(lane, call).await.context(what.clone())?;
        if !status.is_success() {
            bail!("{what}: {status}: {}", message(&body));
        }
        Ok(body)
    }

    /// Opens a stream of lines: a watch.
    pub async fn lines(&self, lane: usize, path: &str) -> anyhow::Result<Lines> {
        let answer = self.lane(lane).open(Call::get(path).request()?).await.map_err(chain).context(path.to_owned())?;
        let status = answer.status();
        let mut body = answer.into_body();
        if !status.is_success() {
            let text = (&mut body).collect().await?.to_bytes();
            bail!("GET {path}: {status}: {}", message(&text));
        }
        Ok(Lines { frames: body.into_data_stream().map_err(Into::into).boxed(), rest: Vec::new() })
    }
}

/// The transport's error shows only its source; the rest of the chain tells what went wrong.
fn chain(error: ferrokube_client::TransportError) -> anyhow::Error {
    anyhow!(error)
}

/// What a `Status` says, or whatever else came; the start of it.
fn message(body: &[u8]) -> String {
    let status: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let text = match status.as_ref().and_then(|s| s["message"].as_str()) {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(body).into_owned(),
    };
    text.chars().take(300).collect()
}

type Frames = BoxStream<'static, Result<Bytes, Box<dyn std::error::Error + Send + Sync>>>;

/// A body that comes line by line.
pub(crate) struct Lines {
    frames: Frames,
    rest: Vec<u8>,
}

impl Lines {
    /// Waits for the next piece of the body and hands over each line that it completes; false: the body has ended.
    pub async fn next(&mut self, mut each: impl FnMut(&[u8])) -> anyhow::Result<bool> {
        let Some(frame) = self.frames.next().await else { return Ok(false) };
        let frame = frame.map_err(|e| anyhow!(e))?;
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', &frame) {
            if self.rest.is_empty() {
                each(&frame[from..end]);
            } else {
                self.rest.extend_from_slice(&frame[from..end]);
                each(&self.rest);
                self.rest.clear();
            }
            from = end + 1;
        }
        self.rest.extend_from_slice(&frame[from..]);
        Ok(true)
    }
}
