//! Doing something to or in a running container: the actions that hooks and probes share.
//!
//! Source: `pkg/kubelet/lifecycle/handlers.go`, `pkg/probe/*`.

use crate::node::Shared;
use bytes::Bytes;
use ferrokube_cri::v1 as cri;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// The container that something is done to.
pub struct Target<'a> {
    /// The node.
    pub node: &'a Shared,
    /// Id in the runtime.
    pub container_id: &'a str,
    /// Its spec, for named ports.
    pub container: &'a Container,
    /// The pod's address.
    pub pod_ip: Option<String>,
}

/// How much of an answer's body is kept for messages.
const BODY_KEPT: usize = 10 * 1024;

/// Runs a lifecycle hook; the error is what the event says.
pub async fn run(hook: &LifecycleHandler, target: &Target<'_>) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let (code, output) = exec_in(target, exec, Duration::ZERO).await?;
        let command = exec.command.clone().unwrap_or_default();
        return if code == 0 {
            Ok(())
        } else {
            Err(format!("Exec lifecycle hook ({command:?}) failed: exit code {code}, message: {output:?}"))
        };
    }
    if let Some(get) = &hook.http_get {
        let (status, body) = http_get(target, get, "kube-lifecycle", Duration::from_secs(60)).await?;
        return if status.is_client_error() || status.is_server_error() {
            Err(format!("HTTP lifecycle hook failed: {status}: {body}"))
        } else {
            Ok(())
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(tcp) = &hook.tcp_socket {
        return tcp_connect(target, tcp, Duration::from_secs(60)).await;
    }
    Err("invalid handler: no action given".to_owned())
}

/// Runs a command in the container: its exit code and output. A zero timeout means none.
pub async fn exec_in(target: &Target<'_>, exec: &ExecAction, timeout: Duration) -> Result<(i32, String), String> {
    let seconds = i64::try_from(timeout.as_secs()).unwrap_or(0);
    let request = cri::ExecSyncRequest {
        container_id: target.container_id.to_owned(),
        cmd: exec.command.clone().unwrap_or_default(),
        timeout: seconds,
    };
    let mut request = tonic::Request::new(request);
    let longest = if seconds == 0 { Duration::from_secs(24 * 3600) } else { timeout + target.node.config.runtime_timeout };
    request.set_timeout(longest);
    let answer = target.node.cri.runtime.clone().exec_sync(request).await.map_err(|e| e.message().to_owned())?.into_inner();
    let mut output = String::from_utf8_lossy(&answer.stdout).into_owned();
    output.push_str(&String::from_utf8_lossy(&answer.stderr));
    Ok((answer.exit_code, output))
}

/// The number of a port given by number or by its name in the container.
pub fn port_of(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {port:?}"))
}

fn host_of(given: Option<&str>, target: &Target<'_>) -> Result<String, String> {
    let given = given.filter(|h| !h.is_empty()).map(str::to_owned);
    given.or_else(|| target.pod_ip.clone()).ok_or_else(|| "the pod has no address yet".to_owned())
}

/// Opens and closes a connection.
pub async fn tcp_connect(target: &Target<'_>, tcp: &TCPSocketAction, timeout: Duration) -> Result<(), String> {
    let port = port_of(&tcp.port, target.container)?;
    let host = host_of(tcp.host.as_deref(), target)?;
    let name = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match tokio::time::timeout(timeout, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(format!("dial tcp {name}: {}", connect_error(&e))),
        Err(_) => Err(format!("dial tcp {name}: i/o timeout")),
    }
}

/// In the words of Go's net package, which people search for.
fn connect_error(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        _ => e.to_string(),
    }
}

/// Does an HTTP GET: status and the beginning of the body. Certificates are not verified (as the kubelet's probes).
pub async fn http_get(target: &Target<'_>, get: &HTTPGetAction, agent: &str, timeout: Duration) -> Result<(StatusCode, String), String> {
    let port = port_of(&get.port, target.container)?;
    let host = host_of(get.host.as_deref(), target)?;
    let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let url = format!("{scheme}://{authority}{path}");
    let exchange = async {
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| format!("dial tcp {authority}: {}", connect_error(&e)))?;
        let request = request(get, &authority, &path, agent)?;
        if scheme == "https" {
            let connector = crate::tls::unverified();
            let name = rustls::pki_types::ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
            let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
            converse(stream, request).await
        } else {
            converse(stream, request).await
        }
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(format!("Get {url:?}: {e}")),
        Err(_) => Err(format!("Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)")),
    }
}

fn request(get: &HTTPGetAction, authority: &str, path: &str, agent: &str) -> Result<Request<Empty<Bytes>>, String> {
    let uri: Uri = path.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
    let mut request = Request::get(uri).header(http::header::CONNECTION, "close");
    let given = |name: &str| get.http_headers.iter().flatten().any(|h| h.name.eq_ignore_ascii_case(name));
    if !given("host") {
        request = request.header(http::header::HOST, authority);
    }
    if !given("user-agent") {
        request = request.header(http::header::USER_AGENT, format!("{agent}/1.36"));
    }
    if !given("accept") {
        request = request.header(http::header::ACCEPT, "*/*");
    }
    for header in get.http_headers.iter().flatten().filter(|h| !(h.name.eq_ignore_ascii_case("accept") && h.value.is_empty())) {
        request = request.header(&header.name, &header.value);
    }
    request.body(Empty::new()).map_err(|e| e.to_string())
}

async fn converse<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<(StatusCode, String), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_KEPT).collect().await;
        let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Ok((status, text))
    };
    let answer = answer.await;
    driver.abort();
    answer
}

/// Something that keeps a target's facts for longer than a call.
#[derive(Clone)]
pub struct OwnedTarget {
    /// The node.
    pub node: Arc<Shared>,
    /// Id in the runtime.
    pub container_id: String,
    /// Its spec.
    pub container: Arc<Container>,
    /// The pod's address.
    pub pod_ip: Option<String>,
}

impl OwnedTarget {
    /// As a target of one call.
    pub fn borrow(&self) -> Target<'_> {
        Target { node: &self.node, container_id: &self.container_id, container: &self.container, pod_ip: self.pod_ip.clone() }
    }
}
